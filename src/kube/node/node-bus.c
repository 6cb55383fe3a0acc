/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/node-bus.h"

#include "basic/bus-private.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/node/node.h"
#include "kube/node/registration.h"
#include "kube/node/track.h"

#define NODE_INTERFACE NODE_BUS_NAME

/* The adaptor's call again, after it was restarted: who made the first one is gone. */
static int find_or_make(Node *n, const char *id, const char *pod_namespace, const char *pod_name, Track **ret, sd_bus_error *error) {
        Track *t = node_find_track(n, id);
        int r;

        if (t && streq(t->record.pod_namespace, pod_namespace) && streq(t->record.pod_name, pod_name) && t->record.state != TRACK_GONE) {
                registration_free(t->registration);
                *ret = t;
                return 0;
        }
        if (t)
                return sd_bus_error_setf(error, PEERPOD_ERROR_ALREADY_EXISTS, "Sandbox '%s' is known already, of pod '%s/%s', and is %s.", id,
                                         t->record.pod_namespace, t->record.pod_name, track_state_to_string(t->record.state));

        r = track_new(n, id, pod_namespace, pod_name, now_usec(CLOCK_REALTIME), ret);
        if (r == -EINVAL)
                return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Sandbox id, namespace or name is none of Kubernetes.");
        if (r == -E2BIG)
                return sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED, "There are %u sandboxes already.", n->n_tracks);
        return r;
}

static int method_register(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        const char *id, *pod_namespace, *pod_name, *pod_uid, *instance_name, *provider;
        TrackNews news = TRACK_NEWS_NULL;
        Node *n = userdata;
        Track *t;
        int r;

        r = sd_bus_message_read(call, "ssssss", &id, &pod_namespace, &pod_name, &pod_uid, &instance_name, &provider);
        if (r < 0)
                return r;
        if (!text_is_plain(pod_uid, 128))
                return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "The pod's uid is none of Kubernetes.");
        r = find_or_make(n, id, pod_namespace, pod_name, &t, error);
        if (r < 0)
                return r;

        r = registration_begin(t, call, pod_uid);
        if (r < 0)
                return r;
        news.instance_name = instance_name;
        news.provider = isempty(provider) ? NULL : provider;
        track_update(t, &news);
        return 1;
}

static int property_get_node(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply, void *userdata,
                             sd_bus_error *error) {
        Node *n = userdata;

        return sd_bus_message_append(reply, "s", n->settings->node);
}

static int property_get_server(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                               void *userdata, sd_bus_error *error) {
        Node *n = userdata;

        return sd_bus_message_append(reply, "s", kube_client_server(n->kube));
}

static int property_get_reachable(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                                  void *userdata, sd_bus_error *error) {
        Node *n = userdata;

        return sd_bus_message_append(reply, "b", !n->away);
}

static int property_get_n(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply, void *userdata,
                          sd_bus_error *error) {
        Node *n = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t) n->n_tracks);
}

static int property_get_n_pending(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                                  void *userdata, sd_bus_error *error) {
        Node *n = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t) node_count_pending(n));
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Node", "s", property_get_node, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Server", "s", property_get_server, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Reachable", "b", property_get_reachable, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("NPeerPods", "u", property_get_n, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("NPending", "u", property_get_n_pending, 0, 0),
        SD_BUS_METHOD_WITH_ARGS("Register",
                                SD_BUS_ARGS("s", sandbox_id, "s", pod_namespace, "s", pod_name, "s", pod_uid, "s", instance_name, "s", provider),
                                SD_BUS_RESULT("s", pod_uid, "b", recorded, "h", auth),
                                method_register, SD_BUS_VTABLE_UNPRIVILEGED /* the bus lets the adaptor through, and nobody else */),
        SD_BUS_VTABLE_END
};

int node_bus_add(sd_bus *bus, Node *n) {
        return sd_bus_add_object_vtable(bus, /* ret_slot= */ NULL, NODE_BUS_PATH, NODE_INTERFACE, vtable, n);
}

int node_bus_request_name(sd_bus *bus) {
        return sd_bus_request_name(bus, NODE_BUS_NAME, /* flags= */ 0);
}

void node_bus_changed(Node *n, const char *property) {
        int r;

        if (!n->bus)
                return;
        r = sd_bus_emit_properties_changed(n->bus, NODE_BUS_PATH, NODE_INTERFACE, property, NULL);
        if (r < 0)
                log_warning_errno(r, "Failed to announce '%s' on the bus, ignoring: %m", property);
}
