/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 as protobuf's string fields demand it (RFC 3629: shortest form, no surrogates, up to U+10FFFF). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the well-formed sequence at @p, 0 if there is none in @left bytes. */
static inline size_t utf8_sequence(const uint8_t *p, size_t left) {
        uint8_t low = 0x80, high = 0xbf;        /* of the second byte; narrower behind some first bytes */
        size_t n;

        if (left == 0)
                return 0;
        if (p[0] < 0x80)
                return 1;
        if (p[0] < 0xc2 || p[0] > 0xf4)
                return 0;

        n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
        if (left < n)
                return 0;

        switch (p[0]) {
        case 0xe0:
                low = 0xa0;
                break;
        case 0xed:
                high = 0x9f;
                break;
        case 0xf0:
                low = 0x90;
                break;
        case 0xf4:
                high = 0x8f;
                break;
        }
        if (p[1] < low || p[1] > high)
                return 0;

        for (size_t i = 2; i < n; i++)
                if (p[i] < 0x80 || p[i] > 0xbf)
                        return 0;

        return n;
}

static inline bool utf8_is_valid(const uint8_t *p, size_t size) {
        for (size_t n; size > 0; p += n, size -= n) {
                n = utf8_sequence(p, size);
                if (n == 0)
                        return false;
        }

        return true;
}
