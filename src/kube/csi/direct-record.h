/* SPDX-License-Identifier: Apache-2.0 */
/* Kata's record of a volume that reaches its VM as a disk, as csi-wrapper left it: with it, Kata's shim does not copy the directory's files into
 * the VM, and the agent proxy tells the VM to wait until something is mounted there (kata-containers:
 * docs/design/direct-blk-device-assignment.md; src/tunnel/direct-volume.h reads it). It names no disk: peerpod-adaptor attaches none for it. */
#pragma once

#include <stdbool.h>

/* direct_record_write() - returns 0, -ENAMETOOLONG (the record's name would be longer than a file's may be), or what the file system says */
int direct_record_write(const char *directory, const char *target_path);
/* direct_record_is_ours() - is there one that direct_record_write() has left, not a driver's own? */
bool direct_record_is_ours(const char *directory, const char *target_path);
/* direct_record_remove() - one that is not there is success */
int direct_record_remove(const char *directory, const char *target_path);
