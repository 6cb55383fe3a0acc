/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-owner.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "basic/util.h"
#include "cloud-sign.h"

#define UUID_SIZE 16

void owner_digest(const char *s, char ret[static OWNER_DIGEST_SIZE]) {
        char digest[SHA256_HEX_SIZE];

        sha256_hex(s, strlen(s), digest);
        (void) snprintf(ret, OWNER_DIGEST_SIZE, "%.*s", OWNER_DIGEST_SIZE - 1, digest);
}

/* RFC 9562, sections 4.1 and 4.2 */
static void format_uuid(uint8_t d[static UUID_SIZE], uint8_t version, char ret[static OWNER_TOKEN_SIZE]) {
        d[6] = (d[6] & 0x0f) | (uint8_t) (version << 4);
        d[8] = (d[8] & 0x3f) | 0x80;
        (void) snprintf(ret, OWNER_TOKEN_SIZE, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", d[0], d[1], d[2], d[3],
                        d[4], d[5], d[6], d[7], d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15]);
}

void owner_token(const char *name, const char *sandbox_id, char ret[static OWNER_TOKEN_SIZE]) {
        char text[512];
        uint8_t d[SHA256_SIZE];

        (void) snprintf(text, sizeof(text), "peerpod %s %s", name, sandbox_id);
        sha256(text, strlen(text), d);
        format_uuid(d, 5, ret);
}

void random_token(char ret[static OWNER_TOKEN_SIZE]) {
        uint8_t d[UUID_SIZE];
        int r = gnutls_rnd(GNUTLS_RND_NONCE, d, sizeof(d));

        assert(r == 0);         /* or its self-tests have failed, and nothing works */
        (void) r;
        format_uuid(d, 4, ret);
}
