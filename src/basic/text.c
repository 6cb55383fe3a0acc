/* SPDX-License-Identifier: Apache-2.0 */
/* Text from outside, made fit to be read by a program or to be shown on a terminal. */
#include "basic/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/utf8.h"

char* text_make_utf8(const char *s) {
        char *copy, *q;

        copy = q = malloc(strlen(s) * 3 + 1);   /* U+FFFD takes three bytes */
        if (!copy)
                return NULL;

        while (*s) {
                uint32_t c;
                size_t n = utf8_decode(s, strnlen(s, UTF8_MAX), &c);

                if (n > 0) {
                        q = mempcpy(q, s, n);
                        s += n;
                } else {
                        q = mempcpy(q, "\xef\xbf\xbd", 3);
                        s++;
                }
        }
        *q = '\0';

        return copy;
}

char* text_for_terminal(const char *s) {
        char *copy, *q;

        copy = q = malloc(strlen(s) * strlen("\\xNN") + 1);
        if (!copy)
                return NULL;

        while (*s) {
                uint32_t c;
                size_t n = utf8_decode(s, strnlen(s, UTF8_MAX), &c);

                if (n > 0 && (c == '\n' || c == '\t' || (c >= 0x20 && (c < 0x7f || c >= 0xa0))))
                        q = mempcpy(q, s, n);
                else {
                        n = n == 0 ? 1 : n;
                        for (size_t i = 0; i < n; i++)
                                q += sprintf(q, "\\x%02x", (uint8_t) s[i]);
                }
                s += n;
        }
        *q = '\0';

        return copy;
}

int text_width(const char *s) {
        int n = 0;

        for (; *s; s++)
                n += ((uint8_t) *s & 0xc0) != 0x80;

        return n;
}

static const char base64_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_decode_strict(const char *text, uint8_t **ret, size_t *ret_size) {
        _cleanup_(freep) uint8_t *data = NULL;
        size_t length = strlen(text), size = 0, padding = 0;

        if (length % 4 != 0)
                return -EINVAL;
        while (padding < 2 && padding < length && text[length - padding - 1] == '=')
                padding++;

        data = malloc(length / 4 * 3 + 1);
        if (!data)
                return -ENOMEM;

        for (size_t i = 0; i < length; i += 4) {
                uint32_t u = 0;

                for (size_t j = i; j < i + 4; j++) {
                        const char *p = j >= length - padding ? base64_alphabet :
                                memchr(base64_alphabet, text[j], sizeof(base64_alphabet) - 1);

                        if (!p)
                                return -EINVAL;
                        u = u << 6 | (uint32_t) (p - base64_alphabet);
                }
                data[size++] = (uint8_t) (u >> 16);
                data[size++] = (uint8_t) (u >> 8);
                data[size++] = (uint8_t) u;
        }

        /* Bits below the last byte must be zero, or two texts would mean the same bytes. */
        for (size_t i = 0; i < padding; i++)
                if (data[--size] != 0)
                        return -EINVAL;

        *ret = TAKE_PTR(data);
        *ret_size = size;
        return 0;
}

static int hex_digit(char c) {
        return c >= '0' && c <= '9' ? c - '0' :
                c >= 'a' && c <= 'f' ? c - 'a' + 10 :
                c >= 'A' && c <= 'F' ? c - 'A' + 10 : -EINVAL;
}

int hex_decode(const char *text, uint8_t **ret, size_t *ret_size) {
        _cleanup_(freep) uint8_t *data = NULL;
        size_t size = 0;

        data = malloc(strlen(text) / 2 + 1);
        if (!data)
                return -ENOMEM;

        for (const char *p = text; *p;) {
                int high, low;

                if (*p == ' ' || *p == '\n') {
                        p++;
                        continue;
                }
                high = hex_digit(p[0]);
                low = high < 0 ? -EINVAL : hex_digit(p[1]);
                if (low < 0)
                        return -EINVAL;
                data[size++] = (uint8_t) (high << 4 | low);
                p += 2;
        }

        *ret = TAKE_PTR(data);
        *ret_size = size;
        return 0;
}

int refuse_text(char **reterr, const char *format, ...) {
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(reterr, format, ap);
        va_end(ap);
        if (r < 0) {
                *reterr = NULL;
                return -ENOMEM;
        }

        return -EINVAL;
}
