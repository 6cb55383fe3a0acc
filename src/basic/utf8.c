/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/utf8.h"

#include <stdbool.h>

static bool is_scalar_value(uint32_t c) {
        return c < 0xd800 || (c > 0xdfff && c <= 0x10ffff);
}

size_t utf8_decode(const void *text, size_t size, uint32_t *ret) {
        static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
        const uint8_t *p = text;
        uint32_t c;
        size_t n;

        if (size == 0)
                return 0;
        if (p[0] < 0x80) {
                *ret = p[0];
                return 1;
        }

        n = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
        if (n == 0 || size < n)
                return 0;

        c = p[0] & (0x7fU >> n);
        for (size_t i = 1; i < n; i++) {
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
                c = c << 6 | (p[i] & 0x3fU);
        }
        if (c < smallest[n] || !is_scalar_value(c))
                return 0;

        *ret = c;
        return n;
}

size_t utf8_encode(uint32_t c, char ret[static UTF8_MAX]) {
        size_t n;

        if (!is_scalar_value(c))
                return 0;
        if (c < 0x80) {
                ret[0] = (char) c;
                return 1;
        }

        n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (size_t i = n; i-- > 1; c >>= 6)
                ret[i] = (char) (0x80 | (c & 0x3f));
        ret[0] = (char) ((0xf00U >> n) | c);
        return n;
}
