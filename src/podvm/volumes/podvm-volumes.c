/* SPDX-License-Identifier: Apache-2.0 */
/* podvm-volumes: mounts a pod's cloud volumes in its VM, for agent-protocol-forwarder, which has no capability. */
#include <signal.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "basic/bus-private.h"
#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/paths.h"
#include "podvm/volumes/volumes.h"

typedef struct Settings {
        char *listen, *runtime_dir, *mount_root, *dev, *sys, *cdh_socket;
        uint32_t attempts;
        uint64_t delay_usec;
} Settings;

static const Option options[] = {
        { "mount-root", NULL, OPTION_STRING, offsetof(Settings, mount_root), PODVM_VOLUMES_DIR,
          "Directory below which volumes are mounted", "PATH" },
        { "cdh-socket", NULL, OPTION_STRING, offsetof(Settings, cdh_socket), PODVM_CDH_SOCKET,
          "UNIX socket of confidential-data-hub, for encrypted volumes", "PATH" },
        { "detect-attempts", "CAA_DISK_DETECT_MAX_ATTEMPTS", OPTION_U32, offsetof(Settings, attempts), "15",
          "How often to look for a disk", "N", .min = 1, .max = 1000 },
        { "detect-delay", "CAA_DISK_DETECT_RETRY_DELAY", OPTION_DURATION, offsetof(Settings, delay_usec), "2s",
          "Time between two looks", "TIME" },
        { "runtime-dir", "RUNTIME_DIRECTORY", OPTION_STRING, offsetof(Settings, runtime_dir), PODVM_VOLUMES_RUNTIME_DIR,
          "Directory of the records", "PATH" },
        { "dev", NULL, OPTION_STRING, offsetof(Settings, dev), "/dev", "Where devices are", "PATH" },
        { "sys", NULL, OPTION_STRING, offsetof(Settings, sys), "/sys", "Where the kernel tells of them", "PATH" },
        { "listen", NULL, OPTION_STRING, offsetof(Settings, listen), "", "Listen here instead of on systemd's socket 'bus'", "PATH" },
        {},
};

static const Program program = {
        .name = "podvm-volumes",
        .usage = "[OPTIONS…]",
        .description = "Mounts a pod's cloud volumes in its VM.",
        .options = options,
        .man = "podvm-volumes(8)",
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = {};
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(volumes_freep) Volumes *volumes = NULL;
        _cleanup_(bus_server_freep) BusServer *server = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        WorkSettings work;
        sigset_t child;
        int r, status;

        r = options_load(&program, argc, argv, &settings, NULL, &status);
        if (r != 0)
                return r < 0 ? r : status;
        work = (WorkSettings) {
                .roots = { .dev = settings.dev, .sys = settings.sys },
                .mount_root = settings.mount_root,
                .cdh_socket = settings.cdh_socket,
                .detect_attempts = settings.attempts,
                .detect_delay_usec = settings.delay_usec,
        };
        (void) umask(0022);

        (void) sigemptyset(&child);
        (void) sigaddset(&child, SIGCHLD);
        if (sigprocmask(SIG_BLOCK, &child, NULL) < 0)
                return log_error_errno(errno, "Failed to block SIGCHLD: %m");
        r = daemon_event_new(&event);
        if (r < 0)
                return log_error_errno(r, "Failed to make an event loop: %m");
        fd = settings.listen[0] ? daemon_listen_unix(settings.listen) : daemon_take_socket("bus");
        if (fd < 0)
                return log_error_errno(fd, "No socket to listen on (from systemd under the name 'bus', or --listen): %m");
        r = mkdir_p(settings.runtime_dir, 0700);
        if (r < 0)
                return log_error_errno(r, "Failed to make '%s': %m", settings.runtime_dir);
        r = volumes_new(event, &work, settings.runtime_dir, &volumes);
        if (r < 0)
                return r;
        r = bus_server_new(event, fd, (uid_t) -1, volumes_setup_bus, volumes, &server);
        if (r < 0)
                return log_error_errno(r, "Failed to serve the bus: %m");
        fd = -EBADF;

        (void) sd_notifyf(0, "READY=1\nSTATUS=Holding %zu volumes.", volumes_get_n(volumes));
        return daemon_loop(event);
}

DEFINE_MAIN_FUNCTION(run);
