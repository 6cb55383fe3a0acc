/* SPDX-License-Identifier: Apache-2.0 */
/* A file system on a block device of which nothing can be read that was not written before. */
#pragma once

/**
 * scratch_filesystem_make() - ext4 on a whole block device
 * @device: whatever is on it is lost
 * @mkfs:   the program, "mkfs.ext4"
 *
 * A journal there is not: nothing on it outlives the VM. Logs its failures. Returns 0 or -errno.
 */
int scratch_filesystem_make(const char *device, const char *mkfs);
