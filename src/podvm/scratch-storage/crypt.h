/* SPDX-License-Identifier: Apache-2.0 */
/* An encrypted and authenticated mapping of a block device, with a key that nobody ever sees again. */
#pragma once

/**
 * scratch_crypt_open() - format a block device and map it
 * @device:    what is on it is lost
 * @name:      of the mapping: /dev/mapper/NAME
 * @ret_error: on failure, text for people; may stay NULL
 *
 * AES-XTS with HMAC-SHA256 (dm-crypt on dm-integrity, a LUKS2 header without key slots). The key comes from the kernel's random source, goes
 * to the kernel's keyring, and is wiped: it can not be had from the disk, the memory of this process, or device-mapper's table.
 * Sectors that were never written are unreadable. Returns 0 or -errno.
 */
int scratch_crypt_open(const char *device, const char *name, char **ret_error);

/* scratch_crypt_close() - what can be undone of it, after a failure */
void scratch_crypt_close(const char *name);
