/* SPDX-License-Identifier: Apache-2.0 */
#include "userdata/decode.h"

#include <limits.h>
#include <zlib.h>

#include "basic/util.h"

/* -1: not of the alphabet. */
static int base64_value(char c) {
        if (c >= 'A' && c <= 'Z')
                return c - 'A';
        if (c >= 'a' && c <= 'z')
                return c - 'a' + 26;
        if (c >= '0' && c <= '9')
                return c - '0' + 52;
        if (c == '+')
                return 62;
        if (c == '/')
                return 63;
        return -1;
}

static bool base64_is_blank(char c) {
        return c == '\n' || c == '\r' || c == ' ' || c == '\t';
}

int base64_decode(const char *text, size_t size, char **ret, size_t *ret_size) {
        _cleanup_(freep) char *out = NULL;
        size_t n_out = 0;
        uint32_t group = 0;
        unsigned n_chars = 0, n_padding = 0;

        out = malloc(size / 4 * 3 + 4);
        if (!out)
                return -ENOMEM;

        for (size_t i = 0; i < size; i++) {
                int v = 0;

                if (base64_is_blank(text[i]))
                        continue;

                if (text[i] == '=') {
                        if (n_chars < 2)                /* also anything behind the padded last group */
                                return -EBADMSG;
                        n_padding++;
                } else {
                        v = base64_value(text[i]);
                        if (v < 0 || n_padding > 0)
                                return -EBADMSG;
                }

                group = group << 6 | (uint32_t) v;
                if (++n_chars < 4)
                        continue;

                for (unsigned k = 0; k < 3 - n_padding; k++)
                        out[n_out++] = (char) (group >> (16 - 8 * k));
                group = 0;
                n_chars = 0;
        }

        if (n_chars != 0)
                return -EBADMSG;

        out[n_out] = 0;
        *ret = TAKE_PTR(out);
        *ret_size = n_out;
        return 0;
}

static void inflate_endp(z_stream **z) {
        if (*z)
                (void) inflateEnd(*z);
}

int gzip_decode(const void *data, size_t size, size_t size_max, char **ret, size_t *ret_size) {
        _cleanup_(freep) char *out = NULL;
        size_t n_out = 0, allocated = 0;
        z_stream z = {};
        int r;

        if (size > UINT_MAX || size_max >= UINT_MAX / 2)
                return -E2BIG;

        r = inflateInit2(&z, 16 + MAX_WBITS);           /* 16: gzip wrapping and nothing else */
        if (r != Z_OK)
                return -ENOMEM;

        _cleanup_(inflate_endp) z_stream *end = &z;

        z.next_in = (Bytef*) data;
        z.avail_in = (uInt) size;

        for (;;) {
                if (n_out + 1 >= allocated) {           /* one byte stays free for the NUL */
                        char *p;

                        if (n_out > size_max)
                                return -E2BIG;

                        allocated = allocated == 0 ? 4096 : allocated * 2;
                        if (allocated > size_max + 2)
                                allocated = size_max + 2;       /* room for the one byte too many */

                        p = realloc(out, allocated);
                        if (!p)
                                return -ENOMEM;
                        out = p;
                }

                z.next_out = (Bytef*) out + n_out;
                z.avail_out = (uInt) (allocated - n_out - 1);

                r = inflate(end, Z_NO_FLUSH);
                n_out = allocated - 1 - z.avail_out;

                if (n_out > size_max)
                        return -E2BIG;
                if (r == Z_STREAM_END) {
                        if (z.avail_in == 0)
                                break;
                        if (inflateReset(end) != Z_OK)
                                return -EBADMSG;
                        continue;
                }
                if (r == Z_MEM_ERROR)
                        return -ENOMEM;
                if (r != Z_OK && r != Z_BUF_ERROR)
                        return -EBADMSG;
                if (z.avail_in == 0 && z.avail_out > 0)         /* it wants more, and there is none */
                        return -EBADMSG;
        }

        out[n_out] = 0;
        *ret = TAKE_PTR(out);
        *ret_size = n_out;
        return 0;
}
