/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/parse.h"

#include <ctype.h>
#include <strings.h>

#include "basic/utf8.h"
#include "basic/util.h"

#define SANDBOX_ID_MAX 64

static int parse_digits(const char **s, uint64_t *ret) {
        uint64_t v = 0;
        const char *p = *s;

        if (!isdigit((unsigned char) *p))
                return -EINVAL;
        for (; isdigit((unsigned char) *p); p++)
                if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t) (*p - '0'), &v))
                        return -ERANGE;

        *s = p;
        *ret = v;
        return 0;
}

int parse_u64(const char *s, uint64_t *ret) {
        uint64_t v;
        int r = parse_digits(&s, &v);

        if (r < 0)
                return r;
        if (*s)
                return -EINVAL;

        *ret = v;
        return 0;
}

static int parse_bounded(const char *s, uint64_t min, uint64_t max, uint64_t *ret) {
        uint64_t v;
        int r = parse_u64(s, &v);

        if (r < 0)
                return r;
        if (v < min || v > max)
                return -ERANGE;

        *ret = v;
        return 0;
}

int parse_u32(const char *s, uint32_t *ret) {
        uint64_t v;
        int r = parse_bounded(s, 0, UINT32_MAX, &v);

        if (r < 0)
                return r;
        *ret = v;
        return 0;
}

int parse_port(const char *s, uint16_t *ret) {
        uint64_t v;
        int r = parse_bounded(s, 1, UINT16_MAX, &v);

        if (r < 0)
                return r;
        *ret = v;
        return 0;
}

int parse_bool(const char *s, bool *ret) {
        static const char *const yes[] = { "1", "true", "yes", "on" }, *const no[] = { "0", "false", "no", "off" };

        for (size_t i = 0; i < ELEMENTSOF(yes); i++) {
                if (strcasecmp(s, yes[i]) == 0) {
                        *ret = true;
                        return 0;
                }
                if (strcasecmp(s, no[i]) == 0) {
                        *ret = false;
                        return 0;
                }
        }

        return -EINVAL;
}

int parse_duration_usec(const char *s, uint64_t *ret) {
        static const struct {
                const char *name;
                uint64_t nsec;
        } units[] = {
                /* "ms" before "m": the longer name first */
                { "ns", 1 }, { "us", 1000 }, { "µs", 1000 }, { "ms", 1000000 },
                { "s", 1000000000 }, { "m", UINT64_C(60000000000) }, { "h", UINT64_C(3600000000000) },
        };
        uint64_t total = 0, seconds;

        if (parse_u64(s, &seconds) >= 0) {
                if (__builtin_mul_overflow(seconds, USEC_PER_SEC, &total))
                        return -ERANGE;
                *ret = total;
                return 0;
        }

        if (!*s)
                return -EINVAL;
        while (*s) {
                uint64_t whole = 0, nsec, fraction = 0, scale = 1;
                size_t unit;
                bool digits = false;
                int r;

                if (*s != '.') {
                        r = parse_digits(&s, &whole);
                        if (r < 0)
                                return r;
                        digits = true;
                }
                if (*s == '.')
                        for (s++; isdigit((unsigned char) *s); s++) {
                                digits = true;
                                if (scale < UINT64_C(1000000000)) {     /* finer than a nanosecond is noise */
                                        fraction = fraction * 10 + (uint64_t) (*s - '0');
                                        scale *= 10;
                                }
                        }
                if (!digits)
                        return -EINVAL;

                for (unit = 0; unit < ELEMENTSOF(units); unit++)
                        if (startswith(s, units[unit].name))
                                break;
                if (unit == ELEMENTSOF(units))
                        return -EINVAL;
                s += strlen(units[unit].name);

                if (__builtin_mul_overflow(whole, units[unit].nsec, &nsec) ||
                    __builtin_add_overflow(nsec, (uint64_t) ((unsigned __int128) fraction * units[unit].nsec / scale), &nsec) ||
                    __builtin_add_overflow(total, nsec, &total))
                        return -ERANGE;
        }

        *ret = total / NSEC_PER_USEC;
        return 0;
}

int parse_decimal_ceil(const char *s, uint64_t *ret) {
        uint64_t v;
        bool up = false;
        int r = parse_digits(&s, &v);

        if (r < 0)
                return r;
        if (*s == '.') {
                if (!isdigit((unsigned char) s[1]))
                        return -EINVAL;
                for (s++; isdigit((unsigned char) *s); s++)
                        up = up || *s != '0';
        }
        if (*s)
                return -EINVAL;
        if (up && __builtin_add_overflow(v, 1, &v))
                return -ERANGE;

        *ret = v;
        return 0;
}

bool sandbox_id_is_valid(const char *s) {
        size_t n = s ? strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") : 0;

        return n > 0 && n <= SANDBOX_ID_MAX && !s[n] && isalnum((unsigned char) s[0]);
}

bool text_is_plain(const char *s, size_t max_size) {
        if (strnlen(s, max_size + 1) > max_size)
                return false;

        for (size_t n; *s; s += n) {
                uint32_t c;

                n = utf8_decode(s, strnlen(s, UTF8_MAX), &c);
                if (n == 0 || c < 0x20 || c == 0x7f)
                        return false;
        }

        return true;
}

char* text_make_plain(const char *s, size_t max_size) {
        char *copy = strndup(s, max_size);

        for (char *p = copy; p && *p; p++)
                if ((unsigned char) *p < ' ' || (unsigned char) *p >= 0x7f)
                        *p = *p == '\n' || *p == '\t' ? ' ' : '?';

        return copy;
}
