/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-agent-proxy: carries one sandbox's agent protocol between Kata's shim and the forwarder in its pod VM. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "agent-proxy/container-edit.h"
#include "agent-proxy/counters.h"
#include "agent-proxy/creation.h"
#include "agent-proxy/credentials.h"
#include "agent-proxy/proxy-config.h"
#include "agent-proxy/vm-link.h"
#include "basic/crash-point.h"
#include "basic/daemon.h"
#include "basic/handover.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "ttrpc/acceptor.h"
#include "ttrpc/relay.h"

#define CONNECTIONS_MAX 64U                     /* of the shim and of tools */
#define FINISH_USEC (500 * USEC_PER_MSEC)
#define MALLOC_KEEP_BYTES (16 << 20)
#define TRIM_USEC (2 * USEC_PER_SEC)

typedef enum SandboxLife {
        SANDBOX_NONE,
        SANDBOX_BEING_CREATED,
        SANDBOX_CREATED,
        SANDBOX_DESTROYED,              /* or about to be: the agent ends when it has answered, or even before */
        _SANDBOX_LIFE_MAX,
} SandboxLife;

/* Kinds of calls. These numbers and the order of what proxy_store() and vm_link_store() write are the format of STATE_VERSION. */
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
        VmLink *vm;
        Acceptor *acceptor;
        sd_event_source *trim_timer;
        bool stopping;
        SandboxLife sandbox;            /* changed by proxy_set_sandbox() */

        Creations creations;
        ProxyCounters counters;

        char *listen, *credentials, *runtime_dir;       /* options */
} Proxy;

static void proxy_done(Proxy *p) {
        acceptor_free(p->acceptor);
        sd_event_source_disable_unref(p->trim_timer);
        relay_free(p->relay);
        vm_link_free(p->vm);
        creations_done(&p->creations);
        proxy_counters_done(&p->counters);
        proxy_config_done(&p->config);
        log_context_done(&p->log);
        sd_event_unref(p->event);
}

static void proxy_update_acceptor(Proxy *p) {
        vm_link_clients_changed(p->vm);
        acceptor_set_enabled(p->acceptor, vm_link_is_ready(p->vm) && relay_has_room(p->relay));
}

static void proxy_set_sandbox(Proxy *p, SandboxLife life) {
        p->sandbox = life;
        vm_link_expect_end(p->vm, life == SANDBOX_DESTROYED);
}

static const uint8_t serving[] = { 0x08, 0x01 };        /* kata-containers: health.proto, HealthCheckResponse */

static void on_vm_well(void *userdata) {
        proxy_update_acceptor(userdata);
}

static void on_vm_away(void *userdata) {
        Proxy *p = userdata;

        /* Kata gives a Check 30 seconds (90 with runtime-rs) and then ends the pod. */
        relay_answer_calls(p->relay, CALL_CHECK, serving, sizeof(serving));
}

static const VmLinkHandlers vm_link_handlers = {
        .on_well = on_vm_well,
        .on_away = on_vm_away,
};

static void on_upstream_failing(Relay *r, void *userdata) {
        Proxy *p = userdata;

        if (vm_link_is_ready(p->vm))
                relay_answer_calls(p->relay, CALL_CHECK, serving, sizeof(serving));
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
                proxy_set_sandbox(p, SANDBOX_NONE);
        if (p->stopping)
                return;

        if (error == -ESHUTDOWN && p->sandbox != SANDBOX_DESTROYED)
                proxy_vm_ends(p, text);
        else
                vm_link_lost(p->vm, text);
}

static void on_connections_changed(Relay *r, void *userdata) {
        proxy_update_acceptor(userdata);
}

static int on_trim(sd_event_source *source, uint64_t usec, void *userdata) {
        Proxy *p = userdata;

        p->trim_timer = sd_event_source_disable_unref(p->trim_timer);
        (void) malloc_trim(0);
        return 0;
}

/* Big answers that follow each other have the same pages: fresh ones for each cost more than to carry it. They go back to the kernel
 * some time after the first. */
static void on_whole_answer(Relay *r, void *userdata) {
        Proxy *p = userdata;

        if (!p->trim_timer)
                (void) sd_event_add_time_relative(p->event, &p->trim_timer, CLOCK_MONOTONIC, TRIM_USEC, 0, on_trim, p);
}

static RelayAnswerHandler answer_handler(unsigned kind);

static const RelayHandlers relay_handlers = {
        .on_upstream_lost = on_upstream_lost,
        .on_upstream_failing = on_upstream_failing,
        .on_connections_changed = on_connections_changed,
        .on_whole_answer = on_whole_answer,
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
                proxy_set_sandbox(p, SANDBOX_CREATED);
        else if (p->sandbox == SANDBOX_BEING_CREATED)
                proxy_set_sandbox(p, SANDBOX_NONE);
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
        proxy_set_sandbox(p, SANDBOX_BEING_CREATED);
        edit->on_answer = on_sandbox_created;
        edit->kind = CALL_CREATE_SANDBOX;
}

static void on_sandbox_destroyed(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        Proxy *p = userdata;

        /* An agent that ends before its answer is out is lost to us, or to the forwarder, which then answers for it. */
        if (code != TTRPC_OK && code != TTRPC_UNAVAILABLE && code != -ENOTCONN)
                proxy_set_sandbox(p, SANDBOX_CREATED);
}

/* The agent's last call (kata-containers: src/agent/src/rpc.rs, destroy_sandbox): that the link ends now is no event. */
static void note_destroy_sandbox(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Proxy *p = userdata;

        if (p->sandbox != SANDBOX_CREATED)
                return;
        proxy_set_sandbox(p, SANDBOX_DESTROYED);
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
        if (!vm_link_is_ready(p->vm) || !vm_link_is_away(p->vm))
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
        const VmLinkSettings settings = {
                .config = &p->config,
                .tls = tls,
                .relay = p->relay,
                .counters = &p->counters,
                .log = &p->log,
                .handlers = &vm_link_handlers,
                .userdata = p,
        };

        return vm_link_new(p->event, &settings, &p->vm);
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
        vm_link_store(p->vm, &h, "the agent proxy is restarting", FINISH_USEC);
        r = handover_store(&h);
        if (r < 0)
                (void) log_full(&p->log, LOG_WARNING, NULL, r, "Failed to hand over connections, closing them: %m");
        return r;
}

static int read_state(Proxy *p, Handover *h) {
        if (handover_get(h, UINT64_MAX) != STATE_VERSION)
                return -EPROTONOSUPPORT;
        proxy_set_sandbox(p, handover_get(h, _SANDBOX_LIFE_MAX - 1));
        return vm_link_restore(p->vm, h);
}

/* Goes on where the process before has stopped, if there was one. */
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
                proxy_set_sandbox(p, SANDBOX_NONE);
                r = proxy_make_relay(p);
                if (r < 0)
                        return r;
                vm_link_set_relay(p->vm, p->relay);
                return 0;
        }

        proxy_update_acceptor(p);
        return 0;
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

        (void) mallopt(M_MMAP_THRESHOLD, MALLOC_KEEP_BYTES);
        (void) mallopt(M_TRIM_THRESHOLD, MALLOC_KEEP_BYTES);    /* on_trim() does it */

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

        r = proxy_restore(p);
        if (r < 0)
                return r;
        vm_link_start(p->vm);

        r = sd_event_loop(p->event);
        crash_point("stopping");
        (void) sd_notify(0, "STOPPING=1");
        if (r < 0 || !vm_link_is_ready(p->vm) || !handover_is_possible() || proxy_store(p) < 0)
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
