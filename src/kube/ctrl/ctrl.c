/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-ctrl: deletes at their clouds the instances whose PeerPods are deleted, so that a pod VM ends with its pod, whatever has become of the
 * node that made it. */
#include <signal.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/main-func.h"
#include "basic/messages.h"
#include "basic/options.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/ctrl/cloud-settings.h"
#include "kube/ctrl/controller.h"
#include "kube/ctrl/endpoints.h"
#include "kube/kube-config.h"
#include "kube/kube-event.h"
#include "kube/kube-lease.h"
#include "kube/kube-watch.h"
#include "provider/secrets.h"

#define LEASE_NAME "33f6c5d6.confidentialcontainers.org"        /* cloud-api-adaptor: src/peerpod-ctrl/main.go */
#define CONTROLLER_NAME "confidentialcontainers.org/peerpod-ctrl"

typedef struct Settings {
        char *kubeconfig, *metrics_address, *health_address, *lease_namespace, *lease_name, *settings_namespace, *config_map, *secret;
        char *provider, *module_directory, *state_directory, *runtime_directory, *providerd;
        char **settings_paths, **credentials_paths;
        bool leader_elect, delete_untagged;
        uint32_t n_calls;
        uint64_t delete_timeout_usec, stop_timeout_usec, backoff_usec, backoff_max_usec, recheck_usec;
        uint64_t lease_usec, renew_usec, retry_usec;
} Settings;

#define FIELD(f) offsetof(Settings, f)

static const Option options[] = {
        { "kubeconfig", NULL, OPTION_STRING, FIELD(kubeconfig), "", "How to reach the API server; else $KUBECONFIG, or what a pod is given", "PATH" },
        { "metrics-bind-address", NULL, OPTION_STRING, FIELD(metrics_address), ":8080", "Where to serve /metrics; 0 is nowhere", "[HOST]:PORT" },
        { "health-probe-bind-address", NULL, OPTION_STRING, FIELD(health_address), ":8081", "Where to serve /healthz and /readyz; 0 is nowhere",
          "[HOST]:PORT" },
        { "leader-elect", NULL, OPTION_BOOL, FIELD(leader_elect), "false", "Do nothing but while holding the lease" },
        { "leader-election-namespace", NULL, OPTION_STRING, FIELD(lease_namespace), "", "Namespace of the lease; else $PEERPODS_NAMESPACE, or the pod's own",
          "NAME" },
        { "leader-election-id", NULL, OPTION_STRING, FIELD(lease_name), LEASE_NAME, "Name of the lease", "NAME" },
        { "lease-duration", NULL, OPTION_DURATION, FIELD(lease_usec), "15s", "After so long without renewal others may lead", "TIME" },
        { "lease-renew-deadline", NULL, OPTION_DURATION, FIELD(renew_usec), "10s", "After so long without renewal this process ends", "TIME" },
        { "lease-retry-period", NULL, OPTION_DURATION, FIELD(retry_usec), "2s", "How often to try and to renew", "TIME" },
        { "settings", "PEERPOD_CTRL_SETTINGS", OPTION_STRV, FIELD(settings_paths), NULL,
          "The clouds' settings: environment files, or directories with a file for each variable; read again when they change", "PATH,…" },
        { "credentials", "PEERPOD_CTRL_CREDENTIALS", OPTION_STRV, FIELD(credentials_paths), NULL,
          "The same for credentials, which stay out of environments", "PATH,…" },
        { NULL, "PEERPODS_NAMESPACE", OPTION_STRING, FIELD(settings_namespace), "",
          "Namespace of a ConfigMap and a Secret with the clouds' settings; read from the API server, and again when they change" },
        { "config-map", "PEERPOD_CTRL_CONFIG_MAP", OPTION_STRING, FIELD(config_map), "peer-pods-cm", "Name of that ConfigMap", "NAME" },
        { "secret", "PEERPOD_CTRL_SECRET", OPTION_STRING, FIELD(secret), "peer-pods-secret", "Name of that Secret", "NAME" },
        { "provider", "CLOUD_PROVIDER", OPTION_STRING, FIELD(provider), "", "A provider to begin with; others are started when needed", "NAME" },
        { "module-directory", "PEERPOD_PROVIDER_MODULE_DIRECTORY", OPTION_STRING, FIELD(module_directory), PROVIDERMODULEDIR, "Where the modules are",
          "PATH" },
        { "providerd", NULL, OPTION_STRING, FIELD(providerd), PKGLIBEXECDIR "/peerpod-providerd", "The program that runs a module", "PATH" },
        { "state-directory", "STATE_DIRECTORY", OPTION_STRING, FIELD(state_directory), "/var/lib/peerpod-ctrl", "Where modules may keep files", "PATH" },
        { "runtime-directory", "RUNTIME_DIRECTORY", OPTION_STRING, FIELD(runtime_directory), "/run/peerpod-ctrl", "Where sockets of the modules' processes are",
          "PATH" },
        { "concurrent-deletes", NULL, OPTION_U32, FIELD(n_calls), "16", "How many deletions may run at once at each provider", "N", .min = 1, .max = 256 },
        { "delete-timeout", "PEERPOD_DELETE_TIMEOUT", OPTION_DURATION, FIELD(delete_timeout_usec), "10m", "How long a deletion may take", "TIME" },
        { "stop-timeout", NULL, OPTION_DURATION, FIELD(stop_timeout_usec), "20s", "How long running deletions may take to end when the service stops", "TIME" },
        { "retry", NULL, OPTION_DURATION, FIELD(backoff_usec), "1s", "How long to wait after a failure, at most; doubled for each further one", "TIME" },
        { "retry-max", NULL, OPTION_DURATION, FIELD(backoff_max_usec), "5m", "But not more than this", "TIME" },
        { "recheck", NULL, OPTION_DURATION, FIELD(recheck_usec), "15s", "How often to look after a pod that holds up a deletion", "TIME" },
        { "delete-untagged", "PEERPOD_CTRL_DELETE_UNTAGGED", OPTION_BOOL, FIELD(delete_untagged), "false",
          "Delete instances that cloud-api-adaptor made, too: they have no owner tag, so their names decide" },
        {}
};

static const Program program = {
        .name = "peerpod-ctrl",
        .usage = "[OPTIONS…]",
        .description = "Deletes the cloud instances of PeerPods that are deleted.",
        .options = options,
        .man = "peerpod-ctrl(8)",
};

typedef struct Process {
        const Settings *settings;       /* borrowed */
        sd_event *event;
        KubeClient *client;
        KubeEvents *events;
        KubeLease *lease;
        CloudSettings *cloud;
        Endpoints *endpoints;
        ControllerSpec spec;
        Controller controller;
        bool leads, has_settings, began, stopping;
} Process;

static void settings_done(Settings *s) {
        options_done(options, s);
}

static void process_done(Process *p) {
        p->endpoints = endpoints_free(p->endpoints);
        controller_done(&p->controller);
        p->cloud = cloud_settings_free(p->cloud);
        p->lease = kube_lease_free(p->lease);
        p->events = kube_events_free(p->events);
        p->client = kube_client_free(p->client);
        p->event = sd_event_unref(p->event);
}

/* ---- the end ---- */

static void on_released(KubeLease *l, void *userdata) {
        Process *p = userdata;

        (void) sd_event_exit(p->event, 0);
}

/* What was under way has ended: now others may lead. */
static void on_stopped(Controller *c, void *userdata) {
        Process *p = userdata;

        if (!p->lease || kube_lease_release(p->lease, on_released, p) < 0)
                (void) sd_event_exit(p->event, 0);
}

static int on_signal(sd_event_source *es, const struct signalfd_siginfo *si, void *userdata) {
        Process *p = userdata;

        if (p->stopping || !p->event)
                return sd_event_exit(sd_event_source_get_event(es), 0);
        p->stopping = true;
        (void) sd_notify(/* unset_environment= */ false, "STOPPING=1\nSTATUS=Waiting for running deletions to end.");
        controller_stop(&p->controller);
        return 0;
}

/* ---- the beginning ---- */

/* Borrowed until the settings change. */
static const char* default_provider(const Process *p) {
        return !isempty(p->settings->provider) ? p->settings->provider : strempty(variables_get(cloud_settings_get(p->cloud), "CLOUD_PROVIDER"));
}

static void begin(Process *p) {
        if (p->began || p->stopping || !p->leads || !p->cloud || !cloud_settings_are_read(p->cloud))
                return;
        p->began = true;
        p->controller.settings = p->cloud;
        p->spec.default_provider = default_provider(p);
        if (controller_lead(&p->controller) < 0)
                (void) sd_event_exit(p->event, EXIT_FAILURE);
        (void) sd_notify(/* unset_environment= */ false, "STATUS=Following PeerPods.");
}

static bool provider_is_known(const Process *p) {
        const char *name = default_provider(p);

        if (isempty(name) || provider_is_installed(provider_name_canonical(name), p->spec.provider.module_directory, cloud_settings_get(p->cloud)))
                return true;
        log_error("CLOUD_PROVIDER is '%.64s', and there is no provider module of that name in '%s'.", name, p->spec.provider.module_directory);
        return false;
}

static void on_settings(CloudSettings *c, void *userdata) {
        Process *p = userdata;

        if (p->began) {
                controller_settings_changed(&p->controller);
                return;
        }
        /* At the start only: what is changed later can be mended without a restart. */
        if (!p->has_settings && !provider_is_known(p)) {
                (void) sd_event_exit(p->event, EXIT_CONFIGURATION);
                return;
        }
        p->has_settings = true;
        begin(p);
}

static void on_acquired(KubeLease *l, void *userdata) {
        Process *p = userdata;

        log_full(NULL, LOG_NOTICE, MSG_CTRL_LEADS, 0, "This controller leads now, as '%s'.", kube_lease_identity(l));
        p->leads = true;
        begin(p);
}

/* Another one may act by now. What a provider is doing is done twice at worst, which is as good as once. */
static void on_lost(KubeLease *l, const char *why, void *userdata) {
        Process *p = userdata;

        log_error("This controller does not lead any more, ending: %s", why);
        (void) sd_event_exit(p->event, EXIT_FAILURE);
}

static void on_leader(KubeLease *l, const char *identity, void *userdata) {
        if (!isempty(identity) && !streq(identity, kube_lease_identity(l))) {
                log_info("'%s' leads, waiting.", identity);
                (void) sd_notifyf(/* unset_environment= */ false, "STATUS=Waiting: '%s' leads.", identity);
        }
}

static int begin_election(Process *p, int *ret_exit) {
        const Settings *s = p->settings;
        const char *ns = !isempty(s->lease_namespace) ? s->lease_namespace : !isempty(s->settings_namespace) ? s->settings_namespace :
                kube_client_default_namespace(p->client);
        int r;

        if (!s->leader_elect) {
                p->leads = true;
                return 0;
        }
        if (isempty(ns)) {
                log_error("--leader-elect needs --leader-election-namespace: neither PEERPODS_NAMESPACE nor the kubeconfig names one.");
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }
        const KubeLeaseSpec spec = {
                .ns = ns,
                .name = s->lease_name,
                .duration_usec = s->lease_usec,
                .renew_deadline_usec = s->renew_usec,
                .retry_usec = s->retry_usec,
                .on_acquired = on_acquired,
                .on_lost = on_lost,
                .on_leader = on_leader,
        };

        r = kube_lease_new(p->client, &spec, p, &p->lease);
        if (r == -EINVAL) {
                log_error("--lease-duration must be whole seconds and more than --lease-renew-deadline, and that more than --lease-retry-period.");
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }
        return r < 0 ? log_error_errno(r, "Failed to begin the election: %m") : 0;
}

static int open_client(Process *p, int *ret_exit) {
        _cleanup_(kube_config_freep) KubeConfig *config = NULL;
        _cleanup_(freep) char *text = NULL;
        int r;

        r = kube_config_load(isempty(p->settings->kubeconfig) ? NULL : p->settings->kubeconfig, &config, &text);
        if (r < 0 && r != -ENOMEM) {
                log_error("There is no way to reach an API server: %s", text ?: "neither --kubeconfig, nor $KUBECONFIG, nor what a pod is given");
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }
        /* How much is under way is bounded elsewhere, and the server says when it is too much. */
        if (r >= 0)
                r = kube_client_new(p->event, config, &(KubeClientOptions) { .qps = UINT32_MAX, .user_agent = "peerpod-ctrl/" PEERPOD_VERSION },
                                    &p->client, &text);
        if (r < 0)
                return log_error_errno(r, "Failed to prepare to talk to the API server: %s", text ?: strerror(-r));
        log_info("The API server is '%s', by %s.", config->server, config->origin);
        return 0;
}

static int open_settings(Process *p) {
        const Settings *s = p->settings;
        _cleanup_(strv_freep) char **secret_paths = NULL;
        _cleanup_(freep) char *credential = NULL;
        const char *directory = getenv("CREDENTIALS_DIRECTORY");
        int r = 0;

        for (char **f = s->credentials_paths; r >= 0 && f && *f; f++)
                r = strv_extend(&secret_paths, *f);
        if (r >= 0 && !isempty(directory)) {
                if (asprintf(&credential, "%s/" SECRETS_CREDENTIAL, directory) < 0)
                        return log_oom();
                r = strv_extend(&secret_paths, credential);
        }
        if (r < 0)
                return log_oom();
        const CloudSettingsSpec spec = {
                .paths = s->settings_paths,
                .secret_paths = secret_paths,
                .ns = isempty(s->settings_namespace) ? NULL : s->settings_namespace,
                .config_map = s->config_map,
                .secret = s->secret,
        };

        return cloud_settings_new(p->event, p->client, &spec, on_settings, p, &p->cloud);
}

/* ---- what is told ---- */

static int gather(Exposition *e, void *userdata) {
        Process *p = userdata;
        KubeClientStats stats;
        ControllerCounts n;
        int r;

        controller_count(&p->controller, &n);
        kube_client_stats(p->client, &stats);
        const struct {
                const char *family, *state;
                uint64_t value;
        } samples[] = {
                { "peerpod_ctrl_leader",                    NULL,       p->leads },
                { "peerpod_ctrl_peerpods",                  "alive",    n.n - n.n_deleting },
                { "peerpod_ctrl_peerpods",                  "deleting", n.n_deleting - n.n_held },
                { "peerpod_ctrl_peerpods",                  "held",     n.n_held },
                { "peerpod_ctrl_oldest_delete_age_seconds", NULL,       n.oldest_delete_usec },
                { "peerpod_ctrl_peerpods_released",         NULL,       p->controller.n_released },
                { "peerpod_ctrl_peerpods_superseded",       NULL,       p->controller.n_superseded },
                { "peerpod_ctrl_requests",                  NULL,       stats.n_requests },
                { "peerpod_ctrl_request_failures",          NULL,       stats.n_failures },
        };

        for (size_t i = 0; i < ELEMENTSOF(samples); i++) {
                const MetricLabel label = { "state", samples[i].state };

                r = exposition_add(e, samples[i].family, &label, samples[i].state ? 1 : 0, samples[i].value);
                if (r < 0)
                        return r;
        }
        for (const Provider *provider = p->controller.providers; provider; provider = provider->hh.next) {
                const MetricLabel label = { "provider", provider_process_name(provider->process) };

                r = exposition_add(e, "peerpod_ctrl_instances_deleted", &label, 1, provider->n_deleted);
                if (r >= 0)
                        r = exposition_add(e, "peerpod_ctrl_delete_failures", &label, 1, provider->n_failed);
                if (r >= 0)
                        r = exposition_add(e, "peerpod_ctrl_provider_up", &label, 1, provider_process_state(provider->process) == PROVIDER_RUNS);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Who waits for the lease is ready, too. */
static bool is_ready(void *userdata) {
        Process *p = userdata;

        if (p->stopping || !cloud_settings_are_read(p->cloud))
                return false;
        return !p->leads || (p->controller.watch && kube_watch_is_synced(p->controller.watch));
}

/* Without a pause the API server or a cloud would be asked as fast as it answers. */
static int check_times(const Settings *s, int *ret_exit) {
        const struct {
                const char *option;
                uint64_t usec, min_usec;
        } times[] = {
                { "--retry",          s->backoff_usec,        USEC_PER_MSEC },
                { "--recheck",        s->recheck_usec,        USEC_PER_MSEC },
                { "--delete-timeout", s->delete_timeout_usec, USEC_PER_SEC  },
        };

        for (size_t i = 0; i < ELEMENTSOF(times); i++)
                if (times[i].usec < times[i].min_usec) {
                        log_error("Value of %s is less than %s.", times[i].option, FORMAT_USEC(times[i].min_usec));
                        *ret_exit = EXIT_CONFIGURATION;
                        return 1;
                }
        return 0;
}

static int prepare_directories(const Settings *s) {
        const char *directories[] = { s->state_directory, s->runtime_directory };

        for (size_t i = 0; i < ELEMENTSOF(directories); i++) {
                int r = directories[i][0] == '/' ? mkdir_p(directories[i], 0700) : -EINVAL;

                if (r < 0)
                        return log_error_errno(r, "Directory '%s' cannot be used: %m", directories[i]);
        }
        return 0;
}

static int block_sigchld(void) {
        sigset_t set;

        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGCHLD);
        return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
}

static int set_up(Process *p, int *ret_exit) {
        const Settings *s = p->settings;
        char hostname[256] = "";
        int r;

        p->spec = (ControllerSpec) {
                .provider = {
                        .program = s->providerd,
                        .module_directory = s->module_directory,
                        .runtime_directory = s->runtime_directory,
                        .state_directory = s->state_directory,
                        .n_calls_max = s->n_calls,
                        .delete_timeout_usec = s->delete_timeout_usec,
                        .stop_timeout_usec = s->stop_timeout_usec,
                },
                .delete_untagged = s->delete_untagged,
                .backoff_usec = s->backoff_usec,
                .backoff_max_usec = MAX(s->backoff_max_usec, s->backoff_usec),
                .recheck_usec = s->recheck_usec,
        };

        r = prepare_directories(s);
        if (r >= 0)
                r = block_sigchld();
        if (r < 0)
                return r;
        r = daemon_event_new_with(on_signal, p, &p->event);
        if (r < 0)
                return log_error_errno(r, "Failed to make the event loop: %m");
        r = open_client(p, ret_exit);
        if (r != 0)
                return r;
        (void) gethostname(hostname, sizeof(hostname) - 1);
        r = kube_events_new(p->client, CONTROLLER_NAME, hostname, &p->events);
        if (r < 0)
                return log_oom();

        p->controller = (Controller) {
                .event = p->event,
                .client = p->client,
                .events = p->events,
                .spec = &p->spec,
                .on_stopped = on_stopped,
                .userdata = p,
        };
        r = controller_init(&p->controller);
        if (r < 0)
                return log_error_errno(r, "Failed to make an event source: %m");
        r = open_settings(p);
        if (r < 0)
                return r;
        if (!provider_is_known(p)) {
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }

        r = endpoints_new(p->event, &(EndpointsSpec) { .metrics = s->metrics_address, .health = s->health_address, .gather = gather,
                                                       .is_ready = is_ready, .userdata = p }, &p->endpoints);
        if (r == -EINVAL) {
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }
        return r < 0 ? r : begin_election(p, ret_exit);
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = {};
        _cleanup_(process_done) Process process = { .settings = &settings };
        int r, status = EXIT_SUCCESS;

        (void) umask(0077);
        r = options_load(&program, argc, argv, &settings, /* ret_rest= */ NULL, &status);
        if (r != 0)
                return r < 0 ? r : status;
        r = check_times(&settings, &status);
        if (r == 0)
                r = set_up(&process, &status);
        if (r != 0)
                return r < 0 ? r : status;

        (void) sd_notify(/* unset_environment= */ false, "READY=1\nSTATUS=Waiting for the API server.");
        r = sd_event_loop(process.event);
        return r < 0 ? log_error_errno(r, "Event loop failed: %m") : r;
}

DEFINE_MAIN_FUNCTION(run);
