/* SPDX-License-Identifier: Apache-2.0 */
/* The NoCloud seed: an ISO 9660 image in memory that brings a VM its user data (canonical/cloud-init: NoCloud datasource). */
#pragma once

#include <stddef.h>
#include <stdint.h>

/**
 * seed_iso_make() - volume "cidata" with user-data, meta-data and an empty vendor-data in its root
 * @instance_id, @hostname: for meta-data; of [A-Za-z0-9._-] only, so that they need no quoting in YAML
 * @ret: newly allocated and secret: erase_free() it with *ret_size
 *
 * The user data itself never passes through libarchive, whose ISO writer stages file contents in a temporary file.
 * Returns 0, -EINVAL, -EFBIG, -ENOMEM, -EIO (libarchive).
 */
int seed_iso_make(const char *instance_id, const char *hostname, const void *user_data, size_t user_data_size,
                  uint8_t **ret, size_t *ret_size);
