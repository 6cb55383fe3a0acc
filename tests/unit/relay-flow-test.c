/* SPDX-License-Identifier: Apache-2.0 */
/* The relay in its real loop, when somebody does not read or an answer is half out: bounds, ends, and the next process. */
#include "relay-fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/io.h"
#include "ttrpc/acceptor.h"
static void our_words_wait_behind_an_unfinished_answer(void **state) {
        Fixture *f = *state;
        static uint8_t frame[TTRPC_HEADER_SIZE + 400000];
        size_t n, done = 0;
        const uint8_t *data;
        TtrpcHeader h;

        request(f, 0, 1, "A", "");
        memset(frame + TTRPC_HEADER_SIZE, 'x', 400000);
        n = make_frame(frame, 1, TTRPC_TYPE_RESPONSE, 0, NULL, 0) + 400000;
        write_be32(frame, 400000);
        while (done < 200000) {                 /* bigger than the buffer: handed on before its end is here */
                put(f->upstream, frame + done, 50000);
                done += 50000;
                turn(f);
        }
        request(f, 0, 4, "Even", "");
        assert_int_equal(recv(f->clients[0], &(char) { 0 }, 1, MSG_PEEK), 1);

        /* The far end reads as it goes, or the socket would be full. */
        {
                static uint8_t all[500000];
                size_t got = 0;

                while (done < n || got < n) {
                        size_t m = MIN(n - done, (size_t) 50000);
                        ssize_t k;

                        if (m > 0)
                                put(f->upstream, frame + done, m);
                        done += m;
                        turn(f);
                        k = recv(f->clients[0], all + got, n - got, 0);
                        if (k > 0)
                                got += k;
                }
                assert_memory_equal(all, frame, n);
        }
        turn(f);
        h = take(f->clients[0], &data);
        assert_int_equal(h.stream_id, 4);
        assert_true(nothing_to_read(f->clients[0]));
}

static void half_an_answer_is_never_finished_with_something_else(void **state) {
        Fixture *f = *state;
        static uint8_t frame[TTRPC_HEADER_SIZE + 400000];
        uint8_t b[65536];
        size_t got = 0;
        ssize_t n;

        request(f, 0, 1, "A", "");
        request(f, 0, 3, "B", "");
        (void) make_frame(frame, 1, TTRPC_TYPE_RESPONSE, 0, NULL, 0);
        write_be32(frame, 400000);
        for (size_t done = 0; done < 200000; done += 50000) {
                put(f->upstream, frame + done, 50000);
                turn(f);
        }
        f->upstream = close_fd(f->upstream);
        while ((n = recv(f->clients[0], b, sizeof(b), 0)) != 0) {
                if (n > 0)
                        got += n;
                turn(f);
        }
        assert_in_range(got, 100000, 200000);
        turn(f);
        assert_int_equal(relay_get_n_connections(f->relay), 0);
}

/* Each turn ends: nobody goes round and round while an answer is unfinished. */
static void words_that_wait_keep_nobody_busy(void **state) {
        enum { SIZE = 400000, HALF = 200000 };
        static uint8_t frame[TTRPC_HEADER_SIZE + SIZE], b[65536];
        Fixture *f = *state;
        size_t size, got = 0, done;
        ssize_t n;

        request(f, 0, 1, "A", "");
        (void) make_frame(frame, 1, TTRPC_TYPE_RESPONSE, 0, NULL, 0);
        write_be32(frame, SIZE);
        for (done = 0; done < HALF; done += 50000) {
                put(f->upstream, frame + done, 50000);
                turn(f);
        }

        /* More refusals than the relay keeps for one that does not read: it stops reading, and the queue itself is empty. */
        for (unsigned i = 0; i < 40000; i++) {
                uint8_t q[256];

                size = make_request(q, 4, 0, "Even", "");
                if (send(f->clients[0], q, size, MSG_NOSIGNAL) != (ssize_t) size)
                        break;
                turn(f);
        }
        while ((n = recv(f->clients[0], b, sizeof(b), 0)) > 0 || got < HALF) {
                got += n > 0 ? n : 0;
                turn(f);
        }
        assert_true(got < sizeof(frame));

        /* With the rest come all of them. */
        while (done < sizeof(frame) || got < (1U << 20)) {
                size = MIN(sizeof(frame) - done, (size_t) 50000);
                if (size > 0)
                        put(f->upstream, frame + done, size);
                done += size;
                turn(f);
                n = recv(f->clients[0], b, sizeof(b), 0);
                got += n > 0 ? n : 0;
        }
        request(f, 1, 1, "B", "");
        answer(f, 3, "fine");
        assert_int_equal(take(f->clients[1], NULL).length, 4);
}

static void a_half_closed_client_is_let_go_after_its_answers(void **state) {
        Fixture *f = *state;

        request(f, 0, 1, "A", "");
        assert_int_equal(shutdown(f->clients[0], SHUT_WR), 0);
        turn(f);
        assert_int_equal(f->n_closed, 0);
        answer(f, 1, "fine");
        assert_int_equal(take(f->clients[0], NULL).length, 4);
        expect_end(f->clients[0]);
        assert_int_equal(f->n_closed, 1);

        assert_int_equal(shutdown(f->clients[1], SHUT_WR), 0);  /* nothing in flight: at once */
        turn(f);
        assert_int_equal(f->n_closed, 2);
}

/* Pushes as much as the relay takes; returns the bytes. */
static size_t push(Fixture *f, int fd, const uint8_t *frame, size_t size, size_t *offset) {
        size_t sum = 0;

        for (unsigned idle = 0; idle < 3;) {
                ssize_t n = send(fd, frame + *offset, size - *offset, MSG_NOSIGNAL);

                turn(f);
                if (n <= 0) {
                        idle++;
                        continue;
                }
                idle = 0;
                sum += n;
                *offset = (*offset + n) % size;
                assert_true(sum < 64U << 20);
        }
        return sum;
}

static void an_upstream_that_does_not_read_stops_the_callers(void **state) {
        Fixture *f = *state;
        uint8_t head[TTRPC_HEADER_SIZE], *frame = malloc(TTRPC_HEADER_SIZE + TTRPC_DATA_MAX), *q;
        size_t size, offset[2] = {}, sent[2], got = 0, n_frames = 0;

        /* { service: "s", method: "W", payload: 1 MiB } */
        q = frame + TTRPC_HEADER_SIZE;
        memcpy(q, "\x0a\x01s\x12\x01W\x1a\x80\x80\x40", 10);
        memset(q + 10, 'p', 1 << 20);
        size = TTRPC_HEADER_SIZE + 10 + (1 << 20);
        (void) make_frame(frame, 1, TTRPC_TYPE_REQUEST, TTRPC_FLAG_REMOTE_OPEN, NULL, 0);
        write_be32(frame, size - TTRPC_HEADER_SIZE);

        /* The second and later ones have the same id: refused as soon as they are read, but they are not. */
        sent[0] = push(f, f->clients[0], frame, size, &offset[0]);
        sent[1] = push(f, f->clients[1], frame, size, &offset[1]);
        assert_true(relay_get_memory(f->relay) <= RELAY_UPSTREAM_HIGH + 3 * (TTRPC_DATA_MAX + 65536));
        assert_true(sent[0] + sent[1] < 8U << 20);
        print_message("taken from two callers while the upstream does not read: %zu and %zu bytes, %zu kept\n",
                      sent[0], sent[1], relay_get_memory(f->relay));

        /* It begins to read: all that was sent comes, whole, from both. */
        for (unsigned idle = 0; idle < 5;) {
                ssize_t n = recv(f->upstream, head, sizeof(head), 0);
                TtrpcHeader h;

                if (n < 0) {
                        turn(f);
                        idle++;
                        continue;
                }
                idle = 0;
                assert_int_equal(n, sizeof(head));
                assert_int_equal(ttrpc_header_parse(head, sizeof(head), &h), TTRPC_HEADER_SIZE);
                assert_int_equal(h.length, size - TTRPC_HEADER_SIZE);
                for (got = 0; got < h.length;) {
                        n = recv(f->upstream, frame, h.length - got, 0);
                        turn(f);
                        if (n > 0) {
                                for (ssize_t i = 0; got > 10 && i < n; i += 4096)
                                        assert_int_equal(frame[i], 'p');
                                got += n;
                        }
                }
                n_frames++;
        }
        assert_int_equal(n_frames, 2);          /* one of each; the same ids again were refused */
        free(frame);
}

static void a_caller_that_does_not_read_is_bounded(void **state) {
        Fixture *f = *state;
        static uint8_t frame[TTRPC_HEADER_SIZE + (1 << 20)];
        uint8_t small[64];
        size_t sent = 0;

        for (uint32_t id = 1; id < 60; id += 2)
                request(f, 0, id, "Read", "");
        request(f, 1, 1, "Other", "");
        for (uint32_t id = 1; id <= 61; id += 2)
                (void) take(f->upstream, NULL);

        write_be32(frame, 1 << 20);
        frame[8] = TTRPC_TYPE_RESPONSE;
        for (uint32_t id = 1; id < 60; id += 2) {
                size_t done = 0;

                write_be32(frame + 4, id);
                while (done < sizeof(frame)) {
                        ssize_t n = send(f->upstream, frame + done, sizeof(frame) - done, MSG_NOSIGNAL);

                        turn(f);
                        if (n <= 0) {
                                n = send(f->upstream, frame + done, sizeof(frame) - done, MSG_NOSIGNAL);
                                turn(f);
                        }
                        if (n <= 0)
                                goto full;
                        done += n;
                        sent += n;
                }
        }
full:
        assert_in_range(relay_get_memory(f->relay), RELAY_ANSWERS_MAX, RELAY_ANSWERS_MAX + CHANNEL_IN_SIZE);
        assert_true(sent < 12U << 20);

        /* Its end frees the others. */
        f->clients[0] = close_fd(f->clients[0]);
        turn(f);
        assert_true(relay_get_memory(f->relay) < 4096);
        assert_int_equal(make_frame(small, 61, TTRPC_TYPE_RESPONSE, 0, "x", 1), 11);
}

static void calls_in_flight_are_limited(void **state) {
        Fixture *f = *state;
        uint8_t frame[256];
        uint32_t id = 1;

        for (size_t i = 0; i < RELAY_CALLS_PER_CONNECTION_MAX; i++, id += 2) {
                put(f->clients[0], frame, make_request(frame, id, 0, "A", ""));
                if (i % 16 == 15)
                        turn(f);
                while (recv(f->upstream, frame, sizeof(frame), 0) > 0)
                        ;
        }
        request(f, 0, id, "A", "");
        expect_status(f->clients[0], id, TTRPC_RESOURCE_EXHAUSTED, "too many calls in flight");
        while (recv(f->upstream, frame, sizeof(frame), 0) > 0)
                ;
        request(f, 1, 1, "A", "");
        assert_int_equal(take(f->upstream, NULL).stream_id, 2 * RELAY_CALLS_PER_CONNECTION_MAX + 1);
}

static void abandoned_long_polls_end_with_the_connection(void **state) {
        Fixture *f = *state;
        uint8_t frame[64];

        for (uint32_t i = 0; i < RELAY_ABANDONED_MAX; i++)
                request(f, 0, 1 + 2 * i, "Poll", "");
        f->clients[0] = close_fd(f->clients[0]);
        turn(f);
        assert_int_equal(f->n_lost, 1);
        assert_int_equal(f->lost_error, -ESTALE);
        assert_int_equal(relay_get_n_calls(f->relay), 0);
        while (recv(f->upstream, frame, sizeof(frame), 0) > 0)
                ;
        expect_end(f->upstream);

        /* The other one never noticed. */
        request(f, 1, 1, "A", "");
        assert_int_equal(f->n_wanted, 1);
        add_upstream(f);
        turn(f);
        assert_int_equal(take(f->upstream, NULL).stream_id, 1);
}

static void abandon_polls(Fixture *f) {
        for (uint32_t i = 0; i < RELAY_ABANDONED_MAX; i++)
                request(f, 0, 1 + 2 * i, "Poll", "");
}

static void abandoned_calls_end_when_the_last_other_call_does(void **state) {
        Fixture *f = *state;

        abandon_polls(f);
        request(f, 1, 1, "A", "");
        f->clients[0] = close_fd(f->clients[0]);
        turn(f);
        assert_int_equal(f->n_lost, 0);

        answer(f, 1 + 2 * RELAY_ABANDONED_MAX, "to-A");
        assert_int_equal(take(f->clients[1], NULL).stream_id, 1);
        assert_int_equal(f->n_lost, 1);
        assert_int_equal(f->lost_error, -ESTALE);
}

/* The end of abandoned calls is everybody's new beginning: those who wait for room upstream get the next one, and who asked to be
 * told how its call ends is told. */
static void nobody_is_forgotten_with_abandoned_calls(void **state) {
        Fixture *f = *state;
        size_t size = TTRPC_HEADER_SIZE + 10 + (1 << 20);
        uint8_t *frame = calloc(1, size);

        abandon_polls(f);
        request(f, 0, 10001, "Edit", "");
        (void) make_frame(frame, 10003, TTRPC_TYPE_REQUEST, 0, "\x0a\x01s\x12\x01W\x1a\x80\x80\x40", 10);
        write_be32(frame, size - TTRPC_HEADER_SIZE);
        for (size_t done = 0; done < size;) {
                ssize_t n = send(f->clients[0], frame + done, size - done, MSG_NOSIGNAL);

                if (n > 0)
                        done += n;
                turn(f);
        }
        free(frame);
        request(f, 1, 1, "A", "");      /* waits: the upstream does not read */

        f->clients[0] = close_fd(f->clients[0]);
        turn(f);
        assert_int_equal(f->n_lost, 1);
        assert_int_equal(f->n_answers, 1);
        assert_int_equal(f->last_code, -ENOTCONN);
        assert_int_equal(f->n_wanted, 1);
        add_upstream(f);
        turn(f);
        assert_int_equal(take(f->upstream, NULL).stream_id, 1);
}

static void half_an_answer_is_not_lost_with_abandoned_calls(void **state) {
        static uint8_t frame[TTRPC_HEADER_SIZE + (1 << 20)];
        Fixture *f = *state;
        size_t half = 200000, size = make_frame(frame, 1 + 2 * RELAY_ABANDONED_MAX, TTRPC_TYPE_RESPONSE, 0, NULL, 0) + (1 << 20);

        write_be32(frame, 1 << 20);
        abandon_polls(f);
        request(f, 1, 1, "Read", "");
        for (size_t done = 0; done < half;) {
                ssize_t n = send(f->upstream, frame + done, half - done, MSG_NOSIGNAL);

                if (n > 0)
                        done += n;
                turn(f);
        }
        f->clients[0] = close_fd(f->clients[0]);
        turn(f);
        assert_int_equal(f->n_lost, 0);

        for (size_t done = half, got = 0; got < size;) {
                static uint8_t buffer[65536];
                ssize_t n = done < size ? send(f->upstream, frame + done, size - done, MSG_NOSIGNAL) : 0;

                if (n > 0)
                        done += n;
                turn(f);
                n = recv(f->clients[1], buffer, sizeof(buffer), 0);
                if (n > 0)
                        got += n;
                else
                        assert_true(n < 0 && errno == EAGAIN);
        }
        turn(f);
        assert_int_equal(f->n_lost, 1);
        request(f, 1, 3, "A", "");      /* its connection is as good as before */
        assert_int_equal(f->n_wanted, 1);
}

static void finishing_answers_what_is_in_flight(void **state) {
        Fixture *f = *state;

        request(f, 0, 1, "A", "");
        relay_finish(f->relay, "stopping", USEC_PER_SEC);
        expect_status(f->clients[0], 1, TTRPC_UNAVAILABLE, "stopping");
}

/* What the service manager does with it: other descriptors for the same sockets, the same bytes. */
static Handover pass_on(const Handover *written, size_t size) {
        Handover h = { .reading = true, .size = size, .n_fds = written->n_fds };

        assert_int_equal(written->error, 0);
        h.data = malloc(MAX(size, (size_t) 1));
        memcpy(h.data, written->data, size);
        for (size_t i = 0; i < h.n_fds; i++)
                h.fds[i] = fcntl(written->fds[i], F_DUPFD_CLOEXEC, 3);
        return h;
}

static Relay* restored(Fixture *f, Handover *h, int *ret_result) {
        Relay *r = NULL;

        assert_int_equal(make_relay(f, &r), 0);
        *ret_result = relay_restore(r, h, NULL, NULL, NULL);
        return r;
}

/* A call in flight, one whose caller is gone, half a big request, half a big answer, and words of our own behind that. */
static void make_state(Fixture *f, uint8_t *big, size_t size) {
        request(f, 0, 1, "A", "x");
        add_client(f, 2);
        request(f, 2, 1, "Gone", "x");
        f->clients[2] = close_fd(f->clients[2]);
        turn(f);

        (void) make_request(big, 3, 0, "Big", "x");
        write_be32(big, size - TTRPC_HEADER_SIZE);
        put(f->clients[0], big, 1000);
        turn(f);

        request(f, 1, 5, "B", "y");
        (void) make_frame(big, 5, TTRPC_TYPE_RESPONSE, 0, NULL, 0);
        write_be32(big, size - TTRPC_HEADER_SIZE);
        put(f->upstream, big, 5000);
        turn(f);
        request(f, 1, 7, "Refuse", "");
        for (unsigned i = 0; i < 3; i++)
                (void) take(f->upstream, NULL);
}

static void a_relay_goes_on_in_the_next_process(void **state) {
        _cleanup_(handover_done) Handover written = HANDOVER_NULL, h = HANDOVER_NULL;
        enum { SIZE = 140000 };
        static uint8_t big[SIZE];
        Fixture *f = *state;
        const uint8_t *data;
        TtrpcHeader head;
        Relay *next;
        int r;

        make_state(f, big, SIZE);
        relay_store(f->relay, &written, "restarting", 0, NULL);
        assert_int_equal(written.n_fds, 3);
        h = pass_on(&written, written.size);
        f->relay = relay_free(f->relay);
        f->relay = next = restored(f, &h, &r);
        assert_int_equal(r, 0);
        assert_int_equal(relay_get_n_connections(next), 2);
        assert_int_equal(relay_get_n_calls(next), 2);
        turn(f);

        /* The half answer is finished, and then our words come. */
        put(f->upstream, big, SIZE - 5000);
        turn(f);
        head = take(f->clients[1], NULL);
        assert_int_equal(head.stream_id, 5);
        assert_int_equal(head.length, SIZE - TTRPC_HEADER_SIZE);
        expect_status(f->clients[1], 7, TTRPC_FAILED_PRECONDITION, "no");

        /* The half request is finished, with an id that was not given out before. */
        memset(big, 0, SIZE);
        big[0] = 0x1a;                          /* payload, to the end of the frame */
        for (size_t done = 1000; done < SIZE;) {
                size_t n = MIN((size_t) 50000, SIZE - done);

                put(f->clients[0], big, n);
                done += n;
                turn(f);
        }
        expect_status(f->clients[0], 3, TTRPC_INVALID_ARGUMENT, NULL);  /* zeros are no envelope, so it goes no further */

        answer(f, 1, "\x12\x01x");
        head = take(f->clients[0], &data);
        assert_int_equal(head.stream_id, 1);
        assert_memory_equal(data, "\x12\x01x", 3);

        request(f, 0, 9, "After", "x");
        head = take(f->upstream, NULL);
        assert_int_equal(head.stream_id, 7);
        answer(f, 3, "");                       /* for the one that is gone */
        answer(f, 7, "");
        assert_int_equal(take(f->clients[0], NULL).stream_id, 9);
        assert_int_equal(relay_get_n_calls(next), 0);
}

static void a_cut_off_state_is_refused(void **state) {
        _cleanup_(handover_done) Handover written = HANDOVER_NULL;
        static uint8_t big[140000];
        Fixture *f = *state;

        make_state(f, big, sizeof(big));
        relay_store(f->relay, &written, "restarting", 0, NULL);
        for (size_t n = 0; n < written.size; n += n < 400 ? 1 : 97) {
                _cleanup_(handover_done) Handover h = pass_on(&written, n);
                int r;

                relay_free(restored(f, &h, &r));
                assert_int_equal(r, -EBADMSG);
        }
}

static void a_state_with_flipped_bits_does_no_harm(void **state) {
        _cleanup_(handover_done) Handover written = HANDOVER_NULL;
        static uint8_t big[140000];
        Fixture *f = *state;

        make_state(f, big, sizeof(big));
        relay_store(f->relay, &written, "restarting", 0, NULL);
        for (size_t n = 0; n < written.size; n += n < 400 ? 1 : 31) {
                _cleanup_(handover_done) Handover h = pass_on(&written, written.size);
                Relay *next;
                int r;

                h.data[n] ^= 1 << n % 8;
                next = restored(f, &h, &r);
                relay_free(next);
        }
}

static void on_connection(Acceptor *a, Channel *channel, const char *peer, void *userdata) {
        channel_free(channel);
        ((Fixture*) userdata)->n_closed++;
}

static void an_acceptor_without_descriptors_rests(void **state) {
        Fixture *f = *state;
        struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "\0peerpod-acceptor-test" };
        struct rlimit old, none;
        unsigned n_turns = 0;
        Acceptor *a = NULL;
        int listen_fd, r;

        listen_fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        assert_int_equal(bind(listen_fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        assert_int_equal(listen(listen_fd, 1), 0);
        assert_int_equal(acceptor_new(f->event, listen_fd, NULL, on_connection, f, &a), 0);
        acceptor_set_enabled(a, true);
        f->clients[0] = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        assert_int_equal(connect(f->clients[0], (struct sockaddr*) &sa, sizeof(sa)), 0);

        assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
        none = (struct rlimit) { .rlim_cur = 0, .rlim_max = old.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        for (unsigned i = 0; i < 20; i++)
                n_turns += (r = sd_event_run(f->event, 0)) > 0;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        assert_true(r >= 0);
        assert_in_range(n_turns, 1, 2); /* one that failed, and no busy loop */
        assert_int_equal(f->n_closed, 0);

        while (f->n_closed == 0)        /* after the rest */
                assert_true(sd_event_run(f->event, 10 * USEC_PER_SEC) > 0);
        acceptor_free(a);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
#define T(name, up) cmocka_unit_test_setup_teardown(name, up, teardown)
                T(our_words_wait_behind_an_unfinished_answer, setup_two),
                T(words_that_wait_keep_nobody_busy, setup_two),
                T(half_an_answer_is_never_finished_with_something_else, setup_two),
                T(a_half_closed_client_is_let_go_after_its_answers, setup_two),
                T(an_upstream_that_does_not_read_stops_the_callers, setup_two),
                T(a_caller_that_does_not_read_is_bounded, setup_two),
                T(calls_in_flight_are_limited, setup_two),
                T(abandoned_long_polls_end_with_the_connection, setup_two),
                T(abandoned_calls_end_when_the_last_other_call_does, setup_two),
                T(nobody_is_forgotten_with_abandoned_calls, setup_two),
                T(half_an_answer_is_not_lost_with_abandoned_calls, setup_two),
                T(finishing_answers_what_is_in_flight, setup_two),
                T(a_relay_goes_on_in_the_next_process, setup_two),
                T(a_cut_off_state_is_refused, setup_two),
                T(a_state_with_flipped_bits_does_no_harm, setup_two),
                T(an_acceptor_without_descriptors_rests, setup),
        };

        (void) signal(SIGPIPE, SIG_IGN);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
