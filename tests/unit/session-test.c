/* SPDX-License-Identifier: Apache-2.0 */
/* The session's records against bytes written by hand from docs/session.md, and two ends on a wire that is cut at every byte. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "basic/util.h"
#include "ttrpc/queue.h"
#include "ttrpc/session.h"

#define ID "0123456789abcdef0123456789ABCDEF"

typedef struct Record {
        const char *name;
        size_t size;
        uint8_t wire[64];
        SessionRecord record;
} Record;

static const Record records[] = {
        { "fresh HELLO of a session to be kept for 90 s", 52,
          "\x01\x00\x00\x30" "\x00\x00\x00\x01" "\x00\x00\x00\x5a" ID "\x00\x00\x00\x00\x00\x00\x00\x00",
          { .type = SESSION_HELLO, .length = 48, .hello = { .fresh = true, .keep_sec = 90, .id = ID } } },
        { "HELLO of a client that has 2^40 + 1 bytes", 52,
          "\x01\x00\x00\x30" "\x00\x00\x00\x00" "\x00\x00\x00\x00" ID "\x00\x00\x01\x00\x00\x00\x00\x01",
          { .type = SESSION_HELLO, .length = 48, .hello = { .id = ID, .received = (UINT64_C(1) << 40) + 1 } } },
        { "WELCOME to a new session", 16, "\x02\x00\x00\x0c" "\x00\x00\x00\x00" "\x00\x00\x00\x00\x00\x00\x00\x00",
          { .type = SESSION_WELCOME, .length = 12, .status = SESSION_NEW } },
        { "WELCOME back of a server that has 258 bytes", 16, "\x02\x00\x00\x0c" "\x00\x00\x00\x01" "\x00\x00\x00\x00\x00\x00\x01\x02",
          { .type = SESSION_WELCOME, .length = 12, .status = SESSION_RESUMED, .received = 258 } },
        { "WELCOME to nobody", 16, "\x02\x00\x00\x0c" "\x00\x00\x00\x02" "\x00\x00\x00\x00\x00\x00\x00\x00",
          { .type = SESSION_WELCOME, .length = 12, .status = SESSION_UNKNOWN } },
        { "DATA of one byte", 4, "\x03\x00\x00\x01", { .type = SESSION_DATA, .length = 1 } },
        { "DATA of 65535 bytes", 4, "\x03\x00\xff\xff", { .type = SESSION_DATA, .length = 65535 } },
        { "ACK of 2^64 - 1", 12, "\x04\x00\x00\x08" "\xff\xff\xff\xff\xff\xff\xff\xff",
          { .type = SESSION_ACK, .length = 8, .received = UINT64_MAX } },
        { "BYE", 4, "\x05\x00\x00\x00", { .type = SESSION_BYE } },
        { "END, for a reason", 7, "\x06\x00\x00\x03" "oom", { .type = SESSION_END, .length = 3, .text = "oom" } },
};

static void record_is_written_and_read_as_specified(void **state) {
        const Record *c = *state;
        uint8_t wire[SESSION_CONTROL_MAX];
        SessionRecord record;

        for (size_t n = 0; n < c->size; n++)
                assert_int_equal(session_record_parse(c->wire, n, &record), 0);
        assert_int_equal(session_record_parse(c->wire, c->size, &record), c->size);
        assert_int_equal(record.type, c->record.type);
        assert_int_equal(record.length, c->record.length);
        assert_int_equal(record.status, c->record.status);
        assert_int_equal(record.received, c->record.received);
        assert_int_equal(record.hello.fresh, c->record.hello.fresh);
        assert_int_equal(record.hello.keep_sec, c->record.hello.keep_sec);
        assert_int_equal(record.hello.received, c->record.hello.received);
        assert_memory_equal(record.hello.id, c->record.hello.id, SESSION_ID_SIZE);
        if (record.type == SESSION_END)
                assert_memory_equal(record.text, c->record.text, record.length);

        assert_int_equal(session_record_write(&record, wire), c->size);
        assert_memory_equal(wire, c->wire, c->size);
}

typedef struct Refusal {
        const char *name;
        size_t size;
        uint8_t wire[64];
} Refusal;

static const Refusal refusals[] = {
        { "type 0 is refused by its first byte", 1, "\x00" },
        { "type 7 is refused by its first byte", 1, "\x07" },
        { "END without a reason is refused", 4, "\x06\x00\x00\x00" },
        { "END with 241 characters is refused", 4, "\x06\x00\x00\xf1" },
        { "END with a line end is refused", 6, "\x06\x00\x00\x02" "a\n" },
        { "END with what is no ASCII is refused", 6, "\x06\x00\x00\x02" "\xc3\xa9" },
        { "a TLS ClientHello is refused", 1, "\x16" },
        { "a ttrpc frame is refused", 10, "\x00\x00\x00\x05\x00\x00\x00\x01\x01\x00" },
        { "HELLO with a byte more is refused", 4, "\x01\x00\x00\x31" },
        { "HELLO with an unknown flag is refused", 52, "\x01\x00\x00\x30" "\x00\x00\x00\x02" },
        { "WELCOME with an unknown status is refused", 16, "\x02\x00\x00\x0c" "\x00\x00\x00\x03" },
        { "ACK with a byte less is refused", 4, "\x04\x00\x00\x07" },
        { "empty DATA is refused", 4, "\x03\x00\x00\x00" },
        { "DATA of 65536 bytes is refused", 4, "\x03\x01\x00\x00" },
        { "BYE with a body is refused", 4, "\x05\x00\x00\x01" },
};

static void record_is_refused(void **state) {
        const Refusal *c = *state;
        SessionRecord record;

        assert_int_equal(session_record_parse(c->wire, c->size, &record), -EBADMSG);
}

/* Two ends. */

#define TEXT_MAX 4096U

typedef struct End {
        Session s;
        ByteQueue queue;
        bool known;                     /* server: there is a session */
        uint8_t hello[SESSION_HELLO_SIZE];
        size_t hello_size;
        uint8_t got[TEXT_MAX];
        size_t n_got;
        int error;
        bool over;
} End;

typedef struct Wire {
        uint8_t data[4 * TEXT_MAX];
        size_t n, left;                 /* on their way; that may still pass */
} Wire;

static const uint8_t client_id[] = ID;

static void client_init(End *e) {
        *e = (End) {};
        session_init_client(&e->s, client_id, 90);
}

static void release(End *e, size_t n) {
        if (n > e->queue.n_kept)
                byte_queue_sent(&e->queue, n - e->queue.n_kept);
        byte_queue_release(&e->queue, n);
}

static void put(Wire *w, const uint8_t *data, size_t size) {
        assert_true(w->n + size <= sizeof(w->data));
        memcpy(w->data + w->n, data, size);
        w->n += size;
}

/* What may be sent, in records of at most 5 bytes, so that there are many borders. */
static void end_send(End *e, Wire *w) {
        for (;;) {
                uint8_t record[SESSION_ACK_SIZE + SESSION_HEADER_SIZE + 5];
                size_t n = MIN(session_room(&e->s), e->queue.n_unsent), head;

                n = MIN(n, (size_t) 5);
                if (n == 0 && !session_owes_ack(&e->s))
                        return;
                head = session_begin(&e->s, n, record);
                byte_queue_copy(&e->queue, record + head, n);
                put(w, record, head + n);
                session_sent(&e->s, n);
                byte_queue_sent(&e->queue, n);
        }
}

static void server_greeted(End *e, Wire *back) {
        uint8_t record[SESSION_WELCOME_SIZE];
        SessionRecord hello;
        size_t n;
        int r;

        assert_int_equal(session_record_parse(e->hello, e->hello_size, &hello), SESSION_HELLO_SIZE);
        if (!e->known) {
                assert_true(hello.hello.fresh);
                session_init_server(&e->s, &hello.hello);
        }
        r = session_welcome(&e->s, &hello.hello, e->known, record, &n);
        e->known = true;
        if (r < 0) {
                e->error = r;
                return;
        }
        release(e, n);
        put(back, record, r);
}

static void end_receive(End *e, const uint8_t *data, size_t size, Wire *back) {
        for (size_t i = 0; i < size && e->error == 0 && !e->over; i++) {
                SessionEvent event;

                if (back && e->hello_size < sizeof(e->hello)) {
                        e->hello[e->hello_size++] = data[i];
                        if (e->hello_size == sizeof(e->hello))
                                server_greeted(e, back);
                        continue;
                }
                if (e->s.data_left > 0) {
                        assert_true(e->n_got < sizeof(e->got));
                        e->got[e->n_got++] = data[i];
                        session_data(&e->s, 1);
                        continue;
                }
                e->s.head[e->s.head_size] = data[i];
                e->error = session_control(&e->s, 1, &event);
                release(e, event.release);
                e->over = event.over;
        }
}

static void carry(Wire *w, End *to, Wire *back) {
        size_t n = MIN(w->n, w->left);

        w->left -= n;
        end_receive(to, w->data, n, back);
        w->n = 0;                       /* the rest is lost with the connection */
}

/* One connection that carries so many bytes each way. */
static void connection(End *client, End *server, size_t up, size_t down) {
        Wire a = { .left = up }, b = { .left = down };
        uint8_t hello[SESSION_HELLO_SIZE];

        server->hello_size = 0;
        put(&a, hello, session_greet(&client->s, hello));
        for (unsigned i = 0; i < 8; i++) {
                end_send(client, &a);
                carry(&a, server, &b);
                if (server->known && server->s.state == SESSION_UP && i == 3)
                        server->s.ack_wanted = true;
                if (server->known && server->s.state == SESSION_UP)
                        end_send(server, &b);
                carry(&b, client, NULL);
                if (client->s.state == SESSION_UP && i == 5)
                        client->s.ack_wanted = true;
        }
        assert_int_equal(client->error, 0);
        assert_int_equal(server->error, 0);

        session_set_away(&client->s);
        byte_queue_rewind(&client->queue);
        if (server->known) {
                session_set_away(&server->s);
                byte_queue_rewind(&server->queue);
        }
}

static void ends_done(End *client, End *server) {
        byte_queue_done(&client->queue);
        byte_queue_done(&server->queue);
}

static void nothing_is_lost_or_doubled_wherever_two_connections_are_cut(void **state) {
        static const uint8_t up[] = "requests on their way to the agent", down[] = "and answers on their way to the caller";

        for (size_t i = 0; i < 140; i++)
                for (size_t k = 0; k < 110; k++) {
                        End client, server = {};

                        client_init(&client);
                        assert_int_equal(byte_queue_append(&client.queue, up, 20), 0);
                        assert_int_equal(byte_queue_append(&server.queue, down, 30), 0);
                        connection(&client, &server, i, k);
                        assert_int_equal(byte_queue_append(&client.queue, up + 20, sizeof(up) - 20), 0);
                        assert_int_equal(byte_queue_append(&server.queue, down + 30, sizeof(down) - 30), 0);
                        connection(&client, &server, k + 20, i / 2);
                        connection(&client, &server, SIZE_MAX, SIZE_MAX);

                        if (client.n_got != sizeof(down) || server.n_got != sizeof(up) || memcmp(client.got, down, sizeof(down)) != 0 ||
                            memcmp(server.got, up, sizeof(up)) != 0)
                                fail_msg("cut after %zu bytes up and %zu down", i, k);
                        assert_int_equal(client.s.acked, sizeof(up));
                        assert_int_equal(server.s.acked, sizeof(down));
                        ends_done(&client, &server);
                }
}

static void a_first_connection_sends_without_waiting(void **state) {
        End client, server = {};
        Wire a = { .left = SIZE_MAX }, b = { .left = SIZE_MAX };
        uint8_t hello[SESSION_HELLO_SIZE];

        client_init(&client);
        assert_int_equal(byte_queue_append(&client.queue, "x", 1), 0);
        put(&a, hello, session_greet(&client.s, hello));
        end_send(&client, &a);
        assert_int_equal(a.n, SESSION_HELLO_SIZE + SESSION_HEADER_SIZE + 1);
        carry(&a, &server, &b);
        assert_int_equal(server.n_got, 1);

        /* The second one waits to be told where to begin. */
        session_set_away(&client.s);
        byte_queue_rewind(&client.queue);
        (void) session_greet(&client.s, hello);
        assert_int_equal(session_room(&client.s), 0);
        ends_done(&client, &server);
}

/* One end with 100 bytes sent of which 40 are acknowledged; it has 10 of the peer's. */
static void make_up(Session *s) {
        SessionHello hello = { .fresh = true, .keep_sec = 1, .id = ID };
        uint8_t p[SESSION_CONTROL_MAX];
        SessionEvent event;
        size_t n;

        session_init_server(s, &hello);
        assert_int_equal(session_welcome(s, &hello, false, p, &n), SESSION_WELCOME_SIZE);
        session_sent(s, 100);
        memcpy(s->head, "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x28", 12);
        for (size_t i = 0; i < 12; i++)
                assert_int_equal(session_control(s, 1, &event), 0);
        assert_int_equal(event.release, 40);
        memcpy(s->head, "\x03\x00\x00\x0a", 4);
        assert_int_equal(session_control(s, 4, &event), 0);
        session_data(s, 10);
}

static void a_client_is_told_why_the_vm_ends(void **state) {
        static const uint8_t end[] = "\x06\x00\x00\x12" "the agent has died";

        /* Before it is welcome, and after. */
        for (unsigned up = 0; up < 2; up++) {
                uint8_t p[SESSION_CONTROL_MAX];
                SessionEvent event = {};
                Session s;

                session_init_client(&s, (const uint8_t*) ID, 1);
                (void) session_greet(&s, p);
                for (size_t i = 0; up && i < SESSION_WELCOME_SIZE; i++) {
                        s.head[i] = "\x02\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"[i];
                        assert_int_equal(session_control(&s, 1, &event), 0);
                }
                for (size_t i = 0; i < sizeof(end) - 1; i++) {
                        assert_null(event.end);
                        assert_true(session_wants(&s) > 0);
                        s.head[s.head_size] = end[i];
                        assert_int_equal(session_control(&s, 1, &event), 0);
                }
                assert_true(event.over);
                assert_int_equal(event.end_size, 18);
                assert_memory_equal(event.end, "the agent has died", 18);
                assert_int_equal(s.state, SESSION_OVER);
        }
}

static int feed(Session *s, const uint8_t *wire, size_t size) {
        SessionEvent event;
        int r = 0;

        for (size_t i = 0; i < size && r == 0; i++) {
                s->head[s->head_size] = wire[i];
                r = session_control(s, 1, &event);
        }
        return r;
}

typedef struct Breach {
        const char *name;
        int result;
        size_t size;
        uint8_t wire[64];
} Breach;

static const Breach breaches[] = {
        { "an ACK twice is fine",                          0,       12, "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x28" },
        { "an ACK of all that was sent is fine",           0,       12, "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x64" },
        { "an ACK of a byte more ends the session",        -EPROTO, 12, "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x65" },
        { "an ACK below an earlier one ends the session",  -EPROTO, 12, "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x27" },
        { "an ACK of 2^64 - 1 ends the session",           -EPROTO, 12, "\x04\x00\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff" },
        { "a second HELLO ends the session",               -EPROTO, 52, "\x01\x00\x00\x30\x00\x00\x00\x01\x00\x00\x00\x5a" ID },
        { "a WELCOME to a server ends the session",        -EPROTO, 16, "\x02\x00\x00\x0c" },
        { "an END to a server ends the session",           -EPROTO, 7,  "\x06\x00\x00\x03" "end" },
        { "an unknown record ends the session",            -EPROTO, 1,  "\x07" },
};

static void what_breaks_the_rules_ends_the_session(void **state) {
        const Breach *c = *state;
        Session s;

        make_up(&s);
        assert_int_equal(feed(&s, c->wire, c->size), c->result);
        assert_int_equal(s.state, c->result < 0 ? SESSION_OVER : SESSION_UP);
}

static void resuming_with_bytes_that_were_never_sent_ends_the_session(void **state) {
        static const uint64_t received[] = { 101, 39, UINT64_MAX };
        uint8_t p[SESSION_CONTROL_MAX];
        Session s;
        size_t n;

        for (size_t i = 0; i < ELEMENTSOF(received); i++) {
                SessionHello hello = { .id = ID, .received = received[i] };

                make_up(&s);
                session_set_away(&s);
                assert_int_equal(session_welcome(&s, &hello, true, p, &n), -EPROTO);
                assert_int_equal(s.state, SESSION_OVER);
        }
}

static void a_client_believes_no_welcome_that_cannot_be(void **state) {
        static const struct { const char *wire; bool confirmed; int result; } cases[] = {
                { "\x02\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", false, 0 },
                { "\x02\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05", false, -EPROTO }, /* new, and has something */
                { "\x02\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", true, -EPROTO },  /* new, but was there */
                { "\x02\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05", true, 0 },
                { "\x02\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x06", true, -EPROTO },  /* more than was sent */
                { "\x03\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", true, -EPROTO },  /* DATA before it */
                { "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", true, -EPROTO },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint8_t p[SESSION_CONTROL_MAX];
                Session s;

                session_init_client(&s, client_id, 1);
                (void) session_greet(&s, p);
                session_sent(&s, 5);
                if (cases[i].confirmed) {
                        s.confirmed = true;
                        session_set_away(&s);
                        (void) session_greet(&s, p);
                }
                assert_int_equal(feed(&s, (const uint8_t*) cases[i].wire, 16), cases[i].result);
        }
}

static void a_window_is_all_that_is_sent_unacknowledged(void **state) {
        Session s;

        make_up(&s);
        assert_int_equal(session_room(&s), SESSION_WINDOW - 60);
        session_sent(&s, SESSION_WINDOW - 60);
        assert_int_equal(session_room(&s), 0);
        assert_int_equal(feed(&s, (const uint8_t*) "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x64", 12), 0);
        assert_int_equal(session_room(&s), 60);
}

static void a_big_record_goes_out_in_steps_and_is_forgotten_with_the_connection(void **state) {
        uint8_t p[SESSION_ACK_SIZE + SESSION_HEADER_SIZE];
        Session s;

        make_up(&s);
        assert_int_equal(session_begin(&s, 50000, p), sizeof(p));
        session_promise(&s, 50000);
        session_sent_promised(&s, 20000);
        assert_int_equal(s.sent, 20100);
        assert_int_equal(s.promised, 30000);
        assert_int_equal(feed(&s, (const uint8_t*) "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x4e\x84", 12), 0);     /* 20100 */
        assert_int_equal(s.acked, 20100);

        session_set_away(&s);
        assert_int_equal(s.promised, 0);
        assert_int_equal(s.sent, 20100);
        assert_int_equal(s.top, 20100);
}

static void a_peer_that_overruns_the_window_ends_the_session(void **state) {
        Session s;
        uint64_t n;

        make_up(&s);
        for (n = 10; n + 65535 <= SESSION_WINDOW; n += 65535) {
                assert_int_equal(feed(&s, (const uint8_t*) "\x03\x00\xff\xff", 4), 0);
                session_data_ahead(&s, 65535);
        }
        assert_int_equal(s.received, 10);       /* what nobody has taken is not acknowledged */
        assert_int_equal(feed(&s, (const uint8_t*) "\x03\x00\xff\xff", 4), -EPROTO);

        /* With the connection it is forgotten, as it will come again. */
        make_up(&s);
        assert_int_equal(feed(&s, (const uint8_t*) "\x03\x00\x00\x08", 4), 0);
        session_data_ahead(&s, 8);
        session_take_ahead(&s, 3);
        session_set_away(&s);
        assert_int_equal(s.ahead, 0);
        assert_int_equal(s.received, 13);
}

static void an_ack_is_owed_after_a_quarter_of_a_mebibyte_or_some_time(void **state) {
        uint8_t p[SESSION_ACK_SIZE + SESSION_HEADER_SIZE];
        Session s;

        make_up(&s);
        assert_false(session_owes_ack(&s));
        assert_int_equal(session_begin(&s, 7, p), SESSION_ACK_SIZE + SESSION_HEADER_SIZE);      /* rides along */
        assert_memory_equal(p, "\x04\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x0a\x03\x00\x00\x07", 16);
        s.ack_wanted = true;
        assert_true(session_owes_ack(&s));
        session_sent(&s, 0);
        assert_false(session_owes_ack(&s));
        for (unsigned i = 0; i < 4; i++) {
                assert_false(session_owes_ack(&s));
                assert_int_equal(feed(&s, (const uint8_t*) "\x03\x00\xff\xff", 4), 0);
                session_data(&s, 65535);
        }
        assert_int_equal(feed(&s, (const uint8_t*) "\x03\x00\x00\x04", 4), 0);
        session_data(&s, 4);
        assert_true(session_owes_ack(&s));
}

static void an_id_is_known_by_all_its_bytes(void **state) {
        uint8_t id[SESSION_ID_SIZE];
        Session s;

        make_up(&s);
        for (size_t i = 0; i < SESSION_ID_SIZE; i++) {
                memcpy(id, client_id, sizeof(id));
                assert_true(session_has_id(&s, id));
                id[i] ^= 1;
                assert_false(session_has_id(&s, id));
        }
}

/* The queue against a plain array. */
static void the_queue_keeps_and_repeats_what_it_was_given(void **state) {
        static uint8_t all[1 << 20];
        size_t given = 0, sent = 0, released = 0;
        ByteQueue q = BYTE_QUEUE_NULL;
        uint32_t x = 1;

        for (size_t i = 0; i < sizeof(all); i++)
                all[i] = i * 2654435761U >> 11;
        while (released < sizeof(all)) {
                size_t n;

                x = x * 1664525 + 1013904223;
                n = (x >> 8) % 70000;
                switch (x >> 29) {

                case 0:
                case 1:
                        n = MIN(n, sizeof(all) - given);
                        assert_int_equal(byte_queue_append(&q, all + given, n), 0);
                        given += n;
                        break;

                case 2: {
                        uint8_t *p;

                        n = MIN(n, sizeof(all) - given);
                        if (n == 0)
                                break;
                        p = malloc(n + 3);
                        memcpy(p + 3, all + given, n);
                        assert_int_equal(byte_queue_append_take(&q, p, 3, n + 3), 0);
                        given += n;
                        break;
                }

                case 3:
                case 4: {
                        static uint8_t copy[70000];

                        n = MIN(n, given - sent);
                        byte_queue_copy(&q, copy, n);
                        assert_memory_equal(copy, all + sent, n);
                        byte_queue_sent(&q, n);
                        sent += n;
                        break;
                }

                case 5:
                case 6:
                        n = MIN(n, sent - released);
                        byte_queue_release(&q, n);
                        released += n;
                        break;

                default:
                        byte_queue_trim(&q);
                        byte_queue_rewind(&q);
                        sent = released;
                }
                assert_int_equal(q.n_kept, sent - released);
                assert_int_equal(q.n_unsent, given - sent);
        }
        byte_queue_done(&q);
}

int main(void) {
        static const struct CMUnitTest others[] = {
                cmocka_unit_test(a_client_is_told_why_the_vm_ends),
                cmocka_unit_test(nothing_is_lost_or_doubled_wherever_two_connections_are_cut),
                cmocka_unit_test(a_first_connection_sends_without_waiting),
                cmocka_unit_test(resuming_with_bytes_that_were_never_sent_ends_the_session),
                cmocka_unit_test(a_client_believes_no_welcome_that_cannot_be),
                cmocka_unit_test(a_window_is_all_that_is_sent_unacknowledged),
                cmocka_unit_test(a_big_record_goes_out_in_steps_and_is_forgotten_with_the_connection),
                cmocka_unit_test(a_peer_that_overruns_the_window_ends_the_session),
                cmocka_unit_test(an_ack_is_owed_after_a_quarter_of_a_mebibyte_or_some_time),
                cmocka_unit_test(an_id_is_known_by_all_its_bytes),
                cmocka_unit_test(the_queue_keeps_and_repeats_what_it_was_given),
        };
        struct CMUnitTest tests[ELEMENTSOF(records) + ELEMENTSOF(refusals) + ELEMENTSOF(breaches) + ELEMENTSOF(others)];
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTSOF(records); i++)
                tests[n++] = (struct CMUnitTest) { .name = records[i].name, .test_func = record_is_written_and_read_as_specified,
                                                   .initial_state = (void*) &records[i] };
        for (size_t i = 0; i < ELEMENTSOF(refusals); i++)
                tests[n++] = (struct CMUnitTest) { .name = refusals[i].name, .test_func = record_is_refused,
                                                   .initial_state = (void*) &refusals[i] };
        for (size_t i = 0; i < ELEMENTSOF(breaches); i++)
                tests[n++] = (struct CMUnitTest) { .name = breaches[i].name, .test_func = what_breaks_the_rules_ends_the_session,
                                                   .initial_state = (void*) &breaches[i] };
        for (size_t i = 0; i < ELEMENTSOF(others); i++)
                tests[n++] = others[i];
        return cmocka_run_group_tests(tests, NULL, NULL);
}
