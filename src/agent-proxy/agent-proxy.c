/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-agent-proxy: carries one sandbox's agent protocol between Kata's shim and the forwarder in its pod VM. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "agent-proxy/container-edit.h"
#include "agent-proxy/counters.h"
#include "agent-proxy/creation.h"
#include "agent-proxy/credentials.h"
#include "agent-proxy/proxy-config.h"
#include "agent-proxy/proxy-status.h"
#include "basic/crash-point.h"
#include "basic/daemon.h"
#include "basic/handover.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "ttrpc/acceptor.h"
#include "ttrpc/link.h"
#include "ttrpc/relay.h"
#include "ttrpc/wire.h"

#define CONNECTIONS_MAX 64U                     /* of the shim and of tools */
#define CHECK_TIMEOUT_USEC (5 * USEC_PER_SEC)
#define PAUSE_USEC LINK_PAUSE_USEC
#define STATUS_USEC USEC_PER_SEC
#define SESSION_KEEP_MORE_USEC (30 * USEC_PER_SEC)      /* the other end may notice a loss so much earlier than we do */
#define FINISH_USEC (500 * USEC_PER_MSEC)

typedef enum SandboxLife {
        SANDBOX_NONE,
        SANDBOX_BEING_CREATED,
        SANDBOX_CREATED,
        SANDBOX_DESTROYED,              /* or about to be: the agent ends when it has answered, or even before */
        _SANDBOX_LIFE_MAX,
} SandboxLife;

/* Kinds of calls. These numbers and the order of what proxy_store() writes are the format of STATE_VERSION. */
enum {
        CALL_CHECK = 1,
        CALL_CREATE_SANDBOX = 2,
        CALL_DESTROY_SANDBOX = 3,
};
#define STATE_VERSION 1U

static_assert((int) PROXY_CALLS == (int) RELAY_CALLS && (int) PROXY_CALLS_FAILED == (int) RELAY_CALLS_FAILED &&
              (int) PROXY_BYTES_TO_VM == (int) RELAY_BYTES_UP && (int) PROXY_BYTES_FROM_VM == (int) RELAY_BYTES_DOWN &&
              (int) PROXY_CALLS_IN_FLIGHT == (int) RELAY_CALLS_IN_FLIGHT && (int) PROXY_CONNECTIONS == (int) RELAY_CONNECTIONS &&
              (int) PROXY_LINKS == (int) _RELAY_COUNTER_MAX, "the relay counts in the page");

typedef struct Proxy {
        sd_event *event;
        LogContext log;
        ProxyConfig config;
        Relay *relay;
        Link *link;
        Acceptor *acceptor;
        sd_event_source *timer;         /* before the next Check or try */
        sd_event_source *status_timer;
        uint64_t deadline;              /* CLOCK_MONOTONIC, for the agent to answer by */
        bool ready;                     /* the agent has answered once: the shim is let in, and stays in when the link is lost */
        uint64_t lost_usec;             /* CLOCK_MONOTONIC, when the link was lost; 0: it is not */
        uint64_t up_usec;               /* CLOCK_MONOTONIC, when it was found well */
        bool stopping;
        bool resuming;                  /* connected, and the session's WELCOME is awaited */
        unsigned n_resumed;
        SandboxLife sandbox;
        char trouble[320];              /* the last one, for the log */

        Creations creations;
        ProxyCounters counters;
        uint64_t start_usec;            /* CLOCK_MONOTONIC */

        char *listen, *credentials, *runtime_dir;       /* options */
} Proxy;

static void proxy_done(Proxy *p) {
        sd_event_source_disable_unref(p->timer);
        sd_event_source_disable_unref(p->status_timer);
        acceptor_free(p->acceptor);
        link_free(p->link);
        relay_free(p->relay);
        creations_done(&p->creations);
        proxy_counters_done(&p->counters);
        proxy_config_done(&p->config);
        log_context_done(&p->log);
        sd_event_unref(p->event);
}

static void proxy_set_status(Proxy *p, const char *text) {
        char since[16] = "";

        if (p->lost_usec > 0) {
                time_t t = time(NULL) - (now_usec(CLOCK_MONOTONIC) - p->lost_usec) / USEC_PER_SEC;
                struct tm tm;

                if (localtime_r(&t, &tm))
                        (void) strftime(since, sizeof(since), "%T", &tm);
                (void) sd_notifyf(0, "STATUS=Connecting again to the pod VM since %s: %s", since, text);
        } else if (!p->ready)
                (void) sd_notifyf(0, "STATUS=Waiting for the pod VM: %s", text);
        else if (p->n_resumed > 0)
                (void) sd_notifyf(0, "STATUS=" PROXY_STATUS_CONNECTED "%zu; session resumed %u times.",
                                  relay_get_n_connections(p->relay), p->n_resumed);
        else
                (void) sd_notifyf(0, "STATUS=" PROXY_STATUS_CONNECTED "%zu", relay_get_n_connections(p->relay));
}

static int on_tell_clients(sd_event_source *source, uint64_t usec, void *userdata) {
        Proxy *p = userdata;

        p->status_timer = sd_event_source_disable_unref(p->status_timer);
        if (p->ready && p->lost_usec == 0)
                proxy_set_status(p, "");
        return 0;
}

/* Clients that come and go must not make us talk to systemd, and wait for it, each time. */
static void proxy_tell_clients_later(Proxy *p) {
        if (p->ready && !p->status_timer)
                (void) sd_event_add_time_relative(p->event, &p->status_timer, CLOCK_MONOTONIC, STATUS_USEC, 0, on_tell_clients, p);
}

static void proxy_update_acceptor(Proxy *p) {
        proxy_tell_clients_later(p);
        acceptor_set_enabled(p->acceptor, p->ready && relay_has_room(p->relay));
}

/* Says what is wrong once, not every half second. */
static void proxy_trouble(Proxy *p, const char *text) {
        proxy_set_status(p, text);
        if (streq(text, p->trouble))
                return;
        (void) snprintf(p->trouble, sizeof(p->trouble), "%s", text);
        (void) log_full(&p->log, LOG_INFO, NULL, 0, "Waiting for the pod VM: %s.", p->trouble);
}

static uint64_t proxy_patience(const Proxy *p) {
        return p->ready && p->sandbox != SANDBOX_DESTROYED ? p->config.grace_time_usec : p->config.connect_timeout_usec;
}

/* The VM is given up: the end of this process closes the shim's connections, which tells Kata. */
static void proxy_fail(Proxy *p, const char *text) {
        if (p->ready)
                (void) log_full(&p->log, LOG_ERR, MSG_LINK_LOST, 0, "The pod VM was out of reach for %s and is given up: %s.",
                                FORMAT_USEC(proxy_patience(p)), text);
        else
                (void) log_full(&p->log, LOG_ERR, MSG_LINK_LOST, 0, "The agent in the pod VM did not answer within %s: %s.",
                                FORMAT_USEC(p->config.connect_timeout_usec), text);
        (void) sd_notifyf(0, "STATUS=No answer from the pod VM: %s", text);
        (void) sd_event_exit(p->event, -ETIMEDOUT);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata);

static void proxy_retry_later(Proxy *p, const char *text) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now >= p->deadline) {
                proxy_fail(p, text);
                return;
        }

        proxy_trouble(p, text);
        p->timer = sd_event_source_disable_unref(p->timer);
        r = sd_event_add_time_relative(p->event, &p->timer, CLOCK_MONOTONIC, MIN(PAUSE_USEC, p->deadline - now), 0, on_timer, p);
        if (r < 0)
                proxy_fail(p, "out of memory");
}

static void proxy_is_ready(Proxy *p) {
        crash_point("ready");
        p->trouble[0] = '\0';
        p->timer = sd_event_source_disable_unref(p->timer);
        if (p->lost_usec > 0)
                (void) log_full(&p->log, LOG_NOTICE, MSG_LINK_UP, 0, "The agent in the pod VM answers again, after %s.",
                                FORMAT_USEC(now_usec(CLOCK_MONOTONIC) - p->lost_usec));
        else
                (void) log_full(&p->log, LOG_NOTICE, MSG_LINK_UP, 0, "The agent in the pod VM answers.");
        p->lost_usec = 0;
        p->up_usec = now_usec(CLOCK_MONOTONIC);
        proxy_counters_set(&p->counters, PROXY_LINK_UP, 1);
        p->ready = true;
        (void) sd_notify(0, "READY=1");
        proxy_set_status(p, "");
        crash_point("ready-told");
        proxy_update_acceptor(p);
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
        Proxy *p = userdata;
        char text[256];

        if (code == -ENOTCONN)          /* on_upstream_lost() tries again */
                return;
        if (code != TTRPC_OK) {
                (void) snprintf(text, sizeof(text), "Health.Check: %.*s", (int) MIN(message.size, (size_t) 200),
                                (const char*) message.data ?: "");
                make_one_line(text);
                proxy_retry_later(p, text);
        } else if (!is_serving(payload))
                proxy_retry_later(p, "Health.Check: the agent is not serving yet");
        else
                proxy_is_ready(p);
}

static void proxy_check(Proxy *p) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now >= p->deadline) {
                proxy_fail(p, p->trouble[0] ? p->trouble : "no time left");
                return;
        }
        r = relay_call(p->relay, "grpc.Health", "Check", NULL, 0, MIN(CHECK_TIMEOUT_USEC, p->deadline - now), on_check, p);
        if (r < 0)
                proxy_retry_later(p, strerrordesc_np(-r) ?: "error");
}

static void proxy_connect(Proxy *p) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now >= p->deadline) {
                proxy_fail(p, p->trouble[0] ? p->trouble : "no time left");
                return;
        }
        crash_point("dial");
        r = link_start(p->link, p->deadline - now);
        if (r < 0)
                proxy_fail(p, strerrordesc_np(-r) ?: "error");
}

static bool proxy_is_away(const Proxy *p) {
        Channel *upstream = relay_get_upstream(p->relay);

        return !upstream || channel_is_away(upstream);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Proxy *p = userdata;

        p->timer = sd_event_source_disable_unref(p->timer);
        if (proxy_is_away(p))
                proxy_connect(p);
        else
                proxy_check(p);
        return 0;
}

/* @resumable: nothing is lost with it. */
static void proxy_lost_link(Proxy *p, const char *text, bool resumable) {
        if (p->ready && p->lost_usec == 0) {
                proxy_counters_add(&p->counters, PROXY_LINKS_LOST, 1);
                proxy_counters_set(&p->counters, PROXY_LINK_UP, 0);
                p->lost_usec = now_usec(CLOCK_MONOTONIC);
                p->deadline = usec_add(p->lost_usec, proxy_patience(p));
                if (p->sandbox == SANDBOX_DESTROYED)
                        (void) log_full(&p->log, LOG_INFO, NULL, 0, "Link to the pod VM ended after DestroySandbox: %s.", text);
                else
                        (void) log_full(&p->log, LOG_WARNING, MSG_LINK_LOST, 0, "Link to the pod VM lost: %s. Connecting again%s.", text,
                                        resumable ? " to resume the session" : "");
        }
        link_stop(p->link);
        proxy_trouble(p, text);

        /* At once, but not as fast as it may be lost again and again. */
        if (p->up_usec > 0 && now_usec(CLOCK_MONOTONIC) - p->up_usec >= USEC_PER_SEC) {
                p->up_usec = 0;
                p->timer = sd_event_source_disable_unref(p->timer);
                proxy_connect(p);
        } else
                proxy_retry_later(p, text);
}

static const uint8_t serving[] = { 0x08, 0x01 };        /* kata-containers: health.proto, HealthCheckResponse */

static void on_session_away(Channel *c, int error, const char *text, void *userdata) {
        Proxy *p = userdata;

        if (!p->ready) {                /* nothing on it is worth resuming */
                relay_lose_upstream(p->relay, error, text ?: strerrordesc_np(-error) ?: "error");
                return;
        }
        /* Kata gives a Check 30 seconds (90 with runtime-rs) and then ends the pod. */
        relay_set_upstream_away(p->relay);
        relay_answer_calls(p->relay, CALL_CHECK, serving, sizeof(serving));
        proxy_lost_link(p, text ?: strerrordesc_np(-error) ?: "error", /* resumable= */ true);
}

static void on_session_up(Channel *c, void *userdata) {
        Proxy *p = userdata;

        if (!p->resuming)               /* a new one, whose agent is being asked */
                return;
        p->resuming = false;
        p->n_resumed++;
        p->trouble[0] = '\0';
        (void) log_full(&p->log, LOG_NOTICE, MSG_LINK_UP, 0, "The session with the pod VM is resumed, %s after the link was lost.",
                        FORMAT_USEC(now_usec(CLOCK_MONOTONIC) - p->lost_usec));
        p->lost_usec = 0;
        p->up_usec = now_usec(CLOCK_MONOTONIC);
        proxy_counters_add(&p->counters, PROXY_LINKS_RESUMED, 1);
        proxy_counters_set(&p->counters, PROXY_LINK_UP, 1);
        proxy_set_status(p, "");
}

static const ChannelKeeper keeper = {
        .on_away = on_session_away,
        .on_up = on_session_up,
};

static int proxy_start_session(Proxy *p, Channel *channel) {
        uint64_t keep_usec = p->config.grace_time_usec + SESSION_KEEP_MORE_USEC;

        return channel_start_session(channel, keep_usec / USEC_PER_SEC, &keeper, p);
}

static void on_link_up(Link *l, Channel *channel, const char *address, void *userdata) {
        Proxy *p = userdata;
        Channel *upstream = relay_get_upstream(p->relay);
        bool sessions = channel_has_alpn(channel);
        int r = 0;

        (void) log_full(&p->log, LOG_INFO, NULL, 0, "Connected to the forwarder at %s (%s%s).", address, channel_describe(channel),
                        sessions ? ", resumable" : "");
        if (p->counters.values[PROXY_LINKS] == 0)
                proxy_counters_set(&p->counters, PROXY_BOOT_USEC, now_usec(CLOCK_MONOTONIC) - p->start_usec);
        proxy_counters_add(&p->counters, PROXY_LINKS, 1);
        crash_point("link-up");

        if (upstream && channel_session(upstream) && !sessions) {
                channel_free(channel);
                relay_lose_upstream(p->relay, -ESTALE, "the pod VM does not know the session any more");
                return;
        }

        p->resuming = upstream && channel_session(upstream) && channel_session(upstream)->confirmed;
        if (sessions && !(upstream && channel_session(upstream)))
                r = proxy_start_session(p, upstream ?: channel);
        if (r < 0) {
                channel_free(channel);
                proxy_retry_later(p, strerrordesc_np(-r) ?: "error");
                return;
        }

        if (upstream)
                channel_attach(upstream, channel);
        else {
                (void) sd_notify(0, "STATUS=Connected to the forwarder, waiting for the agent.");
                relay_set_upstream(p->relay, channel);
        }
        if (!p->resuming)
                proxy_check(p);
        crash_point("checking");
}

static void on_link_trouble(Link *l, const char *text, void *userdata) {
        proxy_trouble(userdata, text);
}

static void on_link_failed(Link *l, const char *text, void *userdata) {
        proxy_fail(userdata, text);
}

static const LinkHandlers link_handlers = {
        .on_up = on_link_up,
        .on_trouble = on_link_trouble,
        .on_failed = on_link_failed,
};

static void on_upstream_failing(Relay *r, void *userdata) {
        Proxy *p = userdata;

        if (p->ready)
                relay_answer_calls(p->relay, CALL_CHECK, serving, sizeof(serving));
}

/* Takes what the shim asks while there is no link. */
static int proxy_set_away(Proxy *p) {
        static const ChannelHandlers none = {};
        Channel *away;
        int r;

        r = channel_new_away(p->event, &none, NULL, &away);
        if (r >= 0)
                relay_set_upstream(p->relay, away);
        return r;
}

/* The forwarder's last words: there is nothing to connect to again. What is in flight has been answered with them. */
static void proxy_vm_ends(Proxy *p, const char *text) {
        (void) log_full(&p->log, LOG_ERR, MSG_VM_ENDED, 0, "The pod VM ends: %s.", text);
        (void) sd_notifyf(0, "STATUS=The pod VM has ended: %s", text);
        (void) sd_event_exit(p->event, -ESHUTDOWN);
}

static void on_upstream_lost(Relay *r, int error, const char *text, void *userdata) {
        Proxy *p = userdata;

        if (p->sandbox == SANDBOX_BEING_CREATED)        /* nobody knows: let the shim try again */
                p->sandbox = SANDBOX_NONE;
        if (p->stopping)
                return;

        if (error == -ESHUTDOWN && p->sandbox != SANDBOX_DESTROYED)
                proxy_vm_ends(p, text);
        else if (p->ready && proxy_set_away(p) < 0)
                proxy_fail(p, "out of memory");
        else
                proxy_lost_link(p, text, /* resumable= */ false);
}

static void on_connections_changed(Relay *r, void *userdata) {
        proxy_update_acceptor(userdata);
}

static RelayAnswerHandler answer_handler(unsigned kind);

static const RelayHandlers relay_handlers = {
        .on_upstream_lost = on_upstream_lost,
        .on_upstream_failing = on_upstream_failing,
        .on_connections_changed = on_connections_changed,
        .answer_handler = answer_handler,
        .upstream = "pod VM",
        .whole_answers = true,
        .keep_connections = true,
};

static void edit_create_container(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Proxy *p = userdata;

        if (container_check_volumes(p->config.volumes_elsewhere, request, edit))
                container_edit(p->config.volumes, p->config.n_volumes, request, edit);
        if (edit->code != TTRPC_OK)
                (void) log_full(&p->log, LOG_WARNING, NULL, 0, "Refused a request: %s.", edit->message);
        else
                creations_watch(&p->creations, request, edit);
}

static void on_sandbox_created(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        Proxy *p = userdata;

        if (code == TTRPC_OK)
                p->sandbox = SANDBOX_CREATED;
        else if (p->sandbox == SANDBOX_BEING_CREATED)
                p->sandbox = SANDBOX_NONE;
}

/* The agent would begin a second sandbox over the first one's remains (kata-containers: src/agent/src/rpc.rs, create_sandbox). */
static void check_create_sandbox(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Proxy *p = userdata;

        if (p->sandbox != SANDBOX_NONE) {
                edit->code = TTRPC_FAILED_PRECONDITION;
                (void) snprintf(edit->message, sizeof(edit->message), "CreateSandbox: this pod VM has its sandbox already");
                (void) log_full(&p->log, LOG_WARNING, NULL, 0, "Refused a second CreateSandbox.");
                return;
        }
        p->sandbox = SANDBOX_BEING_CREATED;
        edit->on_answer = on_sandbox_created;
        edit->kind = CALL_CREATE_SANDBOX;
}

static void on_sandbox_destroyed(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        Proxy *p = userdata;

        /* An agent that ends before its answer is out is lost to us, or to the forwarder, which then answers for it. */
        if (code != TTRPC_OK && code != TTRPC_UNAVAILABLE && code != -ENOTCONN)
                p->sandbox = SANDBOX_CREATED;
}

/* The agent's last call (kata-containers: src/agent/src/rpc.rs, destroy_sandbox): that the link ends now is no event. */
static void note_destroy_sandbox(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Proxy *p = userdata;

        if (p->sandbox != SANDBOX_CREATED)
                return;
        p->sandbox = SANDBOX_DESTROYED;
        edit->on_answer = on_sandbox_destroyed;
        edit->kind = CALL_DESTROY_SANDBOX;
}

static RelayAnswerHandler answer_handler(unsigned kind) {
        switch (kind) {

        case CALL_CREATE_SANDBOX:
                return on_sandbox_created;
        case CALL_DESTROY_SANDBOX:
                return on_sandbox_destroyed;
        default:
                return NULL;
        }
}

/* While the link is lost, the agent is taken to be well: Kata would end the pod. For how long is limited by the grace time. */
static void answer_check(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Proxy *p = userdata;

        edit->kind = CALL_CHECK;
        if (!p->ready || !proxy_is_away(p))
                return;
        edit->payload = malloc(sizeof(serving));
        if (!edit->payload)
                return;
        memcpy(edit->payload, serving, sizeof(serving));
        edit->size = sizeof(serving);
        edit->answered = true;
}

static const RelayRule rules[] = {
        { "grpc.Health", "Check", answer_check },
        { "grpc.AgentService", "CreateContainer", edit_create_container },
        { "grpc.AgentService", "CreateSandbox", check_create_sandbox },
        { "grpc.AgentService", "DestroySandbox", note_destroy_sandbox },
};

static void on_connection(Acceptor *a, Channel *channel, const char *peer, void *userdata) {
        Proxy *p = userdata;

        crash_point("accepted");
        if (relay_add_downstream(p->relay, channel) < 0)
                (void) log_oom();
        crash_point("serving");
        proxy_update_acceptor(p);
}

static int proxy_make_link(Proxy *p, TlsContext *tls) {
        LinkSettings settings = { .tls = tls, .server_name = p->config.server_name };
        int r;

        for (char **a = p->config.addresses; *a; a++) {
                r = link_add_ip(&settings, *a, p->config.port);
                if (r < 0) {
                        (void) log_full(&p->log, LOG_ERR, NULL, r, "Bad address '%.64s' in proxy.json: %m", *a);
                        return EXIT_CONFIGURATION;
                }
        }

        r = link_new(p->event, &settings, &link_handlers, p, &p->link);
        return r < 0 ? log_oom() : 0;
}

static int proxy_listen(Proxy *p) {
        int fd, r;

        fd = p->listen ? daemon_listen_unix(p->listen) : daemon_take_socket("agent");
        if (fd < 0)
                return log_full(&p->log, LOG_ERR, NULL, fd, "No socket to listen on (from systemd under the name 'agent', or --listen): %m");

        r = acceptor_new(p->event, fd, NULL, on_connection, p, &p->acceptor);
        if (r < 0)
                return log_full(&p->log, LOG_ERR, NULL, r, "Failed to listen: %m");
        return 0;
}

static int proxy_make_relay(Proxy *p) {
        int r = relay_new(p->event, rules, ELEMENTSOF(rules), &relay_handlers, p, &p->relay);

        if (r < 0)
                return log_oom();
        relay_set_connections_max(p->relay, CONNECTIONS_MAX);
        relay_set_counters(p->relay, p->counters.values);
        return 0;
}

/* Leaves the shim's connections and the session to the next process. */
static int proxy_store(Proxy *p) {
        _cleanup_(handover_done) Handover h = HANDOVER_NULL;
        int r;

        p->stopping = true;
        if (relay_get_n_connections(p->relay) > 0)      /* of a pod that is being stopped there are none */
                (void) log_full(&p->log, LOG_INFO, NULL, 0, "Handing over %zu connections with %zu calls in flight.",
                                relay_get_n_connections(p->relay), relay_get_n_calls(p->relay));
        handover_put(&h, STATE_VERSION);
        handover_put(&h, p->sandbox);
        handover_put(&h, p->n_resumed);
        relay_store(p->relay, &h, "the agent proxy is restarting", FINISH_USEC, NULL);
        r = handover_store(&h);
        if (r < 0)
                (void) log_full(&p->log, LOG_WARNING, NULL, r, "Failed to hand over connections, closing them: %m");
        return r;
}

static int read_state(Proxy *p, Handover *h) {
        int r;

        if (handover_get(h, UINT64_MAX) != STATE_VERSION)
                return -EPROTONOSUPPORT;
        p->sandbox = handover_get(h, _SANDBOX_LIFE_MAX - 1);
        p->n_resumed = handover_get(h, UINT32_MAX);
        r = relay_restore(p->relay, h, &keeper, NULL);
        if (r >= 0 && !relay_get_upstream(p->relay))
                r = proxy_set_away(p);
        return r;
}

/* 1: this goes on where the process before has stopped. */
static int proxy_restore(Proxy *p) {
        _cleanup_(handover_done) Handover h = HANDOVER_NULL;
        int r;

        r = handover_load(&h);
        if (r == 0)
                return 0;
        if (r > 0)
                r = read_state(p, &h);
        if (r < 0) {
                (void) log_full(&p->log, LOG_ERR, NULL, r, "Cannot take over the connections of the process before, closing them: %m");
                p->relay = relay_free(p->relay);
                p->sandbox = SANDBOX_NONE;
                return proxy_make_relay(p);
        }

        p->ready = true;
        p->lost_usec = now_usec(CLOCK_MONOTONIC);
        p->deadline = usec_add(p->lost_usec, proxy_patience(p));
        (void) log_full(&p->log, LOG_NOTICE, NULL, 0, "Took over %zu connections with %zu calls in flight.",
                        relay_get_n_connections(p->relay), relay_get_n_calls(p->relay));
        (void) sd_notify(0, "READY=1");
        proxy_set_status(p, "restarted");
        relay_set_upstream_away(p->relay);
        proxy_update_acceptor(p);
        return 1;
}

static const Option options[] = {
        { "listen", NULL, OPTION_STRING, offsetof(Proxy, listen), NULL,
          "Make this UNIX socket, instead of taking systemd's", "PATH", false, 0, 0 },
        { "credentials", "CREDENTIALS_DIRECTORY", OPTION_STRING, offsetof(Proxy, credentials), NULL,
          "Directory with proxy.json, client.key, client.crt and server-ca.crt", "PATH", false, 0, 0 },
        { "runtime-dir", "RUNTIME_DIRECTORY", OPTION_STRING, offsetof(Proxy, runtime_dir), NULL,
          "Directory for the counters that peerpod-metrics reads; none if not set", "PATH", false, 0, 0 },
        {}
};

static const Program program = {
        .name = "peerpod-agent-proxy",
        .usage = "[OPTIONS…] SANDBOX",
        .description = "Carries one sandbox's agent protocol to the forwarder in its pod VM.",
        .options = options,
        .man = "peerpod-agent-proxy(8)",
};

static int proxy_run(Proxy *p, const char *sandbox_id) {
        _cleanup_(tls_context_unrefp) TlsContext *tls = NULL;
        _cleanup_(close_fdp) int dir_fd = -EBADF;
        int r;

        dir_fd = open(p->credentials, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (dir_fd < 0) {
                log_error_errno(errno, "Failed to open credentials directory '%s': %m", p->credentials);
                return EXIT_CONFIGURATION;
        }
        r = credentials_read_config(dir_fd, sandbox_id, &p->log, &p->config);
        if (r != 0)
                return r;
        r = credentials_read_tls(dir_fd, &p->config, &p->log, &tls);
        if (r != 0)
                return r;

        r = daemon_event_new(&p->event);
        if (r < 0)
                return log_full(&p->log, LOG_ERR, NULL, r, "Failed to set up the event loop: %m");
        r = proxy_counters_open(p->runtime_dir, &p->counters);
        if (r == -ENOMEM)
                return log_oom();
        if (r < 0)
                (void) log_full(&p->log, LOG_WARNING, NULL, r, "Failed to make '%s/" PROXY_COUNTERS_FILE "', going on without metrics: %m",
                                p->runtime_dir);
        p->creations = (Creations) { .event = p->event, .log = &p->log };
        r = proxy_make_relay(p);
        if (r < 0)
                return r;
        r = proxy_listen(p);
        if (r < 0)
                return r;
        r = proxy_make_link(p, tls);
        if (r != 0)
                return r;

        p->start_usec = now_usec(CLOCK_MONOTONIC);
        r = proxy_restore(p);
        if (r < 0)
                return r;
        if (r == 0)
                p->deadline = usec_add(p->start_usec, p->config.connect_timeout_usec);
        proxy_connect(p);

        r = sd_event_loop(p->event);
        crash_point("stopping");
        (void) sd_notify(0, "STOPPING=1");
        if (r < 0 || !p->ready || !handover_is_possible() || proxy_store(p) < 0)
                relay_finish(p->relay, "the agent proxy is stopping", FINISH_USEC);
        return r;
}

static int run(int argc, char *argv[]) {
        _cleanup_(proxy_done) Proxy p = {};
        int r, rest = 0, status;

        r = options_load(&program, argc, argv, &p, &rest, &status);
        if (r == 0) {
                if (argc - rest != 1 || !sandbox_id_is_valid(argv[rest])) {
                        log_error("One argument is needed, the sandbox id. Try 'peerpod-agent-proxy --help'.");
                        r = EXIT_USAGE;
                } else if (isempty(p.credentials)) {
                        log_error("No credentials: neither --credentials nor $CREDENTIALS_DIRECTORY is set.");
                        r = EXIT_CONFIGURATION;
                } else
                        r = proxy_run(&p, argv[rest]);
        } else if (r > 0)
                r = status;

        options_done(options, &p);
        return r;
}

DEFINE_MAIN_FUNCTION(run);
