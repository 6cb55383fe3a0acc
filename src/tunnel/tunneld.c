/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-tunneld: makes the worker's end of each pod VM's tunnel. */
#include <pwd.h>

#include "basic/bus-private.h"
#include "basic/crash-point.h"
#include "basic/daemon.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/paths.h"
#include "tunnel/diagnose.h"
#include "tunnel/direct-volume.h"
#include "tunnel/manager.h"
#include "tunnel/verify.h"

static const Option options[] = {
        { "tunnel-type", "TUNNEL_TYPE", OPTION_STRING, offsetof(Settings, tunnel_type), "vxlan", "Type of tunnel; only vxlan", "TYPE" },
        { "vxlan-port", "VXLAN_PORT", OPTION_PORT, offsetof(Settings, vxlan_port), "4789", "UDP port of the tunnels, both ends", "PORT" },
        { "vxlan-min-id", NULL, OPTION_U32, offsetof(Settings, vxlan_min_id), "555000", "Lowest VXLAN id to use", "N",
          .min = 1, .max = 16777215 },
        { "host-interface", NULL, OPTION_STRING, offsetof(Settings, host_interface), "",
          "Interface for the tunnels, if not that of the default route", "IF" },
        { "ext-network-via-podvm", "EXTERNAL_NETWORK_VIA_PODVM", OPTION_BOOL, offsetof(Settings, external_network_via_podvm), "false",
          "Tell pod VMs to use their second interface for external traffic" },
        { "pod-subnet-cidrs", "POD_SUBNET_CIDRS", OPTION_STRV, offsetof(Settings, pod_subnet_cidrs), NULL,
          "Further subnets to reach through the tunnel", "CIDR,…" },
        { "probe-timeout", NULL, OPTION_DURATION, offsetof(Settings, probe_timeout_usec), "10s",
          "How long a pod VM may take to answer the first probe through its tunnel", "TIME" },
        { "verify-interval", NULL, OPTION_DURATION, offsetof(Settings, verify_interval_usec), "1m",
          "How often tunnels are compared with what they should be, and mended; 0: never", "TIME" },
        { "user", "PEERPOD_TUNNEL_USER", OPTION_STRING, offsetof(Settings, user), "peerpod",
          "The user that may connect, besides root", "USER" },
        { "runtime-dir", NULL, OPTION_STRING, offsetof(Settings, runtime_dir), PEERPOD_TUNNEL_RUNTIME_DIR,
          "Directory of the records", "PATH" },
        { "direct-volumes-dir", NULL, OPTION_STRING, offsetof(Settings, direct_volumes_dir), DIRECT_VOLUMES_DIR,
          "Where Kata's records of volumes are, which the adaptor asks for", "PATH" },
        { "check-settings", NULL, OPTION_BOOL, offsetof(Settings, check_settings), "false",
          "Say whether these settings would be taken, and exit" },
        { "listen", NULL, OPTION_STRING, offsetof(Settings, listen), "", "Listen here instead of on systemd's socket 'bus'", "PATH" },
        {},
};

static const Program program = {
        .name = "peerpod-tunneld",
        .usage = "[OPTIONS…]",
        .description = "Makes the worker's end of each pod VM's network tunnel.",
        .options = options,
        .man = "peerpod-tunneld(8)",
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

static int find_user(const char *name, uid_t *ret) {
        const struct passwd *pw;

        errno = 0;
        pw = getpwnam(name);
        if (!pw)
                return -(errno ?: ENOENT);
        *ret = pw->pw_uid;
        return 0;
}

static int listen_socket(const Settings *s) {
        int fd = s->listen[0] ? daemon_listen_unix(s->listen) : daemon_take_socket("bus");

        if (fd < 0)
                return s->listen[0] ? log_error_errno(fd, "Failed to listen on '%s': %m", s->listen)
                                    : log_error_errno(fd, "Failed to take the socket 'bus' from systemd: %m");
        return fd;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = {};
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(manager_freep) Manager *manager = NULL;
        _cleanup_(bus_server_freep) BusServer *server = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        uid_t user = (uid_t) -1;
        int r, status;

        r = options_load(&program, argc, argv, &settings, NULL, &status);
        if (r != 0)
                return r < 0 ? r : status;
        r = find_user(settings.user, &user);
        if (r < 0) {
                log_error_errno(r, "Failed to find user '%s': %m", settings.user);
                return EXIT_CONFIGURATION;
        }

        r = daemon_event_new(&event);
        if (r < 0)
                return log_error_errno(r, "Failed to make an event loop: %m");
        r = manager_new(&settings, event, &manager);
        if (r < 0)
                return r == -EINVAL ? EXIT_CONFIGURATION : r;
        if (settings.check_settings)
                return EXIT_SUCCESS;
        fd = listen_socket(&settings);
        if (fd < 0)
                return fd;
        crash_point("load");
        r = manager_load(manager);
        crash_point("loaded");
        if (r < 0)
                return r;
        diagnose_at_start(manager);
        r = verify_start(manager);
        if (r < 0)
                return r;
        r = bus_server_new(event, fd, user, manager_setup_bus, manager, &server);
        if (r < 0)
                return log_error_errno(r, "Failed to serve the bus: %m");
        fd = -EBADF;

        (void) sd_notifyf(0, "READY=1\nSTATUS=Holding %zu tunnels.", manager->n_tunnels);
        return daemon_loop(event);
}

DEFINE_SOCKET_SERVICE_MAIN_FUNCTION(run);
