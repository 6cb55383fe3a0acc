/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-owner.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "basic/util.h"

#define SHA256_SIZE 32

static void digest_of(const void *data, size_t size, uint8_t ret[static SHA256_SIZE]) {
        int r = gnutls_hash_fast(GNUTLS_DIG_SHA256, data, size, ret);

        assert(r == 0);
        (void) r;
}

void owner_digest(const char *s, char ret[static OWNER_DIGEST_SIZE]) {
        uint8_t digest[SHA256_SIZE];

        digest_of(s, strlen(s), digest);
        for (size_t i = 0; i < (OWNER_DIGEST_SIZE - 1) / 2; i++)
                (void) snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

void owner_token(const char *name, const char *sandbox_id, char ret[static OWNER_TOKEN_SIZE]) {
        char text[512];
        uint8_t d[SHA256_SIZE];

        (void) snprintf(text, sizeof(text), "peerpod %s %s", name, sandbox_id);
        digest_of(text, strlen(text), d);
        d[6] = (d[6] & 0x0f) | 0x50;    /* version 5, variant of RFC 9562 */
        d[8] = (d[8] & 0x3f) | 0x80;
        (void) snprintf(ret, OWNER_TOKEN_SIZE, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", d[0], d[1], d[2], d[3],
                        d[4], d[5], d[6], d[7], d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15]);
}
