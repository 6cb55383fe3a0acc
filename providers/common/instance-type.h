/* SPDX-License-Identifier: Apache-2.0 */
/* Which of a cloud's instance types a pod VM gets (cloud-api-adaptor: src/cloud-providers/util.go, SelectInstanceTypeToUse()). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "provider/peerpod-provider.h"

typedef struct InstanceType {
        char *name;                     /* owned, as the others */
        uint32_t vcpus;
        uint64_t memory_mib;
        uint32_t gpus;
        char *gpu_model;                /* as the cloud names it, or NULL */
        char *architecture;             /* as uname -m has it ("x86_64", "aarch64", "s390x", "ppc64le"), or NULL if unknown */
} InstanceType;

void instance_type_done(InstanceType *t);

typedef struct InstanceTypeWish {
        const PeerpodInstanceSpec *spec;
        const char *default_type;       /* of the settings */
        const char *allowed;            /* of the settings, a PEERPOD_OPTION_LIST; "": the default only */
        const char *allowed_option;     /* its variable's name, for people */
        const char *architecture;       /* of the image, or NULL */
} InstanceTypeWish;

/**
 * instance_type_choose() - the smallest type that fits
 * @types: what the cloud says of the allowed types and the default one; order is of no importance
 * @ret:   the name; borrowed from @wish or @types
 *
 * A type named by the pod is taken if it is allowed. Else the pod's vCPUs, memory, GPUs and GPU model are looked for among the allowed
 * types by linear search: fewest GPUs, then least memory, then fewest vCPUs, then by name. A pod that asks for GPUs alone, or for both vCPUs
 * and memory, is served so; else the default type is. A GPU model matches without regard to case, blanks and hyphens, as a part of the name.
 *
 * Returns 0, or a negative errno with *error set: what was asked for, and which allowed type comes nearest (PEERPOD_E_INVALID_ARGUMENT for a
 * type that is not allowed, PEERPOD_E_FAILED_PRECONDITION when none fits).
 */
int instance_type_choose(const InstanceTypeWish *wish, const InstanceType *types, size_t n_types, const char **ret, PeerpodError *error);

/* A listing of the cloud's types that is kept for a while; shared by all threads. */
typedef struct InstanceTypeCache InstanceTypeCache;

/* Ask the cloud. @ret: newly allocated, each to be freed by instance_type_done(). Never twice at once. */
typedef int (*InstanceTypeFetch)(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error);

int instance_type_cache_new(InstanceTypeFetch fetch, void *userdata, uint64_t keep_usec, InstanceTypeCache **ret);     /* 0, -ENOMEM */
InstanceTypeCache* instance_type_cache_free(InstanceTypeCache *c);

/* instance_type_cache_choose() - instance_type_choose() on the listing, which is fetched first where it is missing or too old. An old one is
 * good enough while the cloud does not answer (logged). @ret: newly allocated. @ret_type: a copy of what is known of it, or zeros; may
 * be NULL; freed by instance_type_done(). */
int instance_type_cache_choose(InstanceTypeCache *c, const PeerpodCall *call, const InstanceTypeWish *wish, char **ret, InstanceType *ret_type,
                               PeerpodError *error);
