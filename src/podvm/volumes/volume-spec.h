/* SPDX-License-Identifier: Apache-2.0 */
/* A cloud volume as the worker's proxy describes it in CreateContainer: which disk, with what on it, where in the container. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/cleanup.h"

#define CLOUD_VOLUMES_MAX 64U
#define CLOUD_VOLUMES_SIZE_MAX (64U << 10)      /* of the annotation */
#define VOLUME_LUN_MAX 16383U                   /* SAM-5, flat space addressing */

/* All strings are owned and never NULL in a checked volume; "" is absent. */
typedef struct VolumeSpec {
        char *name;                     /* plain: a part of paths and of a device mapper name */
        char *mount_point;              /* in the container; not for podvm-volumes */
        char *fs_type;                  /* ext4, ext3 or xfs */
        char *disk_id;                  /* the provider's, for AWS */
        char *encrypt_type;             /* "" or luks2 */
        char *key_id;                   /* resource of the key broker, without kbs:/// */
        uint32_t lun;
        gid_t fs_group;                 /* (gid_t) -1: none */
} VolumeSpec;

void volume_spec_done(VolumeSpec *v);

typedef struct VolumeSpecs {
        VolumeSpec *list;               /* in the order of their names, as upstream mounts them */
        size_t n;
} VolumeSpecs;

#define VOLUME_SPECS_NULL (VolumeSpecs) {}
void volume_specs_done(VolumeSpecs *v);

/**
 * volume_spec_check() - may this be mounted at all
 * @ret_error: what is wrong, without quoting a value; newly allocated
 *
 * Fills in what upstream takes by default (ext4; luks is luks2). Returns 0, -EINVAL, -ENOMEM.
 */
int volume_spec_check(VolumeSpec *v, char **ret_error);

/**
 * volume_specs_parse() - read the annotation io.confidentialcontainers.org.cloud_volumes
 *
 * A JSON object, name → {mount_point, fs_type, lun, disk_id, fs_group, encrypt_type, key_id}, all strings (cloud-api-adaptor:
 * src/cloud-api-adaptor/pkg/forwarder/interceptor/interceptor.go, pkg/adaptor/proxy/service.go). Unknown keys are ignored.
 * Returns 0, -EBADMSG, -EINVAL, -E2BIG, -ENOMEM; @ret is untouched then.
 */
int volume_specs_parse(const char *text, size_t size, VolumeSpecs *ret, char **ret_error);
