/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile callers at the adaptor's socket: those who behave are served meanwhile, new ones too, memory is bounded, and nothing is
 * left afterwards. */
#include <signal.h>
#include <stdio.h>

#include "adaptor-rig.h"
#include "crowd.h"
#include "ttrpc/frame.h"

#define SERVICE "hypervisor.Hypervisor"
#define CALL_USEC (120 * USEC_PER_SEC)
#define CROWD_KIB (24U * 1024U)

static TtrpcClient* connect_caller(Test *t) {
        TtrpcClient *c = NULL;

        assert_int_equal(ttrpc_client_new_unix(NULL, path_of(t, "hypervisor.sock"), &c), 0);
        return c;
}

static void expect_served(TtrpcClient *c, unsigned n) {
        for (unsigned i = 0; i < n; i++) {
                TtrpcResult result = TTRPC_RESULT_NULL;

                assert_int_equal(ttrpc_client_call_sync(c, SERVICE, "Version", NULL, 0, CALL_USEC, NULL, &result), 0);
                ttrpc_result_done(&result);
        }
}

static size_t make_request(uint8_t *p, uint32_t id) {
        TtrpcRequest request = { .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Version") };
        size_t n = ttrpc_request_size(&request);

        ttrpc_header_write(&(TtrpcHeader) { .length = n, .stream_id = id, .type = TTRPC_TYPE_REQUEST }, p);
        ttrpc_request_write(&request, p + TTRPC_HEADER_SIZE);
        return TTRPC_HEADER_SIZE + n;
}

/* What every test begins and ends with. */
typedef struct Before {
        TtrpcClient *caller;
        size_t fds, kib;
} Before;

static Before begin(Test *t) {
        Before b = { .caller = connect_caller(t) };

        expect_served(b.caller, 1);
        b.fds = daemon_fds(t->adaptor);
        b.kib = daemon_memory_kib(t->adaptor);
        return b;
}

static void end(Test *t, Before *b, Crowd *crowd, size_t more_kib) {
        expect_served(b->caller, 5);
        check_memory(t->adaptor, b->kib, more_kib);
        crowd_leave(crowd);
        wait_for_fds(t->adaptor, b->fds);
        ttrpc_client_free(b->caller);
}

static void ten_thousand_callers_stop_nobody(void **state) {
        Test *t = *state;
        Crowd crowd = crowd_of_unix(path_of(t, "hypervisor.sock"));
        Before b = begin(t);

        for (unsigned i = 0; i < 10; i++) {
                _cleanup_(ttrpc_client_freep) TtrpcClient *later = NULL;

                crowd_join(&crowd, CROWD_MAX / 10);
                expect_served(b.caller, 2);
                later = connect_caller(t);      /* the silent ones give way */
                expect_served(later, 2);
        }
        assert_true(crowd.n > 1000);
        end(t, &b, &crowd, CROWD_KIB);
}

static void lengths_of_four_gigabytes_are_not_believed(void **state) {
        static const uint8_t header[TTRPC_HEADER_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, TTRPC_TYPE_REQUEST, 0 };
        _cleanup_(freep) uint8_t *body = calloc(1, 1 << 20);
        Test *t = *state;
        Crowd crowd = crowd_of_unix(path_of(t, "hypervisor.sock"));
        Before b = begin(t);

        crowd_join(&crowd, 100);
        crowd_say(&crowd, header, sizeof(header));
        for (unsigned i = 0; i < 4; i++) {
                crowd_say(&crowd, body, 1 << 20);
                expect_served(b.caller, 5);
        }
        end(t, &b, &crowd, CROWD_KIB);
}

static void requests_may_dribble_in(void **state) {
        Test *t = *state;
        Crowd crowd = crowd_of_unix(path_of(t, "hypervisor.sock"));
        Before b = begin(t);
        uint8_t request[128];
        size_t n = make_request(request, 1);

        crowd_join(&crowd, 100);
        for (size_t i = 0; i < n; i++) {
                crowd_say(&crowd, request + i, 1);
                expect_served(b.caller, 1);
        }
        for (size_t i = 0; i < crowd.n; i++) {
                uint8_t answer[64];

                assert_int_equal(poll(&(struct pollfd) { .fd = crowd.fds[i], .events = POLLIN }, 1, 120000), 1);
                assert_true(recv(crowd.fds[i], answer, sizeof(answer), 0) > (ssize_t) TTRPC_HEADER_SIZE);
        }
        end(t, &b, &crowd, CROWD_KIB);
}

static void half_closed_connections_go(void **state) {
        Test *t = *state;
        uint8_t request[128];
        size_t n = make_request(request, 1);

        for (size_t part = 0; part <= n; part += n / 2) {
                Crowd crowd = crowd_of_unix(path_of(t, "hypervisor.sock"));
                Before b = begin(t);

                crowd_join(&crowd, 100);
                crowd_say(&crowd, request, part);
                crowd_half_close(&crowd);
                expect_served(b.caller, 5);
                wait_for_fds(t->adaptor, b.fds);        /* though we still hold our ends */
                end(t, &b, &crowd, CROWD_KIB);
        }
}

/* The server stops to read from who does not read. */
static void who_does_not_read_is_not_read_from(void **state) {
        Test *t = *state;
        Crowd crowd = crowd_of_unix(path_of(t, "hypervisor.sock"));
        Before b = begin(t);
        uint32_t id = 1;

        crowd_join(&crowd, 8);
        for (unsigned i = 0; i < 20000; i++, id += 2) {
                uint8_t request[128];

                crowd_say(&crowd, request, make_request(request, id));
                if (i % 1000 == 0)
                        expect_served(b.caller, 2);
        }
        end(t, &b, &crowd, 8 * (2U << 10) + CROWD_KIB);         /* output_high, and what is in the buffers */
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(ten_thousand_callers_stop_nobody),
                TEST(lengths_of_four_gigabytes_are_not_believed),
                TEST(requests_may_dribble_in),
                TEST(half_closed_connections_go),
                TEST(who_does_not_read_is_not_read_from),
        };

        if (argc != 5)
                return 2;
        adaptor_program = argv[1];
        providerd_program = argv[2];
        module_directory = argv[3];
        fakes_program = argv[4];
        (void) signal(SIGPIPE, SIG_IGN);
        crowd_raise_limits();
        if (getenv("CMOCKA_TEST_FILTER"))
                cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));

        return cmocka_run_group_tests_name("adaptor-hostile", tests, NULL, NULL);
}
