/* SPDX-License-Identifier: Apache-2.0 */
/* Each function takes a part of the word from *s on and says whether it was there; *s is behind it then. */
#include "basic/toml-scalar.h"

#include "basic/util.h"

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

/* -1: no digit of this base */
static int digit_value(char c, unsigned base) {
        int v = is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

        return v < (int) base ? v : -1;
}

/* Digits, with single underscores between them. */
static bool take_digits(const char **s, unsigned base) {
        const char *p = *s;

        if (digit_value(*p, base) < 0)
                return false;
        while (digit_value(*p, base) >= 0 || (*p == '_' && digit_value(p[1], base) >= 0))
                p++;
        *s = p;
        return true;
}

/* The same, without a zero in front of others. */
static bool take_decimal(const char **s) {
        const char *begin = *s;

        return take_digits(s, 10) && (begin[0] != '0' || *s == begin + 1);
}

static bool take_char(const char **s, const char *one_of) {
        if (!**s || !strchr(one_of, **s))
                return false;
        (*s)++;
        return true;
}

static int parse_integer(const char *s, int64_t *ret) {
        bool negative = *s == '-', sign = negative || *s == '+';
        unsigned base = 10;
        const char *digits;
        int64_t v = 0;

        s += sign;
        if (!sign && s[0] == '0' && s[1] && strchr("xob", s[1])) {
                base = s[1] == 'x' ? 16 : s[1] == 'o' ? 8 : 2;
                s += 2;
        }

        digits = s;
        if (!(base == 10 ? take_decimal(&s) : take_digits(&s, base)) || *s)
                return -EINVAL;

        for (; *digits; digits++) {             /* downwards, since there is one more below zero */
                if (*digits == '_')
                        continue;
                if (__builtin_mul_overflow(v, (int64_t) base, &v) ||
                    __builtin_sub_overflow(v, (int64_t) digit_value(*digits, base), &v))
                        return -ERANGE;
        }
        if (!negative && v == INT64_MIN)
                return -ERANGE;

        *ret = negative ? v : -v;
        return 0;
}

static bool is_float(const char *s) {
        const char *before;

        (void) take_char(&s, "+-");
        if (streq(s, "inf") || streq(s, "nan"))
                return true;
        if (!take_decimal(&s))
                return false;

        before = s;
        if (take_char(&s, ".") && !take_digits(&s, 10))
                return false;
        if (take_char(&s, "eE")) {
                (void) take_char(&s, "+-");
                if (!take_digits(&s, 10))
                        return false;
        }
        return s > before && !*s;
}

/* Exactly so many digits, and what they say within these limits. */
static bool take_number(const char **s, unsigned n_digits, unsigned min, unsigned max, unsigned *ret) {
        unsigned v = 0;

        for (unsigned i = 0; i < n_digits; i++, (*s)++) {
                if (!is_digit(**s))
                        return false;
                v = v * 10 + (unsigned) (**s - '0');
        }
        *ret = v;
        return v >= min && v <= max;
}

/* RFC 3339, section 5.7 */
static unsigned days_of_month(unsigned year, unsigned month) {
        bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

        return month == 2 ? 28 + leap : month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

static bool take_date(const char **s) {
        unsigned year, month, day;

        return take_number(s, 4, 0, 9999, &year) && take_char(s, "-") && take_number(s, 2, 1, 12, &month) && take_char(s, "-") &&
                take_number(s, 2, 1, days_of_month(year, month), &day);
}

static bool take_time(const char **s) {
        unsigned v;

        if (!(take_number(s, 2, 0, 23, &v) && take_char(s, ":") && take_number(s, 2, 0, 59, &v) && take_char(s, ":") &&
              take_number(s, 2, 0, 60, &v)))
                return false;
        if (!take_char(s, "."))
                return true;
        if (!is_digit(**s))
                return false;
        while (is_digit(**s))
                (*s)++;
        return true;
}

static bool take_offset(const char **s) {
        unsigned v;

        return take_char(s, "Zz") ||
                (take_char(s, "+-") && take_number(s, 2, 0, 23, &v) && take_char(s, ":") && take_number(s, 2, 0, 59, &v));
}

static bool is_date_or_time(const char *s, TomlType *ret) {
        const char *p = s;

        if (take_time(&p)) {
                *ret = TOML_TIME_LOCAL;
                return !*p;
        }

        if (!take_date(&s))
                return false;
        *ret = TOML_DATE_LOCAL;
        if (!*s)
                return true;
        if (!take_char(&s, "Tt ") || !take_time(&s))
                return false;
        *ret = TOML_DATETIME_LOCAL;
        if (!*s)
                return true;
        *ret = TOML_DATETIME;
        return take_offset(&s) && !*s;
}

int toml_scalar_parse(const char *word, size_t size, TomlType *ret_type, int64_t *ret_integer) {
        char s[128];            /* longer ones have more digits than any of these needs */
        int64_t integer = 0;
        TomlType type;
        int r;

        if (size >= sizeof(s) || memchr(word, '\0', size))
                return -EINVAL;
        *(char*) mempcpy(s, word, size) = '\0';

        if (streq(s, "true") || streq(s, "false")) {
                type = TOML_BOOL;
                integer = s[0] == 't';
        } else {
                type = TOML_INTEGER;
                r = parse_integer(s, &integer);
                if (r == -ERANGE)
                        return r;
                if (r < 0) {
                        type = TOML_FLOAT;
                        if (!is_float(s) && !is_date_or_time(s, &type))
                                return -EINVAL;
                }
        }

        *ret_type = type;
        *ret_integer = integer;
        return 0;
}
