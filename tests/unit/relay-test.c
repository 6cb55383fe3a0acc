/* SPDX-License-Identifier: Apache-2.0 */
/* The relay in its real loop, with socket pairs for callers and upstream: what becomes of frames, calls, and lost ends. */
#include "relay-fixture.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
static void ids_are_mapped_and_answers_find_their_way(void **state) {
        Fixture *f = *state;
        const uint8_t *data;
        TtrpcHeader h;

        request(f, 0, 1, "A", "x");
        request(f, 1, 1, "B", "y");
        request(f, 1, 77, "C", "z");
        request(f, 0, 3, "D", "w");
        for (uint32_t id = 1; id <= 7; id += 2) {
                h = take(f->upstream, &data);
                assert_int_equal(h.stream_id, id);      /* strictly increasing, odd */
                assert_int_equal(h.type, TTRPC_TYPE_REQUEST);
        }

        answer(f, 5, "to-C");
        answer(f, 1, "to-A");
        answer(f, 7, "to-D");
        answer(f, 3, "to-B");
        h = take(f->clients[1], &data);
        assert_int_equal(h.stream_id, 77);
        assert_memory_equal(data, "to-C", 4);
        h = take(f->clients[1], &data);
        assert_int_equal(h.stream_id, 1);
        assert_memory_equal(data, "to-B", 4);
        h = take(f->clients[0], &data);
        assert_int_equal(h.stream_id, 1);
        assert_memory_equal(data, "to-A", 4);
        h = take(f->clients[0], &data);
        assert_int_equal(h.stream_id, 3);
        assert_int_equal(relay_get_n_calls(f->relay), 0);
}

static void frames_pass_bit_for_bit_but_for_the_id(void **state) {
        Fixture *f = *state;
        uint8_t frame[256], got[256];
        size_t n = make_request(frame, 0x12345677, 0, "M", "payload");

        put(f->clients[0], frame, n);
        turn(f);
        assert_int_equal(recv(f->upstream, got, sizeof(got), 0), n);
        write_be32(frame + 4, 1);
        assert_memory_equal(got, frame, n);
}

static void ids_may_come_in_any_order_but_not_twice(void **state) {
        Fixture *f = *state;
        TtrpcHeader h;

        request(f, 0, 9, "A", "");
        request(f, 0, 3, "A", "");
        h = take(f->upstream, NULL);
        assert_int_equal(h.stream_id, 1);
        h = take(f->upstream, NULL);
        assert_int_equal(h.stream_id, 3);

        request(f, 0, 9, "A", "");
        expect_status(f->clients[0], 9, TTRPC_INVALID_ARGUMENT, "StreamID cannot be re-used and must increment");
        request(f, 0, 8, "A", "");
        expect_status(f->clients[0], 8, TTRPC_INVALID_ARGUMENT, "StreamID must be odd for client initiated streams");
        assert_true(nothing_to_read(f->upstream));

        answer(f, 1, "");               /* 9 is free again */
        (void) take(f->clients[0], NULL);
        request(f, 0, 9, "A", "");
        h = take(f->upstream, NULL);
        assert_int_equal(h.stream_id, 5);
}

static void bytes_may_come_one_by_one(void **state) {
        Fixture *f = *state;
        uint8_t frames[512];
        size_t n = 0;

        for (uint32_t id = 1; id <= 5; id += 2)
                n += make_request(frames + n, id, 0, "M", "abc");
        for (size_t i = 0; i < n; i++) {
                put(f->clients[0], frames + i, 1);
                turn(f);
        }
        for (uint32_t id = 1; id <= 5; id += 2)
                assert_int_equal(take(f->upstream, NULL).stream_id, id);

        n = 0;
        for (uint32_t id = 5; id >= 1 && id <= 5; id -= 2)
                n += make_frame(frames + n, id, TTRPC_TYPE_RESPONSE, 0, "answer", 6);
        for (size_t i = 0; i < n; i++) {
                put(f->upstream, frames + i, 1);
                turn(f);
        }
        for (uint32_t id = 5; id >= 1 && id <= 5; id -= 2)
                assert_int_equal(take(f->clients[0], NULL).stream_id, id);
}

static void streams_pass_until_either_end_closes(void **state) {
        Fixture *f = *state;
        uint8_t frame[256];
        const uint8_t *data;
        TtrpcHeader h;

        put(f->clients[0], frame, make_request(frame, 5, TTRPC_FLAG_REMOTE_OPEN, "Stream", ""));
        put(f->clients[0], frame, make_frame(frame, 5, TTRPC_TYPE_DATA, 0, "one", 3));
        put(f->clients[0], frame, make_frame(frame, 5, TTRPC_TYPE_DATA, TTRPC_FLAG_REMOTE_CLOSED|TTRPC_FLAG_NO_DATA, NULL, 0));
        turn(f);
        assert_int_equal(take(f->upstream, NULL).flags, TTRPC_FLAG_REMOTE_OPEN);
        h = take(f->upstream, &data);
        assert_int_equal(h.stream_id, 1);
        assert_int_equal(h.type, TTRPC_TYPE_DATA);
        assert_memory_equal(data, "one", 3);
        assert_int_equal(take(f->upstream, NULL).flags, TTRPC_FLAG_REMOTE_CLOSED|TTRPC_FLAG_NO_DATA);

        put(f->upstream, frame, make_frame(frame, 1, TTRPC_TYPE_DATA, 0, "two", 3));
        put(f->upstream, frame, make_frame(frame, 1, TTRPC_TYPE_DATA, TTRPC_FLAG_REMOTE_CLOSED|TTRPC_FLAG_NO_DATA, NULL, 0));
        turn(f);
        h = take(f->clients[0], &data);
        assert_int_equal(h.stream_id, 5);
        assert_memory_equal(data, "two", 3);
        assert_int_equal(take(f->clients[0], NULL).flags, TTRPC_FLAG_REMOTE_CLOSED|TTRPC_FLAG_NO_DATA);
        assert_int_equal(relay_get_n_calls(f->relay), 0);

        put(f->clients[0], frame, make_frame(frame, 5, TTRPC_TYPE_DATA, 0, "late", 4));
        turn(f);
        expect_status(f->clients[0], 5, TTRPC_INVALID_ARGUMENT, "StreamID is no longer active");
}

static void data_on_a_unary_call_never_goes_upstream(void **state) {
        Fixture *f = *state;
        uint8_t frame[256];

        request(f, 0, 1, "Unary", "");
        (void) take(f->upstream, NULL);
        put(f->clients[0], frame, make_frame(frame, 1, TTRPC_TYPE_DATA, 0, "bad", 3));
        turn(f);
        expect_status(f->clients[0], 1, TTRPC_INVALID_ARGUMENT, NULL);
        assert_true(nothing_to_read(f->upstream));
        answer(f, 1, "late");
        assert_true(nothing_to_read(f->clients[0]));
        assert_int_equal(relay_get_n_calls(f->relay), 0);
}

static void unknown_types_and_unknown_answers_are_dropped(void **state) {
        Fixture *f = *state;
        uint8_t frame[256];

        put(f->clients[0], frame, make_frame(frame, 1, 9, 0, "what", 4));
        put(f->clients[0], frame, make_frame(frame, 1, TTRPC_TYPE_RESPONSE, 0, "what", 4));
        put(f->upstream, frame, make_frame(frame, 99, TTRPC_TYPE_RESPONSE, 0, "who", 3));
        put(f->upstream, frame, make_frame(frame, 1, 9, 0, "who", 3));
        turn(f);
        assert_true(nothing_to_read(f->upstream));
        assert_true(nothing_to_read(f->clients[0]));
        request(f, 0, 1, "A", "");
        (void) take(f->upstream, NULL);
}

static void answers_for_a_client_that_is_gone_are_dropped(void **state) {
        Fixture *f = *state;

        request(f, 0, 1, "A", "");
        request(f, 1, 1, "B", "");
        f->clients[0] = close_fd(f->clients[0]);
        turn(f);
        assert_int_equal(f->n_closed, 1);
        assert_int_equal(relay_get_n_calls(f->relay), 2);
        answer(f, 1, "late");
        answer(f, 3, "fine");
        assert_int_equal(take(f->clients[1], NULL).stream_id, 1);
        assert_int_equal(relay_get_n_calls(f->relay), 0);
        assert_int_equal(f->n_lost, 0);
}

static void a_lost_upstream_is_told_to_each_call(void **state) {
        Fixture *f = *state;

        request(f, 0, 1, "A", "");
        request(f, 0, 3, "B", "");
        f->upstream = close_fd(f->upstream);
        turn(f);
        assert_int_equal(f->n_lost, 1);
        expect_status(f->clients[0], 1, TTRPC_UNAVAILABLE, NULL);
        expect_status(f->clients[0], 3, TTRPC_UNAVAILABLE, NULL);
        expect_end(f->clients[0]);
        expect_end(f->clients[1]);
        assert_int_equal(relay_get_n_connections(f->relay), 0);
        assert_int_equal(relay_get_n_calls(f->relay), 0);
}

static void an_upstream_that_closes_its_half_is_lost_after_its_last_answer(void **state) {
        Fixture *f = *state;
        uint8_t frame[256];

        request(f, 0, 1, "A", "");
        put(f->upstream, frame, make_frame(frame, 1, TTRPC_TYPE_RESPONSE, 0, "last", 4));
        assert_int_equal(shutdown(f->upstream, SHUT_WR), 0);
        turn(f);
        assert_int_equal(take(f->clients[0], NULL).length, 4);
        expect_end(f->clients[0]);
        assert_int_equal(f->n_lost, 1);
}

static void an_upstream_that_is_no_ttrpc_is_lost(void **state) {
        Fixture *f = *state;

        request(f, 0, 1, "A", "");
        put(f->upstream, "\x15\x03\x03\x00\x02\x02\x28", 7);    /* a TLS alert */
        turn(f);
        assert_int_equal(f->n_lost, 1);
        assert_int_equal(f->lost_error, -EBADMSG);
        expect_status(f->clients[0], 1, TTRPC_UNAVAILABLE, NULL);
        expect_end(f->clients[0]);
}

static void requests_wait_for_the_upstream(void **state) {
        Fixture *f = *state;

        add_client(f, 0);
        request(f, 0, 1, "A", "");
        request(f, 0, 3, "B", "");
        assert_int_equal(f->n_wanted, 1);
        assert_int_equal(relay_get_n_calls(f->relay), 0);
        add_upstream(f);
        turn(f);
        assert_int_equal(take(f->upstream, NULL).stream_id, 1);
        assert_int_equal(take(f->upstream, NULL).stream_id, 3);
}

static void requests_that_waited_in_vain_are_refused(void **state) {
        Fixture *f = *state;

        add_client(f, 0);
        request(f, 0, 1, "A", "");
        request(f, 0, 3, "Edit", "");
        relay_refuse_waiting(f->relay, "nobody there");
        turn(f);
        expect_status(f->clients[0], 1, TTRPC_UNAVAILABLE, "nobody there");
        if (f->n_wanted == 1)
                expect_status(f->clients[0], 3, TTRPC_UNAVAILABLE, "nobody there");

        request(f, 0, 5, "C", "");      /* is worth another try */
        assert_int_equal(f->n_wanted, 2);
        add_upstream(f);
        turn(f);
        if (take(f->upstream, NULL).length == 0)
                fail();
}

static void edits_keep_what_they_do_not_know(void **state) {
        Fixture *f = *state;
        static const uint8_t expected[] = {
                0x0a, 1, 's', 0x12, 4, 'E', 'd', 'i', 't', 0x1a, 6, 'n', 'e', 'w', 'o', 'l', 'd', 0x20, 5, 0x98, 0x06, 7
        };
        const uint8_t *data;
        TtrpcHeader h;

        request(f, 0, 11, "Before", "");
        request(f, 0, 13, "Edit", "old");
        request(f, 0, 15, "After", "");
        assert_int_equal(take(f->upstream, NULL).stream_id, 1);
        h = take(f->upstream, &data);
        assert_int_equal(h.stream_id, 3);
        assert_int_equal(h.length, sizeof(expected));
        assert_memory_equal(data, expected, sizeof(expected));
        assert_int_equal(take(f->upstream, NULL).stream_id, 5);

        answer(f, 3, "\x0a\x02\x08\x05");       /* status 5 */
        assert_int_equal(f->n_answers, 1);
        assert_int_equal(f->last_code, TTRPC_NOT_FOUND);
        assert_int_equal(take(f->clients[0], NULL).stream_id, 13);

        request(f, 0, 17, "Refuse", "");
        expect_status(f->clients[0], 17, TTRPC_FAILED_PRECONDITION, "no");
        assert_true(nothing_to_read(f->upstream));
}

static void the_watcher_hears_of_the_loss(void **state) {
        Fixture *f = *state;

        request(f, 0, 1, "Edit", "");
        f->clients[0] = close_fd(f->clients[0]);
        turn(f);
        f->upstream = close_fd(f->upstream);
        turn(f);
        assert_int_equal(f->n_answers, 1);
        assert_int_equal(f->last_code, -ENOTCONN);
}

static void malformed_envelopes_go_no_further(void **state) {
        Fixture *f = *state;
        uint8_t frame[64];

        put(f->clients[0], frame, make_frame(frame, 1, TTRPC_TYPE_REQUEST, 0, "\x0a\x7fs", 3));
        turn(f);
        expect_status(f->clients[0], 1, TTRPC_INVALID_ARGUMENT, NULL);
        assert_true(nothing_to_read(f->upstream));
}

static void silent_connections_give_way_to_others(void **state) {
        Fixture *f = *state;

        add_upstream(f);
        relay_set_connections_max(f->relay, 3);
        for (size_t i = 0; i < 3; i++)
                add_client(f, i);
        request(f, 0, 1, "Poll", "");
        assert_true(relay_has_room(f->relay));
        put(f->clients[1], "\0\0\0\xff", 4);           /* the beginning of a frame is no call */
        turn(f);

        add_client(f, 3);
        expect_end(f->clients[1]);
        request(f, 3, 1, "Poll", "");
        assert_true(relay_has_room(f->relay));
        add_client(f, 4);
        expect_end(f->clients[2]);
        assert_int_equal(f->n_closed, 2);
        request(f, 4, 1, "Poll", "");
        assert_false(relay_has_room(f->relay));

        answer(f, 1, "last");
        assert_int_equal(take(f->clients[0], NULL).stream_id, 1);
        assert_int_equal(relay_get_n_connections(f->relay), 3);
}

static void our_own_calls_go_beside_the_others(void **state) {
        Fixture *f = *state;

        request(f, 0, 1, "A", "");
        assert_int_equal(relay_call(f->relay, "grpc.Health", "Check", NULL, 0, USEC_PER_SEC, on_answer, f), 0);
        turn(f);
        assert_int_equal(take(f->upstream, NULL).stream_id, 1);
        assert_int_equal(take(f->upstream, NULL).stream_id, 3);
        answer(f, 3, "");
        assert_int_equal(f->n_answers, 1);
        assert_int_equal(f->last_code, TTRPC_OK);

        assert_int_equal(relay_call(f->relay, "grpc.Health", "Check", NULL, 0, 1000, on_answer, f), 0);
        while (f->n_answers < 2)
                assert_true(sd_event_run(f->event, USEC_PER_SEC) > 0);
        assert_int_equal(f->last_code, TTRPC_DEADLINE_EXCEEDED);
}

static void oversize_requests_are_skipped(void **state) {
        Fixture *f = *state;
        uint8_t head[TTRPC_HEADER_SIZE], junk[65536] = {};
        size_t left = TTRPC_DATA_MAX + 1;

        ttrpc_header_write(&(TtrpcHeader) { .length = left, .stream_id = 7, .type = TTRPC_TYPE_REQUEST }, head);
        put(f->clients[0], head, sizeof(head));
        while (left > 0) {
                size_t n = MIN(left, sizeof(junk));

                put(f->clients[0], junk, n);
                left -= n;
                turn(f);
                assert_true(relay_get_memory(f->relay) < 4096);
        }
        expect_status(f->clients[0], 7, TTRPC_RESOURCE_EXHAUSTED, "message length 4194305 exceed maximum message size of 4194304");
        request(f, 0, 9, "A", "");
        assert_int_equal(take(f->upstream, NULL).stream_id, 1);
}

static void oversize_answers_end_their_call_only(void **state) {
        Fixture *f = *state;
        uint8_t head[TTRPC_HEADER_SIZE], junk[65536] = {};
        size_t left = TTRPC_DATA_MAX + 1;

        request(f, 0, 7, "A", "");
        request(f, 0, 9, "B", "");
        ttrpc_header_write(&(TtrpcHeader) { .length = left, .stream_id = 1, .type = TTRPC_TYPE_RESPONSE }, head);
        put(f->upstream, head, sizeof(head));
        for (; left > 0; left -= MIN(left, sizeof(junk))) {
                put(f->upstream, junk, MIN(left, sizeof(junk)));
                turn(f);
        }
        expect_status(f->clients[0], 7, TTRPC_RESOURCE_EXHAUSTED, NULL);
        answer(f, 3, "ok");
        assert_int_equal(take(f->clients[0], NULL).stream_id, 9);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
#define T(name, up) cmocka_unit_test_setup_teardown(name, up, teardown)
                T(ids_are_mapped_and_answers_find_their_way, setup_two),
                T(frames_pass_bit_for_bit_but_for_the_id, setup_two),
                T(ids_may_come_in_any_order_but_not_twice, setup_two),
                T(bytes_may_come_one_by_one, setup_two),
                T(streams_pass_until_either_end_closes, setup_two),
                T(data_on_a_unary_call_never_goes_upstream, setup_two),
                T(unknown_types_and_unknown_answers_are_dropped, setup_two),
                T(answers_for_a_client_that_is_gone_are_dropped, setup_two),
                T(a_lost_upstream_is_told_to_each_call, setup_two),
                T(an_upstream_that_closes_its_half_is_lost_after_its_last_answer, setup_two),
                T(an_upstream_that_is_no_ttrpc_is_lost, setup_two),
                T(requests_wait_for_the_upstream, setup),
                T(requests_that_waited_in_vain_are_refused, setup),
                T(edits_keep_what_they_do_not_know, setup_two),
                T(the_watcher_hears_of_the_loss, setup_two),
                T(malformed_envelopes_go_no_further, setup_two),
                T(silent_connections_give_way_to_others, setup),
                T(our_own_calls_go_beside_the_others, setup_two),
                T(oversize_requests_are_skipped, setup_two),
                T(oversize_answers_end_their_call_only, setup_two),
        };

        (void) signal(SIGPIPE, SIG_IGN);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
