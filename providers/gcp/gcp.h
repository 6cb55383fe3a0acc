/* SPDX-License-Identifier: Apache-2.0 */
/* The provider of Google Compute Engine (Compute Engine API, version v1). Texts are owned by the struct and do not change after open(). */
#pragma once

#include <json-c/json_object.h>

#include "basic/json.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-http.h"
#include "cloud-token.h"
#include "instance-type.h"

#define GCP_USER_DATA_MAX 262144        /* of one metadata value (Compute Engine documentation, "Limitations" of custom metadata) */
#define GCP_VOLUMES_MAX 127             /* disks of one instance, without the boot disk */
#define GCP_NAME_SIZE 64

typedef struct Gcp {
        CloudHttp *http;
        TokenCache *tokens;
        InstanceTypeCache *types;
        json_object *key;               /* of a service account or an external account; NULL: ask the metadata server */
        char *project, *zone, *image, *machine_type, *machine_types, *network, *subnetwork, *disk_type, *confidential_type, *tags;
        char *labels, *network_tags, *network_tier, *second_network, *second_subnetwork;
        char *compute_endpoint, *resource_manager_endpoint, *metadata_host;     /* no '/' at their ends */
        uint64_t root_volume_gib;
        bool confidential, public_ip, secure_boot;
} Gcp;

/* What a request came to, beside its success. */
typedef struct GcpReply {
        json_object *root;              /* NULL unless it succeeded; the answer's object */
        int status;                     /* 0: there was no answer */
        char reason[64];                /* "notFound", "alreadyExists", … (the answer's error.errors[0].reason), or "" */
        bool unknown;                   /* it failed, and the cloud may have done it all the same */
} GcpReply;

void gcp_reply_done(GcpReply *r);

typedef struct GcpQuery {
        const char *what;               /* "instances.insert" */
        const char *method;
        json_object *body;              /* borrowed; or NULL */
        bool repeatable;
        uint64_t timeout_usec;          /* 0: the client's own */
} GcpQuery;

/* gcp_query() - ask at @url. Returns 0, or a negative errno with *error set; *ret is filled either way, freed by gcp_reply_done(). */
int gcp_query(Gcp *g, const PeerpodCall *call, const GcpQuery *q, const char *url, GcpReply *ret, PeerpodError *error);

/* gcp_url() - below the compute endpoint and the project: gcp_url(g, "zones/%s/instances", g->zone). NULL when memory is short. */
__attribute__((format(printf, 2, 3))) char* gcp_url(const Gcp *g, const char *format, ...);
/* gcp_resource_url() - of "projects/…", "/projects/…" or "https://…/projects/…"; NULL when memory is short */
char* gcp_resource_url(const Gcp *g, const char *resource);

/* gcp_wait() - until the zonal operation of @reply is done. An error of it is the result: *ret_reason, of GCP_NAME_SIZE bytes, is its code. */
int gcp_wait(Gcp *g, const PeerpodCall *call, const char *what, json_object *operation, char *ret_code, PeerpodError *error);

/* gcp-credentials.c: credentials of the settings, of GOOGLE_APPLICATION_CREDENTIALS, or of the machine. open(): */
int credentials_open(Gcp *g, const char *key_text, const char *key_file, PeerpodError *error);

/* CloudApi.userdata of one request */
typedef struct Authorizer {
        Gcp *gcp;
        Token used;                     /* by the last try; token_done() */
} Authorizer;

int credentials_authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error);

/* gcp-catalog.c */
int machine_types_fetch(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error);

typedef struct GcpImage {
        char *resource;                 /* "projects/P/global/images/N" */
        char *architecture;             /* as uname -m, or NULL */
        uint64_t size_gib;
} GcpImage;

void image_done(GcpImage *i);
/* image_get() - of any form of name; a family becomes its newest image */
int image_get(Gcp *g, const PeerpodCall *call, const char *name, GcpImage *ret, PeerpodError *error);
/* confidential_type_fits() - is @machine_type of a series that is known not to have confidential VMs? */
bool machine_type_has_no_confidential_mode(const char *machine_type);
/* disks_check() - are the pod's disks there, free, and in our zone? */
int disks_check(Gcp *g, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodError *error);
/* disk_resource() - "projects/P/zones/Z/disks/D" of a disk's name or path; NULL when memory is short */
char* disk_resource(const Gcp *g, const char *disk);

/* gcp-request.c: the body of instances.insert */
int insert_body(Gcp *g, const PeerpodInstanceSpec *spec, const char *machine_type, const InstanceType *type, const GcpImage *image, const char *user_data,
                json_object **ret, PeerpodError *error);
char* owner_description(const char *sandbox_id, const char *node);
/* "full" of a subnetwork's short name; NULL when memory is short */
char* subnetwork_resource(const Gcp *g, const char *name);

/* gcp-instance.c, gcp-verify.c: functions of the module */
int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
int gcp_verify(void *provider, const PeerpodCall *call, PeerpodError *error);
