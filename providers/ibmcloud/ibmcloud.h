/* SPDX-License-Identifier: Apache-2.0 */
/* Pod VMs as instances of IBM Cloud VPC (cloud-api-adaptor: src/cloud-providers/ibmcloud; API: IBM/vpc-python-sdk, ibm_vpc/vpc_v1.py).
 *
 * Who owns an instance stands in the user tags of its boot volume. Those are part of the call that creates the instance (VPC knows no other
 * tags there, and no token of idempotency), are read with the volume, and volumes can be listed by tag. */
#pragma once

#include <pthread.h>

#include "ibm-api.h"
#include "instance-type.h"

#define VPC_USER_DATA_MAX (64 * 1024)

/* Where instances go; what is not configured is taken from the subnet, once. */
typedef struct VpcPlace {
        char *zone, *vpc, *resource_group;
} VpcPlace;

typedef struct Vpc {
        CloudHttp *http;
        Iam *iam;
        IbmApi api;
        InstanceTypeCache *types;

        char *vpc_url, *tagging_url, *containers_url;
        char *resource_group, *default_profile, *profiles, *zone, *subnet, *secondary_subnet, *security_groups, *secondary_security_group;
        char *key, *vpc, *images, *cluster, *tags, *hosts, *host_groups, *boot_profile;
        bool confidential;

        pthread_mutex_t mutex;          /* of what follows */
        VpcPlace *place;                /* set once, lives as long as this */
        char *host, *host_group;        /* those of the zone; NULL: not looked up yet */
        char *cluster_group;            /* likewise; "" if there is none */
        uint64_t cluster_group_retry_usec;
} Vpc;

/* ibmcloud-api.c: the base URL with version and generation */
__attribute__((format(printf, 2, 3))) char* vpc_url(const Vpc *v, const char *format, ...);
int vpc_get(Vpc *v, const PeerpodCall *call, const char *what, char *url, IbmReply *ret, PeerpodError *error);
int vpc_delete(Vpc *v, const PeerpodCall *call, const char *what, char *url, IbmReply *ret, PeerpodError *error);
/* vpc_list() - all pages of GET @path?@query (escaped); each element of the array @key. @item returns 0, 1 to end, or a negative errno. */
typedef int (*VpcItem)(void *userdata, json_object *item);
int vpc_list(Vpc *v, const PeerpodCall *call, const char *what, const char *path, const char *query, const char *key, VpcItem item,
             void *userdata, PeerpodError *error);

/* ibmcloud-catalog.c: what there is to choose from */
int vpc_find_place(Vpc *v, const PeerpodCall *call, const VpcPlace **ret, PeerpodError *error);
int vpc_find_hosts(Vpc *v, const PeerpodCall *call, const char *zone, const char **ret_host, const char **ret_group, PeerpodError *error);
/* The cluster's security group; "" if there is none or it cannot be learnt, which is logged. */
int vpc_find_cluster_group(Vpc *v, const PeerpodCall *call, const char **ret, PeerpodError *error);
int vpc_fetch_types(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error);
typedef struct VpcChoice {
        char *profile, *image;
        bool tdx;
} VpcChoice;
void vpc_choice_done(VpcChoice *c);
int vpc_choose(Vpc *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, VpcChoice *ret, PeerpodError *error);
bool vpc_architecture(const char *name, const char **ret);     /* "amd64" → "x86_64" */

/* ibmcloud-verify.c */
int vpc_verify(void *provider, const PeerpodCall *call, PeerpodError *error);

/* ibmcloud-request.c */
typedef struct VpcRequest {
        const PeerpodInstanceSpec *spec;
        const VpcPlace *place;
        const VpcChoice *choice;
        const char *cluster_group, *target, *user_data;
} VpcRequest;
int vpc_build_request(const Vpc *v, const VpcRequest *q, json_object **ret);   /* 0, -ENOMEM */

/* ibmcloud-tags.c: tags for people, by the global tagging service. A failure is logged and of no consequence. Returns whether they are there. */
bool vpc_tag(Vpc *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *crn);

/* ibmcloud-volume.c: the owner */
typedef enum VpcOwner {
        VPC_OWNER_UNKNOWN,              /* there is no boot volume yet */
        VPC_OWNER_US,
        VPC_OWNER_OTHER,
} VpcOwner;
int vpc_owner(Vpc *v, const PeerpodCall *call, json_object *instance, const char *sandbox_id, VpcOwner *ret, PeerpodError *error);
/* Volumes of the sandbox that no instance has are deleted; returns when the sandbox has none any more. */
int vpc_remove_volumes(Vpc *v, const PeerpodCall *call, const char *sandbox_id, PeerpodError *error);

/* ibmcloud-remove.c */
int vpc_find_by_name(Vpc *v, const PeerpodCall *call, const char *name, json_object **ret, PeerpodError *error); /* 1, 0, negative */
int vpc_remove_instance(Vpc *v, const PeerpodCall *call, const char *id, const char *sandbox_id, PeerpodError *error);
int vpc_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int vpc_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
/* Wait between two looks: 0.25 s, growing to 3 s. */
int vpc_pause(const PeerpodCall *call, uint64_t *usec, PeerpodError *error);

/* ibmcloud-instance.c */
int vpc_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
