/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-providerd: holds the cloud's credentials and makes the cloud calls, for the adaptor and nobody else. */
#include <poll.h>
#include <pwd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "basic/crash-point.h"
#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "provider/job.h"
#include "provider/manager.h"
#include "provider/provider-bus.h"
#include "provider/secrets.h"
#include "provider/settings.h"

uint64_t manager_user_data_size_max(const Manager *m) {
        return MIN(m->module->user_data_size_max, USER_DATA_SIZE_MAX);
}

void manager_log(void *userdata, int level, const char *text) {
        (void) log_full(NULL, level, NULL, 0, "%s", text);
}

static PeerpodCall call_with_timeout(uint64_t timeout_usec) {
        return (PeerpodCall) {
                .size = sizeof(PeerpodCall),
                .cancel_fd = -1,
                .deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), timeout_usec),
                .log = manager_log,
        };
}

/* A configuration that can never work is no reason to be started again and again. */
static int exit_status_of(const PeerpodError *error) {
        return error->kind == PEERPOD_E_INVALID_ARGUMENT ? EXIT_CONFIGURATION : EXIT_FAILURE;
}

static int open_module(Manager *m, const Settings *s, int *ret_exit) {
        PeerpodCall call = call_with_timeout(s->find_timeout_usec);
        PeerpodConfig config = {
                .size = sizeof(PeerpodConfig),
                .n_values = s->module->n_options,
                .values = s->values,
                .state_directory = s->state_directory,
                .log = manager_log,
        };
        PeerpodError error = { .size = sizeof(PeerpodError) };
        int r;

        if (s->state_directory[0] != '/' || strchr(s->state_directory, ':')) {
                log_error("State directory '%s' is not one absolute path.", s->state_directory);
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }
        r = mkdir_p(s->state_directory, 0700);
        if (r < 0)
                return log_error_errno(r, "Failed to create state directory '%s': %m", s->state_directory);

        m->module = s->module;
        r = m->module->open(&config, &call, &m->provider, &error);
        if (r < 0) {
                log_error("Provider '%s' cannot be used: %s", m->module->name, error.text);
                m->provider = NULL;
                *ret_exit = exit_status_of(&error);
                return 1;
        }
        return 0;
}

static int verify(Manager *m, const Settings *s, int *ret_exit) {
        PeerpodCall call = call_with_timeout(s->find_timeout_usec);
        PeerpodError error = { .size = sizeof(PeerpodError) };

        if (m->module->verify(m->provider, &call, &error) < 0) {
                log_error("The check of provider '%s' failed: %s", m->module->name, error.text);
                *ret_exit = exit_status_of(&error);
                return 1;
        }
        log_info("The check of provider '%s' passed.", m->module->name);
        return 0;
}

static int listen_or_take(const Settings *s, int *ret_fd) {
        int fd;

        if (isempty(s->socket)) {
                fd = daemon_take_socket("bus");
                if (fd == -ENOENT)
                        return log_error_errno(fd, "No socket named 'bus' was passed by systemd, and there is no --socket.");
                if (fd < 0)
                        return log_error_errno(fd, "The socket that systemd passed cannot be used: %m");
        } else {
                fd = daemon_listen_unix(s->socket);
                if (fd < 0)
                        return log_error_errno(fd, "Failed to listen on '%s': %m", s->socket);
        }
        *ret_fd = fd;
        return 0;
}

static int find_user(const char *name, uid_t *ret, int *ret_exit) {
        struct passwd *pw;

        errno = 0;
        pw = getpwnam(name);
        if (!pw) {
                log_error("User '%s', who may connect, does not exist.", name);
                *ret_exit = EXIT_CONFIGURATION;
                return 1;
        }
        *ret = pw->pw_uid;
        return 0;
}

static int on_jobs_done(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        Manager *m = userdata;

        pool_dispatch(m->pool);
        return 0;
}

/* The loop is asked to end, and its links are still open: no request begins any more, creations are undone, deletions get time to
 * end, and their callers an answer. sd-bus closes its links in an exit handler of its own, which comes after this one. */
static int on_exit_drain(sd_event_source *es, void *userdata) {
        Manager *m = userdata;
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), m->stop_timeout_usec);

        (void) sd_notify(0, "STOPPING=1\nSTATUS=Waiting for running calls to end.");
        m->stopping = true;
        jobs_cancel_creates(m);
        if (pool_n_jobs(m->pool) > 0)
                log_info("Waiting for %zu provider calls to end.", pool_n_jobs(m->pool));

        while (pool_n_jobs(m->pool) > 0) {
                struct pollfd p = { .fd = pool_get_fd(m->pool), .events = POLLIN };
                uint64_t now = now_usec(CLOCK_MONOTONIC);

                if (now >= end) {
                        log_warning("%zu provider calls have not ended in time, stopping without them.", pool_n_jobs(m->pool));
                        break;
                }
                (void) poll(&p, 1, MIN((end - now) / USEC_PER_MSEC + 1, UINT64_C(1000)));
                pool_dispatch(m->pool);
                (void) sd_notify(0, "WATCHDOG=1");
        }
        return 0;
}

static void manager_done(Manager *m) {
        m->bus_server = bus_server_free(m->bus_server);
        m->pool_source = sd_event_source_disable_unref(m->pool_source);
        m->drain_source = sd_event_source_disable_unref(m->drain_source);

        /* A call that never returned still uses the module, and its thread the pool. */
        if (!m->pool || pool_n_jobs(m->pool) == 0) {
                m->pool = pool_free(m->pool);
                if (m->provider)
                        m->module->close(m->provider);
                m->provider = NULL;
        }
        m->event = sd_event_unref(m->event);
}

static int serve(Manager *m, const Settings *s, int *ret_exit) {
        _cleanup_(close_fdp) int listen_fd = -EBADF;
        uid_t peer;
        int r;

        r = find_user(s->peer_user, &peer, ret_exit);
        if (r != 0)
                return r;
        r = listen_or_take(s, &listen_fd);
        if (r < 0)
                return r;

        const PoolLimits limits = {
                .n_busy_max = s->n_workers,
                .n_threads_max = MAX(s->n_threads, s->n_workers + 1),
                .queue_max = s->n_queue,
                .patience_usec = s->patience_usec,
        };

        r = pool_new(&limits, &m->pool);
        if (r < 0)
                return log_error_errno(r, "Failed to make the worker pool: %m");
        r = sd_event_add_io(m->event, &m->pool_source, pool_get_fd(m->pool), EPOLLIN, on_jobs_done, m);
        if (r < 0)
                return log_error_errno(r, "Failed to watch the worker pool: %m");
        (void) sd_event_source_set_exit_on_failure(m->pool_source, true);
        r = sd_event_add_exit(m->event, &m->drain_source, on_exit_drain, m);
        if (r < 0)
                return log_error_errno(r, "Failed to prepare for the end: %m");
        (void) sd_event_source_set_priority(m->drain_source, SD_EVENT_PRIORITY_IMPORTANT);

        r = bus_server_new(m->event, listen_fd, peer, provider_bus_setup, m, &m->bus_server);
        if (r < 0)
                return log_error_errno(r, "Failed to serve the bus socket: %m");
        TAKE_FD(listen_fd);

        crash_point("listening");
        (void) sd_notifyf(0, "READY=1\nSTATUS=Provider '%s' is ready.", m->module->name);
        crash_point("ready");
        r = sd_event_loop(m->event);
        if (r < 0)
                return log_error_errno(r, "Event loop failed: %m");

        return 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_freep) Settings *s = NULL;
        _cleanup_(manager_done) Manager m = {};
        _cleanup_(strv_freep) char **secrets = NULL;
        int exit_status = EXIT_SUCCESS, r;

        (void) umask(0077);

        r = secrets_load(&secrets);
        if (r < 0)
                return r == -ENOMEM ? r : EXIT_CONFIGURATION;
        r = settings_load(argc, argv, &s, &exit_status);
        if (r < 0)
                return log_oom();
        if (r > 0)
                return exit_status;
        secrets_forget(secrets, s->module);
        if (s->check_settings)
                return EXIT_SUCCESS;

        m.create_timeout_usec = s->create_timeout_usec;
        m.delete_timeout_usec = s->delete_timeout_usec;
        m.find_timeout_usec = s->find_timeout_usec;
        m.stop_timeout_usec = s->stop_timeout_usec;

        /* Blocks the signals that end us, before the module starts threads. */
        r = daemon_event_new(&m.event);
        if (r < 0)
                return log_error_errno(r, "Failed to make the event loop: %m");

        r = open_module(&m, s, &exit_status);
        if (r == 0 && (s->check || s->verify))
                r = verify(&m, s, &exit_status);
        if (r == 0 && !s->check)
                r = serve(&m, s, &exit_status);
        return r < 0 ? r : exit_status;
}

DEFINE_SOCKET_SERVICE_MAIN_FUNCTION(run);
