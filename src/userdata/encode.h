/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 and gzip; back: userdata/decode.h. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* All return 0 or -ENOMEM; *ret is newly allocated. */

int base64_encode(const void *data, size_t size, char **ret);           /* RFC 4648 section 4, padded */
int base64url_encode(const void *data, size_t size, char **ret);        /* section 5, without padding */
int gzip_encode(const void *data, size_t size, uint8_t **ret, size_t *ret_size);
