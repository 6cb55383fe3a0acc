/* SPDX-License-Identifier: Apache-2.0 */
/* Kata's records of volumes that are attached to VMs as disks, which CSI drivers leave on the node
 * (kata-containers: docs/design/direct-blk-device-assignment.md, src/runtime/pkg/direct-volume). They are root's, so that the adaptor
 * cannot read them. */
#pragma once

#include <stddef.h>

#include "basic/cleanup.h"
#include "net/netlink.h"

#define DIRECT_VOLUMES_DIR "/run/kata-containers/shared/direct-volumes"
#define DIRECT_VOLUMES_MAX 256U                 /* of one pod */
#define DIRECT_VOLUMES_OF_NODE_MAX 16384U       /* looked at */
#define DIRECT_VOLUME_RECORD_MAX (64U << 10)

typedef struct DirectVolume {
        char *path;             /* where kubelet would have mounted it */
        char *disk_id;          /* the cloud's; empty: none is named */
        char *fs_type;
        char *encrypt_type, *key_id;
} DirectVolume;

typedef struct DirectVolumes {
        DirectVolume *volumes;  /* in the order of the records' names, which is that of the disks at the VM */
        size_t n;
} DirectVolumes;

#define DIRECT_VOLUMES_NULL ((DirectVolumes) {})
void direct_volumes_done(DirectVolumes *v);

/**
 * direct_volume_parse() - read one mountInfo.json
 * @ret:       all but the path, which stays as it is, is set; untouched on failure
 * @ret_error: what is wrong, newly allocated; NULL when memory is short
 *
 * Returns 0, -EBADMSG, -ENOMEM.
 */
int direct_volume_parse(const char *text, size_t size, DirectVolume *ret, char **ret_error);

/* direct_volume_decode_name() - the path that a record's name stands for: base64 of the alphabet for file names, with padding
 * (RFC 4648, section 5). Returns 0, -EBADMSG, -ENOMEM. */
int direct_volume_decode_name(const char *name, char **ret);

/**
 * direct_volumes_read() - the CSI volumes of one pod
 * @pod_uid: "" if it is not known: then the paths of all pods' volumes, and nothing more of them
 *
 * Returns 0; -EBADMSG (a record of the pod's is unreadable), -E2BIG, -ENOMEM, or what the file system says, with @e set.
 */
int direct_volumes_read(const char *directory, const char *pod_uid, DirectVolumes *ret, NetError *e);
