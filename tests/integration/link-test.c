/* SPDX-License-Identifier: Apache-2.0 */
/* What a pod notices of a link that is cut: client, peerpod-agent-proxy, TLS, agent-protocol-forwarder, agent, with checked bytes
 * on their way, in a network namespace of the test's own.
 *
 * $PEERPOD_LINK_SOAK is a time in seconds for the cuts at random bytes, instead of a number of them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "basic/io.h"
#include "basic/util.h"
#include "link-load.h"
#include "relay-rig.h"
#include "ttrpc/client.h"

#define PATIENCE (120 * USEC_PER_SEC)
#define N_CUTS 34U

static Rig rig;
static sd_event *event;
static Load *load;
static Middle *middle;
static RigStore stores[2];              /* of the forwarder and of the proxy */
static char log_path[96];
static size_t own_fds;

static void sh(const char *format, ...) PRINTF(1, 2);
static void sh(const char *format, ...) {
        char command[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(command, sizeof(command), format, ap);
        va_end(ap);
        if (system(command) != 0)
                fail_msg("failed: %s", command);
}

/* A daemon waits in sd_notify() when nobody reads. Returns in how many @text was. */
static unsigned read_notifications(const char *text) {
        char status[1024];
        unsigned n_found = 0;
        ssize_t n;

        while ((n = recv(rig.notify_fd, status, sizeof(status) - 1, MSG_DONTWAIT)) > 0) {
                status[n] = '\0';
                n_found += text && strstr(status, text);
        }
        return n_found;
}

static int setup(void **state) {
        own_fds = rig_count_fds(getpid());
        rig_make(&rig);
        (void) snprintf(log_path, sizeof(log_path), "%s/log", rig.dir);
        rig.proxy_log = log_path;
        rig_start_agent(&rig);
        return sd_event_new(&event);
}

static int setup_all(void **state) {
        int r = setup(state);

        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 2);
        return r;
}

static int setup_middle(void **state) {
        int r = setup(state);

        middle = middle_new(event, rig.port, &rig.port);
        rig_write_config(&rig);
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        for (unsigned n = 0; n < 2;) {
                (void) sd_event_run(event, 50000);
                n += read_notifications("READY=1");
        }
        return r;
}

static void turn_until(bool (*done)(void), const char *what) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE;

        while (!done()) {
                assert_true(sd_event_run(event, 20000) >= 0);
                for (size_t i = 0; i < 2; i++)
                        if (stores[i].path[0])
                                rig_store_read(&stores[i]);
                (void) read_notifications(NULL);
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("waited in vain for %s", what);
        }
}

static bool both_are_ready(void) {
        return stores[0].n_ready > 0 && stores[1].n_ready > 0;
}

static int setup_stores(void **state) {
        int r = setup(state);

        rig_store_make(&stores[0], &rig, "forwarder-notify");
        rig_store_make(&stores[1], &rig, "proxy-notify");
        rig.forwarder_store = &stores[0];
        rig.proxy_store = &stores[1];
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        turn_until(both_are_ready, "READY=1");
        return r;
}

static pid_t *ending;
static int ending_status;

static bool has_ended(void) {
        pid_t k = waitpid(*ending, &ending_status, WNOHANG);

        if (k > 0)
                *ending = 0;
        return k != 0;
}

/* As "systemctl restart" does: SIGTERM, the end, and the next one with what is in the store. */
static void stop(pid_t *pid, int sig) {
        ending = pid;
        assert_int_equal(kill(*pid, sig), 0);
        turn_until(has_ended, "the end of a daemon");
}

static int teardown(void **state) {
        int status = 0;

        sh("nft flush ruleset");
        if (load)
                load = load_free(load);
        if (rig.proxy_store) {
                stop(&rig.proxy, SIGTERM);
                status |= ending_status;
                stop(&rig.forwarder, SIGTERM);
                status |= ending_status;
                for (size_t i = 0; i < 2; i++) {
                        rig_store_done(&stores[i]);
                        stores[i] = (RigStore) {};
                }
        }
        if (rig.proxy > 0)
                status |= rig_stop(&rig.proxy, SIGTERM);
        if (middle)
                middle = middle_free(middle);
        if (rig.forwarder > 0)
                status |= rig_stop(&rig.forwarder, SIGTERM);
        event = sd_event_unref(event);
        rig_done(&rig);
        if (status != 0)
                print_error("A daemon ended with wait status 0x%x.\n", status);
        return status == 0 && rig_count_fds(getpid()) == own_fds ? 0 : -1;
}

static int on_notification(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        (void) read_notifications(NULL);
        return 0;
}

static void start_load(void) {
        assert_true(sd_event_add_io(event, NULL, rig.notify_fd, POLLIN, on_notification, NULL) >= 0);
        load = load_start(event, &rig);
        if (!load_wait_calls(load, 200, PATIENCE))
                fail_msg("the load does not get going");
}

static void assert_nothing_lost(void) {
        const LoadCounts *n = load_counts(load);

        if (n->n_failed > 0)
                print_error("last failure: %i, code %i, '%s'\n", n->last_error, n->last_code, n->last_message);
        assert_int_equal(n->n_failed, 0);
        assert_int_equal(n->n_wrong, 0);
        assert_int_equal(n->n_polls_ended, 0);
}

static void finish_load(void) {
        bool drained = load_drain(load, PATIENCE);

        assert_nothing_lost();
        assert_true(drained);
}

static void print_counts(const char *what) {
        const LoadCounts *n = load_counts(load);

        print_message("%s: %llu calls and %llu MiB checked, %llu Health.Checks, 16 long polls\n", what, (unsigned long long) n->n_calls,
                      (unsigned long long) (n->n_bytes >> 20), (unsigned long long) n->n_checks);
}

static void fail_with_log(void) {
        _cleanup_(freep) char *log = NULL;

        (void) read_full_file_at(AT_FDCWD, log_path, 16 << 20, &log, NULL);
        fail_msg("the proxy's log: %s", strempty(log));
}

static size_t count_in_log(const char *text) {
        _cleanup_(freep) char *log = NULL;
        size_t n = 0;

        assert_int_equal(read_full_file_at(AT_FDCWD, log_path, 16 << 20, &log, NULL), 0);
        for (const char *p = log; (p = strstr(p, text)); p++)
                n++;
        return n;
}

static void wait_for_log(const char *text, size_t n) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE;

        while (count_in_log(text) < n) {
                (void) sd_event_run(event, 10000);
                (void) read_notifications(NULL);
                if (now_usec(CLOCK_MONOTONIC) > end) {
                        print_error("not %zu times in the log: %s\n", n, text);
                        fail_with_log();
                }
        }
}

static void drop_packets(bool b) {
        if (b)
                sh("nft add table ip cut && nft add chain ip cut in '{ type filter hook input priority 0; }' && "
                   "nft add rule ip cut in tcp dport %u drop && nft add rule ip cut in tcp sport %u drop", rig.port, rig.port);
        else
                sh("nft delete table ip cut");
}

static void packets_lost_for_a_few_seconds_cost_nothing(void **state) {
        start_load();
        for (unsigned i = 0; i < 3; i++) {
                drop_packets(true);
                load_run(load, 2 * USEC_PER_SEC);
                drop_packets(false);
                assert_true(load_wait_calls(load, 200, PATIENCE));
        }
        finish_load();
        print_counts("three times 2 s without packets");
}

/* Longer than TCP is given: the connection is given up, Health.Check is answered by the proxy, and a new connection resumes. */
static void packets_lost_for_half_a_minute_cost_nothing(void **state) {
        uint64_t checks;

        start_load();
        drop_packets(true);
        wait_for_log("Link to the pod VM lost: ", 1);
        load_run(load, USEC_PER_SEC);
        checks = load_counts(load)->n_checks;
        load_run(load, 11 * USEC_PER_SEC);
        assert_nothing_lost();
        assert_true(load_counts(load)->n_checks > checks + 10);
        drop_packets(false);
        assert_true(load_wait_calls(load, 500, PATIENCE));
        finish_load();
        assert_int_equal(count_in_log("The session with the pod VM is resumed"), 1);
        print_counts("32 s without packets");
}

static void resets_at_any_byte_cost_nothing(void **state) {
        const char *soak = getenv("PEERPOD_LINK_SOAK");
        uint64_t end = soak ? now_usec(CLOCK_MONOTONIC) + strtoull(soak, NULL, 10) * USEC_PER_SEC : 0;
        uint32_t x = 12345;
        char text[64];

        start_load();
        for (unsigned i = 0; end > 0 ? now_usec(CLOCK_MONOTONIC) < end : i < N_CUTS; i++) {
                uint64_t until = now_usec(CLOCK_MONOTONIC) + PATIENCE;

                /* From the handshake to many frames later; sizes of all magnitudes alike. */
                x = x * 1664525 + 1013904223;
                middle_cut_after(middle, 1 + (x >> 8) % (UINT32_C(1) << (6 + i % 17)));
                while (middle_is_armed(middle)) {
                        assert_true(sd_event_run(event, 100000) >= 0);
                        assert_nothing_lost();
                        assert_true(now_usec(CLOCK_MONOTONIC) < until);
                }
        }
        assert_true(load_wait_calls(load, 500, PATIENCE));
        finish_load();
        (void) snprintf(text, sizeof(text), "%llu resets", (unsigned long long) middle_get_n_cuts(middle));
        print_counts(text);
        if (count_in_log("The session with the pod VM is resumed") == 0)
                fail_with_log();
}

static void the_state_of_the_link_is_in_the_status(void **state) {
        uint64_t end;

        read_notifications(NULL);
        middle_cut_after(middle, 1);
        load = load_start(event, &rig);
        end = now_usec(CLOCK_MONOTONIC) + PATIENCE;
        for (bool lost = false, again = false; !again;) {
                char text[1024];
                ssize_t n;

                (void) sd_event_run(event, 10000);
                n = recv(rig.notify_fd, text, sizeof(text) - 1, MSG_DONTWAIT);
                text[MAX(n, 0)] = '\0';
                lost = lost || startswith(text, "STATUS=Connecting again to the pod VM since ");
                again = lost && strstr(text, "; session resumed 1 times.");
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_with_log();
        }
        finish_load();
}

static bool forwarder_is_ready(void) {
        return stores[0].n_ready > 0;
}

static bool proxy_is_ready(void) {
        return stores[1].n_ready > 0;
}

static void a_restarted_forwarder_costs_nothing(void **state) {
        start_load();
        for (unsigned i = 0; i < 5; i++) {
                stop(&rig.forwarder, SIGTERM);
                assert_int_equal(ending_status, 0);
                assert_int_equal(stores[0].n_fds, 2);           /* the agent's connection, and the state */
                stores[0].n_ready = 0;
                rig_start_forwarder(&rig);
                turn_until(forwarder_is_ready, "the forwarder");
                assert_int_equal(stores[0].n_fds, 0);
                assert_true(load_wait_calls(load, 100, PATIENCE));
        }
        finish_load();
        print_counts("five restarts of the forwarder");
}

static void a_restarted_proxy_costs_nothing(void **state) {
        start_load();
        for (unsigned i = 0; i < 5; i++) {
                stop(&rig.proxy, SIGTERM);
                assert_int_equal(ending_status, 0);
                assert_int_equal(stores[1].n_fds, 5);           /* four connections, and the state */
                stores[1].n_ready = 0;
                rig_start_proxy(&rig);
                turn_until(proxy_is_ready, "the proxy");
                assert_int_equal(stores[1].n_fds, 0);
                assert_true(load_wait_calls(load, 100, PATIENCE));
        }
        finish_load();
        print_counts("five restarts of the proxy");
}

static void both_ends_restarted_at_once_cost_nothing(void **state) {
        start_load();
        for (unsigned i = 0; i < 3; i++) {
                assert_int_equal(kill(rig.proxy, SIGTERM), 0);
                stop(&rig.forwarder, SIGTERM);
                stop(&rig.proxy, SIGTERM);
                stores[0].n_ready = stores[1].n_ready = 0;
                rig_start_proxy(&rig);
                rig_start_forwarder(&rig);
                turn_until(both_are_ready, "READY=1");
                assert_true(load_wait_calls(load, 100, PATIENCE));
        }
        finish_load();
        print_counts("three restarts of both ends");
}

static bool all_polls_have_ended(void) {
        return load_counts(load)->n_polls_ended == 16;
}

/* What it had in the store was from a clean stop long ago, and is gone. */
static void a_killed_proxy_ends_its_connections_at_once_and_leaves_nothing_behind(void **state) {
        start_load();
        stop(&rig.proxy, SIGTERM);
        rig_start_proxy(&rig);
        assert_true(load_wait_calls(load, 100, PATIENCE));

        stop(&rig.proxy, SIGKILL);
        assert_true(WIFSIGNALED(ending_status));
        turn_until(all_polls_have_ended, "the end of the connections");
        assert_int_equal(stores[1].n_fds, 0);
        load = load_free(load);

        stores[1].n_ready = 0;
        rig_start_proxy(&rig);
        turn_until(proxy_is_ready, "the proxy");
        load = load_start(event, &rig);
        assert_true(load_wait_calls(load, 100, PATIENCE));
        finish_load();
}

static void a_damaged_state_is_refused_and_the_next_clients_are_served(void **state) {
        size_t i;
        int fd;

        start_load();
        stop(&rig.proxy, SIGTERM);
        for (i = 0; i < stores[1].n_fds && !streq(stores[1].names[i], "state"); i++)
                ;
        fd = memfd_new_sealed("state", "\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2", 16);
        assert_true(fd >= 0);
        close_fd(stores[1].fds[i]);
        stores[1].fds[i] = fd;

        stores[1].n_ready = 0;
        rig_start_proxy(&rig);
        turn_until(proxy_is_ready, "the proxy");
        turn_until(all_polls_have_ended, "the end of the connections");
        assert_int_equal(stores[1].n_fds, 0);
        load = load_free(load);
        load = load_start(event, &rig);
        assert_true(load_wait_calls(load, 100, PATIENCE));
        finish_load();
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(packets_lost_for_a_few_seconds_cost_nothing, setup_all, teardown),
                cmocka_unit_test_setup_teardown(packets_lost_for_half_a_minute_cost_nothing, setup_all, teardown),
                cmocka_unit_test_setup_teardown(resets_at_any_byte_cost_nothing, setup_middle, teardown),
                cmocka_unit_test_setup_teardown(a_restarted_forwarder_costs_nothing, setup_stores, teardown),
                cmocka_unit_test_setup_teardown(a_restarted_proxy_costs_nothing, setup_stores, teardown),
                cmocka_unit_test_setup_teardown(both_ends_restarted_at_once_cost_nothing, setup_stores, teardown),
                cmocka_unit_test_setup_teardown(a_killed_proxy_ends_its_connections_at_once_and_leaves_nothing_behind, setup_stores, teardown),
                cmocka_unit_test_setup_teardown(a_damaged_state_is_refused_and_the_next_clients_are_served, setup_stores, teardown),
                cmocka_unit_test_setup_teardown(the_state_of_the_link_is_in_the_status, setup_middle, teardown),
        };

        (void) signal(SIGPIPE, SIG_IGN);
        if (unshare(CLONE_NEWNET) < 0 || system("ip link set lo up") != 0) {
                perror("a network namespace of the test's own");
                return 1;
        }
        cmocka_set_test_filter(getenv("TEST_FILTER"));
        return cmocka_run_group_tests(tests, NULL, NULL);
}
