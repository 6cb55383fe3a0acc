/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/scratch-storage/crypt.h"

#include <errno.h>
#include <libcryptsetup.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "basic/log.h"
#include "basic/util.h"

#define KEY_SIZE (64 + 32)                      /* AES-256-XTS, HMAC-SHA256 */

typedef struct Key {
        uint8_t bytes[KEY_SIZE];
} Key;

static void crypt_freep(struct crypt_device **cd) {
        crypt_free(*cd);
}

static void key_done(Key *k) {
        explicit_bzero(k->bytes, sizeof(k->bytes));
        (void) munlock(k->bytes, sizeof(k->bytes));
}

/* The last error is what will be told; everything else is for debugging. */
static void on_log(int level, const char *text, void *userdata) {
        char **last = userdata;

        if (level == CRYPT_LOG_ERROR) {
                free(*last);
                *last = strndup(text, strcspn(text, "\n"));
        }
        log_debug("libcryptsetup: %.*s", (int) strcspn(text, "\n"), text);
}

int scratch_crypt_open(const char *device, const char *name, char **ret_error) {
        /* No pass phrase is ever stretched; the header has a digest of the key, which needs no more than its own length. */
        static const struct crypt_pbkdf_type pbkdf = {
                .type = CRYPT_KDF_PBKDF2, .hash = "sha256", .iterations = 1000, .flags = CRYPT_PBKDF_NO_BENCHMARK,
        };
        struct crypt_params_luks2 params = { .pbkdf = &pbkdf, .integrity = "hmac(sha256)", .sector_size = 4096 };
        _cleanup_(crypt_freep) struct crypt_device *cd = NULL;
        _cleanup_(freep) char *last = NULL;
        _cleanup_(key_done) Key key = {};
        int r;

        if (mlock(key.bytes, sizeof(key.bytes)) < 0)
                return -errno;
        if (getrandom(key.bytes, sizeof(key.bytes), 0) != sizeof(key.bytes))
                return -EIO;

        r = crypt_init(&cd, device);
        if (r < 0)
                return r;
        crypt_set_log_callback(cd, on_log, &last);
        r = crypt_format(cd, CRYPT_LUKS2, "aes", "xts-plain64", NULL, (const char*) key.bytes, sizeof(key.bytes), &params);
        /* Nothing on it outlives the VM, so no journal has to make its writes survive a crash. */
        if (r >= 0)
                r = crypt_activate_by_volume_key(cd, name, (const char*) key.bytes, sizeof(key.bytes),
                                                 CRYPT_ACTIVATE_KEYRING_KEY|CRYPT_ACTIVATE_NO_JOURNAL|CRYPT_ACTIVATE_PRIVATE);
        if (r < 0)
                *ret_error = TAKE_PTR(last);
        return r < 0 ? r : 0;
}

void scratch_crypt_close(const char *name) {
        _cleanup_(crypt_freep) struct crypt_device *cd = NULL;

        if (crypt_init_by_name(&cd, name) >= 0)
                (void) crypt_deactivate(cd, name);
}
