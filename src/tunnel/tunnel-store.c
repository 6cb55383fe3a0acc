/* SPDX-License-Identifier: Apache-2.0 */
/* Records of tunnels: one JSON file for each sandbox in the run-time directory. */
#include <limits.h>
#include <stdio.h>

#include "basic/crash-point.h"
#include "basic/io.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "net/link.h"
#include "tunnel/tunnel.h"

static void record_name(const char *sandbox_id, char ret[static NAME_MAX + 1]) {
        (void) snprintf(ret, NAME_MAX + 1, "%s.json", sandbox_id);      /* the id has at most 64 characters */
}

static int set_pod_network(json_object *o, const char *text) {
        _cleanup_(json_object_putp) json_object *n = NULL;
        int r;

        if (!text)
                return 0;
        r = json_parse(text, strlen(text), &n, NULL);
        return r < 0 ? r : json_set(o, "pod-network", TAKE_PTR(n));
}

int tunnel_save(const Manager *m, const Tunnel *t, NetError *e) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        char name[NAME_MAX + 1];
        const char *text;
        int r;

        if (!o ||
            json_set_string(o, "sandbox-id", t->sandbox_id) < 0 ||
            json_set_string(o, "netns", t->netns_path) < 0 ||
            json_set_u64(o, "netns-cookie", t->netns_cookie) < 0 ||
            json_set_string(o, "interface", t->interface) < 0 ||
            json_set_bool(o, "own-ingress", t->own_ingress) < 0 ||
            json_set_bool(o, "dedicated", t->dedicated) < 0 ||
            json_set_u64(o, "vxlan-id", t->vni) < 0 ||
            json_set_u64(o, "vxlan-port", t->port) < 0 ||
            (ip_address_is_set(&t->peer) && json_set_string(o, "peer", FORMAT_IP_ADDRESS(&t->peer)) < 0) ||
            set_pod_network(o, t->pod_network) < 0 ||
            !(text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY|JSON_C_TO_STRING_NOSLASHESCAPE)))
                return net_error_set(e, -ENOMEM, "out of memory");

        record_name(t->sandbox_id, name);
        crash_point("record-save");
        r = write_file_atomic_at(m->runtime_dir_fd, name, text, strlen(text), 0600);
        crash_point("record-saved");
        return r < 0 ? net_error_set(e, r, "write record '%s': %s", name, strerror(-r)) : 0;
}

int tunnel_unlink(const Manager *m, const char *sandbox_id, NetError *e) {
        char name[NAME_MAX + 1];
        int r;

        record_name(sandbox_id, name);
        crash_point("record-remove");
        r = remove_file_durably_at(m->runtime_dir_fd, name);
        crash_point("record-removed");
        return r < 0 ? net_error_set(e, r, "remove record '%s': %s", name, strerror(-r)) : 0;
}

static int parse_record(json_object *o, const char *file_name, Tunnel **ret, char **ret_error) {
        _cleanup_(tunnel_freep) Tunnel *t = NULL;
        const char *id = NULL, *netns = NULL, *interface = NULL, *peer = NULL, *suffix;
        json_object *pod_network = NULL;
        uint64_t vni = 0, port = 0;
        int r;

        if ((r = json_get_string(o, "sandbox-id", &id, ret_error)) < 0 ||
            (r = json_get_string(o, "netns", &netns, ret_error)) < 0)
                return r;
        suffix = id ? startswith(file_name, id) : NULL;
        if (!id || !sandbox_id_is_valid(id) || !suffix || !streq(suffix, ".json") || isempty(netns))
                return -EBADMSG;

        r = tunnel_new(id, netns, &t);
        if (r < 0)
                return r;
        if ((r = json_get_u64(o, "netns-cookie", UINT64_MAX, &t->netns_cookie, ret_error)) < 0 ||
            (r = json_get_string(o, "interface", &interface, ret_error)) < 0 ||
            (r = json_get_bool(o, "own-ingress", &t->own_ingress, ret_error)) < 0 ||
            (r = json_get_bool(o, "dedicated", &t->dedicated, ret_error)) < 0 ||
            (r = json_get_u64(o, "vxlan-id", VXLAN_VNI_MAX, &vni, ret_error)) < 0 ||
            (r = json_get_u64(o, "vxlan-port", UINT16_MAX, &port, ret_error)) < 0 ||
            (r = json_get_string(o, "peer", &peer, ret_error)) < 0 ||
            (r = json_get_object(o, "pod-network", &pod_network, ret_error)) < 0)
                return r;
        if (!interface || !link_name_is_valid(interface) || port == 0 ||
            (peer && (ip_address_parse(peer, &t->peer) < 0 || t->peer.family != AF_INET)))
                return -EBADMSG;

        memcpy(t->interface, interface, strlen(interface) + 1);
        t->vni = (uint32_t) vni;
        t->port = (uint16_t) port;
        if (pod_network) {
                t->pod_network = strdup(json_object_to_json_string_ext(pod_network,
                                                                       JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE));
                if (!t->pod_network)
                        return -ENOMEM;
        }

        *ret = TAKE_PTR(t);
        return 0;
}

int tunnel_load(int dir_fd, const char *file_name, Tunnel **ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = read_full_file_at(dir_fd, file_name, TUNNEL_RECORD_SIZE_MAX, &text, &size);
        if (r < 0)
                return r;
        r = json_parse(text, size, &o, ret_error);
        return r < 0 ? r : parse_record(o, file_name, ret, ret_error);
}
