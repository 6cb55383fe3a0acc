/* SPDX-License-Identifier: Apache-2.0 */
/* A stand-in for kata-agent in tests and in the demo: the same protocol, real processes by crun. Never part of a production
 * image: it has no policy, no attestation and pulls no images. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <systemd/sd-daemon.h>

#include "agent.h"
#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/util.h"

#define CONFIG_MAX (64U << 10)

static const Option options[] = {
        { .flag = "config", .type = OPTION_STRING, .offset = offsetof(Settings, config), .metavar = "FILE",
          .help = "kata-agent's configuration; its server_addr is read" },
        { .flag = "c", .type = OPTION_STRING, .offset = offsetof(Settings, config), .metavar = "FILE", .help = "The same" },
        { .flag = "listen", .type = OPTION_STRING, .offset = offsetof(Settings, listen), .metavar = "PATH",
          .help = "Socket to listen on, instead of server_addr" },
        { .flag = "rootfs", .type = OPTION_STRING, .offset = offsetof(Settings, rootfs), .metavar = "DIR",
          .value = TESTSDIR "/rootfs", .help = "Root file system of containers whose image would be pulled" },
        { .flag = "pause", .type = OPTION_STRING, .offset = offsetof(Settings, pause), .metavar = "FILE",
          .value = TESTSDIR "/pause", .help = "Static program that is the pause container's" },
        { .flag = "crun", .type = OPTION_STRING, .offset = offsetof(Settings, crun), .metavar = "PROGRAM", .value = "crun",
          .help = "OCI runtime" },
        { .flag = "cgroup-manager", .type = OPTION_STRING, .offset = offsetof(Settings, cgroup_manager), .metavar = "NAME",
          .value = "cgroupfs", .help = "crun's: cgroupfs or disabled" },
        { .flag = "cgroup-parent", .type = OPTION_STRING, .offset = offsetof(Settings, cgroup_parent), .metavar = "PATH",
          .help = "Control group for all containers, instead of what the client says" },
        { .flag = "state-dir", .type = OPTION_STRING, .offset = offsetof(Settings, state_dir), .metavar = "DIR",
          .value = "/run/kata-containers", .help = "Bundles and shared files" },
        { .flag = "runtime-dir", .type = OPTION_STRING, .offset = offsetof(Settings, runtime_dir), .metavar = "DIR",
          .value = "/run/stand-in-agent", .help = "What nobody else looks at" },
        { .flag = "host-mode", .type = OPTION_BOOL, .offset = offsetof(Settings, host_mode), .value = "false",
          .help = "Run in namespaces of its own, on a machine that is no pod VM" },
        {}
};

static const Program program = {
        .name = "stand-in-agent",
        .usage = "[OPTIONS…]",
        .description = "Serve the protocol of Kata's agent, for tests.",
        .options = options,
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

/* The one line of kata-agent's TOML that matters here: server_addr = "unix:///path", in either kind of quotes. */
static int read_server_addr(const char *path, char **ret) {
        _cleanup_(freep) char *text = NULL;
        char *saved, *line;
        int r;

        r = read_full_file_at(AT_FDCWD, path, CONFIG_MAX, &text, NULL);
        if (r < 0)
                return log_error_errno(r, "Failed to read '%s': %m", path);

        for (line = strtok_r(text, "\n", &saved); line; line = strtok_r(NULL, "\n", &saved)) {
                const char *p = startswith(line + strspn(line, " \t"), "server_addr"), *address;
                size_t n;

                if (!p)
                        continue;
                p += strspn(p, " \t");
                if (*p != '=')
                        continue;
                p++;
                p += strspn(p, " \t");
                if (*p != '"' && *p != '\'')
                        continue;
                address = startswith(p + 1, "unix://");
                n = address ? strcspn(address, *p == '"' ? "\"" : "'") : 0;
                if (!address || address[0] != '/' || address[n] != *p) {
                        log_error("'%s': server_addr is not of the form \"unix:///PATH\".", path);
                        return -EINVAL;
                }
                *ret = strndup(address, n);
                return *ret ? 0 : log_oom();
        }

        log_error("'%s' has no server_addr.", path);
        return -EINVAL;
}

static void agent_done(Agent *a) {
        while (a->containers) {
                (void) container_kill_all(a->containers);
                container_free(a->containers);
        }
        ttrpc_call_unref(a->destroy_call);
        pending_flush(&a->oom_waiters, TTRPC_UNAVAILABLE, "The agent ends");
        ttrpc_server_free(a->server);
        sd_event_source_disable_unref(a->oom_source);
        close_fd(a->oom_fd);
        for (unsigned i = 0; i < a->n_oom_events; i++)
                free(a->oom_events[i]);
        free(a->sandbox_id);
        free(a->hostname);
        sd_event_unref(a->event);
}

static int serve(Agent *a, int listen_fd) {
        int r;

        r = ttrpc_server_new(a->event, &a->server);
        if (r >= 0)
                r = ttrpc_server_add_service(a->server, "grpc.AgentService", agent_service_methods, a);
        if (r >= 0)
                r = ttrpc_server_add_service(a->server, "grpc.Health", health_service_methods, a);
        if (r >= 0)
                r = ttrpc_server_add_listen_fd(a->server, listen_fd);
        else
                close_fd(listen_fd);
        return r < 0 ? log_error_errno(r, "Failed to serve: %m") : 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = {};
        _cleanup_(agent_done) Agent a = { .settings = &settings, .oom_fd = -EBADF };
        _cleanup_(close_fdp) int fd = -EBADF;
        int r, exit;

        r = options_load(&program, argc, argv, &settings, NULL, &exit);
        if (r != 0)
                return r < 0 ? r : exit;
        if (!settings.listen && !settings.config) {
                log_error("One of --config and --listen is needed.");
                return EXIT_USAGE;
        }
        if (!settings.listen) {
                r = read_server_addr(settings.config, &settings.listen);
                if (r < 0)
                        return r == -EINVAL ? EXIT_CONFIGURATION : r;
        }

        /* Before the namespaces: the socket is for those outside. */
        fd = daemon_listen_unix(settings.listen);
        if (fd < 0)
                return log_error_errno(fd, "Failed to listen on '%s': %m", settings.listen);

        if (settings.host_mode) {
                r = host_mode_enter(&settings, &exit);
                if (r != 0)
                        return r < 0 ? r : exit;
        }
        if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
                return log_error_errno(errno, "Failed to become a subreaper: %m");
        r = mkdir_p(settings.state_dir, 0755);
        if (r >= 0)
                r = mkdir_p(settings.runtime_dir, 0700);
        if (r < 0)
                return log_error_errno(r, "Failed to make directories: %m");

        r = daemon_event_new(&a.event);
        if (r < 0)
                return log_error_errno(r, "Failed to make an event loop: %m");
        r = oom_init(&a);
        if (r < 0)
                return log_error_errno(r, "Failed to watch for memory running out: %m");
        r = serve(&a, TAKE_FD(fd));
        if (r < 0)
                return r;

        log_info("Stand-in agent %s listens on '%s'.", AGENT_VERSION, settings.listen);
        (void) sd_notify(0, "READY=1");
        r = sd_event_loop(a.event);
        (void) sd_notify(0, "STOPPING=1");
        return r;
}

DEFINE_MAIN_FUNCTION(run);
