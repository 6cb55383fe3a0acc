/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-proxy/vm-link.h"

#include <stdio.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "agent-proxy/proxy-status.h"
#include "basic/crash-point.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "ttrpc/link.h"
#include "ttrpc/wire.h"

#define CHECK_TIMEOUT_USEC (5 * USEC_PER_SEC)
#define PAUSE_USEC LINK_PAUSE_USEC
#define STATUS_USEC USEC_PER_SEC
#define SESSION_KEEP_MORE_USEC (30 * USEC_PER_SEC)      /* the other end may notice a loss so much earlier than we do */

struct VmLink {
        sd_event *event;
        const LogContext *log;          /* borrowed, as are the next five */
        const ProxyConfig *config;
        ProxyCounters *counters;
        Relay *relay;
        const VmLinkHandlers *handlers;
        void *userdata;

        Link *link;
        sd_event_source *timer;         /* before the next Check or try */
        sd_event_source *status_timer;
        uint64_t start_usec;            /* CLOCK_MONOTONIC */
        uint64_t deadline;              /* CLOCK_MONOTONIC, for the agent to answer by */
        bool ready;                     /* the agent has answered once: the shim is let in, and stays in when the link is lost */
        uint64_t lost_usec;             /* CLOCK_MONOTONIC, when the link was lost; 0: it is not */
        uint64_t up_usec;               /* CLOCK_MONOTONIC, when it was found well */
        bool resuming;                  /* connected, and the session's WELCOME is awaited */
        bool end_expected;
        unsigned n_resumed;
        char trouble[320];              /* the last one, for the log */
};

static void vm_link_set_status(VmLink *v, const char *text) {
        char since[16] = "";

        if (v->lost_usec > 0) {
                time_t t = time(NULL) - (now_usec(CLOCK_MONOTONIC) - v->lost_usec) / USEC_PER_SEC;
                struct tm tm;

                if (localtime_r(&t, &tm))
                        (void) strftime(since, sizeof(since), "%T", &tm);
                (void) sd_notifyf(0, "STATUS=Connecting again to the pod VM since %s: %s", since, text);
        } else if (!v->ready)
                (void) sd_notifyf(0, "STATUS=Waiting for the pod VM: %s", text);
        else if (v->n_resumed > 0)
                (void) sd_notifyf(0, "STATUS=" PROXY_STATUS_CONNECTED "%zu; session resumed %u times.",
                                  relay_get_n_connections(v->relay), v->n_resumed);
        else
                (void) sd_notifyf(0, "STATUS=" PROXY_STATUS_CONNECTED "%zu", relay_get_n_connections(v->relay));
}

static int on_tell_clients(sd_event_source *source, uint64_t usec, void *userdata) {
        VmLink *v = userdata;

        v->status_timer = sd_event_source_disable_unref(v->status_timer);
        if (v->ready && v->lost_usec == 0)
                vm_link_set_status(v, "");
        return 0;
}

/* Clients that come and go must not make us talk to systemd, and wait for it, each time. */
void vm_link_clients_changed(VmLink *v) {
        if (v->ready && !v->status_timer)
                (void) sd_event_add_time_relative(v->event, &v->status_timer, CLOCK_MONOTONIC, STATUS_USEC, 0, on_tell_clients, v);
}

/* Says what is wrong once, not every half second. */
static void vm_link_trouble(VmLink *v, const char *text) {
        vm_link_set_status(v, text);
        if (streq(text, v->trouble))
                return;
        (void) snprintf(v->trouble, sizeof(v->trouble), "%s", text);
        (void) log_full(v->log, LOG_INFO, NULL, 0, "Waiting for the pod VM: %s.", v->trouble);
}

static uint64_t vm_link_patience(const VmLink *v) {
        return v->ready && !v->end_expected ? v->config->grace_time_usec : v->config->connect_timeout_usec;
}

/* The VM is given up: the end of this process closes the shim's connections, which tells Kata. */
static void vm_link_fail(VmLink *v, const char *text) {
        if (v->ready)
                (void) log_full(v->log, LOG_ERR, MSG_LINK_LOST, 0, "The pod VM was out of reach for %s and is given up: %s.",
                                FORMAT_USEC(vm_link_patience(v)), text);
        else
                (void) log_full(v->log, LOG_ERR, MSG_LINK_LOST, 0, "The agent in the pod VM did not answer within %s: %s.",
                                FORMAT_USEC(v->config->connect_timeout_usec), text);
        (void) sd_notifyf(0, "STATUS=No answer from the pod VM: %s", text);
        (void) sd_event_exit(v->event, -ETIMEDOUT);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

static void vm_link_retry_later(VmLink *v, const char *text) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now >= v->deadline) {
                vm_link_fail(v, text);
                return;
        }

        vm_link_trouble(v, text);
        v->timer = sd_event_source_disable_unref(v->timer);
        r = sd_event_add_time_relative(v->event, &v->timer, CLOCK_MONOTONIC, MIN(PAUSE_USEC, v->deadline - now), 0, on_timer, v);
        if (r < 0)
                vm_link_fail(v, "out of memory");
}

static void vm_link_is_well(VmLink *v) {
        crash_point("ready");
        v->trouble[0] = '\0';
        v->timer = sd_event_source_disable_unref(v->timer);
        if (v->lost_usec > 0)
                (void) log_full(v->log, LOG_NOTICE, MSG_LINK_UP, 0, "The agent in the pod VM answers again, after %s.",
                                FORMAT_USEC(now_usec(CLOCK_MONOTONIC) - v->lost_usec));
        else
                (void) log_full(v->log, LOG_NOTICE, MSG_LINK_UP, 0, "The agent in the pod VM answers.");
        v->lost_usec = 0;
        v->up_usec = now_usec(CLOCK_MONOTONIC);
        proxy_counters_set(v->counters, PROXY_LINK_UP, 1);
        v->ready = true;
        (void) sd_notify(0, "READY=1");
        vm_link_set_status(v, "");
        crash_point("ready-told");
        v->handlers->on_well(v->userdata);
}

static bool is_serving(TtrpcSlice response) {
        WireField f;
        size_t offset = 0;
        uint64_t status = 0;

        while (wire_next(response, &offset, &f) > 0)
                if (f.number == 1 && f.type == WIRE_VARINT)
                        status = f.varint;
        return status == 1;             /* kata-containers: health.proto, HealthCheckResponse.ServingStatus */
}

/* A pod VM's text goes into a STATUS= field, and may be no second field to it, as READY=1 would be (sd_notify(3)). */
static void make_one_line(char *s) {
        for (; *s; s++)
                if ((unsigned char) *s < ' ' || *s == 0x7f)
                        *s = '?';
}

static void on_check(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        VmLink *v = userdata;
        char text[256];

        if (code == -ENOTCONN)          /* vm_link_lost() tries again */
                return;
        if (code != TTRPC_OK) {
                (void) snprintf(text, sizeof(text), "Health.Check: %.*s", (int) MIN(message.size, (size_t) 200),
                                (const char*) message.data ?: "");
                make_one_line(text);
                vm_link_retry_later(v, text);
        } else if (!is_serving(payload))
                vm_link_retry_later(v, "Health.Check: the agent is not serving yet");
        else
                vm_link_is_well(v);
}

static void vm_link_check(VmLink *v) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now >= v->deadline) {
                vm_link_fail(v, v->trouble[0] ? v->trouble : "no time left");
                return;
        }
        r = relay_call(v->relay, "grpc.Health", "Check", NULL, 0, MIN(CHECK_TIMEOUT_USEC, v->deadline - now), on_check, v);
        if (r < 0)
                vm_link_retry_later(v, strerrordesc_np(-r) ?: "error");
}

static void vm_link_connect(VmLink *v) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now >= v->deadline) {
                vm_link_fail(v, v->trouble[0] ? v->trouble : "no time left");
                return;
        }
        crash_point("dial");
        r = link_start(v->link, v->deadline - now);
        if (r < 0)
                vm_link_fail(v, strerrordesc_np(-r) ?: "error");
}

bool vm_link_is_away(const VmLink *v) {
        Channel *upstream = relay_get_upstream(v->relay);

        return !upstream || channel_is_away(upstream);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        VmLink *v = userdata;

        v->timer = sd_event_source_disable_unref(v->timer);
        if (vm_link_is_away(v))
                vm_link_connect(v);
        else
                vm_link_check(v);
        return 0;
}

/* @resumable: nothing is lost with it. */
static void vm_link_is_lost(VmLink *v, const char *text, bool resumable) {
        if (v->ready && v->lost_usec == 0) {
                proxy_counters_add(v->counters, PROXY_LINKS_LOST, 1);
                proxy_counters_set(v->counters, PROXY_LINK_UP, 0);
                v->lost_usec = now_usec(CLOCK_MONOTONIC);
                v->deadline = usec_add(v->lost_usec, vm_link_patience(v));
                if (v->end_expected)
                        (void) log_full(v->log, LOG_INFO, NULL, 0, "Link to the pod VM ended after DestroySandbox: %s.", text);
                else
                        (void) log_full(v->log, LOG_WARNING, MSG_LINK_LOST, 0, "Link to the pod VM lost: %s. Connecting again%s.", text,
                                        resumable ? " to resume the session" : "");
        }
        link_stop(v->link);
        vm_link_trouble(v, text);

        /* At once, but not as fast as it may be lost again and again. */
        if (v->up_usec > 0 && now_usec(CLOCK_MONOTONIC) - v->up_usec >= USEC_PER_SEC) {
                v->up_usec = 0;
                v->timer = sd_event_source_disable_unref(v->timer);
                vm_link_connect(v);
        } else
                vm_link_retry_later(v, text);
}

static void on_session_away(Channel *c, int error, const char *text, void *userdata) {
        VmLink *v = userdata;

        if (!v->ready) {                /* nothing on it is worth resuming */
                relay_lose_upstream(v->relay, error, text ?: strerrordesc_np(-error) ?: "error");
                return;
        }
        relay_set_upstream_away(v->relay);
        v->handlers->on_away(v->userdata);
        vm_link_is_lost(v, text ?: strerrordesc_np(-error) ?: "error", /* resumable= */ true);
}

static void on_session_up(Channel *c, void *userdata) {
        VmLink *v = userdata;

        if (!v->resuming)               /* a new one, whose agent is being asked */
                return;
        v->resuming = false;
        v->n_resumed++;
        v->trouble[0] = '\0';
        (void) log_full(v->log, LOG_NOTICE, MSG_LINK_UP, 0, "The session with the pod VM is resumed, %s after the link was lost.",
                        FORMAT_USEC(now_usec(CLOCK_MONOTONIC) - v->lost_usec));
        v->lost_usec = 0;
        v->up_usec = now_usec(CLOCK_MONOTONIC);
        proxy_counters_add(v->counters, PROXY_LINKS_RESUMED, 1);
        proxy_counters_set(v->counters, PROXY_LINK_UP, 1);
        vm_link_set_status(v, "");
}

static const ChannelKeeper keeper = {
        .on_away = on_session_away,
        .on_up = on_session_up,
};

static int vm_link_start_session(VmLink *v, Channel *channel) {
        uint64_t keep_usec = v->config->grace_time_usec + SESSION_KEEP_MORE_USEC;

        return channel_start_session(channel, keep_usec / USEC_PER_SEC, &keeper, v);
}

static void on_link_up(Link *l, Channel *channel, const char *address, void *userdata) {
        VmLink *v = userdata;
        Channel *upstream = relay_get_upstream(v->relay);
        bool sessions = channel_has_alpn(channel);
        int r = 0;

        (void) log_full(v->log, LOG_INFO, NULL, 0, "Connected to the forwarder at %s (%s%s).", address, channel_describe(channel),
                        sessions ? ", resumable" : "");
        if (v->counters->values[PROXY_LINKS] == 0)
                proxy_counters_set(v->counters, PROXY_BOOT_USEC, now_usec(CLOCK_MONOTONIC) - v->start_usec);
        proxy_counters_add(v->counters, PROXY_LINKS, 1);
        crash_point("link-up");

        if (upstream && channel_session(upstream) && !sessions) {
                channel_free(channel);
                relay_lose_upstream(v->relay, -ESTALE, "the pod VM does not know the session any more");
                return;
        }

        v->resuming = upstream && channel_session(upstream) && channel_session(upstream)->confirmed;
        if (sessions && !(upstream && channel_session(upstream)))
                r = vm_link_start_session(v, upstream ?: channel);
        if (r < 0) {
                channel_free(channel);
                vm_link_retry_later(v, strerrordesc_np(-r) ?: "error");
                return;
        }

        if (upstream)
                channel_attach(upstream, channel);
        else {
                (void) sd_notify(0, "STATUS=Connected to the forwarder, waiting for the agent.");
                relay_set_upstream(v->relay, channel);
        }
        if (!v->resuming)
                vm_link_check(v);
        crash_point("checking");
}

static void on_link_trouble(Link *l, const char *text, void *userdata) {
        vm_link_trouble(userdata, text);
}

static void on_link_failed(Link *l, const char *text, void *userdata) {
        vm_link_fail(userdata, text);
}

static const LinkHandlers link_handlers = {
        .on_up = on_link_up,
        .on_trouble = on_link_trouble,
        .on_failed = on_link_failed,
};

/* Takes what the shim asks while there is no link. */
static int vm_link_set_away(VmLink *v) {
        static const ChannelHandlers none = {};
        Channel *away;
        int r;

        r = channel_new_away(v->event, &none, NULL, &away);
        if (r >= 0)
                relay_set_upstream(v->relay, away);
        return r;
}

int vm_link_new(sd_event *event, const VmLinkSettings *settings, VmLink **ret) {
        _cleanup_(vm_link_freep) VmLink *v = NULL;
        LinkSettings link = { .tls = settings->tls, .server_name = settings->config->server_name };
        int r;

        for (char **a = settings->config->addresses; *a; a++) {
                r = link_add_ip(&link, *a, settings->config->port);
                if (r < 0) {
                        (void) log_full(settings->log, LOG_ERR, NULL, r, "Bad address '%.64s' in proxy.json: %m", *a);
                        return EXIT_CONFIGURATION;
                }
        }

        v = new(VmLink);
        if (!v)
                return log_oom();
        *v = (VmLink) {
                .event = sd_event_ref(event),
                .log = settings->log,
                .config = settings->config,
                .counters = settings->counters,
                .relay = settings->relay,
                .handlers = settings->handlers,
                .userdata = settings->userdata,
                .start_usec = now_usec(CLOCK_MONOTONIC),
        };
        r = link_new(event, &link, &link_handlers, v, &v->link);
        if (r < 0)
                return log_oom();

        *ret = TAKE_PTR(v);
        return 0;
}

VmLink* vm_link_free(VmLink *v) {
        if (!v)
                return NULL;
        sd_event_source_disable_unref(v->timer);
        sd_event_source_disable_unref(v->status_timer);
        link_free(v->link);
        sd_event_unref(v->event);
        free(v);
        return NULL;
}

void vm_link_set_relay(VmLink *v, Relay *relay) {
        v->relay = relay;
}

void vm_link_expect_end(VmLink *v, bool b) {
        v->end_expected = b;
}

void vm_link_start(VmLink *v) {
        if (!v->ready)
                v->deadline = usec_add(v->start_usec, v->config->connect_timeout_usec);
        vm_link_connect(v);
}

bool vm_link_is_ready(const VmLink *v) {
        return v->ready;
}

void vm_link_lost(VmLink *v, const char *text) {
        if (v->ready && vm_link_set_away(v) < 0)
                vm_link_fail(v, "out of memory");
        else
                vm_link_is_lost(v, text, /* resumable= */ false);
}

void vm_link_store(VmLink *v, Handover *h, const char *text, uint64_t timeout_usec) {
        handover_put(h, v->n_resumed);
        relay_store(v->relay, h, text, timeout_usec, NULL);
}

int vm_link_restore(VmLink *v, Handover *h) {
        unsigned n_resumed = handover_get(h, UINT32_MAX);
        int r;

        r = relay_restore(v->relay, h, &keeper, v, NULL);
        if (r >= 0 && !relay_get_upstream(v->relay))
                r = vm_link_set_away(v);
        if (r < 0)
                return r;

        v->ready = true;
        v->n_resumed = n_resumed;
        v->lost_usec = now_usec(CLOCK_MONOTONIC);
        v->deadline = usec_add(v->lost_usec, vm_link_patience(v));
        (void) log_full(v->log, LOG_NOTICE, NULL, 0, "Took over %zu connections with %zu calls in flight.",
                        relay_get_n_connections(v->relay), relay_get_n_calls(v->relay));
        (void) sd_notify(0, "READY=1");
        vm_link_set_status(v, "restarted");
        relay_set_upstream_away(v->relay);
        return 0;
}
