/* SPDX-License-Identifier: Apache-2.0 */
/* Mounting and unmounting one volume: straight-line blocking code, for a process of its own. What a hostile disk does to libblkid or mkfs
 * it does to that process, and a disk that hangs holds up its own volume only. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "podvm/volumes/disk.h"
#include "podvm/volumes/volume-spec.h"

#define VOLUME_MAPPER_PREFIX "caa-"             /* cloud-api-adaptor: pkg/forwarder/interceptor/interceptor.go */
#define VOLUME_UNMOUNT_USEC (20 * USEC_PER_SEC)

typedef struct WorkSettings {
        DiskRoots roots;
        const char *mount_root;         /* "/run/cloud-volumes" */
        const char *cdh_socket;
        uint32_t detect_attempts;
        uint64_t detect_delay_usec;
} WorkSettings;

/* Goes through a pipe in one piece. */
typedef struct WorkResult {
        int error;                      /* 0, or -errno */
        dev_t device;                   /* of the file system: the disk's, or the mapper's */
        char text[DISK_ERROR_SIZE];     /* on failure, for people */
} WorkResult;

/**
 * volume_work_mount() - find the disk, look at it, format it if it is empty, mount it at MOUNT_ROOT/NAME
 *
 * A volume that is mounted there already is success. Errors: -ENODEV the disk does not come, -EBUSY it is somebody else's, -EUCLEAN what is
 * on it is not to be overwritten, -EHOSTUNREACH confidential-data-hub does not answer, or others.
 */
void volume_work_mount(const WorkSettings *s, const VolumeSpec *v, WorkResult *ret);

/* Unmounts it, closes its mapping if it has one, removes the directory; tries for VOLUME_UNMOUNT_USEC. What is gone already is success. */
void volume_work_unmount(const WorkSettings *s, const char *name, dev_t device, WorkResult *ret);
