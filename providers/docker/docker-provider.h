/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the docker module share: one Docker Engine, and how pod VMs are made on it. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cloud-http.h"
#include "docker-wire.h"
#include "provider/peerpod-provider.h"

#define DOCKER_USER_DATA_MAX (UINT64_C(8) << 20)

typedef struct Docker {
        CloudHttp *http;
        char *base;                     /* "http://localhost" where a UNIX socket is spoken to; no slash at its end */
        char *image, *network;
        char *image_patterns;           /* PEERPOD_OPTION_LIST: which images a pod may name */
        char *registry;                 /* that registry_auth is for, or NULL */
        char *registry_auth;            /* X-Registry-Auth; secret; or NULL */
        char *capabilities;             /* PEERPOD_OPTION_LIST */
        bool pull, privileged;
        uint32_t api_version;           /* the highest to be spoken, as docker_version_parse() has it */
        uint32_t vcpus;                 /* of a pod VM whose pod asks for none; 0: no limit */
        uint64_t memory_mib;            /* likewise */
        uint64_t pids_max;

        pthread_mutex_t mutex;          /* protects what follows */
        DockerEngine engine;            /* as far as it was learnt: version 0 is not yet */
} Docker;

/* docker-image.c */

/* docker_image_ensure() - is the image there? Pulled where it is not and the settings allow that. PEERPOD_E_FAILED_PRECONDITION if not. */
int docker_image_ensure(Docker *d, const PeerpodCall *call, const char *image, PeerpodError *error);

/* docker_image_allowed() - may a pod name this one? */
bool docker_image_allowed(const Docker *d, const char *image);

/* docker-instance.c */
int docker_network_check(Docker *d, const PeerpodCall *call, PeerpodError *error);
int docker_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
int docker_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int docker_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
