/* SPDX-License-Identifier: Apache-2.0 */
/* Pod VMs as instances of IBM Power Virtual Server (cloud-api-adaptor: src/cloud-providers/ibmcloudpowervs; API: IBM-Cloud/power-go-client).
 *
 * Who owns an instance stands in its user tags, which are part of the call that creates it and of the answer of GET pvm-instances/ID (the list
 * has none). There is no token of idempotency. */
#pragma once

#include <pthread.h>

#include "ibm-api.h"
#include "powervs-size.h"

#define POWERVS_USER_DATA_MAX (63 * 1024)       /* "FLS" images take no more */

typedef struct PowerVs {
        CloudHttp *http;
        Iam *iam;
        IbmApi api;

        const char *crn_cloud;            /* constant */
        char *url, *zone, *service_instance, *network, *image, *ssh_key, *account;
        char *storage_type;
        PowerVsSize size;
        bool public_ip;
        uint64_t build_timeout_usec;

        pthread_mutex_t mutex;          /* of dhcp_server */
        char *dhcp_server;              /* of the network; NULL: not known */
} PowerVs;

/* powervs-api.c: a request to /pcloud/v1/cloud-instances/ID@path */
typedef struct PowerVsRequest {
        const char *method, *what;
        char *path;                     /* taken; NULL: memory was short */
        json_object *body;              /* taken */
        bool array;
        uint64_t timeout_usec;
} PowerVsRequest;
int powervs_call(PowerVs *p, const PeerpodCall *call, const PowerVsRequest *q, IbmReply *ret, PeerpodError *error);
int powervs_get_instance(PowerVs *p, const PeerpodCall *call, const char *id, IbmReply *ret, PeerpodError *error);
/* The ids of servers, all or those of @name; freed by powervs_ids_done(). */
typedef struct PowerVsIds {
        char **ids;
        size_t n;
        const char *name;               /* borrowed */
} PowerVsIds;
int powervs_list(PowerVs *p, const PeerpodCall *call, const char *name, PowerVsIds *ret, PeerpodError *error);
void powervs_ids_done(PowerVsIds *l);
int powervs_pause(const PeerpodCall *call, uint64_t *usec, PeerpodError *error);

/* powervs-address.c: 1 and *ret filled, 0: not yet */
int powervs_addresses(PowerVs *p, const PeerpodCall *call, json_object *instance, PeerpodInstance *ret, PeerpodError *error);

/* powervs-remove.c */
bool powervs_is_owned(json_object *instance, const char *sandbox_id);
bool powervs_has_owner(json_object *instance);
int powervs_remove_id(PowerVs *p, const PeerpodCall *call, const char *id, PeerpodError *error);
int powervs_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int powervs_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);

/* powervs-instance.c */
int powervs_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);

/* powervs-verify.c */
int powervs_verify(void *provider, const PeerpodCall *call, PeerpodError *error);
