/* SPDX-License-Identifier: Apache-2.0 */
/* Tells Azure's WireServer that this VM is ready: without that, its creation never ends, and in the end it counts as failed. */
#include <stdio.h>

#include "podvm/azure-ready/wire.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/util.h"
#include "podvm/process-user-data/http.h"

#define NAME "azure-ready"
#define ANSWER_SIZE_MAX (1U << 20)              /* cloud-api-adaptor: src/cloud-api-adaptor/cmd/azure-ready/main.go */
#define RETRY_MIN_USEC (200 * USEC_PER_MSEC)
#define RETRY_MAX_USEC (5 * USEC_PER_SEC)
#define AGENT_HEADER "x-ms-agent-name: " NAME

typedef struct Settings {
        char *endpoint;
        uint64_t timeout_usec, total_timeout_usec;
} Settings;

static const Option options[] = {
        { .flag = "endpoint", .type = OPTION_STRING, .offset = offsetof(Settings, endpoint), .value = "http://168.63.129.16",
          .help = "Where the WireServer is", .metavar = "URL" },
        { .flag = "timeout", .type = OPTION_DURATION, .offset = offsetof(Settings, timeout_usec), .value = "30s",
          .help = "What one request may take", .metavar = "DURATION" },
        { .flag = "total-timeout", .type = OPTION_DURATION, .offset = offsetof(Settings, total_timeout_usec), .value = "4m",
          .help = "What all attempts may take", .metavar = "DURATION" },
        {}
};

static const Program program = {
        .name = NAME,
        .usage = "[OPTIONS…]",
        .description = "Tell Azure that this VM is ready.",
        .options = options,
        .man = NAME "(8)",
};

static void settings_done(Settings *s) {
        options_done(options, s);
}

/* Any status of the 200s is success (upstream's rule). @body and @ret may be NULL. */
static int ask(const Settings *s, const char *path, const char *version, const char *body, HttpReply *ret) {
        _cleanup_(freep) char *url = NULL, *version_header = NULL, *why = NULL;
        const char *headers[4] = { AGENT_HEADER };
        HttpRequest q = {
                .method = body ? "POST" : "GET",
                .headers = headers,
                .body = body,
                .size_max = ANSWER_SIZE_MAX,
                .timeout_usec = s->timeout_usec,
        };
        HttpReply reply;
        size_t n = 1;
        int r;

        if (asprintf(&url, "%s%s", s->endpoint, path) < 0)
                return -ENOMEM;
        if (version && asprintf(&version_header, "x-ms-version: %s", version) < 0)
                return -ENOMEM;
        if (version_header)
                headers[n++] = version_header;
        if (body)
                headers[n++] = "Content-Type: text/xml; charset=utf-8";
        q.url = url;

        r = http_request(&q, &reply, &why);
        if (r < 0)
                return log_info_errno(r, "'%s': %s.", url, why ?: strerror(-r));
        if (reply.status < 200 || reply.status > 299) {
                free(reply.body);
                return log_info_errno(-EAGAIN, "'%s' was answered with HTTP status %d.", url, reply.status);
        }

        if (ret)
                *ret = reply;
        else
                free(reply.body);
        return 0;
}

static int report_ready(const Settings *s) {
        _cleanup_(goal_state_done) GoalState g = {};
        _cleanup_(freep) char *version = NULL, *health = NULL;
        HttpReply reply;
        int r;

        r = ask(s, "/?comp=versions", NULL, NULL, &reply);
        if (r < 0)
                return r;
        r = wire_parse_versions(reply.body, reply.size, &version);
        free(reply.body);
        if (r < 0)
                return log_info_errno(r, "The WireServer's list of versions cannot be read: %m.");

        r = ask(s, "/machine/?comp=goalstate", version, NULL, &reply);
        if (r < 0)
                return r;
        r = wire_parse_goal_state(reply.body, reply.size, &g);
        free(reply.body);
        if (r < 0)
                return log_info_errno(r, "The goal state cannot be read: %m.");

        r = wire_format_health(&g, &health);
        if (r < 0)
                return r;
        return ask(s, "/machine?comp=health", version, health, NULL);
}

static int run(int argc, char *argv[]) {
        _cleanup_(settings_done) Settings s = {};
        uint64_t pause_usec = RETRY_MIN_USEC, deadline_usec;
        int r, exit;

        r = options_load(&program, argc, argv, &s, NULL, &exit);
        if (r != 0)
                return r < 0 ? r : exit;

        deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), s.total_timeout_usec);
        for (;;) {
                r = report_ready(&s);
                if (r >= 0) {
                        log_info("Azure knows that this VM is ready.");
                        return 0;
                }
                if (usec_add(now_usec(CLOCK_MONOTONIC), pause_usec) >= deadline_usec)
                        return log_error_errno(r, "Azure could not be told that this VM is ready: %m");
                (void) usleep((useconds_t) pause_usec);
                pause_usec = MIN(pause_usec * 2, RETRY_MAX_USEC);
        }
}

DEFINE_MAIN_FUNCTION(run);
