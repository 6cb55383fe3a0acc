/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/tunnel-check.h"

#include "adaptor/manager.h"
#include "adaptor/sandbox.h"
#include "adaptor/service-link.h"
#include "adaptor/tunnel-client.h"
#include "basic/bus-private.h"

/* Of one sandbox at a time; whoever wants more than one answer can wait for it. */
#define CHECKS_MAX 8U

struct TunnelCheck {
        Sandbox *sandbox;               /* borrowed */
        TAILQ_ENTRY(TunnelCheck) checks;
        sd_bus_message *asked;
        ServiceCall *call;
};

static TunnelCheck* tunnel_check_free(TunnelCheck *c) {
        if (!c)
                return NULL;
        if (c->call)
                TAILQ_REMOVE(&c->sandbox->checks, c, checks);
        service_call_free(c->call);
        sd_bus_message_unref(c->asked);
        free(c);
        return NULL;
}

DEFINE_CLEANUP(TunnelCheck*, tunnel_check_free);

/* A caller that went away is not told, and that is all. */
static void on_probed(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        _cleanup_(tunnel_check_freep) TunnelCheck *c = userdata;
        const char *text;
        int ok;

        if (error)
                (void) sd_bus_reply_method_error(c->asked, error);
        else if (sd_bus_message_read(reply, "bs", &ok, &text) < 0)
                (void) sd_bus_reply_method_errorf(c->asked, PEERPOD_ERROR_INTERNAL, "answer of the tunnel service cannot be read");
        else
                (void) sd_bus_reply_method_return(c->asked, "bs", ok, text);
}

int tunnel_check_begin(Sandbox *s, sd_bus_message *call, sd_bus_error *error) {
        _cleanup_(tunnel_check_freep) TunnelCheck *c = NULL;
        unsigned n = 0;
        int r;

        if (s->record.state != SANDBOX_RUNNING)
                return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION, "sandbox %s is %s, and only the tunnel of a running one "
                                         "can be checked", s->record.id, sandbox_state_to_string(s->record.state));
        TAILQ_FOREACH(c, &s->checks, checks)
                n++;
        if (n >= CHECKS_MAX)
                return sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED, "%u checks of sandbox %s are under way", n, s->record.id);

        c = new(TunnelCheck);
        if (!c)
                return -ENOMEM;
        *c = (TunnelCheck) { .sandbox = s, .asked = sd_bus_message_ref(call) };
        r = tunnel_probe(s->manager->tunnel, s->record.id, on_probed, c, &c->call);
        if (r < 0)
                return r;
        TAILQ_INSERT_TAIL(&s->checks, c, checks);
        c = NULL;
        return 0;
}

void tunnel_checks_cancel(Sandbox *s) {
        TunnelCheck *c;

        while ((c = TAILQ_FIRST(&s->checks))) {
                (void) sd_bus_reply_method_errorf(c->asked, PEERPOD_ERROR_CANCELLED, "sandbox %s is gone", s->record.id);
                tunnel_check_free(c);
        }
}
