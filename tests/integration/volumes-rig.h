/* SPDX-License-Identifier: Apache-2.0 */
/* Disks for podvm-volumes: loop devices on sparse files, under the names that a cloud gives them, in a mount namespace of their own. Root. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/cleanup.h"

#define VOLUMES_RIG_DISKS_MAX 8U
#define VOLUMES_RIG_DISK_SIZE (UINT64_C(320) << 20)     /* mkfs.xfs takes no less than 300 MiB */

typedef struct VolumesRig {
        char dir[64];
        char dev[96], mount_root[96], runtime_dir[96], socket[96], cdh_socket[96], cdh_log[96];
        const char *sys;                /* NULL: the real one */
        int loops[VOLUMES_RIG_DISKS_MAX];       /* numbers */
        dev_t devices[VOLUMES_RIG_DISKS_MAX];
        unsigned n_disks;
        pid_t service, cdh;
} VolumesRig;

/* Aborts with a text when something cannot be had. The caller is in the namespace from then on. */
void volumes_rig_make(VolumesRig *r);
void volumes_rig_done(VolumesRig *r);   /* also what the service has left; after a kill too */

/* A new empty disk; @name below the rig's /dev, NULL: no name yet. Returns its number. */
unsigned volumes_rig_add_disk(VolumesRig *r, const char *name);
void volumes_rig_name_disk(VolumesRig *r, unsigned disk, const char *name);

void volumes_rig_write(VolumesRig *r, unsigned disk, uint64_t offset, const void *data, size_t size);

void volumes_rig_start(VolumesRig *r, const char *program, const char *attempts);
void volumes_rig_stop(VolumesRig *r, int sig);
void volumes_rig_start_cdh(VolumesRig *r, const char *program);
