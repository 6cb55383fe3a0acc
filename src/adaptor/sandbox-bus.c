/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/sandbox-bus.h"

#include "adaptor/error.h"
#include "adaptor/hold.h"
#include "adaptor/manager.h"
#include "adaptor/polkit.h"
#include "adaptor/sandbox.h"
#include "adaptor/tunnel-check.h"
#include "basic/log.h"
#include "basic/strv.h"
#include "basic/util.h"

int sandbox_bus_path(const char *id, char **ret) {
        return sd_bus_path_encode(PODVM_BUS_PATH, id, ret);
}

/* Results of all signals are checked here: a bus that does not take them is about to end the process anyway. */
static void check(Sandbox *s, int r, const char *what) {
        if (r < 0)
                log_sandbox_errno(s, LOG_WARNING, NULL, r, "Failed to announce %s of sandbox '%s', ignoring: %m", what, s->record.id);
}

void sandbox_bus_changed(Sandbox *s, const char *property) {
        if (s->manager->bus)
                check(s, sd_bus_emit_properties_changed(s->manager->bus, s->path, PODVM_INTERFACE, property, NULL), property);
}

void sandbox_bus_state_changed(Sandbox *s) {
        if (s->manager->bus && s->record.state != SANDBOX_GONE)
                check(s, sd_bus_emit_properties_changed(s->manager->bus, s->path, PODVM_INTERFACE, "State", "StartedTimestamp",
                                                        "RunningTimestamp", "DeletingTimestamp", NULL), "the state");
}

void sandbox_bus_instance_changed(Sandbox *s) {
        if (s->manager->bus)
                check(s, sd_bus_emit_properties_changed(s->manager->bus, s->path, PODVM_INTERFACE, "InstanceId", "InstanceType",
                                                        "Addresses", NULL), "the instance");
}

void sandbox_bus_appeared(Sandbox *s) {
        if (!s->manager->bus)
                return;

        check(s, sd_bus_emit_object_added(s->manager->bus, s->path), "the object");
        check(s, sd_bus_emit_signal(s->manager->bus, PEERPOD_BUS_PATH, PEERPOD_BUS_NAME ".Manager", "PodVMNew", "so", s->record.id,
                                    s->path), "the beginning");
}

void sandbox_bus_vanished(Sandbox *s) {
        if (!s->manager->bus)
                return;

        check(s, sd_bus_emit_object_removed(s->manager->bus, s->path), "the object");
        check(s, sd_bus_emit_signal(s->manager->bus, PEERPOD_BUS_PATH, PEERPOD_BUS_NAME ".Manager", "PodVMRemoved", "so", s->record.id,
                                    s->path), "the end");
}

static void stop_done(Sandbox *s, const sd_bus_error *error, void *userdata) {
        sd_bus_message *call = userdata;
        int r;

        r = error ? sd_bus_reply_method_error(call, error) : sd_bus_reply_method_return(call, NULL);
        check(s, r, "the answer to Stop()");
        sd_bus_message_unref(call);
}

int sandbox_bus_stop(Sandbox *s, sd_bus_message *call, sd_bus_error *error) {
        SandboxWaiter *w;
        int r;

        r = sandbox_wait(s, GOAL_GONE, stop_done, call, &w);
        if (r < 0)
                return r;
        (void) sd_bus_message_ref(call);        /* stop_done() drops it */

        /* Not on disk? Then the answer, which waits for the end, is all that is promised. */
        (void) sandbox_stop(s, "asked for on the bus");
        if (sandbox_is_held(s))
                sandbox_advance(s);             /* which says so */
        return 1;
}

static int method_stop(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Sandbox *s = userdata;
        const char *const details[] = { "sandbox", s->record.id, "verb", "stop", NULL };
        int r;

        r = polkit_check_async(s->manager->polkit, m, POLKIT_ACTION_MANAGE, details, error);
        if (r <= 0)
                return r < 0 ? r : 1;   /* refused, or asked */

        return sandbox_bus_stop(s, m, error);
}

static int method_check_tunnel(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Sandbox *s = userdata;
        const char *const details[] = { "sandbox", s->record.id, "verb", "check-tunnel", NULL };
        int r;

        r = polkit_check_async(s->manager->polkit, m, POLKIT_ACTION_MANAGE, details, error);
        if (r > 0)
                r = tunnel_check_begin(s, m, error);
        return r < 0 ? r : 1;   /* asked polkit, or tunneld */
}

static int method_hold(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Sandbox *s = userdata;
        const char *const details[] = { "sandbox", s->record.id, "verb", "hold", NULL };
        uint64_t usec;
        int r;

        r = polkit_check_async(s->manager->polkit, m, POLKIT_ACTION_MANAGE, details, error);
        if (r <= 0)
                return r < 0 ? r : 1;   /* refused, or asked */

        r = sd_bus_message_read(m, "t", &usec);
        if (r < 0)
                return r;
        r = sandbox_hold(s, usec, error);
        return r < 0 ? r : sd_bus_reply_method_return(m, NULL);
}

static int property_get_text(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                             void *userdata, sd_bus_error *error) {
        char **text = userdata;

        return sd_bus_message_append(reply, "s", strempty(*text));
}

static int property_get_state(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                              void *userdata, sd_bus_error *error) {
        SandboxState *state = userdata;

        return sd_bus_message_append(reply, "s", sandbox_state_to_string(*state));
}

static int property_get_addresses(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                                  void *userdata, sd_bus_error *error) {
        Sandbox *s = userdata;

        return sd_bus_message_append_strv(reply, s->record.addresses);
}

static int property_get_tunnel_id(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                                  void *userdata, sd_bus_error *error) {
        Sandbox *s = userdata;

        return sd_bus_message_append(reply, "u", (uint32_t) s->tunnel_id);
}

static int property_get_usec(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                             void *userdata, sd_bus_error *error) {
        uint64_t *usec = userdata;

        return sd_bus_message_append(reply, "t", *usec);
}

#define TEXT(name, field, flags) SD_BUS_PROPERTY(name, "s", property_get_text, offsetof(Sandbox, field), flags)
#define USEC(name, state, flags) SD_BUS_PROPERTY(name, "t", property_get_usec, offsetof(Sandbox, record.state_usec[state]), flags)
#define CONSTANT SD_BUS_VTABLE_PROPERTY_CONST
#define CHANGES SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE

static const sd_bus_vtable podvm_vtable[] = {
        SD_BUS_VTABLE_START(0),
        TEXT("SandboxId", record.id, CONSTANT),
        TEXT("PodNamespace", record.pod_namespace, CONSTANT),
        TEXT("PodName", record.pod_name, CONSTANT),
        SD_BUS_PROPERTY("State", "s", property_get_state, offsetof(Sandbox, record.state), CHANGES),
        TEXT("InstanceId", record.instance_id, CHANGES),
        TEXT("InstanceName", record.instance_name, CONSTANT),
        TEXT("InstanceType", record.instance_type, CHANGES),
        SD_BUS_PROPERTY("Addresses", "as", property_get_addresses, 0, CHANGES),
        TEXT("TunnelType", tunnel_type, CHANGES),
        SD_BUS_PROPERTY("TunnelId", "u", property_get_tunnel_id, 0, CHANGES),
        TEXT("NetworkNamespace", record.netns_path, CONSTANT),
        TEXT("AgentSocket", agent_socket, CONSTANT),
        TEXT("ProxyUnit", proxy_unit, CONSTANT),
        TEXT("LastError", record.last_error, CHANGES),
        USEC("CreatedTimestamp", SANDBOX_PLANNED, CONSTANT),
        USEC("StartedTimestamp", SANDBOX_CREATING, CHANGES),
        USEC("RunningTimestamp", SANDBOX_RUNNING, CHANGES),
        USEC("DeletingTimestamp", SANDBOX_DELETING, CHANGES),
        SD_BUS_PROPERTY("HeldUntilTimestamp", "t", property_get_usec, offsetof(Sandbox, record.hold_until_usec), CHANGES),
        SD_BUS_METHOD_WITH_ARGS("Hold", SD_BUS_ARGS("t", usec), SD_BUS_NO_RESULT, method_hold,
                                SD_BUS_VTABLE_UNPRIVILEGED /* polkit decides */),
        SD_BUS_METHOD_WITH_ARGS("Stop", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_stop, SD_BUS_VTABLE_UNPRIVILEGED /* polkit decides */),
        SD_BUS_METHOD_WITH_ARGS("CheckTunnel", SD_BUS_NO_ARGS, SD_BUS_RESULT("b", ok, "s", report), method_check_tunnel,
                                SD_BUS_VTABLE_UNPRIVILEGED /* polkit decides */),
        SD_BUS_VTABLE_END
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret_found, sd_bus_error *error) {
        _cleanup_(freep) char *id = NULL;
        int r;

        r = sd_bus_path_decode(path, PODVM_BUS_PATH, &id);
        if (r <= 0)
                return r;

        *ret_found = manager_find_sandbox(userdata, id);
        return *ret_found ? 1 : 0;
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret_nodes, sd_bus_error *error) {
        _cleanup_(strv_freep) char **paths = NULL;
        Manager *m = userdata;
        Sandbox *s;
        size_t n = 0;

        /* Asked also for what is below one pod VM, when that is looked at: nothing. */
        if (startswith(prefix, PODVM_BUS_PATH "/"))
                return 0;

        paths = new0(char*, m->n_sandboxes + 1);
        if (!paths)
                return -ENOMEM;
        TAILQ_FOREACH(s, &m->sandboxes, sandboxes) {
                paths[n] = strdup(s->path);
                if (!paths[n])
                        return -ENOMEM;
                n++;
        }

        *ret_nodes = TAKE_PTR(paths);
        return 1;
}

int sandbox_bus_add(sd_bus *bus, Manager *m) {
        int r;

        r = sd_bus_add_fallback_vtable(bus, /* ret_slot= */ NULL, PODVM_BUS_PATH, PODVM_INTERFACE, podvm_vtable, find, m);
        if (r < 0)
                return r;

        return sd_bus_add_node_enumerator(bus, /* ret_slot= */ NULL, PODVM_BUS_PATH, enumerate, m);
}
