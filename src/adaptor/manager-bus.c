/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/manager-bus.h"

#include "adaptor/error.h"
#include "adaptor/explain.h"
#include "adaptor/hold.h"
#include "adaptor/manager.h"
#include "adaptor/metrics.h"
#include "adaptor/orphans.h"
#include "adaptor/polkit.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/sandbox.h"
#include "basic/log.h"
#include "basic/util.h"

#define MANAGER_INTERFACE PEERPOD_BUS_NAME ".Manager"

static int find(Manager *m, const char *id, Sandbox **ret, sd_bus_error *error) {
        *ret = manager_find_sandbox(m, id);
        return *ret ? 0 : sd_bus_error_setf(error, PEERPOD_ERROR_NOT_FOUND, "There is no sandbox '%.64s'.", id);
}

static int method_list(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Manager *m = userdata;
        Sandbox *s;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(reply, 'a', "(sssso)");
        if (r < 0)
                return r;
        TAILQ_FOREACH(s, &m->sandboxes, sandboxes) {
                r = sd_bus_message_append(reply, "(sssso)", s->record.id, strempty(s->record.pod_namespace), strempty(s->record.pod_name),
                                          sandbox_state_to_string(s->record.state), s->path);
                if (r < 0)
                        return r;
        }
        r = sd_bus_message_close_container(reply);
        if (r < 0)
                return r;

        r = sd_bus_send(/* bus= */ NULL, reply, /* ret_cookie= */ NULL);
        return r < 0 ? r : 1;
}

static int method_get(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        const char *id;
        Sandbox *s;
        int r;

        r = sd_bus_message_read(call, "s", &id);
        if (r < 0)
                return r;
        r = find(userdata, id, &s, error);
        if (r < 0)
                return r;

        return sd_bus_reply_method_return(call, "o", s->path);
}

static int method_stop(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        Manager *m = userdata;
        const char *id;
        Sandbox *s;
        int r;

        r = sd_bus_message_read(call, "s", &id);
        if (r < 0)
                return r;
        r = find(m, id, &s, error);
        if (r < 0)
                return r;

        const char *const details[] = { "sandbox", id, "verb", "stop", NULL };
        r = polkit_check_async(m->polkit, call, POLKIT_ACTION_MANAGE, details, error);
        if (r <= 0)
                return r < 0 ? r : 1;   /* refused, or asked */

        return sandbox_bus_stop(s, call, error);
}

static int method_get_metrics(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        int r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r < 0)
                return r;
        r = metrics_append(reply, userdata);
        if (r < 0)
                return r;

        r = sd_bus_send(/* bus= */ NULL, reply, /* ret_cookie= */ NULL);
        return r < 0 ? r : 1;
}

static int method_explain(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const Story *story;
        const char *what;
        int r;

        r = sd_bus_message_read(call, "s", &what);
        if (r < 0)
                return r;
        r = explain_find(userdata, what, &story, error);
        if (r < 0)
                return r;

        r = sd_bus_message_new_method_return(call, &reply);
        if (r < 0)
                return r;
        r = explain_append(reply, story);
        if (r < 0)
                return r;

        r = sd_bus_send(/* bus= */ NULL, reply, /* ret_cookie= */ NULL);
        return r < 0 ? r : 1;
}

/* Asks the cloud, which may count and charge for questions. */
static int orphans(Manager *m, sd_bus_message *call, bool reap, sd_bus_error *error) {
        const char *const details[] = { "verb", reap ? "reap" : "find-orphans", NULL };
        int r;

        r = polkit_check_async(m->polkit, call, POLKIT_ACTION_MANAGE, details, error);
        if (r <= 0)
                return r < 0 ? r : 1;   /* refused, or asked */

        return orphans_begin(m, call, reap, error);
}

static int method_find_orphans(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        return orphans(userdata, call, /* reap= */ false, error);
}

static int method_verify_provider(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        const char *const details[] = { "verb", "verify-provider", NULL };
        Manager *m = userdata;
        int r;

        r = polkit_check_async(m->polkit, call, POLKIT_ACTION_MANAGE, details, error);
        if (r <= 0)
                return r < 0 ? r : 1;   /* refused, or asked */

        return provider_verify_begin(m, call, error);
}

static int method_reap_orphans(sd_bus_message *call, void *userdata, sd_bus_error *error) {
        return orphans(userdata, call, /* reap= */ true, error);
}

static int property_get_n_held(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                               void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "u", (uint32_t) hold_count(userdata));
}

static int property_get_version(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                                void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "s", PEERPOD_VERSION);
}

static int property_get_n(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                          void *userdata, sd_bus_error *error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t) m->n_sandboxes);
}

static int property_get_provider(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                                 void *userdata, sd_bus_error *error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "s", strempty(m->provider_name));
}

static int property_get_node(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                             void *userdata, sd_bus_error *error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "s", m->settings->node);
}

static int property_get_socket(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                               void *userdata, sd_bus_error *error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "s", strempty(m->hypervisor_socket));
}

static int property_get_start_timeout(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                                      void *userdata, sd_bus_error *error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "t", m->settings->start_timeout_usec);
}

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Version", "s", property_get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("NPodVMs", "u", property_get_n, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("NHeldPodVMs", "u", property_get_n_held, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Provider", "s", property_get_provider, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Node", "s", property_get_node, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("HypervisorSocket", "s", property_get_socket, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("StartTimeoutUSec", "t", property_get_start_timeout, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_METHOD_WITH_ARGS("ListPodVMs", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sssso)", podvms), method_list,
                                SD_BUS_VTABLE_UNPRIVILEGED /* reading is for everybody */),
        SD_BUS_METHOD_WITH_ARGS("GetPodVM", SD_BUS_ARGS("s", sandbox_id), SD_BUS_RESULT("o", path), method_get,
                                SD_BUS_VTABLE_UNPRIVILEGED /* reading is for everybody */),
        SD_BUS_METHOD_WITH_ARGS("StopPodVM", SD_BUS_ARGS("s", sandbox_id), SD_BUS_NO_RESULT, method_stop,
                                SD_BUS_VTABLE_UNPRIVILEGED /* polkit decides */),
        SD_BUS_METHOD_WITH_ARGS("GetMetrics", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sa{ss}v)", metrics), method_get_metrics,
                                SD_BUS_VTABLE_UNPRIVILEGED /* reading is for everybody */),
        SD_BUS_METHOD_WITH_ARGS("Explain", SD_BUS_ARGS("s", what), SD_BUS_RESULT("a{sv}", story), method_explain,
                                SD_BUS_VTABLE_UNPRIVILEGED /* reading is for everybody */),
        SD_BUS_METHOD_WITH_ARGS("FindOrphans", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssssss)", found), method_find_orphans,
                                SD_BUS_VTABLE_UNPRIVILEGED /* polkit decides */),
        SD_BUS_METHOD_WITH_ARGS("ReapOrphans", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssssss)", found), method_reap_orphans,
                                SD_BUS_VTABLE_UNPRIVILEGED /* polkit decides */),
        SD_BUS_METHOD_WITH_ARGS("VerifyProvider", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_verify_provider,
                                SD_BUS_VTABLE_UNPRIVILEGED /* polkit decides */),
        SD_BUS_SIGNAL_WITH_ARGS("PodVMNew", SD_BUS_ARGS("s", sandbox_id, "o", path), 0),
        SD_BUS_SIGNAL_WITH_ARGS("PodVMRemoved", SD_BUS_ARGS("s", sandbox_id, "o", path), 0),
        SD_BUS_VTABLE_END
};

int manager_bus_add(sd_bus *bus, Manager *m) {
        int r;

        r = sd_bus_add_object_vtable(bus, /* ret_slot= */ NULL, PEERPOD_BUS_PATH, MANAGER_INTERFACE, manager_vtable, m);
        if (r < 0)
                return r;
        r = sandbox_bus_add(bus, m);
        if (r < 0)
                return r;

        return sd_bus_add_object_manager(bus, /* ret_slot= */ NULL, PEERPOD_BUS_PATH);
}

int manager_bus_request_name(Manager *m) {
        int r;

        r = sd_bus_request_name(m->bus, PEERPOD_BUS_NAME, /* flags= */ 0);
        return r < 0 ? r : 0;
}

void manager_bus_changed(Manager *m, const char *property) {
        int r;

        if (!m->bus)
                return;
        r = sd_bus_emit_properties_changed(m->bus, PEERPOD_BUS_PATH, MANAGER_INTERFACE, property, NULL);
        if (r < 0)
                log_warning_errno(r, "Failed to announce '%s' on the bus, ignoring: %m", property);
}
