/* SPDX-License-Identifier: Apache-2.0 */
/* User data as clouds want it, measured before any call. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "provider/peerpod-provider.h"

typedef enum UserDataEncoding {
        USER_DATA_PLAIN,
        USER_DATA_BASE64,
        USER_DATA_GZIP_BASE64,          /* gzip first, where the reader undoes that */
} UserDataEncoding;

/**
 * user_data_encode() - the spec's user data, encoded
 * @limit:         what the cloud takes, in bytes
 * @limit_encoded: does the limit count what is sent, or the plain document?
 * @ret:           newly allocated, with a NUL behind it: erase_free() it
 *
 * Returns 0, or a negative errno with *error set: PEERPOD_E_EXHAUSTED says size, limit, and the name and size of the biggest file in it
 * (never any content).
 */
int user_data_encode(const PeerpodInstanceSpec *spec, UserDataEncoding encoding, size_t limit, bool limit_encoded, char **ret, size_t *ret_size,
                     PeerpodError *error);
