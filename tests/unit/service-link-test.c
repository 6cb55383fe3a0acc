/* SPDX-License-Identifier: Apache-2.0 */
/* The adaptor's links to its services, against services that end at a bad moment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "adaptor/service-link.h"
#include "basic/bus-private.h"
#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/util.h"

#define N_CALLS 8
#define PATIENCE_USEC (60 * USEC_PER_SEC)

typedef struct Fixture {
        char directory[64], path[96];
        sd_event *event;
        int listen_fd;
        BusServer *server;
        ServiceLink *link;
        bool silent;                    /* the service takes calls, and never answers */
        unsigned n_seen, n_done, n_calls;
        ServiceCall *calls[2 * N_CALLS];
} Fixture;

static int method_work(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Fixture *f = userdata;

        f->n_seen++;
        return f->silent ? 1 : sd_bus_reply_method_return(m, NULL);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Work", "", "", method_work, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

static int set_up_bus(sd_bus *link, void *userdata) {
        return sd_bus_add_object_vtable(link, NULL, "/test", "test.Service", vtable, userdata);
}

static void serve(Fixture *f, bool silent) {
        f->silent = silent;
        f->n_seen = 0;
        assert_int_equal(bus_server_new(f->event, dup(f->listen_fd), getuid(), set_up_bus, f, &f->server), 0);
}

static int fixture_setup(void **state) {
        Fixture *f = new(Fixture);

        assert_non_null(f);
        *f = (Fixture) { .directory = "/tmp/service-link-XXXXXX" };
        assert_non_null(mkdtemp(f->directory));
        (void) snprintf(f->path, sizeof(f->path), "%s/socket", f->directory);
        f->listen_fd = daemon_listen_unix(f->path);
        assert_true(f->listen_fd >= 0);
        assert_int_equal(sd_event_new(&f->event), 0);
        assert_int_equal(service_link_new(f->event, "test service", f->path, &f->link), 0);
        *state = f;
        return 0;
}

static int fixture_teardown(void **state) {
        Fixture *f = *state;

        for (unsigned i = 0; i < f->n_calls; i++)
                service_call_free(f->calls[i]);
        service_link_free(f->link);
        bus_server_free(f->server);
        sd_event_unref(f->event);
        close_fd(f->listen_fd);
        assert_int_equal(remove_tree(f->directory), 0);
        free(f);
        return 0;
}

static void on_answer(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        Fixture *f = userdata;

        assert_non_null(reply);
        f->n_done++;
}

static void call_work(Fixture *f) {
        static const ServiceMethod method = { "/test", "test.Service", "Work", NULL };

        assert_int_equal(service_link_call(f->link, &method, NULL, 0, PATIENCE_USEC, on_answer, f, &f->calls[f->n_calls]), 0);
        f->n_calls++;
}

static void turn_until(Fixture *f, const unsigned *n, unsigned wanted) {
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), PATIENCE_USEC);

        while (*n < wanted) {
                assert_true(sd_event_run(f->event, 100 * USEC_PER_MSEC) >= 0);
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("%u instead of %u", *n, wanted);
        }
        assert_int_equal(*n, wanted);
}

static void calls_are_made_again_when_the_service_has_ended(void **state) {
        Fixture *f = *state;

        serve(f, /* silent= */ true);
        for (unsigned i = 0; i < N_CALLS; i++)
                call_work(f);
        turn_until(f, &f->n_seen, N_CALLS);
        f->server = bus_server_free(f->server);

        serve(f, /* silent= */ false);
        turn_until(f, &f->n_done, N_CALLS);
}

/* libsystemd tells each call for itself that its connection has ended, one a turn. A call begun in between makes the new connection. */
static void a_call_begun_while_the_connection_ends_strands_no_other(void **state) {
        for (unsigned turns = 0; turns < 2 * N_CALLS; turns++) {
                Fixture *f;

                assert_int_equal(fixture_setup((void**) &f), 0);
                serve(f, /* silent= */ true);
                for (unsigned i = 0; i < N_CALLS; i++)
                        call_work(f);
                turn_until(f, &f->n_seen, N_CALLS);
                f->server = bus_server_free(f->server);

                serve(f, /* silent= */ false);
                for (unsigned i = 0; i < turns; i++)
                        assert_true(sd_event_run(f->event, 0) >= 0);
                call_work(f);
                turn_until(f, &f->n_done, N_CALLS + 1);
                fixture_teardown((void**) &f);
        }
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(calls_are_made_again_when_the_service_has_ended, fixture_setup, fixture_teardown),
                cmocka_unit_test(a_call_begun_while_the_connection_ends_strands_no_other),
        };

        return cmocka_run_group_tests_name("service-link", tests, NULL, NULL);
}
