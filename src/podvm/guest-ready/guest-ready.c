/* SPDX-License-Identifier: Apache-2.0 */
/* Waits until a service of the pod VM answers in its own protocol; started by its unit, between the service and what needs it.
 *
 * That a socket's file exists says little: it may be left from a service that died, or be bound and not yet served. */
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/poll.h>
#include <systemd/sd-daemon.h>

#include "basic/daemon.h"
#include "basic/log.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "podvm/guest-ready/ask.h"

#define NAME "guest-ready"
#define PAUSE_USEC (20 * USEC_PER_MSEC)         /* between attempts; a process that ends is seen at once */
#define ATTEMPT_USEC (5 * USEC_PER_SEC)         /* a service that takes a connection and says nothing is asked again */

typedef struct Settings {
        uint64_t timeout_usec;
        char *socket;
} Settings;

static const Option options[] = {
        { .flag = "timeout", .type = OPTION_DURATION, .offset = offsetof(Settings, timeout_usec), .value = "90s",
          .help = "How long to wait for an answer", .metavar = "TIME" },
        { .flag = "socket", .type = OPTION_STRING, .offset = offsetof(Settings, socket),
          .help = "Where to ask, instead of the service's own place, for tests", .metavar = "PATH" },
        {}
};

static const Program program = {
        .name = NAME,
        .usage = "[OPTIONS…] SERVICE",
        .description = "Wait until a service of the pod VM answers.",
        .options = options,
        .man = NAME "(8)",
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

/* The service's main process, which systemd names to what it runs after it. -EBADF: not known, -ESRCH: gone already. */
static int open_main_process(void) {
        const char *text = getenv("MAINPID");
        uint64_t pid;
        int fd;

        if (isempty(text) || parse_u64(text, &pid) < 0 || pid == 0 || pid > INT32_MAX)
                return -EBADF;
        fd = pidfd_open((pid_t) pid, 0);
        return fd < 0 ? -errno : fd;
}

/* True if the process ends within the time. */
static bool process_ends(int pidfd, uint64_t timeout_usec) {
        struct pollfd p = { .fd = pidfd, .events = POLLIN };

        return poll(&p, pidfd >= 0, (int) (timeout_usec / USEC_PER_MSEC)) > 0;
}

static int wait_for(const GuestService *service, const char *where, uint64_t timeout_usec) {
        uint64_t begin = now_usec(CLOCK_MONOTONIC), deadline = usec_add(begin, timeout_usec), now;
        _cleanup_(close_fdp) int process = open_main_process();
        char why[GUEST_WHY_SIZE] = "";
        bool said = false;
        int r;

        for (;;) {
                now = now_usec(CLOCK_MONOTONIC);
                if (process == -ESRCH || process_ends(process, 0)) {
                        log_error("'%s' has ended before it answered on '%s'%s%s.", service->name, where, *why ? ": " : "", why);
                        return -ESRCH;
                }
                if (now >= deadline) {
                        log_error("'%s' does not answer on '%s' after %s: %s.", service->name, where, FORMAT_USEC(now - begin), why);
                        return -ETIMEDOUT;
                }

                r = guest_service_ask(service, where, MIN(deadline - now, ATTEMPT_USEC), why);
                if (r >= 0) {
                        log_debug("'%s' answers on '%s' after %s.", service->name, where,
                                  FORMAT_USEC(now_usec(CLOCK_MONOTONIC) - begin));
                        return 0;
                }
                if (r == -ENOMEM)
                        return log_oom();

                if (!said) {
                        log_info("Waiting until '%s' answers on '%s', for %s at most.", service->name, where, FORMAT_USEC(timeout_usec));
                        (void) sd_notifyf(0, "STATUS=Waiting for an answer on '%s'", where);
                        said = true;
                }
                (void) process_ends(process, PAUSE_USEC);
        }
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings settings = {};
        const GuestService *service;
        int r, rest, exit;

        r = options_load(&program, argc, argv, &settings, &rest, &exit);
        if (r != 0)
                return r < 0 ? r : exit;
        if (rest != argc - 1) {
                log_error("The name of one service is needed behind the options. Try '" NAME " --help'.");
                return EXIT_USAGE;
        }
        service = guest_service_find(argv[rest]);
        if (!service) {
                log_error("'%.64s' is no service of the pod VM that " NAME " knows.", argv[rest]);
                return EXIT_USAGE;
        }

        r = wait_for(service, settings.socket ?: service->where, settings.timeout_usec);
        if (r >= 0)
                (void) sd_notify(0, "STATUS=");
        return r;
}

DEFINE_MAIN_FUNCTION(run);
