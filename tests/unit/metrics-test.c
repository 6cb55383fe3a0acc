/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics as text. The golden texts follow the examples of github.com/prometheus/OpenMetrics, specification/OpenMetrics.md, and of
 * prometheus.io/docs/instrumenting/exposition_formats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "adaptor/metrics.h"
#include "agent-proxy/counters.h"
#include "basic/io.h"
#include "basic/util.h"
#include "metrics/exposition.h"

static int setup(void **state) {
        return exposition_new((Exposition**) state);
}

static int teardown(void **state) {
        exposition_free(*state);
        return 0;
}

static void assert_text(Exposition *e, ExpositionFormat format, const char *expected) {
        _cleanup_(freep) char *text = NULL;
        size_t size;

        assert_int_equal(exposition_render(e, format, &text, &size), 0);
        assert_string_equal(text, expected);
        assert_int_equal(size, strlen(expected));
}

static void nothing_is_an_empty_text(void **state) {
        assert_text(*state, FORMAT_OPENMETRICS, "# EOF\n");
        assert_text(*state, FORMAT_PROMETHEUS, "");
}

static void a_counter_has_its_suffix_where_each_format_wants_it(void **state) {
        const MetricLabel failed[] = { { "result", "failed" } }, running[] = { { "result", "running" } };

        assert_int_equal(exposition_add(*state, "peerpod_starts", failed, 1, 0), 0);
        assert_int_equal(exposition_add(*state, "peerpod_starts", running, 1, UINT64_MAX), 0);
        assert_text(*state, FORMAT_OPENMETRICS,
                    "# TYPE peerpod_starts counter\n"
                    "# HELP peerpod_starts StartVM calls that came to an end, by how.\n"
                    "peerpod_starts_total{result=\"failed\"} 0\n"
                    "peerpod_starts_total{result=\"running\"} 18446744073709551615\n"
                    "# EOF\n");
        assert_text(*state, FORMAT_PROMETHEUS,
                    "# HELP peerpod_starts_total StartVM calls that came to an end, by how.\n"
                    "# TYPE peerpod_starts_total counter\n"
                    "peerpod_starts_total{result=\"failed\"} 0\n"
                    "peerpod_starts_total{result=\"running\"} 18446744073709551615\n");
}

static void times_are_told_in_seconds_without_loss(void **state) {
        assert_int_equal(exposition_add(*state, "peerpod_adaptor_start_time_seconds", NULL, 0, UINT64_C(1764340000123456)), 0);
        assert_int_equal(exposition_add(*state, "peerpod_oldest_delete_age_seconds", NULL, 0, 2500000), 0);
        assert_text(*state, FORMAT_OPENMETRICS,
                    "# TYPE peerpod_adaptor_start_time_seconds gauge\n"
                    "# UNIT peerpod_adaptor_start_time_seconds seconds\n"
                    "# HELP peerpod_adaptor_start_time_seconds When the adaptor started; its counters began at 0 then.\n"
                    "peerpod_adaptor_start_time_seconds 1764340000.123456\n"
                    "# TYPE peerpod_oldest_delete_age_seconds gauge\n"
                    "# UNIT peerpod_oldest_delete_age_seconds seconds\n"
                    "# HELP peerpod_oldest_delete_age_seconds How long the oldest delete is under way; 0 if none is.\n"
                    "peerpod_oldest_delete_age_seconds 2.5\n"
                    "# EOF\n");
}

static void families_stand_together_however_their_samples_came(void **state) {
        const MetricLabel a[] = { { "state", "planned" } }, b[] = { { "state", "running" } };

        assert_int_equal(exposition_add(*state, "peerpod_sandboxes", a, 1, 1), 0);
        assert_int_equal(exposition_add(*state, "peerpod_adaptor_up", NULL, 0, 1), 0);
        assert_int_equal(exposition_add(*state, "peerpod_sandboxes", b, 1, 2), 0);
        assert_text(*state, FORMAT_PROMETHEUS,
                    "# HELP peerpod_adaptor_up Whether peerpod-adaptor runs and answered.\n"
                    "# TYPE peerpod_adaptor_up gauge\n"
                    "peerpod_adaptor_up 1\n"
                    "# HELP peerpod_sandboxes Sandboxes by state.\n"
                    "# TYPE peerpod_sandboxes gauge\n"
                    "peerpod_sandboxes{state=\"planned\"} 1\n"
                    "peerpod_sandboxes{state=\"running\"} 2\n");
}

static void a_histogram_has_cumulative_buckets_with_bounds_in_seconds(void **state) {
        const MetricLabel labels[] = { { "phase", "boot" } };
        const MetricBucket buckets[] = { { 10000, 1 }, { 1000000, 1 }, { 600000000, 4 }, { UINT64_MAX, 5 } };

        assert_int_equal(exposition_add_histogram(*state, "peerpod_phase_duration_seconds", labels, 1, 1234567, buckets, 4), 0);
        assert_text(*state, FORMAT_OPENMETRICS,
                    "# TYPE peerpod_phase_duration_seconds histogram\n"
                    "# UNIT peerpod_phase_duration_seconds seconds\n"
                    "# HELP peerpod_phase_duration_seconds How long phases of sandboxes' lives took that succeeded.\n"
                    "peerpod_phase_duration_seconds_bucket{phase=\"boot\",le=\"0.01\"} 1\n"
                    "peerpod_phase_duration_seconds_bucket{phase=\"boot\",le=\"1.0\"} 1\n"
                    "peerpod_phase_duration_seconds_bucket{phase=\"boot\",le=\"600.0\"} 4\n"
                    "peerpod_phase_duration_seconds_bucket{phase=\"boot\",le=\"+Inf\"} 5\n"
                    "peerpod_phase_duration_seconds_count{phase=\"boot\"} 5\n"
                    "peerpod_phase_duration_seconds_sum{phase=\"boot\"} 1.234567\n"
                    "# EOF\n");
}

static void an_info_is_a_gauge_to_the_older_format(void **state) {
        const MetricLabel labels[] = { { "version", "1" }, { "provider", NULL } };

        assert_int_equal(exposition_add(*state, "peerpod_adaptor", labels, 2, 1), 0);
        assert_text(*state, FORMAT_OPENMETRICS,
                    "# TYPE peerpod_adaptor info\n"
                    "# HELP peerpod_adaptor The adaptor that was asked.\n"
                    "peerpod_adaptor_info{version=\"1\",provider=\"\"} 1\n"
                    "# EOF\n");
        assert_text(*state, FORMAT_PROMETHEUS,
                    "# HELP peerpod_adaptor_info The adaptor that was asked.\n"
                    "# TYPE peerpod_adaptor_info gauge\n"
                    "peerpod_adaptor_info{version=\"1\",provider=\"\"} 1\n");
}

static void a_label_s_value_cannot_break_the_line(void **state) {
        const MetricLabel labels[] = { { "state", "a\"b\\c\nd\xc3\xa9" } };

        assert_int_equal(exposition_add(*state, "peerpod_sandboxes", labels, 1, 1), 0);
        assert_text(*state, FORMAT_PROMETHEUS,
                    "# HELP peerpod_sandboxes Sandboxes by state.\n"
                    "# TYPE peerpod_sandboxes gauge\n"
                    "peerpod_sandboxes{state=\"a\\\"b\\\\c?d??\"} 1\n");
}

static void a_long_label_is_cut(void **state) {
        char value[1000], expected[1200];
        const MetricLabel labels[] = { { "state", value } };

        memset(value, 'x', sizeof(value));
        value[sizeof(value) - 1] = '\0';
        assert_int_equal(exposition_add(*state, "peerpod_sandboxes", labels, 1, 1), 0);
        (void) snprintf(expected, sizeof(expected),
                        "# HELP peerpod_sandboxes Sandboxes by state.\n"
                        "# TYPE peerpod_sandboxes gauge\n"
                        "peerpod_sandboxes{state=\"%.253s\"} 1\n", value);
        assert_text(*state, FORMAT_PROMETHEUS, expected);
}

static void what_is_not_in_the_table_is_refused(void **state) {
        const MetricBucket buckets[] = { { UINT64_MAX, 0 } };
        const MetricLabel bad[] = { { "a=\"\"} 1\n", "" } };

        assert_int_equal(exposition_add(*state, "peerpod_unheard_of", NULL, 0, 1), -ENOENT);
        assert_int_equal(exposition_add(*state, "peerpod_phase_duration_seconds", NULL, 0, 1), -ENOENT);
        assert_int_equal(exposition_add_histogram(*state, "peerpod_sandboxes", NULL, 0, 0, buckets, 1), -ENOENT);
        assert_int_equal(exposition_add(*state, "peerpod_sandboxes", bad, 1, 1), -EINVAL);
        assert_text(*state, FORMAT_PROMETHEUS, "");
}

static void buckets_out_of_order_are_refused(void **state) {
        static const struct {
                MetricBucket buckets[2];
                size_t n;
        } cases[] = {
                { {}, 0 },
                { { { 1, 1 } }, 1 },                            /* no last one without a bound */
                { { { 1, 2 }, { UINT64_MAX, 1 } }, 2 },         /* fewer at most 2 than at most 1 */
                { { { UINT64_MAX, 1 }, { UINT64_MAX, 1 } }, 2 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                assert_int_equal(exposition_add_histogram(*state, "peerpod_phase_duration_seconds", NULL, 0, 0, cases[i].buckets,
                                                          cases[i].n), -EINVAL);
        assert_text(*state, FORMAT_PROMETHEUS, "");
}

static void the_text_has_a_largest_size(void **state) {
        char value[METRIC_LABEL_SIZE_MAX + 1];
        const MetricLabel labels[] = { { "state", value } };
        unsigned n = 0;
        int r;

        memset(value, 'x', sizeof(value));
        value[sizeof(value) - 1] = '\0';
        while ((r = exposition_add(*state, "peerpod_sandboxes", labels, 1, n)) == 0)
                assert_in_range(n++, 0, EXPOSITION_SIZE_MAX / METRIC_LABEL_SIZE_MAX);
        assert_int_equal(r, -EFBIG);
}

static void the_format_is_negotiated(void **state) {
        static const struct {
                const char *accept;
                ExpositionFormat format;
        } cases[] = {
                { NULL, FORMAT_PROMETHEUS },
                { "", FORMAT_PROMETHEUS },
                { "*/*", FORMAT_PROMETHEUS },
                { "text/html,application/xhtml+xml,*/*;q=0.8", FORMAT_PROMETHEUS },
                { "application/openmetrics-text", FORMAT_OPENMETRICS },
                { "Application/OpenMetrics-Text; version=1.0.0", FORMAT_OPENMETRICS },
                /* Prometheus 2.53's own (prometheus: scrape/scrape.go, acceptHeader) */
                { "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
                  "text/plain;version=0.0.4;q=0.3,*/*;q=0.2", FORMAT_OPENMETRICS },
                { "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", FORMAT_PROMETHEUS },
                { "text/plain;q=0.9, application/openmetrics-text;q=0.3", FORMAT_PROMETHEUS },
                { "application/openmetrics-text;q=0", FORMAT_PROMETHEUS },
                { "application/openmetrics-text;q=0.000, text/plain;q=0.001", FORMAT_PROMETHEUS },
                { "application/openmetrics-text2", FORMAT_PROMETHEUS },
                { ";;;,,;q=,=,application/openmetrics-text;;q=x", FORMAT_OPENMETRICS },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                if (exposition_negotiate(cases[i].accept) != cases[i].format)
                        fail_msg("wrong format for '%s'", strempty(cases[i].accept));
}

static void a_time_falls_into_the_first_bucket_that_holds_it(void **state) {
        Histogram h = {};

        histogram_add(&h, 10 * USEC_PER_MSEC);          /* the bound belongs to its bucket */
        histogram_add(&h, 10 * USEC_PER_MSEC + 1);
        histogram_add(&h, 3600 * USEC_PER_SEC);         /* longer than all bounds */
        histogram_add(&h, -5);                          /* the clock was set back */
        assert_int_equal(h.buckets[0], 2);
        assert_int_equal(h.buckets[1], 1);
        assert_int_equal(h.buckets[METRICS_BUCKETS - 1], 1);
        assert_int_equal(h.sum_usec, 20 * USEC_PER_MSEC + 1 + 3600 * USEC_PER_SEC);
}

/* ---- the agent proxies' pages ---- */

static int directory_setup(void **state) {
        *state = strdup("/tmp/peerpod-metrics-XXXXXX");
        return mkdtemp(*state) ? 0 : -1;
}

static int directory_teardown(void **state) {
        int r = remove_tree(*state);

        free(*state);
        return r;
}

static const char* page_path(const char *directory) {
        static char path[256];

        (void) snprintf(path, sizeof(path), "%s/" PROXY_COUNTERS_FILE, directory);
        return path;
}

static void what_a_proxy_counts_is_read_while_it_counts(void **state) {
        ProxyCounters c;
        ProxyValues v;

        assert_int_equal(proxy_counters_open(*state, &c), 0);
        assert_int_equal(proxy_counters_read(*state, &v), 0);
        assert_int_equal(v.n, _PROXY_COUNTER_MAX);
        for (size_t i = 0; i < v.n; i++)
                assert_int_equal(v.values[i], 0);

        proxy_counters_add(&c, PROXY_CALLS, 3);
        proxy_counters_add(&c, PROXY_CALLS, 1);
        proxy_counters_set(&c, PROXY_LINK_UP, 1);
        assert_int_equal(proxy_counters_read(*state, &v), 0);
        assert_int_equal(v.values[PROXY_CALLS], 4);
        assert_int_equal(v.values[PROXY_LINK_UP], 1);
        assert_int_equal(v.values[PROXY_CALLS_FAILED], 0);
        proxy_counters_done(&c);

        /* The next one begins anew, in a file that others may read. */
        assert_int_equal(proxy_counters_open(*state, &c), 0);
        assert_int_equal(proxy_counters_read(*state, &v), 0);
        assert_int_equal(v.values[PROXY_CALLS], 0);
        proxy_counters_done(&c);
        struct stat st;
        assert_int_equal(stat(page_path(*state), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0644);
}

static void a_proxy_without_a_directory_counts_for_itself(void **state) {
        ProxyCounters c;

        assert_int_equal(proxy_counters_open(NULL, &c), 0);
        proxy_counters_add(&c, PROXY_CALLS, 1);
        proxy_counters_done(&c);
        assert_int_equal(proxy_counters_open("/nonexistent", &c), -ENOENT);
        proxy_counters_add(&c, PROXY_CALLS, 1);
        proxy_counters_done(&c);
}

/* Magic, version and number of values, as counters.c has them. */
static void write_page(const char *directory, uint32_t magic, uint32_t version, uint32_t n_values, size_t size) {
        uint8_t page[64] = {};
        const uint32_t header[] = { magic, version, n_values, 0 };
        const uint64_t calls = 7;

        memcpy(page, header, sizeof(header));
        memcpy(page + sizeof(header), &calls, sizeof(calls));
        assert_int_equal(write_file_atomic(page_path(directory), page, size, 0644), 0);
}

#define MAGIC UINT32_C(0x54435050)

static void pages_of_older_and_newer_proxies_are_read_as_far_as_they_go(void **state) {
        ProxyValues v;

        write_page(*state, MAGIC, 1, 1, 24);
        assert_int_equal(proxy_counters_read(*state, &v), 0);
        assert_int_equal(v.n, 1);
        assert_int_equal(v.values[PROXY_CALLS], 7);

        uint8_t page[16 + 8 * (_PROXY_COUNTER_MAX + 5)] = {};
        const uint32_t header[] = { MAGIC, 1, _PROXY_COUNTER_MAX + 5, 0 };
        memcpy(page, header, sizeof(header));
        assert_int_equal(proxy_counters_parse(page, sizeof(page), &v), 0);
        assert_int_equal(v.n, _PROXY_COUNTER_MAX);
}

static void what_is_no_page_is_refused(void **state) {
        const char *directory = *state;
        ProxyValues v;

        assert_int_equal(proxy_counters_read(directory, &v), -ENOENT);
        assert_int_equal(proxy_counters_read("/nonexistent/directory", &v), -ENOENT);

        static const struct {
                uint32_t magic, version, n_values;
                size_t size;
        } cases[] = {
                { MAGIC + 1, 1, 1, 24 },
                { MAGIC, 2, 1, 24 },
                { MAGIC, 1, 2, 24 },            /* fewer bytes than it says */
                { MAGIC, 1, UINT32_MAX, 64 },
                { MAGIC, 1, 511, 64 },
                { MAGIC, 1, 0, 15 },
                { MAGIC, 1, 0, 0 },
        };
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                write_page(directory, cases[i].magic, cases[i].version, cases[i].n_values, cases[i].size);
                assert_int_equal(proxy_counters_read(directory, &v), -EBADMSG);
        }

        /* What a proxy that was taken over may put there. */
        assert_int_equal(unlink(page_path(directory)), 0);
        assert_int_equal(symlink("/etc/passwd", page_path(directory)), 0);
        assert_int_equal(proxy_counters_read(directory, &v), -EBADMSG);
        assert_int_equal(unlink(page_path(directory)), 0);
        assert_int_equal(mkfifo(page_path(directory), 0644), 0);
        assert_int_equal(proxy_counters_read(directory, &v), -EBADMSG);        /* and does not wait for a writer */
        assert_int_equal(unlink(page_path(directory)), 0);
        assert_int_equal(mkdir(page_path(directory), 0755), 0);
        assert_int_equal(proxy_counters_read(directory, &v), -EBADMSG);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(nothing_is_an_empty_text),
                TEST(a_counter_has_its_suffix_where_each_format_wants_it),
                TEST(times_are_told_in_seconds_without_loss),
                TEST(families_stand_together_however_their_samples_came),
                TEST(a_histogram_has_cumulative_buckets_with_bounds_in_seconds),
                TEST(an_info_is_a_gauge_to_the_older_format),
                TEST(a_label_s_value_cannot_break_the_line),
                TEST(a_long_label_is_cut),
                TEST(what_is_not_in_the_table_is_refused),
                TEST(buckets_out_of_order_are_refused),
                TEST(the_text_has_a_largest_size),
                cmocka_unit_test(the_format_is_negotiated),
                cmocka_unit_test_setup_teardown(what_a_proxy_counts_is_read_while_it_counts, directory_setup, directory_teardown),
                cmocka_unit_test(a_proxy_without_a_directory_counts_for_itself),
                cmocka_unit_test_setup_teardown(pages_of_older_and_newer_proxies_are_read_as_far_as_they_go, directory_setup,
                                                directory_teardown),
                cmocka_unit_test_setup_teardown(what_is_no_page_is_refused, directory_setup, directory_teardown),
                cmocka_unit_test(a_time_falls_into_the_first_bucket_that_holds_it),
        };

        return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
