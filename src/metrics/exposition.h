/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics as text: OpenMetrics 1.0 (github.com/prometheus/OpenMetrics: specification/OpenMetrics.md), and Prometheus' own older format
 * (prometheus.io/docs/instrumenting/exposition_formats), which differ in what stands around the samples.
 *
 * What a family is (type, unit, help) stands in one table here, so that a sample from elsewhere is one of a known family or nothing. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

#define METRIC_LABEL_SIZE_MAX 253U      /* of a value; longer ones are cut. A Kubernetes name is not longer (RFC 1123) */
#define EXPOSITION_SIZE_MAX (32U << 20) /* of the whole text: as many sandboxes as an adaptor takes, with the longest names */

typedef struct Exposition Exposition;

typedef enum ExpositionFormat {
        FORMAT_OPENMETRICS,
        FORMAT_PROMETHEUS,
        _EXPOSITION_FORMAT_MAX,
} ExpositionFormat;

typedef struct MetricLabel {
        const char *name, *value;       /* name: [a-z_]+; the value may be anything, NULL is "" */
} MetricLabel;

typedef struct MetricBucket {
        uint64_t bound_usec;            /* UINT64_MAX: no bound; the last one has none */
        uint64_t count;                 /* that were at most so long, so never less than in the one before */
} MetricBucket;

int exposition_new(Exposition **ret);
Exposition* exposition_free(Exposition *e);
DEFINE_CLEANUP(Exposition*, exposition_free);

/**
 * exposition_add() - one sample
 * @family: name in the table, "peerpod_starts"; for an unknown one, or a histogram, -ENOENT
 * @value:  in µs where the family's unit is seconds
 *
 * Returns 0, -ENOENT, -EINVAL (a label's name), -EFBIG, -ENOMEM. The caller sees to it that labels do not come twice.
 */
int exposition_add(Exposition *e, const char *family, const MetricLabel *labels, size_t n_labels, uint64_t value);

/* exposition_add_histogram() - likewise, of times; -EINVAL also if the buckets are not in order or the last one has a bound */
int exposition_add_histogram(Exposition *e, const char *family, const MetricLabel *labels, size_t n_labels, uint64_t sum_usec,
                             const MetricBucket *buckets, size_t n_buckets);

/* exposition_render() - families that have samples, in the order of the table; newly allocated, ends with a NUL that does not count */
int exposition_render(Exposition *e, ExpositionFormat format, char **ret, size_t *ret_size);

/* exposition_content_type() - of the header */
const char* exposition_content_type(ExpositionFormat format);

/* exposition_negotiate() - the format for an Accept: header, which may be NULL. OpenMetrics where it is asked for by name, and is not
 * liked less than text/plain; else Prometheus' text, which everybody reads (RFC 9110, 12.5.1). */
ExpositionFormat exposition_negotiate(const char *accept);
