/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 and gzip with a bound on what comes out. */
#pragma once

#include <stddef.h>

/**
 * base64_decode() - RFC 4648 standard alphabet, padding required, blanks and line ends between characters skipped
 * @ret: a NUL is added behind the @ret_size bytes; the caller frees it
 *
 * Returns 0, -EBADMSG, -ENOMEM.
 */
int base64_decode(const char *text, size_t size, char **ret, size_t *ret_size);

/**
 * gzip_decode() - all members of a gzip file, joined (RFC 1952 section 2.2)
 * @size_max: more output than this is -E2BIG; never more than twice as much is allocated
 * @ret:      a NUL is added behind the @ret_size bytes; the caller frees it
 *
 * Bytes behind the last member that are no further member are refused, as Go's compress/gzip does.
 * Returns 0, -EBADMSG (bad or cut off), -E2BIG, -ENOMEM.
 */
int gzip_decode(const void *data, size_t size, size_t size_max, char **ret, size_t *ret_size);
