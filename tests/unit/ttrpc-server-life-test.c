/* SPDX-License-Identifier: Apache-2.0 */
/* The server's deadlines, limits and ends: of calls, connections, and the server itself. */
#include "ttrpc-server-fixture.h"

#include <stdlib.h>

/* Deadlines */

static void deadline_is_answered_by_the_server(void **state) {
        Fixture *f = *state;

        send_call_timeout(&f->peer, 5, "Keep", 3600000000000);          /* the timer moves to the earlier one */
        RUN_UNTIL(f->event, f->n_kept == 1);
        send_call_timeout(&f->peer, 1, "Keep", 20000000);
        RUN_UNTIL(f->event, f->n_kept == 2);
        assert_true(ttrpc_call_get_deadline_usec(f->kept[1]) <= now_usec(CLOCK_MONOTONIC) + 20000);
        peer_expect_status(&f->peer, 1, 4, "context deadline exceeded");
        assert_int_equal(f->n_cancelled, 1);
        assert_int_equal(f->reason, -ETIMEDOUT);
        assert_int_equal(ttrpc_call_reply(f->kept[1], "late", 4), 0);
        peer_expect_nothing(&f->peer);
        expect_alive(&f->peer, 3);
}

static void handler_may_answer_at_its_deadline(void **state) {
        Fixture *f = *state;

        f->answer_when_cancelled = true;
        send_call_timeout(&f->peer, 1, "Keep", 1000000);
        peer_expect_status(&f->peer, 1, 10, "gave up by itself");
        peer_expect_nothing(&f->peer);
}

static void negative_timeout_is_over_at_once(void **state) {
        Fixture *f = *state;

        /* The Rust server takes it for an unsigned number, which is for ever. */
        send_call_timeout(&f->peer, 1, "Keep", -1);
        peer_expect_status(&f->peer, 1, 4, "context deadline exceeded");
        send_call_timeout(&f->peer, 3, "Keep", INT64_MIN);
        peer_expect_status(&f->peer, 3, 4, "context deadline exceeded");
        assert_int_equal(f->n_calls, 0);
}

static void answered_call_has_no_deadline_any_more(void **state) {
        Fixture *f = *state;

        send_call_timeout(&f->peer, 1, "Keep", 30000000);
        send_call_timeout(&f->peer, 3, "Keep", INT64_MAX);
        RUN_UNTIL(f->event, f->n_kept == 2);
        assert_int_equal(ttrpc_call_reply(f->kept[0], NULL, 0), 0);
        peer_expect_ok(&f->peer, 1, NULL, 0);
        usleep(40000);          /* past the deadline of what is over */
        peer_expect_nothing(&f->peer);
        assert_int_equal(f->n_cancelled, 0);
}

static void deadlines_come_in_order_of_time(void **state) {
        static const uint8_t msec[] = { 9, 3, 27, 15, 6, 24, 12, 21, 18, 30 };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(msec); i++)
                send_call_timeout(&f->peer, msec[i] * 2 + 1, "Keep", msec[i] * 4000000LL);
        RUN_UNTIL(f->event, f->n_kept == ELEMENTSOF(msec));
        assert_int_equal(ttrpc_call_reply(f->kept[3], NULL, 0), 0);     /* 15: out of the middle of the heap */
        peer_expect_ok(&f->peer, 15 * 2 + 1, NULL, 0);
        for (uint32_t i = 3; i <= 30; i += 3)
                if (i != 15)
                        peer_expect_status(&f->peer, i * 2 + 1, 4, "context deadline exceeded");
        assert_int_equal(f->n_cancelled, 9);
}

/* Ends of connections */

static void disconnect_cancels_the_calls(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Keep", "");
        send_call(&f->peer, 3, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 2);
        f->peer.fd = close_fd(f->peer.fd);
        RUN_UNTIL(f->event, f->n_cancelled == 2);
        assert_int_equal(f->reason, -ECANCELED);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 0);
        assert_false(ttrpc_call_is_active(f->kept[0]));
        assert_int_equal(ttrpc_call_reply(f->kept[0], "nobody", 6), 0);
        assert_int_equal(ttrpc_call_reply_status(f->kept[1], TTRPC_INTERNAL, "nobody"), 0);
}

static void reset_cancels_the_calls(void **state) {
        Fixture *f = *state;

        /* Closing with unread data makes the other side's read fail with ECONNRESET. */
        send_call(&f->peer, 1, "Keep", "");
        send_call(&f->peer, 3, "Echo", "unread");
        RUN_UNTIL(f->event, f->n_calls == 2);
        f->peer.fd = close_fd(f->peer.fd);
        RUN_UNTIL(f->event, f->n_cancelled == 1);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 0);
}

static void callbacks_may_answer_other_calls_of_a_dying_connection(void **state) {
        Fixture *f = *state;

        f->answer_when_cancelled = true;
        for (unsigned i = 0; i < 10; i++)
                send_call(&f->peer, 2 * i + 1, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 10);
        f->peer.fd = close_fd(f->peer.fd);
        RUN_UNTIL(f->event, f->n_cancelled == 10);
}

static void reply_to_a_peer_that_vanished_unseen(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Keep", "");
        send_call(&f->peer, 3, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 2);
        f->peer.fd = close_fd(f->peer.fd);
        /* The loop has not seen it: writing fails. No callback may run inside this call. */
        assert_int_equal(ttrpc_call_reply(f->kept[0], "x", 1), 0);
        assert_int_equal(f->n_cancelled, 0);
        RUN_UNTIL(f->event, f->n_cancelled == 1);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 0);
}

static void peer_that_refuses_to_read(void **state) {
        Fixture *f = *state;

        /* It keeps the connection open, but what we write fails. */
        send_call(&f->peer, 1, "Keep", "");
        send_call(&f->peer, 3, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 2);
        assert_int_equal(shutdown(f->peer.fd, SHUT_RD), 0);
        assert_int_equal(ttrpc_call_reply(f->kept[0], "x", 1), 0);
        RUN_UNTIL(f->event, f->n_cancelled == 1);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 0);
}

static void half_closed_peer_gets_what_was_answered(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Keep", "");
        send_call(&f->peer, 3, "Echo", "before the end");
        assert_int_equal(shutdown(f->peer.fd, SHUT_WR), 0);
        peer_expect_ok(&f->peer, 3, "before the end", 14);
        peer_expect_closed(&f->peer);
        assert_int_equal(f->n_cancelled, 1);    /* the end of the stream is ttrpc's way to cancel */
        assert_int_equal(f->reason, -ECANCELED);
}

static void half_closed_peer_that_reads_slowly(void **state) {
        Fixture *f = *state;
        uint8_t *data = calloc(1, 3U << 20);

        assert_non_null(data);
        peer_send_request(&f->peer, 1, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Echo"), .payload = { data, 3U << 20 },
        });
        assert_int_equal(shutdown(f->peer.fd, SHUT_WR), 0);
        run_idle(f->event);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 1); /* it waits for us */
        peer_expect_ok(&f->peer, 1, data, 3U << 20);
        free(data);
        peer_expect_closed(&f->peer);
}

static void half_closed_peer_that_does_not_read(void **state) {
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        Fixture *f = *state;
        uint8_t *data = calloc(1, 3U << 20);

        assert_non_null(data);
        limits.linger_usec = 20 * USEC_PER_MSEC;
        ttrpc_server_set_limits(f->server, &limits);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), 0);
        peer_send_request(&f->second, 1, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Echo"), .payload = { data, 3U << 20 },
        });
        free(data);
        assert_int_equal(shutdown(f->second.fd, SHUT_WR), 0);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 2);
        RUN_UNTIL(f->event, ttrpc_server_get_n_connections(f->server) == 1);
}

static void server_may_be_freed_with_calls_in_flight(void **state) {
        Fixture *f = *state;

        send_call_timeout(&f->peer, 1, "Keep", 1000000000);
        RUN_UNTIL(f->event, f->n_kept == 1);
        f->server = ttrpc_server_free(f->server);
        assert_int_equal(f->n_cancelled, 1);
        assert_string_equal(ttrpc_call_get_service(f->kept[0]), SERVICE);       /* outlives the server */
        assert_int_equal(ttrpc_call_reply(f->kept[0], "x", 1), 0);
        peer_expect_closed(&f->peer);
}

/* Limits */

static void calls_in_flight_are_limited(void **state) {
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        Fixture *f = *state;

        limits.n_calls_max = 2;
        ttrpc_server_set_limits(f->server, &limits);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), 0);
        send_call(&f->second, 1, "Keep", "");
        send_call(&f->second, 3, "Keep", "");
        send_call(&f->second, 5, "Echo", "x");
        peer_expect_status(&f->second, 5, 8, "more than 2 calls in flight on this connection");
        assert_int_equal(ttrpc_call_reply(f->kept[0], NULL, 0), 0);
        peer_expect_ok(&f->second, 1, NULL, 0);
        expect_alive(&f->second, 7);
}

static void slow_reader_stops_its_own_reading_only(void **state) {
        enum { N = 600, SIZE = 8000 };
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        Fixture *f = *state;
        uint8_t data[SIZE];
        uint32_t sent = 0;

        limits.output_high = 64U << 10;
        ttrpc_server_set_limits(f->server, &limits);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), 0);

        /* Calls go in and no answer is read, until the server reads no more and the socket is full. */
        for (; sent < N; sent++) {
                uint8_t frame[SIZE + 100], *p;
                TtrpcRequest r = {
                        .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Echo"), .payload = { data, SIZE },
                };

                memset(data, sent, SIZE);
                p = ttrpc_header_write(&(TtrpcHeader) { .length = ttrpc_request_size(&r), .stream_id = 2 * sent + 1, .type = 1 }, frame);
                p = ttrpc_request_write(&r, p);
                if (send(f->second.fd, frame, p - frame, MSG_NOSIGNAL|MSG_DONTWAIT) != p - frame)
                        break;          /* a stream socket takes such a frame whole or not at all */
                run_idle(f->event);
        }
        assert_true(sent > 10 && sent < N);
        assert_true(f->n_calls < sent);
        expect_alive(&f->peer, 1);      /* the other connection does not notice */
        run_idle(f->event);             /* and the loop is not busy */

        for (uint32_t i = 0; i < sent; i++) {
                memset(data, i, SIZE);
                peer_expect_ok(&f->second, 2 * i + 1, data, SIZE);
        }
        expect_alive(&f->second, 2 * N + 1);
}

static void frames_in_the_buffer_are_not_forgotten(void **state) {
        enum { N = 40 };
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        static const uint8_t zeroes[30000];
        uint8_t wire[N * 64], *p = wire;
        Fixture *f = *state;

        /* All requests come with one read. When output is above the limit there is nothing left to read that could wake us. */
        limits.output_high = 64U << 10;
        ttrpc_server_set_limits(f->server, &limits);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), 0);
        for (uint32_t i = 0; i < N; i++) {
                TtrpcRequest r = { .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Inflate") };

                p = ttrpc_header_write(&(TtrpcHeader) { .length = ttrpc_request_size(&r), .stream_id = 2 * i + 1, .type = 1 }, p);
                p = ttrpc_request_write(&r, p);
        }
        peer_send(&f->second, wire, p - wire);
        run_idle(f->event);
        assert_true(f->n_calls < N);
        for (uint32_t i = 0; i < N; i++)
                peer_expect_ok(&f->second, 2 * i + 1, zeroes, sizeof(zeroes));
}

static void late_answers_to_a_slow_reader_are_bounded(void **state) {
        enum { SIZE = 1U << 20 };
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        Fixture *f = *state;
        uint8_t *data = calloc(1, SIZE);
        unsigned n_sent = 0, n_refused = 0;

        assert_non_null(data);
        limits.output_high = 1U << 20;
        limits.output_max = 4U << 20;
        ttrpc_server_set_limits(f->server, &limits);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), 0);
        for (unsigned i = 0; i < 16; i++)
                send_call(&f->second, 2 * i + 1, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 16);

        for (unsigned i = 0; i < 16; i++) {
                int r = ttrpc_call_reply(f->kept[i], data, SIZE);

                assert_true(r == 0 || r == -ENOBUFS);
                if (r == 0)
                        n_sent++;
                else
                        n_refused++;
        }
        assert_true(n_sent >= 4 && n_sent <= 6);

        for (unsigned i = 0; i < 16; i++)
                if (i < n_sent)
                        peer_expect_ok(&f->second, 2 * i + 1, data, SIZE);
                else
                        peer_expect_status(&f->second, 2 * i + 1, 8, "too many unread responses on this connection");
        free(data);
        expect_alive(&f->second, 101);
        assert_int_equal(n_sent + n_refused, 16);
}

static void reading_stops_when_late_answers_pile_up(void **state) {
        enum { SIZE = 1U << 20 };
        Fixture *f = *state;
        uint8_t *data = calloc(1, SIZE);

        /* The queue is above output_high when the next requests come: they wait, then all are answered. */
        assert_non_null(data);
        for (unsigned i = 0; i < 4; i++)
                send_call(&f->peer, 2 * i + 1, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 4);
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal(ttrpc_call_reply(f->kept[i], data, SIZE), 0);
        for (unsigned i = 0; i < 3; i++)
                send_call(&f->peer, 2 * i + 101, "Echo", "wait");
        run_idle(f->event);
        assert_int_equal(f->n_calls, 4);
        for (unsigned i = 0; i < 4; i++)
                peer_expect_ok(&f->peer, 2 * i + 1, data, SIZE);
        free(data);
        for (unsigned i = 0; i < 3; i++)
                peer_expect_ok(&f->peer, 2 * i + 101, "wait", 4);
}

/* Draining */

static void on_drained(TtrpcServer *s, void *userdata) {
        Fixture *f = userdata;

        f->drained = true;
}

static void drain_closes_idle_connections_at_once(void **state) {
        Fixture *f = *state;

        expect_alive(&f->peer, 1);
        assert_int_equal(ttrpc_server_drain(f->server, USEC_PER_SEC, on_drained, f), 0);
        assert_int_equal(ttrpc_server_drain(f->server, USEC_PER_SEC, on_drained, f), -EALREADY);
        assert_false(f->drained);
        RUN_UNTIL(f->event, f->drained);
        peer_expect_closed(&f->peer);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), -ESHUTDOWN);
}

static void drain_lets_calls_end(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 1);
        assert_int_equal(ttrpc_server_drain(f->server, 60 * USEC_PER_SEC, on_drained, f), 0);
        send_call(&f->peer, 3, "Echo", "too late");
        peer_expect_status(&f->peer, 3, 14, "server is shutting down");
        assert_false(f->drained);
        assert_int_equal(ttrpc_call_reply(f->kept[0], "bye", 3), 0);
        peer_expect_ok(&f->peer, 1, "bye", 3);
        RUN_UNTIL(f->event, f->drained);
        peer_expect_closed(&f->peer);
        assert_int_equal(f->n_cancelled, 0);
}

static void drain_cuts_off_after_its_time(void **state) {
        Fixture *f = *state;

        f->answer_when_cancelled = true;
        for (unsigned i = 0; i < 3; i++)
                send_call(&f->peer, 2 * i + 1, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 3);
        assert_int_equal(ttrpc_server_drain(f->server, 10 * USEC_PER_MSEC, on_drained, f), 0);
        RUN_UNTIL(f->event, f->drained);
        assert_int_equal(f->n_cancelled, 3);
        peer_expect_closed(&f->peer);
}

static void callbacks_may_answer_others_while_draining(void **state) {
        Fixture *f = *state;

        /* Each answer could be the connection's last, which closes it: not while its calls are being cancelled. */
        f->answer_others_when_cancelled = true;
        for (unsigned i = 0; i < 3; i++)
                send_call(&f->peer, 2 * i + 1, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 3);
        assert_int_equal(ttrpc_server_drain(f->server, USEC_PER_MSEC, on_drained, f), 0);
        RUN_UNTIL(f->event, f->drained);
        assert_int_equal(f->n_cancelled, 1);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
        static const struct CMUnitTest tests[] = {
                TEST(deadline_is_answered_by_the_server),
                TEST(handler_may_answer_at_its_deadline),
                TEST(negative_timeout_is_over_at_once),
                TEST(answered_call_has_no_deadline_any_more),
                TEST(deadlines_come_in_order_of_time),
                TEST(disconnect_cancels_the_calls),
                TEST(reset_cancels_the_calls),
                TEST(callbacks_may_answer_other_calls_of_a_dying_connection),
                TEST(reply_to_a_peer_that_vanished_unseen),
                TEST(peer_that_refuses_to_read),
                TEST(half_closed_peer_gets_what_was_answered),
                TEST(half_closed_peer_that_reads_slowly),
                TEST(half_closed_peer_that_does_not_read),
                TEST(server_may_be_freed_with_calls_in_flight),
                TEST(calls_in_flight_are_limited),
                TEST(slow_reader_stops_its_own_reading_only),
                TEST(frames_in_the_buffer_are_not_forgotten),
                TEST(late_answers_to_a_slow_reader_are_bounded),
                TEST(reading_stops_when_late_answers_pile_up),
                TEST(drain_closes_idle_connections_at_once),
                TEST(drain_lets_calls_end),
                TEST(drain_cuts_off_after_its_time),
                TEST(callbacks_may_answer_others_while_draining),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
