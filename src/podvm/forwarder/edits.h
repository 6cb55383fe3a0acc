/* SPDX-License-Identifier: Apache-2.0 */
/* What the pod VM's end changes in requests on their way to the agent
 * (cloud-api-adaptor: src/cloud-api-adaptor/pkg/forwarder/interceptor/interceptor.go). */
#pragma once

#include "basic/strv.h"
#include "podvm/volumes/volume-spec.h"
#include "ttrpc/relay.h"

/* Where missing sources of bind mounts are made, and nowhere else: the worker, which is not trusted, names them before the
 * agent's policy has seen the request. */
#define BIND_SOURCE_ROOT "/run/kata-containers"

/* What a CreateContainer has to wait for, before it can go on. */
typedef struct ContainerVolumes {
        char *container;                /* its id */
        VolumeSpecs specs;              /* cloud volumes */
        char **targets;                 /* directories that somebody else mounts, and that it mounts from there */
} ContainerVolumes;

#define CONTAINER_VOLUMES_NULL (ContainerVolumes) {}
void container_volumes_done(ContainerVolumes *v);

/* Reads both annotations. Returns 1 if there is something to wait for, 0 if not, or negative: refused in @edit. */
int edit_get_volumes(const TtrpcRequest *request, ContainerVolumes *ret, RelayEdit *edit);

/* The id in a CreateContainer or RemoveContainer, newly allocated; NULL: none that can be one, or no memory. */
char* edit_get_container(const TtrpcRequest *request);

/**
 * edit_create_container() - CreateContainer as the agent gets it
 * @paths: where the cloud volumes @volumes are mounted in the VM, one for each; both NULL without any
 *
 * The mounts of cloud volumes get their sources, the pod's network namespace is appended, missing sources of bind mounts below @bind_root
 * are made.
 */
void edit_create_container(const char *pod_namespace, const char *bind_root, const ContainerVolumes *volumes, char *const *paths,
                           const TtrpcRequest *request, RelayEdit *edit);

/* CreateSandbox: no DNS servers, so that the agent leaves the VM's own resolv.conf alone. */
void edit_create_sandbox(const TtrpcRequest *request, RelayEdit *edit);

/* mkdir -p of @path, which must lie below @root; no symlink is followed below it. Returns 1 if it was made, 0 if something is
 * there already, -EPERM (outside), or another -errno. */
int make_bind_source(const char *root, const char *path);
