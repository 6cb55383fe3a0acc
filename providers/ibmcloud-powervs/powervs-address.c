/* SPDX-License-Identifier: Apache-2.0 */
/* An instance's addresses: those of networks with fixed ones stand on it; those of a DHCP network in its server's leases. */
#include <json-c/json.h>

#include "basic/util.h"
#include "cloud-config.h"
#include "powervs.h"

static char* server_path(const char *id) {
        char *path;

        return asprintf(&path, "/services/dhcp%s%s", *id ? "/" : "", id) < 0 ? NULL : path;
}

static int ask_dhcp(PowerVs *p, const PeerpodCall *call, const char *id, IbmReply *ret, PeerpodError *error) {
        int r = powervs_call(p, call, &(PowerVsRequest) { .method = "GET", .what = "DHCP server", .path = server_path(id), .array = isempty(id) }, ret, error);

        if (r == 0 && !ret->body)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "DHCP server: the answer is empty.");
        return r;
}

static int find_server(PowerVs *p, const PeerpodCall *call, char **ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        json_object *servers;
        int r;

        r = ask_dhcp(p, call, "", &reply, error);
        if (r < 0)
                return r;
        if (json_get_array(reply.body, "items", &servers, NULL) > 0)
                for (size_t i = 0; i < json_object_array_length(servers); i++) {
                        json_object *s = json_object_array_get_idx(servers, i);

                        if (!json_object_is_type(s, json_type_object) || !streq(json_path_string(s, "network.id", ""), p->network) || !ibm_id_is_valid(json_path_string(s, "id", "")))
                                continue;
                        *ret = strdup(json_path_string(s, "id", ""));
                        return *ret ? 0 : oom(error);
                }
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Network '%s' has no DHCP server, and gave the instance no fixed address.", p->network);
}

/* Kept as long as it answers. */
static int server_of(PowerVs *p, const PeerpodCall *call, char **ret, PeerpodError *error) {
        char *copy;
        int r;

        (void) pthread_mutex_lock(&p->mutex);
        *ret = p->dhcp_server ? strdup(p->dhcp_server) : NULL;
        r = p->dhcp_server && !*ret ? -ENOMEM : 0;
        (void) pthread_mutex_unlock(&p->mutex);
        if (r < 0)
                return oom(error);
        if (*ret)
                return 0;
        r = find_server(p, call, ret, error);
        if (r < 0)
                return r;
        copy = strdup(*ret);
        (void) pthread_mutex_lock(&p->mutex);
        if (!p->dhcp_server)
                p->dhcp_server = TAKE_PTR(copy);
        (void) pthread_mutex_unlock(&p->mutex);
        free(copy);
        return 0;
}

static void forget_server(PowerVs *p) {
        (void) pthread_mutex_lock(&p->mutex);
        free(TAKE_PTR(p->dhcp_server));
        (void) pthread_mutex_unlock(&p->mutex);
}

static int from_lease(PowerVs *p, const PeerpodCall *call, const char *mac, PeerpodInstance *ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        _cleanup_(freep) char *server = NULL;
        json_object *leases;
        int r;

        r = server_of(p, call, &server, error);
        if (r < 0)
                return r;
        r = ask_dhcp(p, call, server, &reply, error);
        if (r < 0 && reply.status == 404) {
                forget_server(p);
                return 0;
        }
        if (r < 0)
                return r;
        if (json_get_array(reply.body, "leases", &leases, NULL) <= 0)
                return 0;
        for (size_t i = 0; i < json_object_array_length(leases); i++) {
                json_object *l = json_object_array_get_idx(leases, i);

                if (json_object_is_type(l, json_type_object) && strcasecmp(json_path_string(l, "instanceMacAddress", ""), mac) == 0 &&
                    ibm_address(json_path_string(l, "instanceIP", ""), ret->addresses[0])) {
                        ret->n_addresses = 1;
                        return 1;
                }
        }
        return 0;
}

int powervs_addresses(PowerVs *p, const PeerpodCall *call, json_object *instance, PeerpodInstance *ret, PeerpodError *error) {
        const char *mac = "";
        json_object *networks;

        ret->n_addresses = 0;
        if (json_get_array(instance, "networks", &networks, NULL) <= 0)
                return 0;
        for (size_t i = 0; i < json_object_array_length(networks) && ret->n_addresses < PEERPOD_ADDRESSES_MAX; i++) {
                json_object *n = json_object_array_get_idx(networks, i);

                if (!json_object_is_type(n, json_type_object))
                        continue;
                if (streq(json_path_string(n, "type", ""), "fixed")) {
                        if (ibm_address(json_path_string(n, p->public_ip ? "externalIP" : "ipAddress", ""), ret->addresses[ret->n_addresses]))
                                ret->n_addresses++;
                } else if (streq(json_path_string(n, "networkID", ""), p->network))
                        mac = json_path_string(n, "macAddress", "");
        }
        if (ret->n_addresses > 0)
                return 1;
        return isempty(mac) ? 0 : from_lease(p, call, mac, ret, error);
}
