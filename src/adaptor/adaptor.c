/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-adaptor: answers Kata Containers' remote hypervisor calls and drives the pod VMs' lives. */
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "adaptor/manager-bus.h"
#include "adaptor/manager.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/settings.h"
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

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = SETTINGS_NULL;
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(manager_freep) Manager *m = NULL;
        int fd, r, status;

        r = settings_load(argc, argv, &settings, &status);
        if (r != 0)
                return r < 0 ? r : status;

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

        r = manager_start(m);
        if (r < 0)
                return r;
        manager_notify_ready(m);

        r = sd_event_loop(event);
        (void) sd_notify(/* unset_environment= */ false, "STOPPING=1");
        if (r < 0)
                return log_error_errno(r, "Event loop has failed: %m");

        return r;
}

DEFINE_MAIN_FUNCTION(run);
