/* SPDX-License-Identifier: Apache-2.0 */
#include "userdata/encode.h"

#include <gnutls/gnutls.h>
#include <zlib.h>

#include "basic/util.h"

#define GZIP_WINDOW_BITS (15 + 16)      /* zlib.h: 16 more makes it a gzip stream */
#define GZIP_MEMORY_LEVEL 8             /* zlib.h: the default */

int base64_encode(const void *data, size_t size, char **ret) {
        gnutls_datum_t text;

        if (size > UINT_MAX / 2 ||
            gnutls_base64_encode2(&(gnutls_datum_t) { .data = (void*) data, .size = (unsigned) size }, &text) < 0)
                return -ENOMEM;
        *ret = (char*) text.data;               /* gnutls_malloc() is malloc(), and there is a NUL behind it */
        return 0;
}

int base64url_encode(const void *data, size_t size, char **ret) {
        int r;

        r = base64_encode(data, size, ret);
        if (r < 0)
                return r;
        for (char *p = *ret; *p; p++)
                switch (*p) {
                case '+':
                        *p = '-';
                        break;
                case '/':
                        *p = '_';
                        break;
                case '=':
                        *p-- = '\0';
                        break;
                }
        return 0;
}

int gzip_encode(const void *data, size_t size, uint8_t **ret, size_t *ret_size) {
        _cleanup_(freep) uint8_t *out = NULL;
        z_stream z = {};
        size_t bound;
        int rc;

        rc = deflateInit2(&z, Z_BEST_COMPRESSION, Z_DEFLATED, GZIP_WINDOW_BITS, GZIP_MEMORY_LEVEL, Z_DEFAULT_STRATEGY);
        if (rc != Z_OK)
                return -ENOMEM;

        bound = deflateBound(&z, size);
        out = malloc(bound);
        if (!out) {
                (void) deflateEnd(&z);
                return -ENOMEM;
        }

        z.next_in = (Bytef*) data;
        z.avail_in = size;
        z.next_out = out;
        z.avail_out = bound;
        rc = deflate(&z, Z_FINISH);
        *ret_size = z.total_out;
        (void) deflateEnd(&z);
        assert(rc == Z_STREAM_END);     /* zlib.h: promised by deflateBound() */

        *ret = TAKE_PTR(out);
        return 0;
}
