/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to Azure Resource Manager: errors, pages, long-running operations. */
#pragma once

#include "azure.h"

/* Versions of the interfaces; each is one that the vendor's SDK for Python speaks (Azure/azure-sdk-for-python: azure-mgmt-compute 35,
 * azure-mgmt-network 28). */
#define API_COMPUTE "2024-11-01"
#define API_DISKS "2025-01-02"
#define API_SKUS "2021-07-01"
#define API_GALLERIES "2023-07-03"
#define API_NETWORK "2024-05-01"
#define API_NETWORK_INLINE "2022-11-01"
#define API_PERMISSIONS "2022-04-01"

typedef struct AzureAsk {
        const char *what;               /* for people */
        const char *method;             /* NULL: GET */
        const char *url;
        const char *body;
        size_t body_size;
        bool create_only;               /* If-None-Match: * */
} AzureAsk;

typedef struct AzureReply {
        json_object *body;              /* NULL without one */
        char *operation;                /* URL of Azure-AsyncOperation, or NULL */
        char *location;                 /* URL of Location, or NULL */
        uint64_t pause_usec;            /* Retry-After, UINT64_MAX without */
        int status;
} AzureReply;

#define AZURE_REPLY_NULL (AzureReply) { .pause_usec = UINT64_MAX }
void azure_reply_done(AzureReply *r);

/* Credentials and judgement for Azure.api */
int azure_authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error);
HttpVerdict azure_judge(void *userdata, const HttpReply *reply);

/**
 * azure_ask() - one request, repeated where that is safe: all of ours are (by name, or create-only)
 * @ret: set on success only
 *
 * Returns 0 for a 2xx, else a negative errno with *error set to what the service says; -ENOENT means that the service said "no such
 * resource" in its own words, never an unknown server's 404.
 */
int azure_ask(Azure *a, const PeerpodCall *call, const AzureAsk *ask, AzureReply *ret, PeerpodError *error);

/* azure_get() - a GET with a body */
int azure_get(Azure *a, const PeerpodCall *call, const char *what, const char *url, json_object **ret, PeerpodError *error);

/* azure_list() - each item of a paged listing. @item returns 0 or a negative errno with *error set, which ends it. */
typedef int (*AzureItem)(void *userdata, json_object *item, PeerpodError *error);
int azure_list(Azure *a, const PeerpodCall *call, const char *what, const char *url, AzureItem item, void *userdata, PeerpodError *error);

/* azure_operation_wait() - until what @begun tells of has ended; 0 also where nothing says how to wait */
int azure_operation_wait(Azure *a, const PeerpodCall *call, const char *what, const AzureReply *begun, PeerpodError *error);

/* A pause between two looks, growing from one to the next; honours cancel and deadline. Set *pause to 0 before the first. */
int azure_pause(const PeerpodCall *call, uint64_t *pause, PeerpodError *error);

/* azure_url() - "ENDPOINT/subscriptions/S/resourceGroups/R/providers/TYPE[/NAME]?api-version=V", newly allocated; NULL: no memory */
char* azure_url(const Azure *a, const char *type, const char *name, const char *version);
/* azure_url_of() - of a whole resource id */
char* azure_url_of(const Azure *a, const char *id, const char *version);

/* azure_state_is() - compare properties.@key, without regard to case */
bool azure_state_is(json_object *resource, const char *key, const char *state);
