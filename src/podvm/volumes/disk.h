/* SPDX-License-Identifier: Apache-2.0 */
/* The disk of a volume: found by the cloud's way of naming it, and checked to be nobody else's. Plain blocking code, for the process of one
 * volume. */
#pragma once

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DISK_ERROR_SIZE 256U

/* Where to look; tests have other trees. */
typedef struct DiskRoots {
        const char *dev;                /* "/dev" */
        const char *sys;                /* "/sys" */
} DiskRoots;

typedef enum DiskProvider {
        DISK_GENERIC,
        DISK_AZURE,
        DISK_AWS,
        DISK_LIBVIRT,
        _DISK_PROVIDER_MAX,
} DiskProvider;

const char* disk_provider_to_string(DiskProvider p);

/* By the devices that are there and by DMI, as upstream (cloud-api-adaptor:
 * src/cloud-api-adaptor/pkg/forwarder/interceptor/interceptor.go). */
DiskProvider disk_detect_provider(const DiskRoots *roots);

/**
 * disk_find() - the path of a volume's disk
 * @disk_id: as the cloud has it; only AWS's tells the disk. "" goes by @lun there, too
 * @ret:     PATH_MAX
 *
 * Looked for anew on each call. Returns 0, -ENODEV (not there, or not yet).
 */
int disk_find(const DiskRoots *roots, DiskProvider provider, const char *disk_id, uint32_t lun, char *ret);

/**
 * disk_check() - is it a whole disk that nothing uses
 * @ret_error: DISK_ERROR_SIZE; filled on failure
 *
 * Refused are partitions, disks with partitions (the root disk has some), disks below other devices, and mounted ones. By device number, never
 * by name. Returns 0, -ENOTBLK, -EBUSY, or another -errno.
 */
int disk_check(const DiskRoots *roots, const char *path, dev_t *ret_device, char *ret_error);

/**
 * disk_probe() - what is on it
 * @ret_type: 32 bytes: file system type, or "" for nothing at all: libblkid finds no signature, and its beginning, its end and 64 places between
 *            hold only zeros, as a new disk's do. Only such a disk may be formatted.
 *
 * Returns 0, -EUCLEAN (something is on it that is no file system for a volume: @ret_error), or another -errno.
 */
int disk_probe(const char *path, char *ret_type, char *ret_error);

/* Is this directory where the device is mounted? 1, 0 (it is no mount point), -EBUSY (something else is mounted there), or another -errno.
 * @device 0: any. */
int disk_is_mounted_at(const char *directory, dev_t device);
