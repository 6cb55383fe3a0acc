/* SPDX-License-Identifier: Apache-2.0 */
/* Records of what is mounted: one JSON file for each volume in the run-time directory. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "podvm/volumes/volume-spec.h"

#define VOLUME_RECORD_SIZE_MAX (256U << 10)

typedef struct VolumeRecord {
        VolumeSpec spec;                /* without .mount_point, which is the container's matter */
        dev_t device;                   /* of the file system; 0: not known */
        char **containers;              /* that use it */
} VolumeRecord;

void volume_record_done(VolumeRecord *r);

int volume_record_set(VolumeRecord *r, const VolumeSpec *spec);         /* copies; 0, -ENOMEM */
bool volume_record_is(const VolumeRecord *r, const VolumeSpec *spec);   /* the same volume in all but the containers' part */
bool volume_record_has_disk(const VolumeRecord *r, const VolumeSpec *spec);

int volume_record_save(int dir_fd, const VolumeRecord *r);
void volume_record_remove(int dir_fd, const char *name);

/* From the text of a record. Returns 0, -EBADMSG, -ENOMEM. */
int volume_record_parse(const char *name, const char *text, size_t size, VolumeRecord *ret);

/* Calls @load for each; it may take the record's content. A record that cannot be read is logged and passed over. */
int volume_records_load(int dir_fd, int (*load)(const char *name, VolumeRecord *r, void *userdata), void *userdata);
