/* SPDX-License-Identifier: Apache-2.0 */
/* Making a VM is one PUT by its name, create-only: whether an earlier try or an earlier call has been taken shows by the VM that is there.
 * After the PUT has left, each failure is followed by removing what there may be. */
#include "azure-instance.h"

#include <json-c/json.h>
#include <strings.h>
#include <syslog.h>

#include "azure-api.h"
#include "azure-body.h"
#include "azure-disk.h"
#include "azure-id.h"
#include "azure-sku.h"
#include "azure-vm.h"
#include "basic/parse.h"
#include "cloud-owner.h"
#include "cloud-user-data.h"

#define USER_DATA_MAX 65536                     /* of the Base64 text (Azure: "User Data for Azure Virtual Machine") */
#define UNDO_USEC (120 * USEC_PER_SEC)
#define SEEN_USEC (30 * USEC_PER_SEC)           /* until an accepted VM must be visible */
#define DOUBT_USEC (2 * USEC_PER_SEC)           /* how long one may still appear that a broken connection has left in doubt */

typedef struct Choice {
        char *size;
        AzureDisks disks;
        char zone[16];
        char *user_data;        /* secret */
} Choice;

static void choice_done(Choice *c) {
        free(c->size);
        azure_disks_done(&c->disks);
        erase_free_stringp(&c->user_data);
}

static const char* image_of(const Azure *a, const PeerpodInstanceSpec *spec) {
        return isempty(spec->image) ? azure_text(a, OPTION_IMAGE) : spec->image;
}

static int check_request(const Azure *a, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        if (azure_image_check(image_of(a, spec)) < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "Image '%.256s' is no resource id of an image, no gallery's, and no URN.",
                                         image_of(a, spec));
        return 0;
}

/* The pod's disks say where the VM must be. */
static int choose_zone(const Azure *a, Choice *c, PeerpodError *error) {
        const char *configured = azure_text(a, OPTION_ZONE);

        if (*c->disks.zone && *configured && !streq(c->disks.zone, configured))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The pod's disks are in zone %s, the VMs' zone is set to %.15s.",
                                         c->disks.zone, configured);
        (void) snprintf(c->zone, sizeof(c->zone), "%s", *c->disks.zone ? c->disks.zone : configured);
        return 0;
}

static int choose_size(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, char **ret, PeerpodError *error) {
        InstanceTypeWish wish = {
                .spec = spec,
                .default_type = azure_text(a, OPTION_SIZE),
                .allowed = azure_text(a, OPTION_SIZES),
                .allowed_option = azure_options[OPTION_SIZES].env,
        };

        return instance_type_cache_choose(a->types, call, &wish, ret, NULL, error);
}

/* A Standard address lets nothing in unless a security group of the interface or of the subnet does. */
static int check_filter(Azure *a, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *subnet = NULL;
        _cleanup_(freep) char *url = NULL;
        bool seen;
        int r;

        (void) pthread_mutex_lock(&a->mutex);
        seen = a->subnet_is_filtered;
        (void) pthread_mutex_unlock(&a->mutex);
        if (!a->public_ip || *azure_text(a, OPTION_NSG) || seen)
                return 0;
        url = azure_url_of(a, azure_text(a, OPTION_SUBNET), API_NETWORK);
        r = azure_get(a, call, "Looking at the subnet", url, &subnet, error);
        if (r < 0)
                return r;
        if (!*json_path_string(subnet, "properties.networkSecurityGroup.id", ""))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "USE_PUBLIC_IP=true needs a network security group that lets the "
                                         "worker in: set AZURE_NSG_ID, or give the subnet one.");
        (void) pthread_mutex_lock(&a->mutex);
        a->subnet_is_filtered = true;
        (void) pthread_mutex_unlock(&a->mutex);
        return 0;
}

static int choose(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, Choice *c, PeerpodError *error) {
        size_t size;
        int r;

        r = check_request(a, spec, error);
        if (r == 0)
                r = user_data_encode(spec, USER_DATA_BASE64, USER_DATA_MAX, /* limit_encoded= */ true, &c->user_data, &size, error);
        if (r == 0)
                r = choose_size(a, call, spec, &c->size, error);
        if (r == 0)
                r = azure_disks_check(a, call, spec, &c->disks, error);
        if (r == 0)
                r = choose_zone(a, c, error);
        if (r == 0)
                r = azure_sku_check(a, c->size, c->zone, spec->flags & PEERPOD_INSTANCE_MULTI_NIC, spec->n_volumes, error);
        return r < 0 ? r : check_filter(a, call, error);
}

static int put(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Choice *c, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url(a, VM_TYPE, spec->name, API_COMPUTE);
        _cleanup_(azure_reply_done) AzureReply reply = AZURE_REPLY_NULL;
        AzurePlan plan = { .spec = spec, .size = c->size, .image = image_of(a, spec), .zone = c->zone, .disks = c->disks.ids,
                           .user_data = c->user_data };
        char *body = NULL;
        size_t size = 0;
        int r;

        if (!url)
                return oom(error);
        r = azure_body_write(a, &plan, &body, &size, error);
        if (r < 0)
                return r;
        r = azure_ask(a, call, &(AzureAsk) { .what = "Creating the VM", .method = "PUT", .url = url, .body = body, .body_size = size,
                                             .create_only = true }, &reply, error);
        erase_free(body, size);
        return r < 0 ? r : azure_operation_wait(a, call, "Creating the VM", &reply, error);
}

/* Could the VM exist after this? Refusals with an answer say no; what was cut off, or failed later, says nothing. */
static bool is_in_doubt(int r) {
        return r == -EHOSTUNREACH || r == -ETIMEDOUT || r == -ECANCELED || r == -EIO;
}

/* Deletes until nothing is left. Where the PUT's fate is unknown the VM may appear after a first look. */
static void undo(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, bool doubt) {
        PeerpodCall u = peerpod_call_for_undo(call, UNDO_USEC);
        PeerpodError e = { .size = sizeof(PeerpodError) };
        uint64_t until = usec_add(now_usec(CLOCK_MONOTONIC), doubt ? DOUBT_USEC : 0);
        int r;

        for (;;) {
                r = azure_vm_remove(a, &u, spec->name, spec->sandbox_id, &e);
                if (r < 0 || now_usec(CLOCK_MONOTONIC) >= until)
                        break;
                r = peerpod_call_wait(&u, -1, 0, USEC_PER_SEC / 2, &e);
                if (r < 0)
                        break;
        }
        if (r < 0 && r != -ENOTSUP)
                peerpod_log(call, LOG_ERR, "What VM '%s' had could not be removed after its creation failed; deleting it will try again: %s",
                            spec->name, e.text);
}

static int finish(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *vm = NULL;
        int r;

        r = azure_vm_wait_ready(a, call, spec->name, usec_add(now_usec(CLOCK_MONOTONIC), SEEN_USEC), &vm, error);
        return r < 0 ? r : azure_vm_fill(a, call, vm, ret, error);
}

/* 1: there is an earlier attempt's VM that may be waited for; 0: nothing is in the way; or a negative errno. */
static int look_for_earlier(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *vm = NULL;
        int r;

        r = azure_vm_get(a, call, spec->name, &vm, error);
        if (r <= 0)
                return r;
        if (!azure_vm_is_owned_by(vm, spec->sandbox_id, spec->node))
                return peerpod_error_set(error, PEERPOD_E_ALREADY_EXISTS, "A VM named '%s' exists and belongs to somebody else.", spec->name);
        if (azure_state_is(vm, "provisioningState", "Failed") || azure_state_is(vm, "provisioningState", "Canceled") ||
            azure_state_is(vm, "provisioningState", "Deleting")) {
                peerpod_log(call, LOG_INFO, "VM '%s' of an earlier attempt is not usable, making it anew.", spec->name);
                return azure_vm_remove(a, call, spec->name, spec->sandbox_id, error);
        }
        peerpod_log(call, LOG_INFO, "VM '%s' of an earlier attempt is there, going on with it.", spec->name);
        return 1;
}

int azure_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(choice_done) Choice c = {};
        bool doubt = false;
        Azure *a = provider;
        int r;

        r = check_request(a, spec, error);
        if (r < 0)
                return r;
        r = look_for_earlier(a, call, spec, error);
        if (r < 0)
                return r;
        if (r == 0) {
                r = choose(a, call, spec, &c, error);
                if (r < 0)
                        return r;
                r = put(a, call, spec, &c, error);
                if (r == -EEXIST) {
                        /* A try whose answer was lost, most likely; the VM says whether it is ours. */
                        r = look_for_earlier(a, call, spec, error);
                        if (r == 0)
                                r = put(a, call, spec, &c, error);
                }
                if (r == -EEXIST)
                        return r;
                doubt = is_in_doubt(r);
        }
        if (r >= 0) {
                r = finish(a, call, spec, ret, error);
                doubt = doubt || r == -ENOENT;
        }
        if (r < 0) {
                undo(a, call, spec, doubt);
                return r == -ENOENT ? peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "The VM was accepted, but did not appear.") : r;
        }
        peerpod_log(call, LOG_INFO, "VM '%s' is of size '%s'.", spec->name, ret->type);
        return 0;
}

int azure_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error) {
        Azure *a = provider;
        ArmId id;

        if (!isempty(key->id)) {
                if (arm_id_parse(key->id, &id) < 0 || !arm_id_is(&id, VM_TYPE))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.256s' is no VM's resource id.", key->id);
                if (strcasecmp(id.subscription, azure_text(a, OPTION_SUBSCRIPTION)) != 0 || strcasecmp(id.group, azure_text(a, OPTION_GROUP)) != 0)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM '%s' is in resource group '%s' of subscription '%s', "
                                                 "which is not the configured one.", id.name, id.group, id.subscription);
                if (strcasecmp(id.name, key->name) != 0)
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM '%s' is not the one named '%s'.", id.name, key->name);
        }
        return azure_vm_remove(a, call, key->name, key->sandbox_id, error);
}

typedef struct Finding {
        const char *node;
        PeerpodFound found;
        void *userdata;
} Finding;

static int report(void *userdata, json_object *vm, PeerpodError *error) {
        json_object *tags = json_path(vm, "tags");
        const char *sandbox = json_path_string(tags, OWNER_TAG_SANDBOX, ""), *name = json_path_string(vm, "name", ""), *id = json_path_string(vm, "id", "");
        const Finding *f = userdata;
        int r;

        if (!streq(json_path_string(tags, OWNER_TAG_NODE, ""), f->node) || !sandbox_id_is_valid(sandbox) || !*name || !arm_path_is_plain(id))
                return 0;
        r = f->found(f->userdata, &(PeerpodFoundInstance) {
                .size = sizeof(PeerpodFoundInstance),
                .name = name,
                .sandbox_id = sandbox,
                .id = id,
        });
        return r < 0 ? peerpod_error_set(error, PEERPOD_E_INTERNAL, "The list of instances was refused.") : 0;
}

int azure_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error) {
        Finding f = { .node = node, .found = found, .userdata = userdata };
        Azure *a = provider;
        _cleanup_(freep) char *url = azure_url(a, VM_TYPE, NULL, API_COMPUTE);

        return azure_list(a, call, "Listing the VMs", url, report, &f, error);
}
