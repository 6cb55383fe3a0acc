/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/provider-process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "provider/secrets.h"

#define PROVIDER_PATH "/org/confidentialcontainers/PeerPod1/Provider"
#define PROVIDER_INTERFACE "org.confidentialcontainers.PeerPod1.Provider"

#define PAUSE_FIRST_USEC (200 * USEC_PER_MSEC)
#define PAUSE_LAST_USEC (30 * USEC_PER_SEC)
#define WELL_USEC (60 * USEC_PER_SEC)           /* who ran that long has not failed at its start */
#define OVERDUE_USEC (90 * USEC_PER_SEC)        /* the service itself answers for a module that is late by 60 s */
#define LISTEN_FD 3                             /* sd_listen_fds(3) */

struct ProviderProcess {
        sd_event *event;
        const ProviderSpec *spec;       /* borrowed */
        const Variables *settings, *secrets;    /* borrowed */
        char *name, *label, *socket, *directory;
        int listen_fd;
        ServiceLink *link;
        ProviderHandler handler;
        void *userdata;

        ProviderState state;
        pid_t pid;
        sd_event_source *child, *again, *killer;
        uint64_t begin_usec;
        unsigned n_failures;
        bool stopping, restarting;
};

const char* provider_name_canonical(const char *name) {
        return streq(name, "ibmcloudpowervs") ? "ibmcloud-powervs" : name;
}

/* An external module is of one name; the others are those of the directory. */
static bool is_external(const char *name, const Variables *settings) {
        const char *enable = variables_get(settings, "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN"),
                   *path = variables_get(settings, "CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH"), *base;
        size_t n = strlen(name);

        if (!enable || !streq(enable, "true") || !path)
                return false;
        base = strrchr(path, '/');
        base = base ? base + 1 : path;
        return strncasecmp(base, name, n) == 0 && strcasecmp(base + n, ".so") == 0;
}

bool provider_is_installed(const char *name, const char *module_directory, const Variables *settings) {
        _cleanup_(freep) char *path = NULL;

        if (name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-")] != '\0' || isempty(name))
                return false;
        if (is_external(name, settings))
                return true;
        return asprintf(&path, "%s/%s.so", module_directory, name) >= 0 && access(path, F_OK) >= 0;
}

int provider_process_new(sd_event *event, const char *name, const ProviderSpec *spec, const Variables *settings, const Variables *secrets,
                         ProviderHandler handler, void *userdata, ProviderProcess **ret) {
        _cleanup_(provider_process_freep) ProviderProcess *p = NULL;
        int r;

        p = new(ProviderProcess);
        if (!p)
                return log_oom();
        *p = (ProviderProcess) {
                .event = sd_event_ref(event),
                .spec = spec,
                .settings = settings,
                .secrets = secrets,
                .listen_fd = -EBADF,
                .handler = handler,
                .userdata = userdata,
        };
        p->name = strdup(name);
        if (!p->name || asprintf(&p->label, "service of provider '%s'", name) < 0 ||
            asprintf(&p->socket, "%s/%s.sock", spec->runtime_directory, name) < 0 ||
            asprintf(&p->directory, "%s/%s", spec->runtime_directory, name) < 0)
                return log_oom();

        r = mkdir_p(p->directory, 0700);
        if (r < 0)
                return log_error_errno(r, "Failed to create '%s': %m", p->directory);
        p->listen_fd = daemon_listen_unix(p->socket);
        if (p->listen_fd < 0)
                return log_error_errno(p->listen_fd, "Failed to listen on '%s': %m", p->socket);
        r = service_link_new(event, p->label, p->socket, &p->link);
        if (r < 0)
                return log_oom();

        *ret = TAKE_PTR(p);
        return 0;
}

ProviderProcess* provider_process_free(ProviderProcess *p) {
        if (!p)
                return NULL;

        if (p->pid > 0)
                (void) kill(p->pid, SIGTERM);
        sd_event_source_disable_unref(p->child);
        sd_event_source_disable_unref(p->again);
        sd_event_source_disable_unref(p->killer);
        service_link_free(p->link);
        close_fd(p->listen_fd);
        if (p->socket)
                (void) unlink(p->socket);
        if (p->directory)
                (void) remove_tree(p->directory);
        sd_event_unref(p->event);
        free(p->name);
        free(p->label);
        free(p->socket);
        free(p->directory);
        free(p);
        return NULL;
}

static void set_state(ProviderProcess *p, ProviderState state) {
        if (p->state == state)
                return;
        p->state = state;
        p->handler(p, state, p->userdata);
}

/* ---- start ---- */

/* Of this process alone, of what systemd told it alone, or what decides about what code runs: not a setting of a cloud. */
static bool is_reserved(const char *item) {
        static const char *const names[] = {
                "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY",
                "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "FDSTORE", "MAINPID", "KUBECONFIG", "CLOUD_PROVIDER", "CLOUD_CONFIG_VERIFY",
        };
        size_t n = strcspn(item, "=");

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (strlen(names[i]) == n && strncmp(item, names[i], n) == 0)
                        return true;
        return false;
}

static bool is_setting(const char *item) {
        return !is_reserved(item) && !startswith(item, "LD_") && !startswith(item, "PATH=") && !startswith(item, "GCONV_PATH=");
}

static bool has_name_of(const Variables *v, const char *item) {
        _cleanup_(freep) char *name = strndup(item, strcspn(item, "="));

        return name && variables_get(v, name);
}

static int extend(char ***l, const char *format, ...) PRINTF(2, 3);

static int extend(char ***l, const char *format, ...) {
        _cleanup_(freep) char *s = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&s, format, ap);
        va_end(ap);
        return r < 0 ? -ENOMEM : strv_extend(l, s);
}

/* The secrets; and what is decided here: no external module of another name, and no check of what only creations need. */
static int make_secrets(const ProviderProcess *p, char **ret, size_t *ret_size) {
        Variables v = VARIABLES_NULL;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < p->secrets->n; i++)
                if (is_setting(p->secrets->items[i]))
                        r = variables_parse_item(&v, p->secrets->items[i]);
        if (r >= 0)
                r = variables_set(&v, "CLOUD_CONFIG_VERIFY", "false", strlen("false"));
        if (r >= 0 && !is_external(p->name, p->settings))
                r = variables_set(&v, "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN", "false", strlen("false"));
        if (r >= 0)
                r = variables_format(&v, ret, ret_size);
        variables_done(&v);
        return r;
}

/* They go by the file that providerd takes for systemd's credential: so they are in no environment. */
static int write_secrets(ProviderProcess *p) {
        _cleanup_(freep) char *path = NULL;
        char *text = NULL;
        size_t size;
        int r;

        if (asprintf(&path, "%s/" SECRETS_CREDENTIAL, p->directory) < 0)
                return -ENOMEM;
        r = make_secrets(p, &text, &size);
        if (r < 0)
                return r;
        r = write_file_atomic(path, text, size, 0600);
        erase_free(text, size);
        return r;
}

#define LISTEN_PID_SPACE "LISTEN_PID=          "

static int make_environment(ProviderProcess *p, char ***ret, char **ret_pid) {
        _cleanup_(strv_freep) char **l = NULL;
        int r = 0;

        for (char **e = environ; r >= 0 && *e; e++)
                if (!is_reserved(*e) && !has_name_of(p->settings, *e))
                        r = strv_extend(&l, *e);
        for (size_t i = 0; r >= 0 && i < p->settings->n; i++)
                if (is_setting(p->settings->items[i]) && !has_name_of(p->secrets, p->settings->items[i]))
                        r = strv_extend(&l, p->settings->items[i]);
        if (r >= 0)
                r = extend(&l, "CREDENTIALS_DIRECTORY=%s", p->directory);
        if (r >= 0)
                r = strv_extend(&l, "LISTEN_FDS=1");
        if (r >= 0)
                r = strv_extend(&l, "LISTEN_FDNAMES=bus");
        if (r >= 0)
                r = strv_extend(&l, LISTEN_PID_SPACE);
        if (r < 0)
                return r;
        *ret_pid = l[strv_length(l) - 1];
        *ret = TAKE_PTR(l);
        return 0;
}

static int make_arguments(const ProviderProcess *p, char ***ret) {
        const ProviderSpec *s = p->spec;
        _cleanup_(strv_freep) char **l = NULL;
        int r;

        r = strv_extend(&l, s->program);
        if (r >= 0)
                r = extend(&l, "--provider=%s", p->name);
        if (r >= 0)
                r = extend(&l, "--module-directory=%s", s->module_directory);
        if (r >= 0)
                r = extend(&l, "--state-directory=%s/%s", s->state_directory, p->name);
        if (r >= 0)
                r = strv_extend(&l, "--peer-user=root"); /* us, that is: our own user always may */
        if (r >= 0)
                r = extend(&l, "--workers=%" PRIu32, s->n_calls_max);
        if (r >= 0)
                r = extend(&l, "--threads=%" PRIu32, s->n_calls_max + 1);
        if (r >= 0)
                r = extend(&l, "--delete-timeout=%" PRIu64 "s", s->delete_timeout_usec / USEC_PER_SEC);
        if (r >= 0)
                r = extend(&l, "--stop-timeout=%" PRIu64 "s", s->stop_timeout_usec / USEC_PER_SEC);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

/* In the child, where libraries may have had threads in the parent: nothing but system calls. */
static _Noreturn void become_providerd(ProviderProcess *p, pid_t parent, char **arguments, char **environment, char *listen_pid) {
        pid_t pid = getpid();
        sigset_t none;
        char *c;

        /* Who has nobody to answer to any more ends what it has begun, and then itself. */
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
                _exit(EXIT_FAILURE);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        if (p->listen_fd == LISTEN_FD ? fcntl(LISTEN_FD, F_SETFD, 0) < 0 : dup2(p->listen_fd, LISTEN_FD) < 0)
                _exit(EXIT_FAILURE);

        c = listen_pid + strlen(LISTEN_PID_SPACE);
        do
                *--c = '0' + pid % 10;
        while ((pid /= 10) > 0);
        memmove(listen_pid + strlen("LISTEN_PID="), c, strlen(c) + 1);

        (void) execve(arguments[0], arguments, environment);
        _exit(EXIT_FAILURE);
}

static int on_child(sd_event_source *es, const siginfo_t *si, void *userdata);

static int spawn(ProviderProcess *p) {
        _cleanup_(strv_freep) char **environment = NULL, **arguments = NULL;
        char *listen_pid;
        pid_t parent = getpid();
        int r;

        r = write_secrets(p);
        if (r < 0)
                return log_error_errno(r, "Failed to write the settings for provider '%s': %m", p->name);
        r = make_environment(p, &environment, &listen_pid);
        if (r >= 0)
                r = make_arguments(p, &arguments);
        if (r < 0)
                return log_oom();

        p->pid = fork();
        if (p->pid < 0) {
                p->pid = 0;
                return log_error_errno(errno, "Failed to start a process for provider '%s': %m", p->name);
        }
        if (p->pid == 0)
                become_providerd(p, parent, arguments, environment, listen_pid);
        p->begin_usec = now_usec(CLOCK_MONOTONIC);
        r = sd_event_add_child(p->event, &p->child, p->pid, WEXITED, on_child, p);
        if (r < 0) {
                (void) kill(p->pid, SIGKILL);
                (void) waitpid(p->pid, NULL, 0);
                p->pid = 0;
                return log_error_errno(r, "Failed to watch the process of provider '%s': %m", p->name);
        }
        log_info("Started the service of provider '%s' (PID %i).", p->name, (int) p->pid);
        return 0;
}

static int on_again(sd_event_source *es, uint64_t usec, void *userdata) {
        ProviderProcess *p = userdata;

        p->again = sd_event_source_disable_unref(p->again);
        provider_process_start(p);
        return 0;
}

static void pause_start(ProviderProcess *p) {
        uint64_t usec = p->n_failures < 8 ? PAUSE_FIRST_USEC << p->n_failures : PAUSE_LAST_USEC;
        int r;

        p->n_failures++;
        r = sd_event_add_time_relative(p->event, &p->again, CLOCK_MONOTONIC, usec, 0, on_again, p);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, provider '%s' is not started again: %m", p->name);
        set_state(p, PROVIDER_PAUSES);
}

void provider_process_start(ProviderProcess *p) {
        if (p->pid > 0 || p->stopping)
                return;
        p->again = sd_event_source_disable_unref(p->again);
        if (spawn(p) < 0)
                pause_start(p);
        else
                set_state(p, PROVIDER_RUNS);
}

/* ---- end ---- */

static void say_end(const ProviderProcess *p, const siginfo_t *si) {
        if (si->si_code == CLD_EXITED)
                log_warning("The service of provider '%s' has ended with status %i, starting it again.", p->name, si->si_status);
        else
                log_warning("The service of provider '%s' was killed by signal %i, starting it again.", p->name, si->si_status);
}

static int on_child(sd_event_source *es, const siginfo_t *si, void *userdata) {
        ProviderProcess *p = userdata;
        bool refused = si->si_code == CLD_EXITED && (si->si_status == EXIT_CONFIGURATION || si->si_status == EXIT_USAGE);

        p->child = sd_event_source_disable_unref(p->child);
        p->killer = sd_event_source_disable_unref(p->killer);
        p->pid = 0;
        if (p->stopping)
                set_state(p, PROVIDER_STOPPED);
        else if (p->restarting) {
                p->restarting = false;
                p->n_failures = 0;
                provider_process_start(p);
        } else if (refused) {
                log_full(NULL, LOG_ERR, MSG_PROVIDER_REFUSED, 0, "Provider '%s' has refused its settings: no instance of it can be deleted before "
                         "they change. What is wrong was said before this line.", p->name);
                set_state(p, PROVIDER_REFUSES);
        } else {
                if (now_usec(CLOCK_MONOTONIC) - p->begin_usec > WELL_USEC)
                        p->n_failures = 0;
                say_end(p, si);
                pause_start(p);
        }
        return 0;
}

static int on_killer(sd_event_source *es, uint64_t usec, void *userdata) {
        ProviderProcess *p = userdata;

        log_warning("The service of provider '%s' has not ended in time, killing it.", p->name);
        if (p->pid > 0)
                (void) kill(p->pid, SIGKILL);
        return 0;
}

static void ask_to_end(ProviderProcess *p) {
        int r;

        (void) kill(p->pid, SIGTERM);
        if (p->killer)
                return;
        r = sd_event_add_time_relative(p->event, &p->killer, CLOCK_MONOTONIC, usec_add(p->spec->stop_timeout_usec, 5 * USEC_PER_SEC), 0,
                                       on_killer, p);
        if (r < 0) {
                log_error_errno(r, "Failed to set a timer, killing the service of provider '%s': %m", p->name);
                (void) kill(p->pid, SIGKILL);
        }
}

void provider_process_restart(ProviderProcess *p) {
        p->n_failures = 0;
        if (p->stopping || p->state == PROVIDER_STOPPED)
                return;
        if (p->pid == 0) {
                provider_process_start(p);
                return;
        }
        p->restarting = true;
        ask_to_end(p);
}

static int on_stopped(sd_event_source *es, uint64_t usec, void *userdata) {
        ProviderProcess *p = userdata;

        p->again = sd_event_source_disable_unref(p->again);
        p->handler(p, PROVIDER_STOPPED, p->userdata);
        return 0;
}

void provider_process_stop(ProviderProcess *p) {
        if (p->stopping)
                return;
        p->stopping = true;
        p->again = sd_event_source_disable_unref(p->again);
        if (p->pid > 0) {
                ask_to_end(p);
                return;
        }
        p->state = PROVIDER_STOPPED;
        if (sd_event_add_time_relative(p->event, &p->again, CLOCK_MONOTONIC, 0, 1, on_stopped, p) < 0)
                log_error("Failed to set a timer.");
}

ProviderState provider_process_state(const ProviderProcess *p) {
        return p->state;
}

const char* provider_process_name(const ProviderProcess *p) {
        return p->name;
}

pid_t provider_process_pid(const ProviderProcess *p) {
        return p->pid;
}

/* ---- calls ---- */

static int append_remove(sd_bus_message *m, const void *arguments) {
        const ProviderKey *key = arguments;

        return sd_bus_message_append(m, "sss", key->sandbox_id, key->name, key->id);
}

static int append_remove_untagged(sd_bus_message *m, const void *arguments) {
        const ProviderKey *key = arguments;

        return sd_bus_message_append(m, "ss", key->name_prefix, key->id);
}

int provider_process_remove(ProviderProcess *p, const ProviderKey *key, ServiceHandler handler, void *userdata, ServiceCall **ret) {
        static const ServiceMethod tagged = { PROVIDER_PATH, PROVIDER_INTERFACE, "DeleteInstance", append_remove };
        static const ServiceMethod untagged = { PROVIDER_PATH, PROVIDER_INTERFACE, "DeleteUntaggedInstance", append_remove_untagged };

        return service_link_call(p->link, key->name_prefix ? &untagged : &tagged, key, sizeof(*key),
                                 usec_add(p->spec->delete_timeout_usec, OVERDUE_USEC), handler, userdata, ret);
}
