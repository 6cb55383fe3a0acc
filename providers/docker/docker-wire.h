/* SPDX-License-Identifier: Apache-2.0 */
/* The Docker Engine's API as bytes: what is sent, and what is made of what comes. No network, no state. The engine is on our side, but
 * what it tells of containers (states, names, labels, messages of registries) comes from elsewhere, too. Source of the wire's form: moby/moby:
 * api/swagger.yaml. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "provider/peerpod-provider.h"

#define DOCKER_VERSION_LOWEST 1041      /* 20.10: CgroupnsMode */
#define DOCKER_ID_MAX 128
#define DOCKER_LINE_MAX 65536           /* of a pull's progress */

/* docker_version_parse() - "1.44" → 1044; 0 for what is no version */
uint32_t docker_version_parse(const char *s);

typedef struct DockerEngine {
        uint32_t version;               /* to speak */
        uint32_t minimum, maximum;      /* of what it speaks */
        uint32_t cpus;                  /* of its machine; 0: not known */
        uint64_t memory_mib;            /* likewise */
        bool no_cpu_limit;              /* its kernel, or what it sees of control groups, cannot limit CPU time */
} DockerEngine;

/* Parsers: 0, or -EBADMSG (nothing is said of what), -ENOMEM. Their results are freed by the _done() function, also after a failure. */

int docker_parse_version(const char *text, size_t size, uint32_t wanted, DockerEngine *ret);
int docker_parse_info(const char *text, size_t size, DockerEngine *ret);

/* docker_parse_message() - {"message": "…"} of an error; newly allocated, plain; 1, or 0 without one */
int docker_parse_message(const char *text, size_t size, char **ret);

typedef struct DockerOwner {
        char *name, *sandbox_id, *node; /* NULL where there is no such label */
} DockerOwner;

void docker_owner_done(DockerOwner *o);

typedef struct DockerContainer {
        char id[DOCKER_ID_MAX + 1];
        char *name;                     /* without the slash */
        DockerOwner owner;
        char *status;                   /* "created", "running", "exited" … */
        char *health;                   /* "starting", "healthy", "unhealthy"; NULL without a health check */
        char *error;                    /* why it could not be started, plain, or NULL */
        bool out_of_memory;
        uint64_t exit_code;
        char addresses[2][PEERPOD_ADDRESS_SIZE];        /* in the network: IPv4, IPv6 */
        size_t n_addresses;
} DockerContainer;

int docker_parse_container(const char *text, size_t size, const char *network, DockerContainer *ret);
void docker_container_done(DockerContainer *c);

/* docker_parse_created() - the id of {"Id": …, "Warnings": […]}, and the warnings in one line, or NULL */
int docker_parse_created(const char *text, size_t size, char ret_id[static DOCKER_ID_MAX + 1], char **ret_warnings);

typedef struct DockerListed {
        char *id;                       /* of a container; the name of a volume */
        DockerOwner owner;
} DockerListed;

typedef struct DockerList {
        DockerListed *items;
        size_t n_items;
} DockerList;

/* What has no owner tag of ours is left out. */
int docker_parse_containers(const char *text, size_t size, DockerList *ret);
int docker_parse_volumes(const char *text, size_t size, DockerList *ret);
void docker_list_done(DockerList *l);

/* docker_parse_network() - the driver's name; newly allocated */
int docker_parse_network(const char *text, size_t size, char **ret_driver);

/* A pull's progress: JSON objects, one on each line, fed in pieces of any size. A line that is too long or none of JSON is left out: success
 * is told by the image, not by these. */
typedef struct DockerProgress {
        char line[DOCKER_LINE_MAX];
        size_t size;
        bool too_long;
        char *error;                    /* what the engine says went wrong, plain */
        char status[160];               /* the newest */
} DockerProgress;

int docker_progress_feed(DockerProgress *p, const void *data, size_t size);     /* 0, -ENOMEM */
void docker_progress_done(DockerProgress *p);

/* docker_image_split() - "host/name:tag", "name@sha256:…" → name and tag ("latest" without one) or digest, both newly allocated. Returns
 * 0, -EINVAL for what is no reference, -ENOMEM. */
int docker_image_split(const char *image, char **ret_name, char **ret_tag);

/* docker_image_registry() - the registry's host in a reference, or NULL for the engine's own default; newly allocated in *ret. 0, -ENOMEM */
int docker_image_registry(const char *image, char **ret);

typedef struct DockerCreate {
        const char *image, *network, *node, *sandbox_id, *name, *pod_name, *pod_namespace;
        const char *capabilities;       /* PEERPOD_OPTION_LIST */
        bool privileged;                /* instead of them */
        uint32_t vcpus;                 /* 0: no limit */
        uint64_t memory_mib;            /* likewise */
        uint64_t pids_max;              /* likewise */
} DockerCreate;

/* docker_write_create() - the body of POST /containers/create, newly allocated; NULL when memory is short */
char* docker_write_create(const DockerCreate *c);

/* docker_write_user_data() - a tar archive with media/cidata/user-data; secret, newly allocated, by erase_free(). 0, -ENOMEM */
int docker_write_user_data(const void *data, size_t size, uint64_t now_sec, char **ret, size_t *ret_size);
