/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-metrics: tells a scraper what the family's services have counted. */
#include <systemd/sd-daemon.h>

#include "basic/daemon.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/paths.h"
#include "basic/util.h"
#include "metrics/collector.h"
#include "metrics/http.h"

typedef struct Settings {
        char *listen, *proxies_dir;
        uint64_t cache_usec, connection_usec, idle_usec;
} Settings;

static const Option options[] = {
        { "listen", NULL, OPTION_STRING, offsetof(Settings, listen), "", "Listen on this UNIX socket instead of on those of systemd", "PATH" },
        { "proxies-dir", NULL, OPTION_STRING, offsetof(Settings, proxies_dir), PEERPOD_PROXY_RUNTIME_DIR,
          "Where the agent proxies' directories are", "PATH" },
        { "cache-time", NULL, OPTION_DURATION, offsetof(Settings, cache_usec), "1s", "Answer with what is at most so old", "TIME" },
        { "connection-time", NULL, OPTION_DURATION, offsetof(Settings, connection_usec), "30s", "End a connection after so long", "TIME" },
        { "exit-idle-time", NULL, OPTION_DURATION, offsetof(Settings, idle_usec), "30s", "End after so long without a connection", "TIME" },
        {}
};

static const Program program = {
        .name = "peerpod-metrics",
        .usage = "[OPTIONS…]",
        .description = "Tells a scraper what the peerpod services of this node have counted.",
        .options = options,
        .man = "peerpod-metrics(8)",
};

typedef struct Idle {
        HttpServer *server;             /* borrowed */
        uint64_t usec;
} Idle;

static void gather(void *userdata) {
        collector_start(*(Collector**) userdata);
}

static void on_collected(Collector *c, Exposition *e, void *userdata) {
        http_server_gathered(*(HttpServer**) userdata, e);
}

static void settings_done(Settings *s) {
        options_done(options, s);
}

static int listen_by_hand(HttpServer *server, const char *path) {
        int fd, r;

        fd = daemon_listen_unix(path);
        if (fd < 0)
                return log_error_errno(fd, "Failed to listen on '%s': %m", path);
        r = listeners_add(http_server_listeners(server), fd);
        return r < 0 ? log_error_errno(r, "Failed to listen: %m") : 0;
}

/* A connection that comes while we end waits in its socket, and starts us again. */
static int on_idle(sd_event_source *es, uint64_t usec, void *userdata) {
        Idle *idle = userdata;
        uint64_t so_far = http_server_idle_usec(idle->server);
        int r;

        if (so_far >= idle->usec)
                return sd_event_exit(sd_event_source_get_event(es), 0);

        r = sd_event_source_set_time_relative(es, idle->usec - so_far);
        if (r >= 0)
                r = sd_event_source_set_enabled(es, SD_EVENT_ONESHOT);
        if (r < 0)
                log_warning_errno(r, "Failed to set a timer, staying: %m");
        return 0;
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = {};
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(collector_freep) Collector *collector = NULL;
        _cleanup_(http_server_freep) HttpServer *server = NULL;
        int r, status;

        r = options_load(&program, argc, argv, &settings, /* ret_rest= */ NULL, &status);
        if (r != 0)
                return r < 0 ? r : status;

        r = daemon_event_new(&event);
        if (r < 0)
                return log_error_errno(r, "Failed to make the event loop: %m");
        r = collector_new(event, settings.proxies_dir, settings.cache_usec, on_collected, &server, &collector);
        if (r < 0)
                return log_error_errno(r, "Failed to prepare to ask the adaptor: %m");
        r = http_server_new(event, &(HttpPages) { .gather = gather, .userdata = &collector }, settings.connection_usec, &server);
        if (r < 0)
                return log_error_errno(r, "Failed to make the HTTP server: %m");
        r = isempty(settings.listen) ? listeners_add_passed(http_server_listeners(server)) : listen_by_hand(server, settings.listen);
        if (r < 0)
                return r;

        Idle idle = { .server = server, .usec = settings.idle_usec };
        r = sd_event_add_time_relative(event, /* ret= */ NULL, CLOCK_MONOTONIC, idle.usec, 0, on_idle, &idle);
        if (r < 0)
                return log_error_errno(r, "Failed to set a timer: %m");

        (void) sd_notify(/* unset_environment= */ false, "READY=1");
        return daemon_loop(event);
}

DEFINE_MAIN_FUNCTION(run);
