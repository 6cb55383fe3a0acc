/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-adaptor: answers Kata Containers' remote hypervisor calls and drives the pod VMs' lives. */
#include <inttypes.h>
#include <signal.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "adaptor/manager-bus.h"
#include "adaptor/manager.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/settings.h"
#include "basic/crash-point.h"
#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/util.h"

static int take_socket(const Settings *settings) {
        int fd;

        if (!isempty(settings->socket)) {
                fd = daemon_listen_unix(settings->socket);
                return fd < 0 ? log_error_errno(fd, "Failed to listen on '%s': %m", settings->socket) : fd;
        }

        fd = daemon_take_socket("hypervisor");
        return fd < 0 ? log_error_errno(fd, "Failed to take the socket 'hypervisor' from systemd; by hand, use --socket: %m") : fd;
}

typedef struct Reload {
        int argc;
        char **argv;
        Settings *settings;
        Manager *manager;
} Reload;

/* systemd.service(5), Type=notify-reload */
static int on_reload(sd_event_source *es, const struct signalfd_siginfo *si, void *userdata) {
        Reload *reload = userdata;
        int r;

        (void) sd_notifyf(/* unset_environment= */ false, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, now_usec(CLOCK_MONOTONIC));
        r = settings_reload_tls(reload->argc, reload->argv, reload->settings);
        if (r < 0)
                log_error_errno(r, "TLS settings could not be read again, going on with those of before.");
        else
                log_notice("TLS settings have been read again; new sandboxes get them.");
        manager_settings_changed(reload->manager);
        manager_notify_ready(reload->manager);
        return 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = SETTINGS_NULL;
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(manager_freep) Manager *m = NULL;
        Reload reload;
        int fd, r, status;

        r = settings_load(argc, argv, &settings, &status);
        if (r != 0)
                return r < 0 ? r : status;
        if (settings.check_settings)
                return EXIT_SUCCESS;

        r = daemon_event_new(&event);
        if (r < 0)
                return log_error_errno(r, "Failed to make the event loop: %m");
        r = manager_new(&settings, event, &m);
        if (r < 0)
                return r;
        r = manager_connect_bus(m);
        if (r < 0)
                return r;
        r = manager_load(m);
        if (r < 0)
                return r;
        fd = take_socket(&settings);
        if (fd < 0)
                return fd;
        r = manager_listen(m, fd);
        if (r < 0)
                return r;
        r = manager_bus_request_name(m);
        if (r < 0)
                return log_error_errno(r, "Failed to take the name '%s' on the system bus: %m", PEERPOD_BUS_NAME);

        reload = (Reload) { .argc = argc, .argv = argv, .settings = &settings, .manager = m };
        r = sd_event_add_signal(event, /* ret= */ NULL, SIGHUP|SD_EVENT_SIGNAL_PROCMASK, on_reload, &reload);
        if (r < 0)
                return log_error_errno(r, "Failed to listen to SIGHUP: %m");

        crash_point("loaded");
        r = manager_start(m);
        if (r < 0)
                return r;
        manager_notify_ready(m);
        crash_point("ready");

        return daemon_loop(event);
}

DEFINE_SOCKET_SERVICE_MAIN_FUNCTION(run);
