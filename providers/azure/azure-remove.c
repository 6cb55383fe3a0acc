/* SPDX-License-Identifier: Apache-2.0 */
/* Taking a VM away. Azure deletes interfaces, addresses and disk with it (their deleteOption), but later, and not where the VM's creation
 * failed half-way: so each is looked at until it is gone. Their ids are learnt from the VM while it is there; without it they are found by
 * their names, which begin with the VM's. */
#include <json-c/json.h>
#include <strings.h>
#include <syslog.h>

#include "azure-api.h"
#include "azure-id.h"
#include "azure-vm.h"
#include "basic/parse.h"
#include "basic/strv.h"

#define SIDES_MAX 16
#define GRACE_USEC (3 * USEC_PER_SEC)           /* for Azure to do it itself */

typedef struct Sides {
        char **nics, **addresses;
} Sides;

static void sides_done(Sides *s) {
        s->nics = strv_free(s->nics);
        s->addresses = strv_free(s->addresses);
}

/* Only inside of our own resource group: what an administrator has attached from elsewhere is not ours to delete. */
static int keep_id(const Azure *a, char ***list, const char *id, const char *type) {
        ArmId parsed;

        if (arm_id_parse(id, &parsed) < 0 || !arm_id_is(&parsed, type) || strcasecmp(parsed.group, azure_text(a, OPTION_GROUP)) != 0 ||
            strcasecmp(parsed.subscription, azure_text(a, OPTION_SUBSCRIPTION)) != 0)
                return 0;
        return strv_contains(*list, id) || strv_length(*list) >= SIDES_MAX ? 0 : strv_extend(list, id);
}

static int keep_addresses(const Azure *a, json_object *nic, Sides *s) {
        json_object *configs = json_path_array(nic, "properties.ipConfigurations");
        int r = 0;

        for (size_t i = 0; r == 0 && configs && i < json_object_array_length(configs); i++)
                r = keep_id(a, &s->addresses, json_path_string(json_object_array_get_idx(configs, i), "properties.publicIPAddress.id", ""), ADDRESS_TYPE);
        return r;
}

static int sides_of_vm(Azure *a, const PeerpodCall *call, json_object *vm, Sides *s, PeerpodError *error) {
        json_object *list = json_path_array(vm, "properties.networkProfile.networkInterfaces");

        for (size_t i = 0; list && i < json_object_array_length(list); i++)
                if (keep_id(a, &s->nics, json_path_string(json_object_array_get_idx(list, i), "id", ""), NIC_TYPE) < 0)
                        return oom(error);
        for (char **id = s->nics; id && *id; id++) {
                _cleanup_(freep) char *url = azure_url_of(a, *id, API_NETWORK);
                _cleanup_(json_object_putp) json_object *nic = NULL;
                int r = azure_get(a, call, "Looking at the network interface", url, &nic, error);

                if (r < 0 && r != -ENOENT)
                        return r;
                if (keep_addresses(a, nic, s) < 0)
                        return oom(error);
        }
        return 0;
}

typedef struct ByName {
        const Azure *azure;
        const char *name;       /* the VM's */
        Sides *sides;
} ByName;

/* "NAME-net", "NAME-net2", or with a suffix that Azure adds after a hyphen */
static bool is_side_of(const char *side, const char *name) {
        size_t n = strlen(name);

        if (strncasecmp(side, name, n) != 0 || strncasecmp(side + n, "-net", 4) != 0)
                return false;
        side += n + 4;
        side += *side == '2';
        return *side == '\0' || *side == '-';
}

/* Attached to a VM of another name it is not ours, whatever its own name is. */
static bool is_in_use_elsewhere(json_object *nic, const char *name) {
        const char *vm = json_path_string(nic, "properties.virtualMachine.id", "");
        ArmId id;

        return *vm && (arm_id_parse(vm, &id) < 0 || strcasecmp(id.name, name) != 0);
}

static int take_nic(void *userdata, json_object *nic, PeerpodError *error) {
        const ByName *b = userdata;

        if (!is_side_of(json_path_string(nic, "name", ""), b->name) || is_in_use_elsewhere(nic, b->name))
                return 0;
        if (keep_id(b->azure, &b->sides->nics, json_path_string(nic, "id", ""), NIC_TYPE) < 0 || keep_addresses(b->azure, nic, b->sides) < 0)
                return oom(error);
        return 0;
}

static int take_public(void *userdata, json_object *address, PeerpodError *error) {
        const ByName *b = userdata;

        if (!is_side_of(json_path_string(address, "name", ""), b->name))
                return 0;
        return keep_id(b->azure, &b->sides->addresses, json_path_string(address, "id", ""), ADDRESS_TYPE) < 0 ? oom(error) : 0;
}

static int sides_by_name(Azure *a, const PeerpodCall *call, const char *name, Sides *s, PeerpodError *error) {
        _cleanup_(freep) char *nics = azure_url(a, NIC_TYPE, NULL, API_NETWORK), *addresses = azure_url(a, ADDRESS_TYPE, NULL, API_NETWORK);
        ByName b = { .azure = a, .name = name, .sides = s };
        int r;

        r = azure_list(a, call, "Listing the network interfaces", nics, take_nic, &b, error);
        return r < 0 ? r : azure_list(a, call, "Listing the public addresses", addresses, take_public, &b, error);
}

static int delete_vm(Azure *a, const PeerpodCall *call, const char *name, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url(a, VM_TYPE, name, API_COMPUTE);
        _cleanup_(azure_reply_done) AzureReply reply = AZURE_REPLY_NULL;
        uint64_t pause = 0;
        int r;

        if (!url)
                return oom(error);
        r = azure_ask(a, call, &(AzureAsk) { .what = "Deleting the VM", .method = "DELETE", .url = url }, &reply, error);
        if (r == -ENOENT)
                return 0;
        if (r == 0)
                r = azure_operation_wait(a, call, "Deleting the VM", &reply, error);
        while (r == 0) {
                _cleanup_(json_object_putp) json_object *vm = NULL;

                r = azure_vm_get(a, call, name, &vm, error);
                if (r <= 0)
                        return r;
                r = azure_pause(call, &pause, error);
        }
        return r;
}

/* Until it is not there; @from_usec (CLOCK_MONOTONIC): until then it is left to Azure. */
static int delete_side(Azure *a, const PeerpodCall *call, const char *what, const char *id, const char *version, const char *vm_name,
                       uint64_t from_usec, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url_of(a, id, version);
        uint64_t pause = 0;
        bool deleted = false;
        int r;

        for (;;) {
                _cleanup_(json_object_putp) json_object *o = NULL;
                _cleanup_(azure_reply_done) AzureReply reply = AZURE_REPLY_NULL;
                ArmId by;

                r = azure_get(a, call, what, url, &o, error);
                if (r < 0)
                        return r == -ENOENT ? 0 : r;
                if (arm_id_parse(json_path_string(o, "managedBy", ""), &by) == 0 && strcasecmp(by.name, vm_name) != 0)
                        return 0;       /* a disk that serves another VM by now */
                if (!azure_state_is(o, "provisioningState", "Deleting") && now_usec(CLOCK_MONOTONIC) >= from_usec) {
                        r = azure_ask(a, call, &(AzureAsk) { .what = what, .method = "DELETE", .url = url }, &reply, error);
                        if (r == 0)
                                r = azure_operation_wait(a, call, what, &reply, error);
                        /* Still attached, or kept for its VM for three minutes after a failed creation: later. */
                        if (r < 0 && r != -ENOENT && r != -ENOTSUP && r != -EHOSTUNREACH && r != -EINVAL)
                                return r;
                        if (r < 0 && r != -ENOENT)
                                peerpod_log(call, LOG_DEBUG, "Trying again: %s", error ? error->text : what);
                        if (r == 0 && !deleted) {
                                deleted = true;
                                continue;       /* it should be gone now */
                        }
                }
                r = azure_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

static int delete_sides(Azure *a, const PeerpodCall *call, const char *name, const Sides *s, uint64_t from_usec, PeerpodError *error) {
        _cleanup_(freep) char *disk = NULL;
        int r = 0;

        for (char **id = s->nics; r == 0 && id && *id; id++)
                r = delete_side(a, call, "Deleting the network interface", *id, API_NETWORK, name, from_usec, error);
        for (char **id = s->addresses; r == 0 && id && *id; id++)
                r = delete_side(a, call, "Deleting the public address", *id, API_NETWORK, name, from_usec, error);
        if (r < 0)
                return r;
        if (asprintf(&disk, "/subscriptions/%s/resourceGroups/%s/providers/" DISK_TYPE "/%s-disk", azure_text(a, OPTION_SUBSCRIPTION),
                     azure_text(a, OPTION_GROUP), name) < 0)
                return oom(error);
        return delete_side(a, call, "Deleting the disk", disk, API_DISKS, name, from_usec, error);
}

int azure_vm_remove(Azure *a, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *vm = NULL;
        _cleanup_(sides_done) Sides s = {};
        bool there;
        int r;

        r = azure_vm_get(a, call, name, &vm, error);
        if (r < 0)
                return r;
        there = r > 0;
        if (there && !azure_vm_is_owned_by(vm, sandbox_id, /* node= */ NULL))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "VM '%s' belongs to somebody else.", name);

        r = there ? sides_of_vm(a, call, vm, &s, error) : sides_by_name(a, call, name, &s, error);
        if (r == 0 && there)
                r = delete_vm(a, call, name, error);
        return r < 0 ? r : delete_sides(a, call, name, &s, there ? usec_add(now_usec(CLOCK_MONOTONIC), GRACE_USEC) : 0, error);
}
