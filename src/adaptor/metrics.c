/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/metrics.h"

#include "adaptor/error.h"
#include "adaptor/hold.h"
#include "adaptor/manager.h"
#include "adaptor/sandbox-story.h"
#include "adaptor/sandbox.h"

/* From a plan that takes milliseconds to a start at kata's own limit of ten minutes. */
static const uint64_t bounds_usec[METRICS_BUCKETS] = {
        10 * USEC_PER_MSEC, 50 * USEC_PER_MSEC, 100 * USEC_PER_MSEC, 250 * USEC_PER_MSEC, 500 * USEC_PER_MSEC,
        1 * USEC_PER_SEC, 2500 * USEC_PER_MSEC, 5 * USEC_PER_SEC, 10 * USEC_PER_SEC, 30 * USEC_PER_SEC,
        60 * USEC_PER_SEC, 120 * USEC_PER_SEC, 300 * USEC_PER_SEC, 600 * USEC_PER_SEC, USEC_INFINITY,
};

static const char *const phase_names[_METRICS_PHASE_MAX] = {
        [PHASE_PLAN]    = "plan",               /* CreateVM until its answer */
        [PHASE_CREATE]  = "create",             /* the cloud is asked until the instance has an address */
        [PHASE_TUNNEL]  = "tunnel",             /* the worker's end of the tunnel */
        [PHASE_CONNECT] = "connect",            /* the proxy is started until the agent answers: boot, link and agent */
        [PHASE_START]   = "start",              /* StartVM as a whole */
        [PHASE_DELETE]  = "delete",             /* deleting begins until nothing is left */
};

static const char *const orphan_names[_METRICS_ORPHAN_MAX] = {
        [ORPHAN_INSTANCE] = "instance",
        [ORPHAN_TUNNEL]   = "tunnel",
        [ORPHAN_SANDBOX]  = "sandbox",
};

static_assert(_SANDBOX_STEP_MAX < METRICS_STEPS, "a step more, and one for none, need room");

static const char *const error_names[METRICS_ERRORS] = {
        PEERPOD_ERROR_INVALID_ARGUMENT, PEERPOD_ERROR_NOT_FOUND, PEERPOD_ERROR_ALREADY_EXISTS, PEERPOD_ERROR_EXHAUSTED,
        PEERPOD_ERROR_FAILED_PRECONDITION, PEERPOD_ERROR_UNAVAILABLE, PEERPOD_ERROR_TIMED_OUT, PEERPOD_ERROR_CANCELLED,
        PEERPOD_ERROR_UNAUTHENTICATED, PEERPOD_ERROR_INTERNAL, PEERPOD_ERROR_THROTTLED,
        PEERPOD_ERROR_PREFIX "Other",           /* systemd's, the broker's; last */
};

void histogram_add(Histogram *h, int64_t usec) {
        uint64_t u = MAX(usec, INT64_C(0));
        size_t i = 0;

        while (u > bounds_usec[i])
                i++;
        h->buckets[i]++;
        h->sum_usec += u;
}

static void add_phase(Metrics *m, MetricsPhase phase, uint64_t begin_usec, uint64_t end_usec) {
        if (begin_usec > 0)             /* of a record that was made up there is no beginning */
                histogram_add(m->phases + phase, (int64_t) (end_usec - begin_usec));
}

void metrics_state_changed(Metrics *m, const Sandbox *s, SandboxState from) {
        const uint64_t *usec = s->record.state_usec;

        if (s->record.state == SANDBOX_RUNNING) {
                m->started++;
                add_phase(m, PHASE_START, usec[SANDBOX_CREATING], usec[SANDBOX_RUNNING]);
        }
        if (s->record.state == SANDBOX_GONE)
                add_phase(m, PHASE_DELETE, usec[SANDBOX_DELETING], usec[SANDBOX_GONE]);
        if (s->record.state == SANDBOX_DELETING && from == SANDBOX_CREATING) {
                if (sd_bus_error_has_name(&s->failure, PEERPOD_ERROR_CANCELLED))
                        m->cancelled++;
                else
                        m->failed++;
        }
}

void metrics_step_done(Metrics *m, const Sandbox *s, int step, uint64_t took_usec) {
        switch (step) {
        case STEP_PREPARE_FILES:
                add_phase(m, PHASE_PLAN, s->record.state_usec[SANDBOX_PLANNED], now_usec(CLOCK_REALTIME));
                break;
        case STEP_CREATE_INSTANCE:
                histogram_add(m->phases + PHASE_CREATE, took_usec);
                break;
        case STEP_SET_UP_TUNNEL:
        case STEP_START_PROXY:
                if (s->record.state == SANDBOX_CREATING)        /* a running sandbox only has them looked after */
                        histogram_add(m->phases + (step == STEP_SET_UP_TUNNEL ? PHASE_TUNNEL : PHASE_CONNECT), took_usec);
                break;
        default:
                break;
        }
}

void metrics_step_failed(Metrics *m, int step, const sd_bus_error *error) {
        size_t e = 0;

        while (error_names[e + 1] && !sd_bus_error_has_name(error, error_names[e]))
                e++;
        m->step_failures[step >= 0 ? step : _SANDBOX_STEP_MAX][e]++;
}

/* One sample's name and labels (pairs, ended by NULL); its value and close_sample() follow. */
static int open_sample(sd_bus_message *m, const char *name, const char *const *labels) {
        int r;

        r = sd_bus_message_open_container(m, 'r', "sa{ss}v");
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "s", name);
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'a', "{ss}");
        if (r < 0)
                return r;
        for (; labels && *labels; labels += 2) {
                r = sd_bus_message_append(m, "{ss}", labels[0], labels[1]);
                if (r < 0)
                        return r;
        }

        return sd_bus_message_close_container(m);
}

static int append_number(sd_bus_message *m, const char *name, const char *const *labels, uint64_t value) {
        int r;

        r = open_sample(m, name, labels);
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "v", "t", value);
        if (r < 0)
                return r;

        return sd_bus_message_close_container(m);
}

static int append_buckets(sd_bus_message *m, const Histogram *h) {
        uint64_t n = 0;
        int r;

        r = sd_bus_message_append(m, "t", h->sum_usec);
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'a', "(tt)");
        if (r < 0)
                return r;
        for (size_t i = 0; i < METRICS_BUCKETS; i++) {
                n += h->buckets[i];
                r = sd_bus_message_append(m, "(tt)", bounds_usec[i], n);
                if (r < 0)
                        return r;
        }

        return sd_bus_message_close_container(m);
}

static int append_histogram(sd_bus_message *m, const char *name, const char *const *labels, const Histogram *h) {
        int r;

        r = open_sample(m, name, labels);
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'v', "(ta(tt))");
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'r', "ta(tt)");
        if (r < 0)
                return r;
        r = append_buckets(m, h);
        if (r < 0)
                return r;
        r = sd_bus_message_close_container(m);
        if (r < 0)
                return r;
        r = sd_bus_message_close_container(m);
        if (r < 0)
                return r;

        return sd_bus_message_close_container(m);
}

/* What is not counted but looked up: how many there are in each state, and how long a delete is under way by now. */
static int append_sandboxes(sd_bus_message *m, const Manager *manager) {
        uint64_t n[_SANDBOX_STATE_MAX] = {}, oldest_usec = 0, now = now_usec(CLOCK_REALTIME);
        const Sandbox *s;
        int r;

        TAILQ_FOREACH(s, &manager->sandboxes, sandboxes) {
                uint64_t since = s->record.state_usec[SANDBOX_DELETING];

                n[s->record.state]++;
                if (s->record.state == SANDBOX_DELETING && since > 0 && since < now)
                        oldest_usec = MAX(oldest_usec, now - since);
        }

        for (SandboxState state = 0; state < SANDBOX_GONE; state++) {
                const char *const labels[] = { "state", sandbox_state_to_string(state), NULL };

                r = append_number(m, "peerpod_sandboxes", labels, n[state]);
                if (r < 0)
                        return r;
        }

        r = append_number(m, "peerpod_sandboxes_held", NULL, hold_count(manager));
        if (r < 0)
                return r;

        return append_number(m, "peerpod_oldest_delete_age_seconds", NULL, oldest_usec);
}

static int append_counters(sd_bus_message *m, const Metrics *metrics) {
        const struct {
                const char *name, *label, *value;
                uint64_t count;
        } counters[] = {
                { "peerpod_starts", "result", "running",   metrics->started },
                { "peerpod_starts", "result", "failed",    metrics->failed },
                { "peerpod_starts", "result", "cancelled", metrics->cancelled },
                { "peerpod_orphans_reaped", "kind", orphan_names[ORPHAN_INSTANCE], metrics->orphans[ORPHAN_INSTANCE] },
                { "peerpod_orphans_reaped", "kind", orphan_names[ORPHAN_TUNNEL],   metrics->orphans[ORPHAN_TUNNEL] },
                { "peerpod_orphans_reaped", "kind", orphan_names[ORPHAN_SANDBOX],  metrics->orphans[ORPHAN_SANDBOX] },
                { "peerpod_records_set_aside", NULL, NULL, metrics->records_set_aside },
                { "peerpod_agent_proxy_failures", NULL, NULL, metrics->proxy_failures },
        };

        for (size_t i = 0; i < ELEMENTSOF(counters); i++) {
                const char *const labels[] = { counters[i].label, counters[i].value, NULL };
                int r;

                r = append_number(m, counters[i].name, labels, counters[i].count);
                if (r < 0)
                        return r;
        }

        return 0;
}

/* Only those that have happened: all pairs would be a hundred lines of zeros. */
static int append_step_failures(sd_bus_message *m, const Metrics *metrics) {
        for (size_t step = 0; step < METRICS_STEPS; step++)
                for (size_t e = 0; e < METRICS_ERRORS; e++) {
                        int r;

                        if (metrics->step_failures[step][e] == 0)
                                continue;
                        const char *const labels[] = { "step", step < _SANDBOX_STEP_MAX ? sandbox_step_name((SandboxStep) step) : "none",
                                                       "error", error_names[e] + strlen(PEERPOD_ERROR_PREFIX), NULL };

                        r = append_number(m, "peerpod_step_failures", labels, metrics->step_failures[step][e]);
                        if (r < 0)
                                return r;
                }

        return 0;
}

int metrics_append(sd_bus_message *reply, const Manager *manager) {
        const Metrics *metrics = &manager->metrics;
        const char *const info[] = { "version", PEERPOD_VERSION, "provider", strempty(manager->provider_name),
                                     "node", strempty(manager->settings->node), NULL };
        int r;

        r = sd_bus_message_open_container(reply, 'a', "(sa{ss}v)");
        if (r < 0)
                return r;
        r = append_number(reply, "peerpod_adaptor", info, 1);
        if (r < 0)
                return r;
        r = append_number(reply, "peerpod_adaptor_start_time_seconds", NULL, metrics->start_usec);
        if (r < 0)
                return r;
        r = append_sandboxes(reply, manager);
        if (r < 0)
                return r;
        r = append_counters(reply, metrics);
        if (r < 0)
                return r;
        r = append_step_failures(reply, metrics);
        if (r < 0)
                return r;
        for (MetricsPhase phase = 0; phase < _METRICS_PHASE_MAX; phase++) {
                const char *const labels[] = { "phase", phase_names[phase], NULL };

                r = append_histogram(reply, "peerpod_phase_duration_seconds", labels, metrics->phases + phase);
                if (r < 0)
                        return r;
        }

        return sd_bus_message_close_container(reply);
}
