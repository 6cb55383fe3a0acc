/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/webhook/quantity.h"

#include <inttypes.h>
#include <stdio.h>

#include "basic/util.h"

#define NANO_DIGITS 9
#define DIGITS_MAX 28                                   /* those of (2^63 - 1) · 10^9 */
#define WHOLE_MAX ((Quantity) INT64_MAX)
#define QUANTITY_MAX (WHOLE_MAX * QUANTITY_ONE)
#define EXPONENT_MAX INT64_C(1000000000000)             /* beyond any number of digits that we can be given */

/* The parts of "[+-]INTEGER.FRACTION SUFFIX". */
typedef struct Parts {
        bool negative;
        const char *integer, *fraction, *suffix;
        size_t n_integer, n_fraction;
} Parts;

typedef struct Suffix {
        bool binary;
        int64_t exponent;       /* of 2 or of 10 */
} Suffix;

static void split(const char *text, Parts *ret) {
        const char *p = text;

        *ret = (Parts) { .negative = *p == '-' };
        if (*p == '-' || *p == '+')
                p++;
        ret->integer = p + strspn(p, "0");
        ret->n_integer = strspn(ret->integer, "0123456789");
        p = ret->integer + ret->n_integer;
        if (*p == '.') {
                ret->fraction = p + 1;
                ret->n_fraction = strspn(ret->fraction, "0123456789");
                p = ret->fraction + ret->n_fraction;
        }
        ret->suffix = p;
}

static int parse_exponent(const char *text, int64_t *ret) {
        const char *p = text;
        bool negative = *p == '-';
        int64_t n = 0;

        if (*p == '-' || *p == '+')
                p++;
        if (!*p || p[strspn(p, "0123456789")])
                return -EINVAL;
        for (; *p; p++)
                n = MIN(n * 10 + (*p - '0'), EXPONENT_MAX);
        *ret = negative ? -n : n;
        return 0;
}

static int parse_suffix(const char *text, Suffix *ret) {
        static const struct {
                const char *text;
                Suffix suffix;
        } table[] = {
                { "",   { false, 0 } },
                { "n",  { false, -9 } }, { "u",  { false, -6 } }, { "m",  { false, -3 } },
                { "k",  { false, 3 } },  { "M",  { false, 6 } },  { "G",  { false, 9 } },
                { "T",  { false, 12 } }, { "P",  { false, 15 } }, { "E",  { false, 18 } },
                { "Ki", { true, 10 } },  { "Mi", { true, 20 } },  { "Gi", { true, 30 } },
                { "Ti", { true, 40 } },  { "Pi", { true, 50 } },  { "Ei", { true, 60 } },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(text, table[i].text)) {
                        *ret = table[i].suffix;
                        return 0;
                }
        if (*text != 'e' && *text != 'E')
                return -EINVAL;
        *ret = (Suffix) {};
        return parse_exponent(text + 1, &ret->exponent);
}

/* The digit at @i of integer and fraction together. */
static unsigned digit(const Parts *p, size_t i) {
        return (i < p->n_integer ? p->integer[i] : p->fraction[i - p->n_integer]) - '0';
}

/* The digits are shifted, so that what remains before the point are billionths. */
static int scale_decimal(const Parts *p, int64_t exponent, Quantity *ret) {
        size_t n = p->n_integer + p->n_fraction, first = 0;
        int64_t n_whole;
        Quantity q = 0;

        while (first < n && digit(p, first) == 0)
                first++;
        if (first == n) {
                *ret = 0;
                return 0;
        }
        n_whole = (int64_t) p->n_integer - (int64_t) first + exponent + NANO_DIGITS;
        if (n_whole > DIGITS_MAX)
                return -ERANGE;

        for (int64_t i = 0; i < n_whole; i++)
                q = q * 10 + (first + i < n ? digit(p, first + i) : 0);
        for (size_t i = first + (n_whole > 0 ? n_whole : 0); i < n; i++)
                if (digit(p, i) > 0) {
                        q++;
                        break;
                }
        if (q > QUANTITY_MAX)
                return -ERANGE;

        *ret = q;
        return 0;
}

/* The fraction is multiplied from its last digit on: a remainder at any step means that the whole is no whole number. */
static Quantity scale_binary(const Parts *p, int64_t exponent) {
        Quantity unit = QUANTITY_ONE << exponent, integer = 0, fraction = 0;
        bool inexact = false;

        for (size_t i = 0; i < p->n_integer; i++) {
                integer = integer * 10 + digit(p, i);
                if (integer > WHOLE_MAX >> exponent)
                        return QUANTITY_MAX;
        }
        for (size_t i = p->n_integer + p->n_fraction; i > p->n_integer; i--) {
                fraction += digit(p, i - 1) * unit;
                inexact = inexact || fraction % 10 != 0;
                fraction /= 10;
        }
        return MIN(integer * unit + fraction + inexact, QUANTITY_MAX);
}

int quantity_parse(const char *text, Quantity *ret) {
        Quantity q;
        Suffix suffix;
        Parts parts;
        int r;

        if (!*text)
                return -EINVAL;
        split(text, &parts);
        r = parse_suffix(parts.suffix, &suffix);
        if (r < 0)
                return r;
        if (suffix.binary)
                q = scale_binary(&parts, suffix.exponent);
        else {
                r = scale_decimal(&parts, suffix.exponent, &q);
                if (r < 0)
                        return r;
        }

        *ret = parts.negative ? -q : q;
        return 0;
}

Quantity quantity_add(Quantity a, Quantity b) {
        return MIN(a + b, QUANTITY_MAX);
}

const char* quantity_format(Quantity q, char buffer[static QUANTITY_TEXT_SIZE]) {
        Quantity unit = QUANTITY_ONE;
        const char *suffix = "";

        if (q > 0 && q % QUANTITY_MIB == 0) {
                unit = QUANTITY_MIB;
                suffix = "Mi";
        } else if (q % QUANTITY_ONE != 0 && q % (QUANTITY_ONE / 1000) == 0 && q / (QUANTITY_ONE / 1000) <= UINT64_MAX) {
                unit = QUANTITY_ONE / 1000;
                suffix = "m";
        }
        if (q % unit == 0)
                (void) snprintf(buffer, QUANTITY_TEXT_SIZE, "%" PRIu64 "%s", (uint64_t) (q / unit), suffix);
        else
                (void) snprintf(buffer, QUANTITY_TEXT_SIZE, "%" PRIu64 ".%09" PRIu64, (uint64_t) (q / QUANTITY_ONE),
                                (uint64_t) (q % QUANTITY_ONE));
        return buffer;
}

uint64_t quantity_ceil(Quantity q, Quantity unit) {
        return (q + unit - 1) / unit;
}
