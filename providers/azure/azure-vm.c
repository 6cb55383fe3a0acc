/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-vm.h"

#include <arpa/inet.h>
#include <json-c/json.h>
#include <strings.h>
#include <syslog.h>

#include "azure-api.h"
#include "azure-id.h"
#include "basic/parse.h"
#include "cloud-owner.h"

int azure_vm_get(Azure *a, const PeerpodCall *call, const char *name, json_object **ret, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url(a, VM_TYPE, name, API_COMPUTE);
        int r = azure_get(a, call, "Looking at the VM", url, ret, error);

        return r == -ENOENT ? 0 : r < 0 ? r : 1;
}

bool azure_vm_is_owned_by(json_object *vm, const char *sandbox_id, const char *node) {
        json_object *tags = json_path(vm, "tags");

        return streq(json_path_string(tags, OWNER_TAG_SANDBOX, ""), sandbox_id) && (!node || streq(json_path_string(tags, OWNER_TAG_NODE, ""), node));
}

/* Why provisioning failed, where the VM itself tells. */
static int fail_provisioning(json_object *vm, PeerpodError *error) {
        json_object *statuses = json_path_array(vm, "properties.instanceView.statuses");
        const char *message = "";
        _cleanup_(freep) char *plain = NULL;

        if (statuses && json_object_array_length(statuses) > 0)
                message = json_path_string(json_object_array_get_idx(statuses, 0), "message", "");
        plain = text_make_plain(message, 512);
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The VM's provisioning has failed%s%s", isempty(plain) ? "." : ": ", strempty(plain));
}

int azure_vm_wait_ready(Azure *a, const PeerpodCall *call, const char *name, uint64_t seen_until_usec, json_object **ret, PeerpodError *error) {
        uint64_t pause = 0;

        for (;;) {
                _cleanup_(json_object_putp) json_object *vm = NULL;
                int r = azure_vm_get(a, call, name, &vm, error);

                if (r < 0)
                        return r;
                if (r == 0 && now_usec(CLOCK_MONOTONIC) >= seen_until_usec)
                        return peerpod_error_set(error, PEERPOD_E_NOT_FOUND, "The VM that was accepted is not there.");
                if (r > 0 && azure_state_is(vm, "provisioningState", "Succeeded")) {
                        *ret = TAKE_PTR(vm);
                        return 0;
                }
                if (r > 0 && (azure_state_is(vm, "provisioningState", "Failed") || azure_state_is(vm, "provisioningState", "Canceled")))
                        return fail_provisioning(vm, error);
                if (r > 0 && azure_state_is(vm, "provisioningState", "Deleting"))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The VM is being deleted.");
                r = azure_pause(call, &pause, error);
                if (r < 0)
                        return r;
        }
}

/* What one interface has. */
typedef struct Nic {
        char private_address[PEERPOD_ADDRESS_SIZE];
        char public_address[PEERPOD_ADDRESS_SIZE];
        bool waits_for_public;
} Nic;

typedef struct Nics {
        const char *ids[PEERPOD_ADDRESSES_MAX]; /* borrowed from the VM; the primary one is first */
        size_t n;
} Nics;

static bool take_address(const char *s, char to[static PEERPOD_ADDRESS_SIZE]) {
        uint8_t buffer[sizeof(struct in6_addr)];

        if (strlen(s) >= PEERPOD_ADDRESS_SIZE || (inet_pton(AF_INET, s, buffer) != 1 && inet_pton(AF_INET6, s, buffer) != 1))
                return false;
        strcpy(to, s);
        return true;
}

static void nics_of(json_object *vm, Nics *ret) {
        json_object *list = json_path_array(vm, "properties.networkProfile.networkInterfaces");

        *ret = (Nics) {};
        for (size_t i = 0; list && i < json_object_array_length(list) && ret->n < ELEMENTSOF(ret->ids); i++) {
                json_object *nic = json_object_array_get_idx(list, i);
                const char *id = json_path_string(nic, "id", "");
                bool primary = false;

                if (!arm_path_is_plain(id))
                        continue;
                (void) json_get_bool(json_path(nic, "properties"), "primary", &primary, NULL);
                if (primary && ret->n > 0) {
                        ret->ids[ret->n++] = ret->ids[0];
                        ret->ids[0] = id;
                } else
                        ret->ids[ret->n++] = id;
        }
}

static int read_public(Azure *a, const PeerpodCall *call, const char *id, Nic *nic, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url_of(a, id, API_NETWORK);
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r = azure_get(a, call, "Looking at the public address", url, &o, error);

        if (r < 0 && r != -ENOENT)
                return r;
        nic->waits_for_public = r < 0 || !take_address(json_path_string(o, "properties.ipAddress", ""), nic->public_address);
        return 0;
}

static int read_nic(Azure *a, const PeerpodCall *call, const char *id, Nic *ret, PeerpodError *error) {
        _cleanup_(freep) char *url = azure_url_of(a, id, API_NETWORK);
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *configs;
        int r;

        *ret = (Nic) {};
        r = azure_get(a, call, "Looking at the network interface", url, &o, error);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        configs = json_path_array(o, "properties.ipConfigurations");
        for (size_t i = 0; configs && i < json_object_array_length(configs); i++) {
                json_object *c = json_object_array_get_idx(configs, i);
                const char *public_id = json_path_string(c, "properties.publicIPAddress.id", "");

                if (!*ret->private_address)
                        (void) take_address(json_path_string(c, "properties.privateIPAddress", ""), ret->private_address);
                if (arm_path_is_plain(public_id) && !*ret->public_address) {
                        r = read_public(a, call, public_id, ret, error);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* One of each interface first (peerpod-provider.h), then the rest. Returns false while there is something to wait for. */
static bool order_addresses(const Azure *a, const Nic *nics, size_t n, PeerpodInstance *ret) {
        ret->n_addresses = 0;
        for (size_t i = 0; i < n; i++) {
                bool public_first = a->public_ip && i == 0;

                if (!*nics[i].private_address || nics[i].waits_for_public || (public_first && !*nics[i].public_address))
                        return false;
                peerpod_instance_add_address(ret, public_first ? nics[i].public_address : nics[i].private_address);
        }
        if (n > 0 && a->public_ip)
                peerpod_instance_add_address(ret, nics[0].private_address);
        return n > 0;
}

int azure_vm_fill(Azure *a, const PeerpodCall *call, json_object *vm, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *newer = NULL;
        const char *name = json_path_string(vm, "name", ""), *id = json_path_string(vm, "id", "");
        Nic nics[PEERPOD_ADDRESSES_MAX];
        uint64_t pause = 0;
        Nics list;
        int r;

        if (!arm_path_is_plain(id) || strlen(id) >= sizeof(ret->id) || !text_is_plain(name, 64))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Looking at the VM: The reply holds no id.");
        (void) snprintf(ret->id, sizeof(ret->id), "%s", id);
        (void) snprintf(ret->type, sizeof(ret->type), "%.63s", json_path_string(vm, "properties.hardwareProfile.vmSize", ""));
        for (;;) {
                nics_of(newer ?: vm, &list);
                for (size_t i = 0; i < list.n; i++) {
                        r = read_nic(a, call, list.ids[i], nics + i, error);
                        if (r < 0)
                                return r;
                }
                if (order_addresses(a, nics, list.n, ret))
                        return 0;
                r = azure_pause(call, &pause, error);
                if (r < 0)
                        return r;
                if (list.n == 0) {
                        json_object *again = NULL;

                        r = azure_vm_get(a, call, name, &again, error);
                        if (r < 0)
                                return r;
                        if (newer)
                                json_object_put(newer);
                        newer = again;
                }
        }
}
