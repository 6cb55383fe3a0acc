/* SPDX-License-Identifier: Apache-2.0 */
/* The two disks of an instance: a copy-on-write overlay of the base image, and the seed. With a daemon's connection they are volumes
 * of the configured pool, with the embedded driver, which has no storage driver, files of our own. Their names follow from the
 * instance's name, so that they are found again after any crash. */
#pragma once

#include "libvirt-provider.h"

typedef struct Storage {
        Libvirt *libvirt;
        virStoragePoolPtr pool;         /* NULL: files */
        char *directory;                /* files: the instance's */
        char *root, *seed;              /* names of the volumes, or paths */
        char **volumes;                 /* the pod's own, which are not ours to remove; likewise */
        char *nvram, *serial_log;       /* files only, else NULL */
        char *libvirt_log;              /* what libvirt writes for the domain; likewise */
} Storage;

/* storage_init() - names only; nothing is made yet. Returns 0, or negative with @error. */
int storage_init(Storage *s, Libvirt *l, virConnectPtr c, const char *name, PeerpodError *error);
void storage_done(Storage *s);

/**
 * storage_find_volumes() - the disks that the pod brings along
 * @ids: names of raw volumes of the pool, or of raw files in the directory of base images; or paths of block devices below /dev
 *
 * Returns 0, or negative with @error.
 */
int storage_find_volumes(Storage *s, const char *const *ids, size_t n, PeerpodError *error);

/* image_name_is_valid() - a plain file or volume name, and not one that an instance's own disk has */
bool image_name_is_valid(const char *s);

/* storage_create_root(), storage_create_seed() - what is there under the name already is an error; storage_remove() first. The first one
 * fails with PEERPOD_E_EXHAUSTED if the pool has not the room for both. */
int storage_create_root(Storage *s, const PeerpodCall *call, const char *image, uint64_t seed_size, PeerpodError *error);
int storage_create_seed(Storage *s, const PeerpodCall *call, const uint8_t *data, size_t size, PeerpodError *error);

/* storage_remove() - exactly what we made under this name; gone is success. The domain must not run. */
int storage_remove(Storage *s, const PeerpodCall *call, PeerpodError *error);

/* storage_check() - is the base image there, and does the pool have room for a VM's disks? For verify(). */
int storage_check(Libvirt *l, virConnectPtr c, PeerpodError *error);

/* image_probe() - is the open file a qcow2 or a raw image, and how large is the disk in it? Returns 0, -EBADMSG, -errno. */
int image_probe(int fd, bool *ret_qcow2, uint64_t *ret_size);
