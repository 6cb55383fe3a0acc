/* SPDX-License-Identifier: Apache-2.0 */
/* What the adaptor has counted since it started, and how long things took; peerpod-metrics(8) makes text of it.
 *
 * Plain numbers in the manager: counting costs an addition, and nothing is looked at before somebody asks. They begin again at 0 with
 * the process, as a Prometheus counter may. */
#pragma once

#include <stdint.h>
#include <systemd/sd-bus.h>

#include "adaptor/sandbox-record.h"
#include "basic/util.h"

typedef struct Manager Manager;
typedef struct Sandbox Sandbox;

/* Of a sandbox's life; which stretch each is stands in metrics.c. */
typedef enum MetricsPhase {
        PHASE_PLAN,
        PHASE_CREATE,
        PHASE_TUNNEL,
        PHASE_CONNECT,
        PHASE_START,
        PHASE_DELETE,
        _METRICS_PHASE_MAX,
} MetricsPhase;

typedef enum MetricsOrphan {
        ORPHAN_INSTANCE,
        ORPHAN_TUNNEL,
        ORPHAN_SANDBOX,                         /* its shim was gone */
        _METRICS_ORPHAN_MAX,
} MetricsOrphan;

#define METRICS_STEPS 16U                       /* at least the steps of sandbox.h, and one for "none under way" */
#define METRICS_ERRORS 13U                      /* our error names, one for all others, and the table's end */
#define METRICS_BUCKETS 15U                     /* the last one has no upper bound */

typedef struct Histogram {
        uint64_t sum_usec;
        uint64_t buckets[METRICS_BUCKETS];      /* each counts what fell into it and no other */
} Histogram;

typedef struct Metrics {
        uint64_t start_usec;                    /* CLOCK_REALTIME */
        Histogram phases[_METRICS_PHASE_MAX];
        uint64_t started, failed, cancelled;    /* ends of StartVM */
        uint64_t step_failures[METRICS_STEPS][METRICS_ERRORS];
        uint64_t orphans[_METRICS_ORPHAN_MAX];
        uint64_t records_set_aside, proxy_failures;
} Metrics;

/* histogram_add() - a time of @usec; a negative one, of a clock that was set back, is taken for 0 */
void histogram_add(Histogram *h, int64_t usec);

/* To be called when it has happened. @step: a SandboxStep, negative for none. */
void metrics_state_changed(Metrics *m, const Sandbox *s, SandboxState from);
void metrics_step_done(Metrics *m, const Sandbox *s, int step, uint64_t took_usec);
void metrics_step_failed(Metrics *m, int step, const sd_bus_error *error);

/* metrics_append() - all of it as "a(sa{ss}v)": name, labels, and "t" or, for a histogram, "(ta(tt))": the sum in µs, and pairs of an
 * upper bound in µs (UINT64_MAX: none) and how many were at most that long */
int metrics_append(sd_bus_message *reply, const Manager *manager);
