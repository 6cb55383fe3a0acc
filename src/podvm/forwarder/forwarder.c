/* SPDX-License-Identifier: Apache-2.0 */
/* agent-protocol-forwarder: lets the worker's proxy reach the agent of this pod VM, by TLS with certificates on both sides. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "basic/daemon.h"
#include "basic/handover.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "basic/paths.h"
#include "basic/strv.h"
#include "podvm/forwarder/agent-exit.h"
#include "podvm/forwarder/edits.h"
#include "podvm/forwarder/plain.h"
#include "podvm/forwarder/volume-jobs.h"
#include "podvm/forwarder/volumes-client.h"
#include "podvm/forwarder/workers.h"
#include "ttrpc/acceptor.h"
#include "ttrpc/link.h"
#include "ttrpc/relay.h"
#include "userdata/apf.h"

#define CONNECTIONS_MAX 32U                     /* of workers; more wait in the backlog */
#define AGENT_WAIT_USEC (10 * USEC_PER_SEC)     /* for the agent's socket, while requests are held; then they are refused */
#define AGENT_PAUSE_USEC (100 * USEC_PER_MSEC)
#define AGENT_PAUSE_MAX_USEC (1600 * USEC_PER_MSEC)
#define AGENT_EXIT_USEC (3 * USEC_PER_SEC)            /* for its service's note, when its connection has ended */
#define FINISH_USEC (500 * USEC_PER_MSEC)
#define PEM_SIZE_MAX (256U << 10)
#define STATE_VERSION 2U                        /* of what forwarder_store() writes */

typedef struct Forwarder {
        sd_event *event;
        LogContext log;
        Relay *relay;
        Workers *workers;
        Link *agent;
        Acceptor *acceptor;
        VolumesClient *volumes;
        VolumeJobs *jobs;
        VolumeJobSettings job_settings;
        sd_event_source *exit_watch;    /* NULL: nobody leaves notes here */
        sd_event_source *loss_timer;    /* the agent's connection has ended */
        char end[AGENT_EXIT_TEXT_SIZE]; /* the agent has ended, and the VM will; "": it has not */
        bool stopping;

        /* Options */
        char *volumes_socket, *volumes_dir, *exit_note;
        char *config, *listen, *agent_socket, *pod_namespace, *host_interface, *bind_root;
        char *ca_file, *cert_file, *key_file;
        bool skip_verify, disable_tls;
} Forwarder;

static void forwarder_done(Forwarder *f) {
        acceptor_free(f->acceptor);
        sd_event_source_disable_unref(f->exit_watch);
        sd_event_source_disable_unref(f->loss_timer);
        link_free(f->agent);
        relay_free(f->relay);
        volume_jobs_free(f->jobs);
        volumes_client_free(f->volumes);
        workers_free(f->workers);
        log_context_done(&f->log);
        sd_event_unref(f->event);
}

static void forwarder_update_acceptor(Forwarder *f) {
        acceptor_set_enabled(f->acceptor, relay_get_n_connections(f->relay) < CONNECTIONS_MAX);
}

static void on_agent_up(Link *l, Channel *channel, const char *address, void *userdata) {
        Forwarder *f = userdata;

        (void) log_full(&f->log, LOG_INFO, NULL, 0, "Connected to the agent at '%s'.", address);
        (void) sd_notify(0, "STATUS=Connected to the agent.");
        relay_set_upstream(f->relay, channel);
}

static void on_agent_trouble(Link *l, const char *text, void *userdata) {
        (void) sd_notifyf(0, "STATUS=Waiting for the agent: %s", text);
}

static void on_agent_failed(Link *l, const char *text, void *userdata) {
        Forwarder *f = userdata;
        char message[300];

        (void) snprintf(message, sizeof(message), "the agent does not answer: %.200s", text);
        (void) log_full(&f->log, LOG_WARNING, NULL, 0, "Refused requests: %s.", message);
        relay_refuse_waiting(f->relay, message);
}

static const LinkHandlers agent_handlers = {
        .on_up = on_agent_up,
        .on_trouble = on_agent_trouble,
        .on_failed = on_agent_failed,
};

static const char* loss_text(const Forwarder *f) {
        return f->end[0] ? f->end : "closed by the agent";
}

static int on_loss(sd_event_source *source, uint64_t usec, void *userdata) {
        Forwarder *f = userdata;

        f->loss_timer = sd_event_source_disable_unref(f->loss_timer);
        if (relay_get_upstream(f->relay))
                relay_lose_upstream(f->relay, -ECONNRESET, loss_text(f));
        else if (f->end[0])
                relay_refuse_waiting(f->relay, f->end);
        return 0;
}

static bool lose_agent_in(Forwarder *f, uint64_t usec) {
        f->loss_timer = sd_event_source_disable_unref(f->loss_timer);
        return sd_event_add_time_relative(f->event, &f->loss_timer, CLOCK_MONOTONIC, usec, 0, on_loss, f) >= 0;
}

/* The agent's service says how it has ended, just after its connection has: calls in flight are answered with that. */
static bool on_upstream_closing(Relay *r, void *userdata) {
        Forwarder *f = userdata;

        return (f->exit_watch || f->end[0]) && lose_agent_in(f, f->end[0] ? 0 : AGENT_EXIT_USEC);
}

static void look_for_exit(Forwarder *f) {
        int r;

        if (f->end[0])
                return;
        r = agent_exit_read(f->exit_note, f->end);
        if (r < 0)
                (void) log_full(&f->log, LOG_WARNING, NULL, r, "Failed to read '%s', ignoring: %m", f->exit_note);
        if (r <= 0)
                return;

        (void) log_full(&f->log, LOG_NOTICE, NULL, 0, "The end of this VM begins: %s.", f->end);
        (void) sd_notifyf(0, "STATUS=Waiting for the end: %s", f->end);
        workers_set_end(f->workers, f->end);
        link_stop(f->agent);
        (void) lose_agent_in(f, 0);
}

static int on_exit_note(sd_event_source *source, const struct inotify_event *event, void *userdata) {
        look_for_exit(userdata);
        return 0;
}

static void on_upstream_wanted(Relay *r, void *userdata) {
        Forwarder *f = userdata;
        int k;

        if (f->end[0]) {
                (void) lose_agent_in(f, 0);
                return;
        }
        k = link_start(f->agent, AGENT_WAIT_USEC);
        if (k < 0)
                (void) log_full(&f->log, LOG_ERR, NULL, k, "Cannot try to reach the agent: %m");
}

static void on_upstream_lost(Relay *r, int error, const char *text, void *userdata) {
        Forwarder *f = userdata;

        if (f->stopping)
                return;
        if (error == -ESTALE)           /* relay.c: .cancel_abandoned */
                (void) log_full(&f->log, LOG_INFO, NULL, 0, "Closed the connection to the agent, to cancel calls of workers that are gone.");
        else if (!f->end[0])
                (void) log_full(&f->log, LOG_WARNING, NULL, 0, "Lost the agent: %s. The next request connects again.", text);
        if (!f->end[0])
                (void) sd_notifyf(0, "STATUS=Lost the agent: %s", text);
        link_stop(f->agent);
}

static void on_connection_closed(Relay *r, void *userdata) {
        forwarder_update_acceptor(userdata);
}

static const RelayHandlers relay_handlers = {
        .on_upstream_wanted = on_upstream_wanted,
        .on_upstream_lost = on_upstream_lost,
        .on_connections_changed = on_connection_closed,
        .on_upstream_closing = on_upstream_closing,
        .upstream = "agent",
        .cancel_abandoned = true,
        .may_hold = true,
};

static void rule_create_container(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Forwarder *f = userdata;

        volume_jobs_create_container(f->jobs, f->relay, request, edit);
}

static void rule_remove_container(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Forwarder *f = userdata;

        volume_jobs_remove_container(f->jobs, request, edit);
}

static void rule_create_sandbox(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Forwarder *f = userdata;

        edit_create_sandbox(request, edit);
        (void) log_full(&f->log, LOG_INFO, NULL, 0, "The worker creates the sandbox.");
}

static void rule_destroy_sandbox(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        Forwarder *f = userdata;

        (void) log_full(&f->log, LOG_INFO, NULL, 0, "The worker destroys the sandbox.");
        volume_jobs_destroy_sandbox(f->jobs, f->relay, request, edit);
}

static const RelayRule rules[] = {
        { "grpc.AgentService", "CreateContainer", rule_create_container },
        { "grpc.AgentService", "RemoveContainer", rule_remove_container },
        { "grpc.AgentService", "CreateSandbox", rule_create_sandbox },
        { "grpc.AgentService", "DestroySandbox", rule_destroy_sandbox },
};

static void on_connection(Acceptor *a, Channel *channel, const char *peer, void *userdata) {
        Forwarder *f = userdata;

        workers_add(f->workers, channel, peer);
        forwarder_update_acceptor(f);
}

static int forwarder_make_relay(Forwarder *f) {
        int r;

        r = relay_new(f->event, rules, ELEMENTSOF(rules), &relay_handlers, f, &f->relay);
        if (r >= 0)
                r = workers_new(f->event, f->relay, &f->log, &f->workers);
        if (r >= 0)
                r = volume_jobs_new(f->event, f->volumes, &f->job_settings, &f->log, &f->jobs);
        return r < 0 ? log_oom() : 0;
}

static void store_connection(const Channel *channel, Handover *h, void *userdata) {
        workers_store(channel, h);
}

static int restore_connection(Channel *channel, Handover *h, void *userdata) {
        Forwarder *f = userdata;

        return workers_restore(f->workers, channel, h);
}

/* Leaves the agent's connection and the workers' sessions to the next process. */
static int forwarder_store(Forwarder *f) {
        _cleanup_(handover_done) Handover h = HANDOVER_NULL;
        int r;

        f->stopping = true;
        (void) log_full(&f->log, LOG_INFO, NULL, 0, "Handing over %zu connections with %zu calls in flight.",
                        relay_get_n_connections(f->relay), relay_get_n_calls(f->relay));
        handover_put(&h, STATE_VERSION);
        relay_store(f->relay, &h, "agent-protocol-forwarder is restarting", FINISH_USEC, store_connection);
        r = handover_store(&h);
        if (r < 0)
                (void) log_full(&f->log, LOG_WARNING, NULL, r, "Failed to hand over connections, closing them: %m");
        return r;
}

static int forwarder_restore(Forwarder *f) {
        _cleanup_(handover_done) Handover h = HANDOVER_NULL;
        int r;

        r = handover_load(&h);
        if (r == 0)
                return 0;
        if (r > 0)
                r = handover_get(&h, UINT64_MAX) == STATE_VERSION ? relay_restore(f->relay, &h, NULL, NULL, restore_connection) : -EPROTONOSUPPORT;
        if (r < 0) {
                (void) log_full(&f->log, LOG_ERR, NULL, r, "Cannot take over the connections of the process before, closing them: %m");
                f->relay = relay_free(f->relay);
                f->jobs = volume_jobs_free(f->jobs);
                f->workers = workers_free(f->workers);
                return forwarder_make_relay(f);
        }
        (void) log_full(&f->log, LOG_NOTICE, NULL, 0, "Took over %zu connections with %zu calls in flight.",
                        relay_get_n_connections(f->relay), relay_get_n_calls(f->relay));
        return 0;
}

/* "0.0.0.0:15150", "[::]:15150", ":15150", as Go's net.Listen() has it. */
static int listen_tcp(const char *text, int *ret) {
        _cleanup_(close_fdp) int fd = -EBADF;
        struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
        struct sockaddr_in in = { .sin_family = AF_INET };
        const char *colon = strrchr(text, ':');
        char host[INET6_ADDRSTRLEN + 2];
        bool v6 = false;
        uint16_t port;
        size_t n;

        if (!colon || parse_port(colon + 1, &port) < 0)
                return -EINVAL;
        n = colon - text;
        if (n >= sizeof(host))
                return -EINVAL;
        memcpy(host, text, n);
        host[n] = '\0';

        if (n == 0)
                v6 = true;              /* in6addr_any, and IPv4 by mapping */
        else if (host[0] == '[' && host[n - 1] == ']') {
                host[n - 1] = '\0';
                v6 = true;
                if (inet_pton(AF_INET6, host + 1, &in6.sin6_addr) != 1)
                        return -EINVAL;
        } else if (inet_pton(AF_INET, host, &in.sin_addr) != 1)
                return -EINVAL;
        in.sin_port = in6.sin6_port = htons(port);

        fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int) { 1 }, sizeof(int)) < 0)
                return -errno;
        if (bind(fd, v6 ? (struct sockaddr*) &in6 : (struct sockaddr*) &in, v6 ? sizeof(in6) : sizeof(in)) < 0)
                return -errno;
        if (listen(fd, SOMAXCONN) < 0)
                return -errno;

        *ret = TAKE_FD(fd);
        return 0;
}

static int forwarder_listen(Forwarder *f, TlsContext *tls) {
        int fd, r;

        fd = daemon_take_socket("agent-protocol");
        if (fd == -ENOENT) {
                r = listen_tcp(f->listen, &fd);
                if (r == -EINVAL) {
                        log_error("Option '--listen' needs ADDRESS:PORT, not '%.64s'.", f->listen);
                        return EXIT_USAGE;
                }
                if (r < 0)
                        return log_full(&f->log, LOG_ERR, NULL, r, "Failed to listen on '%s': %m", f->listen);
        } else if (fd < 0)
                return log_full(&f->log, LOG_ERR, NULL, fd, "The socket that systemd passed is of no use: %m");

        r = acceptor_new(f->event, fd, tls, on_connection, f, &f->acceptor);
        if (r < 0)
                return log_full(&f->log, LOG_ERR, NULL, r, "Failed to listen: %m");
        return 0;
}

static int read_config(Forwarder *f, ApfConfig *ret) {
        _cleanup_(erase_free_stringp) char *text = NULL;
        _cleanup_(freep) char *error = NULL, *path = NULL;
        const char *credentials = getenv("CREDENTIALS_DIRECTORY");
        int r = -ENOENT;

        if (!isempty(credentials)) {
                if (asprintf(&path, "%s/apf.json", credentials) < 0)
                        return log_oom();
                r = read_full_file_at(AT_FDCWD, path, APF_SIZE_MAX, &text, NULL);
        }
        if (r == -ENOENT) {
                free(path);
                path = strdup(f->config);
                if (!path)
                        return log_oom();
                r = read_full_file_at(AT_FDCWD, path, APF_SIZE_MAX, &text, NULL);
        }
        if (r < 0) {
                log_error_errno(r, "Failed to read '%s': %m", path);
                return EXIT_CONFIGURATION;
        }

        r = apf_config_parse(text, strlen(text), ret, &error);
        if (r < 0) {
                log_error("Bad '%s': %s.", path, error ?: strerrordesc_np(-r));
                return r == -ENOMEM ? r : EXIT_CONFIGURATION;
        }

        if (log_context_add(&f->log, "PEERPOD_POD_NAME", ret->pod_name) < 0 ||
            log_context_add(&f->log, "PEERPOD_POD_NAMESPACE", ret->pod_namespace) < 0)
                return log_oom();
        return 0;
}

/* A file given by an option wins over what the worker sent. */
static int read_pem(const char *option, const char *path, char **text) {
        char *s;
        int r;

        if (isempty(path))
                return 0;
        r = read_full_file_at(AT_FDCWD, path, PEM_SIZE_MAX, &s, NULL);
        if (r < 0)
                return log_error_errno(r, "Failed to read '%s' of option '--%s': %m", path, option);
        erase_free_stringp(text);
        *text = s;
        return 0;
}

static int forwarder_load_tls(Forwarder *f, ApfConfig *apf, TlsContext **ret) {
        _cleanup_(freep) char *error = NULL;
        TlsSettings settings;
        int r;

        if (f->disable_tls) {
                if (!plain_is_allowed()) {
                        log_error("Option '--disable-tls' is for images that have the file '" PLAIN_MARKER "', and this one has not: not starting.");
                        return EXIT_CONFIGURATION;
                }
                (void) log_full(&f->log, LOG_WARNING, NULL, 0, "TLS is off: anybody who can reach this VM controls its pod.");
                return 0;
        }
        if (f->skip_verify) {
                log_error("Option '--tls-skip-verify' would let anybody in; use '--disable-tls' where that is meant.");
                return EXIT_USAGE;
        }
        if (isempty(f->cert_file) != isempty(f->key_file)) {
                log_error("Options '--cert-file' and '--cert-key' must come together.");
                return EXIT_USAGE;
        }
        if (read_pem("ca-cert-file", f->ca_file, &apf->tls_client_ca) < 0 ||
            read_pem("cert-file", f->cert_file, &apf->tls_server_cert) < 0 ||
            read_pem("cert-key", f->key_file, &apf->tls_server_key) < 0)
                return EXIT_CONFIGURATION;
        if (isempty(apf->tls_client_ca)) {
                log_error("There is no 'tls-client-ca' to verify the worker with, so anybody could control this pod: not starting.");
                return EXIT_CONFIGURATION;
        }

        /* Without a minimum, upstream's is TLS 1.2; its workers have one in every apf.json that they mean. */
        settings = (TlsSettings) {
                .server = true,
                .key = apf->tls_server_key,
                .cert = apf->tls_server_cert,
                .trust = apf->tls_client_ca,
                .min_version = isempty(apf->tls_min_version) ? TLS_VERSION_1_2 : tls_version_from_string(apf->tls_min_version),
                .cipher_suites = apf->tls_cipher_suites,
                .alpn = SESSION_ALPN,
        };
        r = tls_context_new(&settings, ret, &error);
        if (r < 0) {
                log_error("TLS: %s.", error ?: strerrordesc_np(-r));
                return r == -ENOMEM ? r : EXIT_CONFIGURATION;
        }
        return 0;
}

static const Option options[] = {
        { "config", NULL, OPTION_STRING, offsetof(Forwarder, config), PODVM_APF_CONFIG,
          "What the worker sent; the credential apf.json comes first", "PATH", false, 0, 0 },
        { "listen", NULL, OPTION_STRING, offsetof(Forwarder, listen), "0.0.0.0:15150",
          "Where to listen, if systemd passes no socket", "ADDRESS:PORT", false, 0, 0 },
        { "kata-agent-socket", NULL, OPTION_STRING, offsetof(Forwarder, agent_socket), PODVM_AGENT_SOCKET,
          "UNIX socket of the agent; @NAME is abstract", "PATH", false, 0, 0 },
        { "pod-namespace", NULL, OPTION_STRING, offsetof(Forwarder, pod_namespace), PODVM_POD_NETNS,
          "Network namespace that containers are put into", "PATH", false, 0, 0 },
        { "host-interface", NULL, OPTION_STRING, offsetof(Forwarder, host_interface), NULL,
          "Accepted for compatibility; pod-network(8) has this option now", "NAME", false, 0, 0 },
        { "bind-source-root", NULL, OPTION_STRING, offsetof(Forwarder, bind_root), BIND_SOURCE_ROOT,
          "Directory below which missing sources of bind mounts are made", "PATH", false, 0, 0 },
        { "ca-cert-file", NULL, OPTION_STRING, offsetof(Forwarder, ca_file), NULL,
          "Certificate to verify the worker with, instead of tls-client-ca", "PATH", false, 0, 0 },
        { "cert-file", NULL, OPTION_STRING, offsetof(Forwarder, cert_file), NULL,
          "Certificate, instead of tls-server-cert", "PATH", false, 0, 0 },
        { "cert-key", NULL, OPTION_STRING, offsetof(Forwarder, key_file), NULL,
          "Its key, instead of tls-server-key", "PATH", false, 0, 0 },
        { "tls-skip-verify", NULL, OPTION_BOOL, offsetof(Forwarder, skip_verify), "false",
          "Known from upstream and refused", NULL, false, 0, 0 },
        { "disable-tls", NULL, OPTION_BOOL, offsetof(Forwarder, disable_tls), "false",
          "Plain TCP, open to everybody; only where the image allows it", NULL, false, 0, 0 },
        { "volumes-socket", NULL, OPTION_STRING, offsetof(Forwarder, volumes_socket), PODVM_VOLUMES_SOCKET,
          "Where podvm-volumes(8) is reached", "PATH", false, 0, 0 },
        { "volumes-dir", NULL, OPTION_STRING, offsetof(Forwarder, volumes_dir), PODVM_VOLUMES_DIR,
          "Where it mounts cloud volumes", "PATH", false, 0, 0 },
        { "agent-exit-note", NULL, OPTION_STRING, offsetof(Forwarder, exit_note), PODVM_AGENT_EXIT,
          "Where the agent's service notes how it has ended", "PATH", false, 0, 0 },
        {}
};

static const Program program = {
        .name = "agent-protocol-forwarder",
        .usage = "[OPTIONS…]",
        .description = "Lets the worker's agent proxy reach the agent of this pod VM.",
        .options = options,
        .man = "agent-protocol-forwarder(8)",
};

static int forwarder_run(Forwarder *f) {
        _cleanup_(apf_config_done) ApfConfig apf = APF_CONFIG_NULL;
        _cleanup_(tls_context_unrefp) TlsContext *tls = NULL;
        LinkSettings agent = { .pause_usec = AGENT_PAUSE_USEC, .pause_max_usec = AGENT_PAUSE_MAX_USEC };
        int r;

        if (!f->disable_tls) {
                r = read_config(f, &apf);
                if (r != 0)
                        return r;
        }
        r = forwarder_load_tls(f, &apf, &tls);
        if (r != 0)
                return r;
        apf_config_done(&apf);          /* the key is with GnuTLS now */

        /* Sources of bind mounts are for users of containers, not for us; nothing else is written. */
        (void) umask(0022);

        r = daemon_event_new(&f->event);
        if (r < 0)
                return log_full(&f->log, LOG_ERR, NULL, r, "Failed to set up the event loop: %m");
        f->job_settings = (VolumeJobSettings) {
                .pod_namespace = f->pod_namespace,
                .bind_root = f->bind_root,
                .mount_root = f->volumes_dir,
        };
        r = volumes_client_new(f->event, f->volumes_socket, &f->volumes);
        if (r < 0)
                return log_oom();
        r = forwarder_make_relay(f);
        if (r < 0)
                return r;

        r = link_add_unix(&agent, f->agent_socket);
        if (r < 0) {
                log_error_errno(r, "Bad agent socket '%s': %m", f->agent_socket);
                return EXIT_USAGE;
        }
        r = link_new(f->event, &agent, &agent_handlers, f, &f->agent);
        if (r < 0)
                return log_oom();
        r = forwarder_listen(f, tls);
        if (r != 0)
                return r;

        r = forwarder_restore(f);
        if (r < 0)
                return r;

        r = agent_exit_watch(f->event, f->exit_note, on_exit_note, f, &f->exit_watch);
        if (r < 0)
                (void) log_full(&f->log, LOG_DEBUG, NULL, r, "No notes of the agent's end from '%s': %m", f->exit_note);
        look_for_exit(f);

        forwarder_update_acceptor(f);
        (void) sd_notify(0, "READY=1\nSTATUS=Waiting for the worker.");

        r = sd_event_loop(f->event);
        (void) sd_notify(0, "STOPPING=1");
        look_for_exit(f);
        if (r < 0 || f->end[0] || !handover_is_possible() || forwarder_store(f) < 0)
                relay_finish(f->relay, f->end[0] ? f->end : "agent-protocol-forwarder is stopping", FINISH_USEC);
        return r;
}

static int run(int argc, char *argv[]) {
        _cleanup_(forwarder_done) Forwarder f = {};
        int r, status;

        r = options_load(&program, argc, argv, &f, NULL, &status);
        if (r == 0)
                r = forwarder_run(&f);
        else if (r > 0)
                r = status;

        options_done(options, &f);
        return r;
}

DEFINE_MAIN_FUNCTION(run);
