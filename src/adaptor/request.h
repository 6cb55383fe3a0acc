/* SPDX-License-Identifier: Apache-2.0 */
/* What a CreateVM asks for: the shim's annotations, checked and in our terms. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

/* Limits of ours, far above anything a cloud sells: they catch garbage, the provider knows the real ones. */
#define REQUEST_VCPUS_MAX 65536U
#define REQUEST_GPUS_MAX 1024U
#define REQUEST_MEMORY_MIB_MAX (UINT64_C(1) << 30)      /* 1 PiB */
#define REQUEST_TEXT_MAX 1024U
#define REQUEST_INITDATA_MAX (UINT32_C(1) << 20)
#define POD_NAME_MAX 253U                               /* Kubernetes object names: RFC 1123 subdomains */
#define NETNS_PATH_MAX 4095U
#define INSTANCE_NAME_MAX 63U                           /* RFC 1035 label; also our server name in TLS */

typedef struct CreateRequest {
        char *pod_name, *pod_namespace;
        char *pod_uid;                  /* NULL where the runtime does not tell */
        char *machine_type, *image, *gpu_model;
        uint32_t vcpus, gpus;
        uint64_t memory_mib;
        char *initdata;                 /* TOML text; NULL for none */
} CreateRequest;

#define CREATE_REQUEST_NULL ((CreateRequest) {})

void create_request_done(CreateRequest *request);

/**
 * create_request_add() - take over one annotation
 * @ret_error: what is wrong with it, for the pod's events; newly allocated, NULL when memory is short
 *
 * Keys that are not ours are ignored, empty values are "not given". Returns 0, -EINVAL, -ENOMEM.
 */
int create_request_add(CreateRequest *request, const char *key, const char *value, char **ret_error);

/** create_request_check() - see whether all is there that must be; as above */
int create_request_check(const CreateRequest *request, char **ret_error);

/**
 * instance_name_make() - "podvm-POD-SANDBOX", as upstream names its instances (cloud-api-adaptor: pkg/util/cloud.go)
 *
 * The sandbox part is the first eight characters of a CRI runtime's id, which is hexadecimal; ids of other forms, which people make
 * up and which may begin alike, are hashed. Returns 0, -ENOMEM.
 */
int instance_name_make(const char *pod_name, const char *sandbox_id, char **ret);

/** addresses_are_valid() - no more than SANDBOX_ADDRESSES_MAX, each a numeric IPv4 or IPv6 address */
bool addresses_are_valid(char *const *addresses);
