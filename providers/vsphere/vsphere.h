/* SPDX-License-Identifier: Apache-2.0 */
/* The provider of vSphere: clones of a template, through a vCenter Server. Texts are owned by the struct and do not change after open(). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "cloud-http.h"
#include "cloud-token.h"
#include "vsphere-soap.h"

#define VSPHERE_USER_DATA_MAX 65536     /* of one guestinfo value, as it is sent (vmware/open-vm-tools: lib/rpcChannel, GUESTMSG_MAX_IN_SIZE) */
#define KEY_SANDBOX "peerpod.sandbox"   /* of extraConfig: whose a machine is */
#define KEY_NODE "peerpod.node"

/* Where machines run: on a host, or where a cluster's DRS says. */
typedef struct Place {
        Ref cluster, host, pool, datastore;
} Place;

/* Of a vCenter, as RetrieveServiceContent says. */
typedef struct Content {
        Ref root_folder, property_collector, session_manager, search_index, authorization_manager;
        bool is_vcenter;
        unsigned version;               /* the first number of about.apiVersion */
        char name[128];                 /* about.fullName, plain */
} Content;

typedef struct Vsphere {
        CloudHttp *http;
        TokenCache *sessions;           /* of one session: its cookie */
        char *url, *user, *password, *template, *datacenter, *datastore, *folder, *cluster, *host, *pool, *confidential;
        bool drs, linked;

        Content content;                /* of the first log-in; does not change after content_known */
        atomic_bool content_known, logged_in;

        pthread_mutex_t mutex;          /* of what follows: references that have been looked up */
        Place place;
        Ref folder_ref, template_ref;
} Vsphere;

/* ---- vsphere-api.c: calls ---- */

/* What a call came to, beside its success. */
typedef struct VimReply {
        xmlDoc *doc;                    /* NULL unless it succeeded */
        xmlNode *answer;                /* METHODResponse in it */
        Fault fault;                    /* why not, where the vCenter says so */
        bool unknown;                   /* it failed, and may have been done all the same */
} VimReply;

void vim_reply_done(VimReply *r);

enum {
        VIM_REPEATABLE = 1 << 0,        /* doing it twice is doing it once */
        VIM_ANONYMOUS = 1 << 1,         /* without a session */
};

/* vim_call() - @s, which is used up, names the method. @timeout_usec: of each try, or 0. Returns 0, or a negative errno with *error set; *ret is
 * filled either way, freed by vim_reply_done(). */
int vim_call(Vsphere *v, const PeerpodCall *call, Soap *s, int flags, uint64_t timeout_usec, VimReply *ret, PeerpodError *error);

/* vim_ready() - log in where that is not done: from then on v->content is there */
int vim_ready(Vsphere *v, const PeerpodCall *call, PeerpodError *error);
int vim_login(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error);
void vim_logout(Vsphere *v);

/* vim_fail() - the error of a fault in @what; returns peerpod_error_to_errno() of it */
int vim_fail(PeerpodError *error, const char *what, const Fault *f);
bool fault_is(const Fault *f, const char *type);
/* Of a call to @object: it is no longer there. */
bool fault_is_gone(const Fault *f, const Ref *object);

/* vim_begin() - call a method without arguments that begins a task */
int vim_begin(Vsphere *v, const PeerpodCall *call, const char *method, const Ref *object, Ref *ret_task, VimReply *reply, PeerpodError *error);

/* ---- vsphere-property.c: reading, waiting ---- */

/* vim_get() - properties of one object, @paths ends with NULL: soap_property(ret_object, path). */
int vim_get(Vsphere *v, const PeerpodCall *call, const Ref *object, const char *const *paths, VimReply *reply, xmlNode **ret_object, PeerpodError *error);

/* vim_each() - properties of each virtual machine in a folder and the folders in it, page by page. A negative return of @item ends it. */
typedef int (*VimItem)(void *userdata, const Ref *vm, const xmlNode *object, PeerpodError *error);
int vim_each(Vsphere *v, const PeerpodCall *call, const Ref *folder, const char *const *paths, VimItem item, void *userdata, PeerpodError *error);

/* vim_wait_task() - until it ends. Its failure is the result, with its fault in *ret_fault (may be NULL). @ret: info.result, or NULL. */
int vim_wait_task(Vsphere *v, const PeerpodCall *call, const char *what, const Ref *task, Ref *ret, Fault *ret_fault, PeerpodError *error);

/* vim_watch() - until @seen, called with properties that have changed, returns 1 or a negative errno. NULL instead of an object: nothing has
 * changed for some seconds. */
typedef int (*VimSeen)(void *userdata, const xmlNode *object, PeerpodError *error);
int vim_watch(Vsphere *v, const PeerpodCall *call, const Ref *object, const char *const *paths, VimSeen seen, void *userdata, PeerpodError *error);

/* ---- vsphere-inventory.c: look-ups ---- */

/* inventory_find() - by inventory path; 1, 0 there is nothing */
int inventory_find(Vsphere *v, const PeerpodCall *call, const char *path, Ref *ret, PeerpodError *error);
/* inventory_folder() - that of the machines; 1, or 0: it is not there, and not to be made; then *ret is the last one above it that is */
int inventory_folder(Vsphere *v, const PeerpodCall *call, bool make, Ref *ret, PeerpodError *error);
/* inventory_place() - of the configuration: a cluster, or a host, its pool and a datastore */
int inventory_place(Vsphere *v, const PeerpodCall *call, Place *ret, PeerpodError *error);

typedef struct Template {
        Ref vm, snapshot;
        uint64_t n_nics;
} Template;

/* inventory_template() - of a name or a path; "" for the configured one. Its errors name it. */
int inventory_template(Vsphere *v, const PeerpodCall *call, const char *name, Template *ret, PeerpodError *error);
/* inventory_forget() - look everything up again, since something has gone */
void inventory_forget(Vsphere *v);

/* ---- vsphere-guest.c: addresses ---- */

/* guest_addresses() - of the value of guest.net: how many interfaces have one; PeerpodInstance.addresses in its order */
size_t guest_addresses(const xmlNode *net, PeerpodInstance *ret);
int guest_wait(Vsphere *v, const PeerpodCall *call, const Ref *vm, const char *name, size_t n_wanted, PeerpodInstance *ret, PeerpodError *error);

/* ---- vsphere-machine.c: a virtual machine, and its end ---- */

typedef struct Machine {
        Ref vm;
        char name[64], sandbox_id[65], node[254], uuid[64], type[64];
        bool on;
} Machine;

/* All look for it wait while it is being cloned, and say 1, or 0: there is none. */
/* machine_by_uuid() - by the UUID that follows from name and sandbox: it is nobody else's */
int machine_by_uuid(Vsphere *v, const PeerpodCall *call, const char *name, const char *sandbox_id, Machine *ret, PeerpodError *error);
/* machine_by_name() - in the folder; whose it is, says machine_is_of() */
int machine_by_name(Vsphere *v, const PeerpodCall *call, const char *name, Machine *ret, PeerpodError *error);
int machine_by_ref(Vsphere *v, const PeerpodCall *call, const Ref *vm, Machine *ret, PeerpodError *error);
bool machine_is_of(const Machine *m, const char *sandbox_id, const char *node);
/* machine_field() - of a property into a buffer, "" without it or if it does not fit; 0, -ENOMEM */
int machine_field(const xmlNode *object, const char *path, const char *in_value, char *ret, size_t size);

int machine_power_on(Vsphere *v, const PeerpodCall *call, const Machine *m, PeerpodError *error);
int machine_destroy(Vsphere *v, const PeerpodCall *call, const Machine *m, PeerpodError *error);

#define PROPERTY_SANDBOX "config.extraConfig[\"" KEY_SANDBOX "\"]"
#define PROPERTY_NODE "config.extraConfig[\"" KEY_NODE "\"]"

/* ---- vsphere-clone.c: the making of one ---- */

/* What a pod wants; 0: as the template has it */
typedef struct Size {
        uint64_t cpus, memory_mib;
} Size;

/* size_choose() - of "CPUSxGIB", or of the pod's vCPUs and memory; 0, -EINVAL with *error set */
int size_choose(const PeerpodInstanceSpec *spec, Size *ret, PeerpodError *error);

typedef struct CloneRequest {
        const PeerpodInstanceSpec *spec;
        Size size;
        Template template;
        Ref folder;
        Place place;
        const char *user_data, *encoding;
} CloneRequest;

/* clone_place() - have DRS fill in host, pool and datastore */
int clone_place(Vsphere *v, const PeerpodCall *call, CloneRequest *c, PeerpodError *error);
/* clone_begin() - ret_task: "" when a machine of that name is there already; reply->unknown as of vim_call() */
int clone_begin(Vsphere *v, const PeerpodCall *call, const CloneRequest *c, Ref *ret_task, VimReply *reply, PeerpodError *error);

/* vsphere_url() - the endpoint that a value of GOVC_URL stands for, newly allocated; 0, -EINVAL, -ENOMEM */
int vsphere_url(const char *value, char **ret);

/* ---- functions of the module ---- */

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
int vsphere_verify(void *provider, const PeerpodCall *call, PeerpodError *error);
