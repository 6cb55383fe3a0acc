/* SPDX-License-Identifier: Apache-2.0 */
/* Many sandboxes in one adaptor: what each costs must not depend on how many there are.
 *
 * Compared is processor time, which a busy machine does not change much, and never time on the clock. Figures are printed for
 * docs/performance.md. */
#include "adaptor-rig.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

/* With a sanitizer everything is slower and larger: then only that it works is looked at. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define BATCH 100U
#define N_BATCHES (SANITIZED ? 2U : 10U)
#define N_MAX (BATCH * 10U)
#define LOOKS 100U              /* how often a thing that is fast is done, to be measured */

typedef struct Names {
        char id[65], pod[32], netns[64], instance[64];
} Names;

static Names names[N_MAX];
static Call calls[N_MAX];

static void make_names(void) {
        for (unsigned i = 0; i < N_MAX; i++) {
                Names *n = names + i;

                /* As CRI runtimes make them: the first eight digits, which go into the instance's name, differ. */
                (void) snprintf(n->id, sizeof(n->id), "%08x%056x", i * 2654435761U, i);
                (void) snprintf(n->pod, sizeof(n->pod), "pod-%u", i);
                (void) snprintf(n->netns, sizeof(n->netns), "/run/netns/cni-%u", i);
                (void) snprintf(n->instance, sizeof(n->instance), "podvm-%s-%.8s", n->pod, n->id);
        }
}

static int setup_scale(void **state) {
        static const char *const roomy[] = { "--start-timeout=1h", NULL };

        make_names();
        adaptor_options = roomy;
        return setup(state);
}

/* Processor time of all threads of a process. */
static uint64_t cpu_nsec(pid_t pid) {
        struct timespec ts;
        clockid_t clock;

        assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
        assert_int_equal(clock_gettime(clock, &ts), 0);
        return (uint64_t) ts.tv_sec * 1000000000 + (uint64_t) ts.tv_nsec;
}

static uint64_t private_kib(pid_t pid) {
        char path[64];
        _cleanup_(freep) char *text = NULL;
        uint64_t kib = 0;
        char *p;

        (void) snprintf(path, sizeof(path), "/proc/%i/smaps_rollup", pid);
        text = read_text(path);
        p = strstr(text, "Private_Dirty:");
        assert_non_null(p);
        assert_int_equal(sscanf(p, "Private_Dirty: %" SCNu64, &kib), 1);
        return kib;
}

typedef void (*Begin)(TtrpcClient *client, unsigned i);

static void begin_create_of(TtrpcClient *client, unsigned i) {
        begin_create(client, calls + i, names[i].id, names[i].netns, names[i].pod, NULL);
}

static void begin_start_of(TtrpcClient *client, unsigned i) {
        begin_start(client, calls + i, names[i].id, 0);
}

static void begin_stop_of(TtrpcClient *client, unsigned i) {
        begin_stop(client, calls + i, names[i].id);
}

/* The call for each sandbox of a range, all at once, until all have succeeded. */
static void all_at_once(Test *t, TtrpcClient *client, Begin begin, unsigned from, unsigned to) {
        for (unsigned i = from; i < to; i++)
                begin(client, i);
        for (unsigned i = from; i < to; i++)
                finish(t, calls + i, TTRPC_OK);
}

static unsigned n_instances(const Test *t) {
        return entries(path_of(t, "provider")) - exists(path_of(t, "provider/calls")) - exists(path_of(t, "provider/control"));
}

static unsigned n_listed(Test *t) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        unsigned n = 0;

        assert_true(sd_bus_call_method(t->bus, NAME, ROOT, NAME ".Manager", "ListPodVMs", NULL, &m, NULL) >= 0);
        assert_true(sd_bus_message_enter_container(m, 'a', "(sssso)") >= 0);
        while (sd_bus_message_skip(m, "(sssso)") > 0)
                n++;
        return n;
}

static uint32_t n_podvms(Test *t) {
        uint32_t n;

        assert_true(sd_bus_get_property_trivial(t->bus, NAME, ROOT, NAME ".Manager", "NPodVMs", NULL, 'u', &n) >= 0);
        return n;
}

static void look_at_list(Test *t, const char *path, unsigned n_expected) {
        assert_int_equal(n_listed(t), n_expected);
}

static void look_at_one(Test *t, const char *path, unsigned n_expected) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;

        assert_true(sd_bus_call_method(t->bus, NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect", NULL, &m, NULL) >= 0);
}

/* The least of some rounds: whatever disturbs, makes it more. */
static uint64_t cpu_of_looks(Test *t, void (*look)(Test *t, const char *path, unsigned n_expected), const char *id, unsigned n_expected) {
        _cleanup_(freep) char *path = NULL;
        uint64_t least = UINT64_MAX;

        assert_true(sd_bus_path_encode(ROOT "/podvm", id, &path) >= 0);
        for (unsigned round = 0; round < 5; round++) {
                uint64_t begin = cpu_nsec(t->adaptor);

                for (unsigned i = 0; i < LOOKS; i++)
                        look(t, path, n_expected);
                least = MIN(least, cpu_nsec(t->adaptor) - begin);
        }
        return least;
}

/* @n: how many of these there were each time, to print what one takes. */
static void compare(const char *what, unsigned n, uint64_t few_nsec, uint64_t many_nsec) {
        print_message("%s: %.1f us of processor time with few, %.1f us with many sandboxes\n", what, few_nsec / 1e3 / n, many_nsec / 1e3 / n);
        if (!SANITIZED && many_nsec > few_nsec * 3)
                fail_msg("%s takes the longer, the more sandboxes there are", what);
}

/* … of some batches, likewise. */
static uint64_t least_of(const uint64_t *values, unsigned n) {
        uint64_t least = UINT64_MAX;

        for (unsigned i = 0; i < n; i++)
                least = MIN(least, values[i]);
        return least;
}

static void a_thousand_sandboxes_cost_a_thousand_times_one(void **state) {
        uint64_t cpu[4][N_MAX / BATCH] = {}, list[2] = {}, introspect[2] = {}, memory[2] = {}, begin, took;
        static const char *const what[] = { "CreateVM", "StartVM", "StopVM", "peerpod-providerd's part" };
        const unsigned n = BATCH * N_BATCHES, third = (N_BATCHES + 2) / 3;
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        begin = now_usec(CLOCK_MONOTONIC);
        for (unsigned b = 0; b < N_BATCHES; b++) {
                uint64_t at = cpu_nsec(t->adaptor), provider_at = cpu_nsec(t->provider);

                all_at_once(t, client, begin_create_of, b * BATCH, (b + 1) * BATCH);
                cpu[0][b] = cpu_nsec(t->adaptor) - at;
                at = cpu_nsec(t->adaptor);
                all_at_once(t, client, begin_start_of, b * BATCH, (b + 1) * BATCH);
                cpu[1][b] = cpu_nsec(t->adaptor) - at;
                cpu[3][b] = cpu_nsec(t->provider) - provider_at;

                if (b == 0) {
                        list[0] = cpu_of_looks(t, look_at_list, names[0].id, BATCH);
                        introspect[0] = cpu_of_looks(t, look_at_one, names[0].id, BATCH);
                        memory[0] = private_kib(t->adaptor);
                }
        }
        took = now_usec(CLOCK_MONOTONIC) - begin;
        print_message("%u sandboxes created and started in %.1f s, %.0f per second, %u at once\n", n, took / 1e6, n * 1e6 / took, BATCH);
        assert_int_equal(n_instances(t), n);

        list[1] = cpu_of_looks(t, look_at_list, names[0].id, n);
        introspect[1] = cpu_of_looks(t, look_at_one, names[n - 1].id, n);
        memory[1] = private_kib(t->adaptor);

        begin = now_usec(CLOCK_MONOTONIC);
        for (unsigned b = 0; b < N_BATCHES; b++) {
                uint64_t at = cpu_nsec(t->adaptor);

                /* From the end, so that the first to go leave many. */
                all_at_once(t, client, begin_stop_of, n - (b + 1) * BATCH, n - b * BATCH);
                wait_until(t, n_podvms(t) == n - (b + 1) * BATCH);
                cpu[2][N_BATCHES - 1 - b] = cpu_nsec(t->adaptor) - at;
        }
        took = now_usec(CLOCK_MONOTONIC) - begin;
        print_message("%u sandboxes stopped in %.1f s, %.0f per second\n", n, took / 1e6, n * 1e6 / took);
        assert_int_equal(n_instances(t), 0);
        assert_int_equal(entries(path_of(t, "state/sandboxes")), 0);
        assert_int_equal(entries(path_of(t, "run")), 0);

        for (unsigned k = 0; k < ELEMENTSOF(what); k++)
                compare(what[k], BATCH, least_of(cpu[k], third), least_of(cpu[k] + N_BATCHES - third, third));
        compare("introspection of one pod VM", LOOKS, introspect[0], introspect[1]);
        compare("a line of ListPodVMs", LOOKS, list[0] / BATCH, list[1] / n);
        print_message("memory of peerpod-adaptor: %.1f KiB for each sandbox\n", (double) (memory[1] - memory[0]) / (n - BATCH));
        ttrpc_client_free(client);
}

/* Both kinds of call, and what happens to those that do hang. */
static void a_call_that_hangs_delays_nobody_else(void **state) {
        static const char *const impatient[] = { "--workers=2", "--call-patience=100ms", NULL };
        _cleanup_(freep) char *orders = NULL;
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        const unsigned n_stuck = 10, n = 40;

        (void) end_process(&t->provider, SIGTERM);
        provider_options = impatient;
        start_provider(t);

        orders = calloc(n_stuck, 128);
        assert_non_null(orders);
        for (unsigned i = 0; i < n_stuck; i++)
                sprintf(orders + strlen(orders), "%s %s=hang\n", i % 2 ? "create" : "delete", names[i].instance);
        control_provider(t, orders);

        all_at_once(t, client, begin_create_of, 0, n);
        for (unsigned i = 0; i < n_stuck; i++)
                begin_start_of(client, i);
        for (unsigned i = 0; i < n_stuck; i += 2) {
                finish(t, calls + i, TTRPC_OK);
                begin_stop_of(client, i);
        }
        all_at_once(t, client, begin_start_of, n_stuck, n);
        all_at_once(t, client, begin_stop_of, n_stuck, n);
        wait_until(t, n_podvms(t) == n_stuck);          /* all others are gone, for good */
        for (unsigned i = 0; i < n_stuck; i++)
                assert_string_equal(property_of(t, names[i].id, "State"), i % 2 ? "creating" : "deleting");

        /* A creation that hangs can be stopped; a deletion that hangs ends with its cloud. */
        control_provider(t, "");
        for (unsigned i = 1; i < n_stuck; i += 2) {
                assert_false(calls[i].done);
                begin_stop(client, calls + n + i, names[i].id);
                finish(t, calls + n + i, TTRPC_OK);
                finish(t, calls + i, TTRPC_CANCELLED);
        }
        (void) end_process(&t->provider, SIGKILL);
        start_provider(t);
        wait_until(t, n_podvms(t) == 0);
        assert_int_equal(n_instances(t), 0);
        ttrpc_client_free(client);
}

/* All of them are looked after at once, which must not be more than systemd's bus and the services take. */
static void a_restart_adopts_a_thousand(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        const unsigned n = BATCH * N_BATCHES;
        uint64_t begin, ready;

        for (unsigned b = 0; b < N_BATCHES; b++) {
                all_at_once(t, client, begin_create_of, b * BATCH, (b + 1) * BATCH);
                all_at_once(t, client, begin_start_of, b * BATCH, (b + 1) * BATCH);
        }
        ttrpc_client_free(client);
        end_adaptor(t, SIGKILL);
        assert_int_equal(unlink(path_of(t, "calls")), 0);

        begin = now_usec(CLOCK_MONOTONIC);
        start_adaptor(t);
        ready = now_usec(CLOCK_MONOTONIC);
        wait_until(t, count(path_of(t, "calls"), "StartUnit ") == 2 * n);       /* socket and proxy of each */
        print_message("%u sandboxes read in %.2f s, and looked after in %.2f s\n", n, (ready - begin) / 1e6,
                      (now_usec(CLOCK_MONOTONIC) - begin) / 1e6);
        assert_int_equal(n_podvms(t), n);
        for (unsigned i = 0; i < n; i += BATCH / 4) {
                assert_string_equal(property_of(t, names[i].id, "State"), "running");
                assert_string_equal(property_of(t, names[i].id, "LastError"), "");
        }
        assert_false(called(t, "StopUnit"));

        client = connect_shim(t);
        for (unsigned b = 0; b < N_BATCHES; b++)
                all_at_once(t, client, begin_stop_of, b * BATCH, (b + 1) * BATCH);
        wait_until(t, n_podvms(t) == 0);
        assert_int_equal(n_instances(t), 0);
        ttrpc_client_free(client);
}

static void five_hundred_at_once(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        const unsigned n = SANITIZED ? 100 : 500;

        all_at_once(t, client, begin_create_of, 0, n);
        all_at_once(t, client, begin_start_of, 0, n);
        assert_int_equal(n_instances(t), n);
        all_at_once(t, client, begin_stop_of, 0, n);
        wait_until(t, n_podvms(t) == 0);
        assert_int_equal(n_instances(t), 0);
        ttrpc_client_free(client);
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup_scale, teardown)
        const struct CMUnitTest tests[] = {
                TEST(a_thousand_sandboxes_cost_a_thousand_times_one),
                TEST(a_restart_adopts_a_thousand),
                TEST(five_hundred_at_once),
                TEST(a_call_that_hangs_delays_nobody_else),
        };

        if (!take_arguments(argc, argv, 4))
                return 2;

        return cmocka_run_group_tests_name("adaptor-scale", tests, NULL, NULL);
}
