/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/initdata.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "adaptor/request.h"
#include "basic/util.h"
#include "userdata/decode.h"

#define GZIP_WINDOW_BITS (15 + 16)      /* zlib.h: 16 more makes it a gzip stream */
#define GZIP_MEMORY_LEVEL 8             /* zlib.h: the default */

static int gzip_encode(const void *data, size_t size, uint8_t **ret, size_t *ret_size) {
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

static int base64_encode(const uint8_t *data, size_t size, char **ret) {
        static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        char *text, *p;

        text = malloc((size + 2) / 3 * 4 + 1);
        if (!text)
                return -ENOMEM;

        p = text;
        for (size_t i = 0; i < size; i += 3) {
                size_t n = MIN(size - i, (size_t) 3);
                uint32_t v = (uint32_t) data[i] << 16 |
                             (n > 1 ? (uint32_t) data[i + 1] << 8 : 0) |
                             (n > 2 ? data[i + 2] : 0);

                *p++ = alphabet[v >> 18];
                *p++ = alphabet[v >> 12 & 63];
                *p++ = n > 1 ? alphabet[v >> 6 & 63] : '=';
                *p++ = n > 2 ? alphabet[v & 63] : '=';
        }
        *p = '\0';

        *ret = text;
        return 0;
}

int initdata_encode(const char *toml, char **ret) {
        _cleanup_(freep) uint8_t *compressed = NULL;
        size_t size = strlen(toml), compressed_size;
        int r;

        assert(size <= REQUEST_INITDATA_MAX);

        r = gzip_encode(toml, size, &compressed, &compressed_size);
        if (r < 0)
                return r;

        return base64_encode(compressed, compressed_size, ret);
}

static int bad(char **ret_error, int r, const char *text) {
        if (r != -ENOMEM)
                *ret_error = strdup(text);
        return r;
}

/* Is there a line 'KEY = …' before the first table? Values are for the pod VM to judge. */
static const char* find_key(const char *toml, const char *key) {
        for (const char *line = toml; line && *line; line = strchr(line, '\n')) {
                const char *rest;

                line += strspn(line, " \t\r\n");
                if (*line == '[')
                        return NULL;
                rest = startswith(line, key);
                if (!rest)
                        continue;
                rest += strspn(rest, " \t");
                if (*rest == '=')
                        return rest + 1 + strspn(rest + 1, " \t");
        }

        return NULL;
}

int initdata_check(const char *encoded, char **ret_error) {
        static const char *const algorithms[] = { "sha256", "sha384", "sha512" };
        _cleanup_(freep) char *compressed = NULL, *toml = NULL;
        size_t compressed_size, size;
        const char *algorithm;
        int r;

        *ret_error = NULL;

        r = base64_decode(encoded, strlen(encoded), &compressed, &compressed_size);
        if (r < 0)
                return bad(ret_error, r, "it is not base64");
        r = gzip_decode(compressed, compressed_size, REQUEST_INITDATA_MAX, &toml, &size);
        if (r < 0)
                return bad(ret_error, r, r == -E2BIG ? "it is too big" : "it is not gzip inside base64");
        if (strlen(toml) != size)
                return bad(ret_error, -EBADMSG, "it has a NUL byte");
        if (!find_key(toml, "version"))
                return bad(ret_error, -EBADMSG, "it has no version");

        algorithm = find_key(toml, "algorithm");
        for (size_t i = 0; algorithm && i < ELEMENTSOF(algorithms); i++)
                if ((algorithm[0] == '"' || algorithm[0] == '\'') && startswith(algorithm + 1, algorithms[i]))
                        return 0;

        return bad(ret_error, -EBADMSG, "its algorithm is not one of sha256, sha384, sha512");
}
