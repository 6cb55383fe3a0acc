/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256, as text. */
#pragma once

#include <stddef.h>

#define SHA256_HEX_SIZE 65U             /* with the NUL */

/* sha256_hex() - lower case. Returns 0, -EIO where GnuTLS fails. */
int sha256_hex(const void *data, size_t size, char ret[static SHA256_HEX_SIZE]);
