/* SPDX-License-Identifier: Apache-2.0 */
/* Where on the VM's disks scratch storage may lie: a partition that says so by its name, or what is free behind the last partition
 * of the disk that the root file system is on. */
#pragma once

#include <errno.h>
#include <stdint.h>

#define SCRATCH_PARTLABEL "peerpod-scratch"
#define SCRATCH_SIZE_MIN (UINT64_C(256) << 20)

/* A range of a disk, in bytes. */
typedef struct Tail {
        uint64_t start, size;
        int partition;                  /* a number that is free */
} Tail;

/**
 * disk_tail() - what is free behind a disk's last partition
 * @sysfs: the disk's directory below /sys
 *
 * Keeps clear of the backup of the partition table, also of the one that lies where the disk ended before it was enlarged. Returns 0, -ENOSPC
 * (less than SCRATCH_SIZE_MIN; @ret tells how much), -EBADMSG, or what open() and read() say.
 */
int disk_tail(const char *sysfs, Tail *ret);

typedef struct ScratchPlace {
        char *device;                   /* block device, "/dev/NAME" */
        int disk_fd;                    /* if the partition was added: its disk */
        Tail tail;
} ScratchPlace;

#define SCRATCH_PLACE_NULL ((ScratchPlace) { .disk_fd = -EBADF })

/**
 * scratch_place_find() - the block device to use; its partition may be made known to the kernel, and to it alone: no table is written
 * @ret:       SCRATCH_PLACE_NULL before; scratch_place_done() in any case
 * @ret_error: on failure, text for people; may stay NULL
 *
 * Returns 0, -ENOSPC, -ENODEV (the root is on no disk), -ENOMEM, ….
 */
int scratch_place_find(ScratchPlace *ret, char **ret_error);
void scratch_place_forget(ScratchPlace *p);     /* the kernel forgets a partition that was added, if it is not in use */
void scratch_place_done(ScratchPlace *p);
