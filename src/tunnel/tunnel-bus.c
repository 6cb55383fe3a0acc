/* SPDX-License-Identifier: Apache-2.0 */
/* The private bus face of peerpod-tunneld. */
#include "basic/bus-private.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "tunnel/tunnel.h"

#define TUNNEL_PATH "/org/confidentialcontainers/PeerPod1/Tunnel"
#define TUNNEL_INTERFACE "org.confidentialcontainers.PeerPod1.Tunnel"

static const char* error_name(int r) {
        switch (-r) {
        case EINVAL:
        case EMEDIUMTYPE:
                return PEERPOD_ERROR_INVALID_ARGUMENT;
        case ENOENT:
                return PEERPOD_ERROR_NOT_FOUND;
        case EEXIST:
                return PEERPOD_ERROR_ALREADY_EXISTS;
        case ENOSPC:
                return PEERPOD_ERROR_EXHAUSTED;
        case ENOTCONN:
        case ESTALE:
        case EADDRINUSE:
        case EADDRNOTAVAIL:
        case ENETUNREACH:
        case ENOTUNIQ:
        case EBUSY:
                return PEERPOD_ERROR_FAILED_PRECONDITION;
        case ETIMEDOUT:
                return PEERPOD_ERROR_TIMED_OUT;
        default:
                return PEERPOD_ERROR_INTERNAL;
        }
}

/* The answer to a call that failed, with the text that was made where it failed. */
static int fail(const char *sandbox_id, const char *what, int r, const NetError *e, sd_bus_error *error) {
        LogContext log = {};

        (void) log_context_add(&log, "PEERPOD_SANDBOX_ID", sandbox_id);
        (void) log_full(&log, LOG_WARNING, MSG_TUNNEL_FAILED, r, "Failed to %s: %s", what, net_error_text(e, r));
        log_context_done(&log);
        return sd_bus_error_setf(error, error_name(r), "%s", net_error_text(e, r));
}

static int check_id(const char *sandbox_id, sd_bus_error *error) {
        if (!sandbox_id_is_valid(sandbox_id))
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "invalid sandbox id");
        return 0;
}

static int method_inspect(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(freep) char *text = NULL;
        const char *id, *path;
        NetError e = {};
        int r;

        r = sd_bus_message_read(msg, "ss", &id, &path);
        if (r < 0)
                return r;
        r = check_id(id, error);
        if (r < 0)
                return r;
        r = tunnel_inspect(userdata, id, path, &text, &e);
        if (r < 0)
                return fail(id, "inspect the pod's network", r, &e, error);
        return sd_bus_reply_method_return(msg, "s", text);
}

static int method_setup(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(strv_freep) char **addresses = NULL;
        const char *id, *path;
        NetError e = {};
        int r;

        r = sd_bus_message_read(msg, "ss", &id, &path);
        if (r >= 0)
                r = sd_bus_message_read_strv(msg, &addresses);
        if (r < 0)
                return r;
        r = check_id(id, error);
        if (r < 0)
                return r;
        r = tunnel_setup(userdata, id, path, addresses, &e);
        if (r < 0)
                return fail(id, "set up the tunnel", r, &e, error);
        return sd_bus_reply_method_return(msg, NULL);
}

static int method_teardown(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        const char *id, *path;
        NetError e = {};
        int r;

        r = sd_bus_message_read(msg, "ss", &id, &path);
        if (r < 0)
                return r;
        r = check_id(id, error);
        if (r < 0)
                return r;
        r = tunnel_teardown(userdata, id, path, &e);
        if (r < 0)
                return fail(id, "tear down the tunnel", r, &e, error);
        return sd_bus_reply_method_return(msg, NULL);
}

static int method_has_netns(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        const char *id, *path;
        NetError e = {};
        int r;

        r = sd_bus_message_read(msg, "ss", &id, &path);
        if (r < 0)
                return r;
        r = check_id(id, error);
        if (r < 0)
                return r;
        r = tunnel_has_netns(userdata, id, path, &e);
        if (r < 0)
                return fail(id, "look for the pod's network namespace", r, &e, error);
        return sd_bus_reply_method_return(msg, "b", r);
}

static int method_list(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        Manager *m = userdata;
        int r;

        r = sd_bus_message_new_method_return(msg, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "s");
        for (size_t i = 0; r >= 0 && i < m->n_tunnels; i++)
                r = sd_bus_message_append(reply, "s", m->tunnels[i]->sandbox_id);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* UNPRIVILEGED: who may connect at all was checked when the link was accepted. */
static const sd_bus_vtable tunnel_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Inspect", SD_BUS_ARGS("s", sandbox_id, "s", netns_path), SD_BUS_RESULT("s", pod_network),
                                method_inspect, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Setup", SD_BUS_ARGS("s", sandbox_id, "s", netns_path, "as", addresses), SD_BUS_NO_RESULT,
                                method_setup, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Teardown", SD_BUS_ARGS("s", sandbox_id, "s", netns_path), SD_BUS_NO_RESULT,
                                method_teardown, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("HasNetworkNamespace", SD_BUS_ARGS("s", sandbox_id, "s", netns_path), SD_BUS_RESULT("b", there),
                                method_has_netns, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("List", SD_BUS_NO_ARGS, SD_BUS_RESULT("as", sandbox_ids),
                                method_list, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

int manager_setup_bus(sd_bus *bus, void *userdata) {
        return sd_bus_add_object_vtable(bus, NULL, TUNNEL_PATH, TUNNEL_INTERFACE, tunnel_vtable, userdata);
}
