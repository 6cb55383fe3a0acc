/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-thumbprint.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>

#include "basic/util.h"

#define SHA1_SIZE 20
#define SHA256_SIZE 32

static int digit(char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int thumbprint_parse(const char *s, Thumbprint *ret) {
        Thumbprint t = {};
        bool colons = strchr(s, ':') != NULL;

        while (*s) {
                int high, low;

                if (t.size == THUMBPRINT_SIZE_MAX)
                        return -EINVAL;
                if (t.size > 0 && colons && *s++ != ':')
                        return -EINVAL;
                high = digit(s[0]);
                low = high < 0 ? -1 : digit(s[1]);
                if (low < 0)
                        return -EINVAL;
                t.digest[t.size++] = (uint8_t) (high << 4 | low);
                s += 2;
        }
        if (t.size != SHA1_SIZE && t.size != SHA256_SIZE)
                return -EINVAL;
        *ret = t;
        return 0;
}

static void digest_of(size_t digest_size, const void *der, size_t size, uint8_t ret[static THUMBPRINT_SIZE_MAX]) {
        int r = gnutls_hash_fast(digest_size == SHA1_SIZE ? GNUTLS_DIG_SHA1 : GNUTLS_DIG_SHA256, der, size, ret);

        assert(r == 0);
        (void) r;
}

bool thumbprint_fits(const Thumbprint *t, const void *der, size_t size) {
        uint8_t digest[THUMBPRINT_SIZE_MAX];

        if (t->size == 0)
                return false;
        digest_of(t->size, der, size, digest);
        return memcmp(digest, t->digest, t->size) == 0;
}

void thumbprint_of(const Thumbprint *like, const void *der, size_t size, char ret[static THUMBPRINT_TEXT_SIZE]) {
        uint8_t digest[THUMBPRINT_SIZE_MAX];

        digest_of(like->size, der, size, digest);
        for (size_t i = 0; i < like->size; i++)
                (void) snprintf(ret + 3 * i, 4, "%02X%s", digest[i], i + 1 < like->size ? ":" : "");
}
