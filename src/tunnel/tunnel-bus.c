/* SPDX-License-Identifier: Apache-2.0 */
/* The private bus face of peerpod-tunneld. */
#include "basic/bus-private.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "tunnel/diagnose.h"
#include "tunnel/probe.h"
#include "tunnel/tunnel.h"
#include "tunnel/verify.h"
#include "tunnel/volume-bus.h"

#define TUNNEL_PATH "/org/confidentialcontainers/PeerPod1/Tunnel"
/* Callers that wait for one probe. */
#define PROBE_CALLS_MAX 16U
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

/* A probe and who waits for it. Others that ask meanwhile join it. */
typedef struct TunnelProbe {
        Manager *manager;               /* borrowed */
        Probe *probe;
        sd_bus_message *calls[PROBE_CALLS_MAX];
        size_t n_calls;
} TunnelProbe;

static TunnelProbe* tunnel_probe_free(TunnelProbe *p) {
        if (!p)
                return NULL;
        probe_free(p->probe);
        for (size_t i = 0; i < p->n_calls; i++)
                sd_bus_message_unref(p->calls[i]);
        free(p);
        return NULL;
}

DEFINE_CLEANUP(TunnelProbe*, tunnel_probe_free);

void tunnel_cancel_probe(Tunnel *t) {
        TunnelProbe *p = TAKE_PTR(t->probe);

        for (size_t i = 0; p && i < p->n_calls; i++)
                (void) sd_bus_reply_method_errorf(p->calls[i], PEERPOD_ERROR_CANCELLED, "tunnel is being torn down");
        tunnel_probe_free(p);
}

static void on_probed(Tunnel *t, const ProbeReport *report, void *userdata) {
        _cleanup_(tunnel_probe_freep) TunnelProbe *p = TAKE_PTR(t->probe);
        _cleanup_(freep) char *text = NULL;

        text = diagnose_probe(p->manager, t, report);
        (void) log_full(&t->log, report->ok ? LOG_INFO : LOG_WARNING, report->ok ? NULL : MSG_TUNNEL_DEAD, 0, "%s",
                        text ?: "Out of memory.");
        for (size_t i = 0; i < p->n_calls; i++)
                (void) sd_bus_reply_method_return(p->calls[i], "bs", report->ok, strempty(text));
}

static int find_tunnel(Manager *m, sd_bus_message *msg, const char **ret_id, Tunnel **ret, sd_bus_error *error) {
        int r;

        r = sd_bus_message_read(msg, "s", ret_id);
        if (r < 0)
                return r;
        r = check_id(*ret_id, error);
        if (r < 0)
                return r;
        *ret = manager_find(m, *ret_id);
        if (!*ret || !ip_address_is_set(&(*ret)->peer))
                return sd_bus_error_set(error, PEERPOD_ERROR_FAILED_PRECONDITION, "sandbox has no tunnel that was set up");
        return 0;
}

static int method_probe(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(tunnel_probe_freep) TunnelProbe *p = NULL;
        const char *id;
        NetError e = {};
        Tunnel *t;
        int r;

        r = find_tunnel(userdata, msg, &id, &t, error);
        if (r < 0)
                return r;
        if (!t->probe) {
                p = new(TunnelProbe);
                if (!p)
                        return -ENOMEM;
                *p = (TunnelProbe) { .manager = userdata };
                r = probe_new(userdata, t, on_probed, NULL, &p->probe, &e);
                if (r < 0)
                        return fail(id, "probe the tunnel", r, &e, error);
                t->probe = TAKE_PTR(p);
        }
        if (t->probe->n_calls == PROBE_CALLS_MAX)
                return sd_bus_error_set(error, PEERPOD_ERROR_EXHAUSTED, "too many callers wait for a probe of this tunnel");
        t->probe->calls[t->probe->n_calls++] = sd_bus_message_ref(msg);
        return 1;
}

/* Sandbox "": tunnels in general. */
static int method_diagnose(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(strv_freep) char **findings = NULL;
        Tunnel *t = NULL;
        const char *id;
        int r;

        r = sd_bus_message_read(msg, "s", &id);
        if (r >= 0 && !isempty(id)) {
                (void) sd_bus_message_rewind(msg, /* complete= */ true);
                r = find_tunnel(userdata, msg, &id, &t, error);
        }
        if (r >= 0)
                r = diagnose(userdata, t, &findings);
        if (r >= 0)
                r = sd_bus_message_new_method_return(msg, &reply);
        if (r >= 0)
                r = sd_bus_message_append_strv(reply, findings);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
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

/* Sandbox "": all of them, and what they share. */
static int method_verify(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(strv_freep) char **findings = NULL;
        Manager *m = userdata;
        const char *id;
        int r = 0;

        if (sd_bus_message_read(msg, "s", &id) < 0)
                return -EBADMSG;
        if (isempty(id))
                r = verify_and_mend(m, NULL, &findings);
        else if (!manager_find(m, id))
                return sd_bus_error_set(error, PEERPOD_ERROR_NOT_FOUND, "sandbox has no tunnel");
        for (size_t i = 0; r >= 0 && i < m->n_tunnels; i++)
                if (isempty(id) || streq(m->tunnels[i]->sandbox_id, id)) {
                        r = verify_and_mend(m, m->tunnels[i], &findings);
                        if (r == -ENOENT || r == -EMEDIUMTYPE || r == -ESTALE)
                                r = isempty(id) ? 0 : sd_bus_error_set(error, PEERPOD_ERROR_NOT_FOUND, "network namespace is gone");
                }
        if (r < 0 && !sd_bus_error_is_set(error))
                return sd_bus_error_setf(error, error_name(r), "a tunnel cannot be mended: %s", strerror(-r));
        if (r >= 0)
                r = sd_bus_message_new_method_return(msg, &reply);
        if (r >= 0)
                r = sd_bus_message_append_strv(reply, findings);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
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
        SD_BUS_METHOD_WITH_ARGS("Probe", SD_BUS_ARGS("s", sandbox_id), SD_BUS_RESULT("b", ok, "s", report),
                                method_probe, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Diagnose", SD_BUS_ARGS("s", sandbox_id), SD_BUS_RESULT("as", findings),
                                method_diagnose, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("HasNetworkNamespace", SD_BUS_ARGS("s", sandbox_id, "s", netns_path), SD_BUS_RESULT("b", there),
                                method_has_netns, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Verify", SD_BUS_ARGS("s", sandbox_id), SD_BUS_RESULT("as", mended),
                                method_verify, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("List", SD_BUS_NO_ARGS, SD_BUS_RESULT("as", sandbox_ids),
                                method_list, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

int manager_setup_bus(sd_bus *bus, void *userdata) {
        const Manager *m = userdata;
        int r;

        r = sd_bus_add_object_vtable(bus, NULL, TUNNEL_PATH, TUNNEL_INTERFACE, tunnel_vtable, userdata);
        if (r < 0)
                return r;
        return volume_bus_setup(bus, m->settings->direct_volumes_dir);
}
