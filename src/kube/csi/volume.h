/* SPDX-License-Identifier: Apache-2.0 */
/* What a PeerpodVolume object says, and what may follow: no I/O.
 *
 * One object is one volume on its way into one pod's VM and back. Its state only ever moves forward, by whoever's turn it is, until the volume
 * is detached; then it begins anew. The names are those of cloud-api-adaptor's csi-wrapper, which never wrote the last one
 * (cloud-api-adaptor: src/csi-wrapper/pkg/apis/peerpodvolume/v1alpha1/types.go, until its removal). */
#pragma once

#include <stdbool.h>

#include "basic/json.h"

typedef enum VolumeState {
        VOLUME_NEW,
        VOLUME_CONTROLLER_PUBLISH_CACHED,       /* controller: the attacher believes that it is attached */
        VOLUME_NODE_STAGE_CACHED,               /* node: kubelet believes that it is staged */
        VOLUME_NODE_PUBLISH_CACHED,             /* node: kubelet believes that it is mounted, and starts the VM */
        VOLUME_VM_RUNNING,                      /* podvm: the wrapper in the VM is there */
        VOLUME_VM_KNOWN,                        /* node: which instance the VM is. From here on it may be attached. */
        VOLUME_ATTACHED,                        /* controller: the disk is at the VM. From here on it may be mounted. */
        VOLUME_STAGED,                          /* podvm */
        VOLUME_PUBLISHED,                       /* podvm: the container can have it */
        VOLUME_NODE_UNPUBLISH_CACHED,           /* node: kubelet believes that it is not mounted any more */
        VOLUME_UNPUBLISHED,                     /* podvm has unmounted it, or node has seen the VM gone */
        VOLUME_NODE_UNSTAGE_CACHED,             /* node: kubelet believes that it is not staged any more */
        VOLUME_UNSTAGED,                        /* podvm has, or node has seen the VM gone */
        VOLUME_DETACHED,                        /* controller: the disk is at no VM */
        _VOLUME_STATE_MAX,
        _VOLUME_STATE_INVALID = -EINVAL,
} VolumeState;

const char* volume_state_to_string(VolumeState s);
VolumeState volume_state_from_string(const char *s);

/* All strings are borrowed from the object and never NULL. */
typedef struct Volume {
        json_object *object;
        const char *name, *uid, *resource_version;
        VolumeState state;
        const char *id, *pv_name;               /* volumeID; volumeName, "" if not known */
        const char *node_name, *pod_uid, *pod_name, *pod_namespace, *vm_id, *device_path, *target_path;
        const char *publish_request, *publish_response, *stage_request, *node_publish_request, *unpublish_request, *unstage_request;
        const char *secrets;                    /* which requests had some, by VOLUME_SECRETS_ANNOTATION */
        const char *boot_id;                    /* of the VM whose wrapper has announced itself last */
        const char *again;                      /* another VM of the same pod waits until this one is gone; the state that it has found, else "" */
} Volume;

#define VOLUME_NO_NAME "peerpod-volume-name-placeholder"
#define VOLUME_SECRETS_ANNOTATION "kata.peerpods.io/csi-secrets"
#define VOLUME_BOOT_ANNOTATION "kata.peerpods.io/csi-boot-id"
#define VOLUME_AGAIN_ANNOTATION "kata.peerpods.io/csi-again"

/* volume_read() - returns 0, or -EBADMSG with *reterr: no such object, or one whose state this version does not know */
int volume_read(json_object *object, Volume *ret, char **reterr);

/* May the disk be at the VM, and something of the VM's be mounted from it? */
bool volume_may_be_attached(const Volume *v);
bool volume_may_be_mounted(const Volume *v);

/* volume_object_name() - the object's name for a volume id: the id itself where it is a valid name, what it ends with and a digest of all of it
 * otherwise. NULL: no memory. */
char* volume_object_name(const char *volume_id);

/* volume_node_id() - what a driver calls the VM that the adaptor calls @vm_id: Azure's are named, not by resource id. Borrowed from it. */
const char* volume_node_id(const char *vm_id);

/**
 * volume_path_parse() - the parts of a path below which kubelet publishes a volume (kubernetes: pkg/volume/csi/csi_mounter.go)
 *
 * ROOT/pods/UID/volumes/kubernetes.io~csi/NAME/mount, ROOT anything. Returns 0, -EINVAL, -ENOMEM.
 */
int volume_path_parse(const char *path, char **ret_pod_uid, char **ret_pv_name);
