/* SPDX-License-Identifier: Apache-2.0 */
/* The client against a peer of raw bytes, and against our own server, in the real loop over socketpairs. */
#include "ttrpc-fixture.h"

#include <stdlib.h>

#include "proto/health.pb-c.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/client.h"
#include "ttrpc/server.h"

#define SERVICE "peerpod.test.Peer"

/* What a handler was told. */
typedef struct Answer {
        unsigned n;
        int error;
        int32_t code;
        char message[128];
        char payload[64];
        size_t size;
        unsigned order;
} Answer;

typedef struct Fixture {
        sd_event *event;
        TtrpcClient *client;
        Peer peer;
        size_t n_fds;
        unsigned n_closed;
        int closed_error;
        Answer answers[16];
        unsigned n_answers;
        TtrpcSlot *slot;
} Fixture;

static unsigned order;

static void on_reply(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Answer *a = userdata;

        a->n++;
        a->error = reply->error;
        a->code = reply->code;
        a->size = reply->size;
        a->order = ++order;
        (void) snprintf(a->message, sizeof(a->message), "%s", reply->message);
        if (reply->size > 0)
                memcpy(a->payload, reply->payload, MIN(reply->size, sizeof(a->payload)));
}

static void on_closed(TtrpcClient *c, int error, void *userdata) {
        Fixture *f = userdata;

        f->n_closed++;
        f->closed_error = error;
}

static int setup(void **state) {
        Fixture *f = calloc(1, sizeof(Fixture));

        assert_non_null(f);
        f->n_fds = count_fds();
        assert_true(sd_event_new(&f->event) >= 0);
        assert_int_equal(ttrpc_client_new(f->event, peer_init(&f->peer, f->event), &f->client), 0);
        ttrpc_client_set_closed_handler(f->client, on_closed, f);
        order = 0;
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;
        size_t n;

        ttrpc_slot_free(f->slot);
        ttrpc_client_free(f->client);
        peer_done(&f->peer);
        sd_event_unref(f->event);
        n = count_fds();
        if (n != f->n_fds)
                print_error("%zu descriptors, %zu before the test\n", n, f->n_fds);
        n -= f->n_fds;
        free(f);
        return n == 0 ? 0 : -1;
}

static Answer* call(Fixture *f, const char *payload, uint64_t timeout_usec) {
        Answer *a = &f->answers[f->n_answers++];

        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", payload, strlen(payload), timeout_usec, NULL, on_reply, a, NULL), 0);
        return a;
}

static void peer_send_response(Peer *p, uint32_t id, const TtrpcResponse *response) {
        uint8_t data[512];

        assert_true(ttrpc_response_size(response) <= sizeof(data));
        ttrpc_response_write(response, data);
        peer_send_frame(p, id, TTRPC_TYPE_RESPONSE, 0, data, ttrpc_response_size(response));
}

static void peer_answer(Peer *p, uint32_t id, const char *payload) {
        peer_send_response(p, id, &(TtrpcResponse) { .payload = ttrpc_slice(payload) });
}

static uint32_t peer_take_request(Peer *p, const char *payload) {
        TtrpcRequest request;
        TtrpcFrame frame;

        peer_receive(p, &frame);
        assert_int_equal(frame.header.type, TTRPC_TYPE_REQUEST);
        assert_int_equal(frame.header.flags, 0);
        assert_true(ttrpc_request_parse(frame.data, frame.header.length, &request) >= 0);
        assert_true(ttrpc_slice_is(request.service, SERVICE));
        assert_true(ttrpc_slice_is(request.payload, payload));
        return frame.header.stream_id;
}

static void requests_are_the_bytes_of_the_go_client(void **state) {
        static const TtrpcMetadata metadata[] = { { "traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" }, {} };
        static const struct {
                const char *file, *service, *method, *payload;
                uint64_t timeout_usec;
                const TtrpcMetadata *metadata;
        } cases[] = {
                { "request-echo", SERVICE, "Echo", "\x0a\x05hello", 0, NULL },
                { "request-empty", SERVICE, "Echo", "", USEC_INFINITY, NULL },
                { "request-timeout", SERVICE, "Echo", "\x0a\x01t", 5 * USEC_PER_SEC, NULL },
                { "request-metadata", SERVICE, "Metadata", "\x0a\x0btraceparent", 0, metadata },
                { "request-start-vm", "hypervisor.Hypervisor", "StartVM", "\x0a\x09sandbox-1", 0, NULL },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) uint8_t *wire = NULL;
                TtrpcFrame frame;
                size_t size;

                read_golden(cases[i].file, &wire, &size);
                assert_int_equal(ttrpc_client_call(f->client, cases[i].service, cases[i].method, cases[i].payload, strlen(cases[i].payload),
                                                   cases[i].timeout_usec, cases[i].metadata, on_reply, &f->answers[0], NULL), 0);
                peer_receive(&f->peer, &frame);
                assert_int_equal(frame.header.stream_id, 2 * i + 1);    /* golden ones are the first of their connections */
                assert_int_equal(frame.header.length, size - TTRPC_HEADER_SIZE);
                assert_memory_equal(frame.data, wire + TTRPC_HEADER_SIZE, frame.header.length);
        }

        /* and once more, from the message instead of its bytes */
        Hypervisor__StartVMRequest m = HYPERVISOR__START_VMREQUEST__INIT;
        _cleanup_(freep) uint8_t *wire = NULL;
        TtrpcFrame frame;
        size_t size;

        m.id = (char*) "sandbox-1";
        read_golden("request-start-vm", &wire, &size);
        assert_int_equal(ttrpc_client_call_message(f->client, "hypervisor.Hypervisor", "StartVM", &m.base, 0, NULL,
                                                   on_reply, &f->answers[0], NULL), 0);
        peer_receive(&f->peer, &frame);
        assert_int_equal(frame.header.length, size - TTRPC_HEADER_SIZE);
        assert_memory_equal(frame.data, wire + TTRPC_HEADER_SIZE, frame.header.length);
}

static void responses_of_the_go_server_are_understood(void **state) {
        static const struct { const char *file; int error; int code; const char *message, *payload; } cases[] = {
                { "response-echo", 0, 0, "", "\x0a\x05hello" },
                { "response-empty", 0, 0, "", "" },
                { "response-error-status", -EREMOTEIO, 5, "sandbox 'x' not found", "" },
                { "response-unknown-method", -EREMOTEIO, 12, "method NoSuch", "" },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) uint8_t *wire = NULL;
                Answer *a = call(f, "x", 0);
                size_t size;

                read_golden(cases[i].file, &wire, &size);
                wire[7] = peer_take_request(&f->peer, "x");             /* on this connection's stream */
                peer_send(&f->peer, wire, size);
                RUN_UNTIL(f->event, a->n == 1);
                assert_int_equal(a->error, cases[i].error);
                assert_int_equal(a->code, cases[i].code);
                assert_string_equal(a->message, cases[i].message);
                assert_int_equal(a->size, strlen(cases[i].payload));
                assert_memory_equal(a->payload, cases[i].payload, a->size);
        }
}

static void rust_form_of_success_is_understood(void **state) {
        Fixture *f = *state;
        Answer *a = call(f, "x", 0), *b = call(f, "y", 0);

        /* containerd/ttrpc-rust: src/asynchronous/server.rs sends an empty Status */
        peer_send_frame(&f->peer, 1, TTRPC_TYPE_RESPONSE, 0, "\x0a\x00\x12\x02hi", 6);
        peer_send_frame(&f->peer, 3, TTRPC_TYPE_RESPONSE, 0, "\x0a\x00", 2);
        RUN_UNTIL(f->event, a->n == 1 && b->n == 1);
        assert_int_equal(a->error, 0);
        assert_memory_equal(a->payload, "hi", 2);
        assert_int_equal(b->error, 0);
        assert_int_equal(b->size, 0);
}

static void error_with_a_payload_has_no_answer(void **state) {
        Fixture *f = *state;
        Answer *a = call(f, "x", 0);

        peer_send_response(&f->peer, 1, &(TtrpcResponse) { .code = TTRPC_NOT_FOUND, .payload = ttrpc_slice("hi") });
        RUN_UNTIL(f->event, a->n == 1);
        assert_int_equal(a->error, -EREMOTEIO);
        assert_int_equal(a->code, TTRPC_NOT_FOUND);
        assert_int_equal(a->size, 0);
}

static void ids_grow_by_two(void **state) {
        Fixture *f = *state;

        for (uint32_t i = 0; i < 5; i++)
                call(f, "x", 0);
        for (uint32_t i = 0; i < 5; i++)
                assert_int_equal(peer_take_request(&f->peer, "x"), 2 * i + 1);
        assert_int_equal(ttrpc_client_get_n_calls(f->client), 5);
}

static void answers_in_any_order_find_their_calls(void **state) {
        Fixture *f = *state;
        Answer *a = call(f, "a", 0), *b = call(f, "b", 0), *c = call(f, "c", 0);

        peer_answer(&f->peer, 5, "C");
        peer_answer(&f->peer, 1, "A");
        peer_answer(&f->peer, 3, "B");
        RUN_UNTIL(f->event, a->n + b->n + c->n == 3);
        assert_memory_equal(a->payload, "A", 1);
        assert_memory_equal(b->payload, "B", 1);
        assert_memory_equal(c->payload, "C", 1);
        assert_true(c->order < a->order && a->order < b->order);
        peer_answer(&f->peer, 1, "again");      /* nobody's */
        run_idle(f->event);
        assert_int_equal(a->n, 1);
        assert_true(ttrpc_client_is_connected(f->client));
}

static void timeout_fails_the_call_and_drops_its_late_answer(void **state) {
        Fixture *f = *state;
        Answer *a = call(f, "slow", 10 * USEC_PER_MSEC), *b;

        RUN_UNTIL(f->event, a->n == 1);
        assert_int_equal(a->error, -ETIMEDOUT);
        assert_int_equal(a->code, TTRPC_DEADLINE_EXCEEDED);
        assert_string_equal(a->message, "context deadline exceeded");
        peer_answer(&f->peer, 1, "late");
        b = call(f, "next", USEC_PER_SEC);
        peer_answer(&f->peer, 3, "fine");
        RUN_UNTIL(f->event, b->n == 1);
        assert_int_equal(b->error, 0);
        assert_int_equal(a->n, 1);
}

static void freeing_the_slot_gives_the_call_up(void **state) {
        Fixture *f = *state;
        Answer *a = &f->answers[0];

        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, USEC_PER_SEC, NULL, on_reply, a, &f->slot), 0);
        f->slot = ttrpc_slot_free(f->slot);
        assert_int_equal(ttrpc_client_get_n_calls(f->client), 0);
        peer_answer(&f->peer, 1, "late");
        run_idle(f->event);
        assert_int_equal(a->n, 0);
}

static void slot_may_be_freed_after_client_and_answer(void **state) {
        Fixture *f = *state;
        Answer *a = &f->answers[0];
        TtrpcSlot *second;

        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, 0, NULL, on_reply, a, &f->slot), 0);
        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, 0, NULL, on_reply, a, &second), 0);
        peer_answer(&f->peer, 1, "");
        RUN_UNTIL(f->event, a->n == 1);
        f->client = ttrpc_client_free(f->client);
        f->slot = ttrpc_slot_free(f->slot);
        ttrpc_slot_free(second);
        assert_int_equal(a->n, 1);
}

static void lost_connection_fails_all_calls(void **state) {
        Fixture *f = *state;

        for (unsigned i = 0; i < 10; i++)
                call(f, "x", USEC_PER_SEC);
        peer_answer(&f->peer, 3, "in time");
        peer_done(&f->peer);
        RUN_UNTIL(f->event, f->n_closed == 1);
        for (unsigned i = 0; i < 10; i++) {
                Answer *a = &f->answers[i];

                assert_int_equal(a->n, 1);
                assert_int_equal(a->error, i == 1 ? 0 : -ENOTCONN);
                assert_int_equal(a->code, i == 1 ? TTRPC_OK : TTRPC_UNAVAILABLE);
                assert_string_equal(a->message, i == 1 ? "" : "ttrpc: closed");
        }
        assert_int_equal(f->closed_error, -ENOTCONN);
        assert_false(ttrpc_client_is_connected(f->client));
        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, 0, NULL, on_reply, NULL, NULL), -ENOTCONN);
}

static void answers_before_the_loss_count(void **state) {
        Fixture *f = *state;
        Answer *a = call(f, "x", 0), *b;

        /* The peer answers and is gone before we write again: writing fails, but the answer is there to be read. */
        peer_take_request(&f->peer, "x");
        peer_answer(&f->peer, 1, "last words");
        peer_done(&f->peer);
        b = call(f, "into the void", 0);
        assert_int_equal(a->n + b->n, 0);       /* no handler runs inside ttrpc_client_call() */
        RUN_UNTIL(f->event, f->n_closed == 1);
        assert_int_equal(a->error, 0);
        assert_int_equal(b->error, -ENOTCONN);
}

static void server_that_refuses_to_read(void **state) {
        Fixture *f = *state;
        Answer *a = call(f, "x", 0), *b;

        /* It keeps the connection open, but what we write fails. */
        peer_answer(&f->peer, 1, "an answer all the same");
        assert_int_equal(shutdown(f->peer.fd, SHUT_RD), 0);
        b = call(f, "y", 0);
        RUN_UNTIL(f->event, f->n_closed == 1);
        assert_int_equal(a->error, 0);
        assert_int_equal(b->error, -ENOTCONN);
}

static void what_is_not_ttrpc_ends_the_connection(void **state) {
        Fixture *f = *state;
        Answer *a = call(f, "x", 0);

        peer_send(&f->peer, "HTTP/1.1 400 Bad Request\r\n", 26);
        RUN_UNTIL(f->event, f->n_closed == 1);
        assert_int_equal(f->closed_error, -EBADMSG);
        assert_int_equal(a->error, -ENOTCONN);
        assert_string_equal(a->message, "ttrpc: closed: the peer does not speak ttrpc");
}

static void broken_answers_fail_their_call_only(void **state) {
        Fixture *f = *state;
        char *zeroes = calloc(1, TTRPC_DATA_MAX + 1);
        Answer *a = call(f, "a", 0), *b = call(f, "b", 0), *c = call(f, "c", 0), *d = call(f, "d", 0), *e = call(f, "e", 0);

        assert_non_null(zeroes);
        peer_send_frame(&f->peer, 1, TTRPC_TYPE_RESPONSE, 0, "\x0a\x05x", 3);
        peer_send_frame(&f->peer, 3, TTRPC_TYPE_DATA, 0, "x", 1);
        peer_send_frame(&f->peer, 5, TTRPC_TYPE_RESPONSE, 0, zeroes, TTRPC_DATA_MAX + 1);
        peer_send_frame(&f->peer, 9, 77, 0, "x", 1);
        free(zeroes);
        peer_answer(&f->peer, 7, "good");
        RUN_UNTIL(f->event, d->n == 1);
        assert_int_equal(a->error, -EBADMSG);
        assert_int_equal(b->error, -EPROTO);
        assert_int_equal(c->error, -EMSGSIZE);
        assert_int_equal(c->code, TTRPC_RESOURCE_EXHAUSTED);
        assert_string_equal(c->message, "message length 4194305 exceed maximum message size of 4194304");
        assert_int_equal(d->error, 0);
        assert_int_equal(e->error, -EPROTO);
}

static void too_big_a_request_fails_here(void **state) {
        Fixture *f = *state;
        char *data = calloc(1, TTRPC_DATA_MAX);
        Answer *a;

        assert_non_null(data);
        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", data, TTRPC_DATA_MAX, 0, NULL, on_reply, NULL, NULL), -EMSGSIZE);
        free(data);
        a = call(f, "x", 0);
        peer_answer(&f->peer, peer_take_request(&f->peer, "x"), "y");
        RUN_UNTIL(f->event, a->n == 1);
}

static void unread_requests_are_bounded(void **state) {
        Fixture *f = *state;
        char *data = calloc(1, 1U << 20);
        unsigned n = 0;
        int r;

        assert_non_null(data);
        while ((r = ttrpc_client_call(f->client, SERVICE, "Echo", data, 1U << 20, 0, NULL, on_reply, &f->answers[0], NULL)) == 0)
                n++;
        free(data);
        assert_int_equal(r, -ENOBUFS);
        assert_true(n >= 31 && n <= 33);
        for (unsigned i = 0; i < n; i++) {
                TtrpcFrame frame;

                peer_receive(&f->peer, &frame);
                assert_int_equal(frame.header.stream_id, 2 * i + 1);
        }
}

static void calls_in_flight_are_limited(void **state) {
        Fixture *f = *state;

        for (unsigned i = 0; i < TTRPC_CLIENT_CALLS_MAX; i++) {
                assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, 0, NULL, on_reply, &f->answers[0], NULL), 0);
                if (i % 64 == 0)
                        peer_take_request(&f->peer, "");
        }
        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, 0, NULL, on_reply, NULL, NULL), -EBUSY);
}

static void on_reply_free_client(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Fixture *f = userdata;

        f->n_answers++;
        assert_memory_equal(reply->payload ?: (const uint8_t*) "free", "free", 4);
        f->client = ttrpc_client_free(f->client);
        assert_memory_equal(reply->payload ?: (const uint8_t*) "free", "free", 4);      /* valid until the handler returns */
}

static void handler_may_free_the_client(void **state) {
        Fixture *f = *state;

        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, 0, NULL, on_reply_free_client, f, NULL), 0);
        for (unsigned i = 0; i < 3; i++)
                peer_answer(&f->peer, 2 * i + 1, "free");
        RUN_UNTIL(f->event, f->n_answers > 0);
        run_idle(f->event);
        assert_int_equal(f->n_answers, 1);
        assert_null(f->client);
}

static void handler_may_free_the_client_at_a_timeout(void **state) {
        Fixture *f = *state;

        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, USEC_PER_MSEC, NULL, on_reply_free_client, f, NULL), 0);
        RUN_UNTIL(f->event, f->n_answers > 0);
        run_idle(f->event);
        assert_int_equal(f->n_answers, 1);
}

static void handler_may_free_the_client_at_the_loss(void **state) {
        Fixture *f = *state;

        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", NULL, 0, 0, NULL, on_reply_free_client, f, NULL), 0);
        peer_done(&f->peer);
        RUN_UNTIL(f->event, f->n_answers > 0);
        run_idle(f->event);
        assert_int_equal(f->n_answers, 1);
        assert_int_equal(f->n_closed, 0);
}

static void on_reply_call_again(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Fixture *f = userdata;

        if (++f->n_answers < 4)
                assert_int_equal(ttrpc_client_call(c, SERVICE, "Echo", "more", 4, 0, NULL, on_reply_call_again, f, NULL), 0);
}

static void handler_may_call_again(void **state) {
        Fixture *f = *state;

        assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", "more", 4, 0, NULL, on_reply_call_again, f, NULL), 0);
        for (unsigned i = 0; i < 4; i++)
                peer_answer(&f->peer, peer_take_request(&f->peer, "more"), "");
        RUN_UNTIL(f->event, f->n_answers == 4);
}

/* Client and server of ours in one loop */

static int method_check(TtrpcCall *call_in, const void *payload, size_t size, void *userdata) {
        Grpc__HealthCheckResponse response = GRPC__HEALTH_CHECK_RESPONSE__INIT;
        _cleanup_(proto_freep) Grpc__CheckRequest *request = NULL;
        int r;

        r = ttrpc_call_unpack(call_in, &grpc__check_request__descriptor, payload, size, (ProtobufCMessage**) &request);
        if (r < 0)
                return r;
        if (streq(request->service, "absent"))
                return ttrpc_call_reply_status(call_in, TTRPC_NOT_FOUND, "no service '%s'", request->service);

        response.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
        return ttrpc_call_reply_message(call_in, &response.base);
}

static int method_echo(TtrpcCall *call_in, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply(call_in, payload, size);
}

static int method_junk(TtrpcCall *call_in, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply(call_in, "\xff", 1);
}

static void waiting_for_answers(void **state) {
        static const TtrpcMethod methods[] = { { "Check", method_check }, { "Echo", method_echo }, { "Junk", method_junk }, {} };
        _cleanup_(ttrpc_server_freep) TtrpcServer *server = NULL;
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = NULL;
        _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;
        Grpc__CheckRequest request = GRPC__CHECK_REQUEST__INIT;
        ProtobufCMessage *m = NULL;
        Fixture *f = *state;
        uint8_t *big;
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(ttrpc_server_new(f->event, &server), 0);
        assert_int_equal(ttrpc_server_add_service(server, "grpc.Health", methods, NULL), 0);
        assert_int_equal(ttrpc_server_add_connection_fd(server, fds[0]), 0);
        assert_int_equal(ttrpc_client_new(f->event, fds[1], &c), 0);

        assert_int_equal(ttrpc_client_call_message_sync(c, "grpc.Health", "Check", &request.base, USEC_PER_SEC, NULL,
                                                        &grpc__health_check_response__descriptor, &m, &result), 0);
        assert_int_equal(((Grpc__HealthCheckResponse*) m)->status, GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
        proto_free(m);
        ttrpc_result_done(&result);

        request.service = (char*) "absent";
        assert_int_equal(ttrpc_client_call_message_sync(c, "grpc.Health", "Check", &request.base, USEC_PER_SEC, NULL,
                                                        &grpc__health_check_response__descriptor, &m, &result), -EREMOTEIO);
        assert_int_equal(result.code, TTRPC_NOT_FOUND);
        assert_string_equal(result.message, "no service 'absent'");
        ttrpc_result_done(&result);

        assert_int_equal(ttrpc_client_call_message_sync(c, "grpc.Health", "Junk", &request.base, USEC_PER_SEC, NULL,
                                                        &grpc__health_check_response__descriptor, &m, &result), -EBADMSG);
        ttrpc_result_done(&result);

        big = malloc(TTRPC_DATA_MAX);
        assert_non_null(big);
        memset(big, 'b', TTRPC_DATA_MAX);
        assert_int_equal(ttrpc_client_call_sync(c, "grpc.Health", "Echo", big, TTRPC_DATA_MAX - 64, 0, NULL, &result), 0);
        assert_int_equal(result.size, TTRPC_DATA_MAX - 64);
        assert_memory_equal(result.payload, big, result.size);
        ttrpc_result_done(&result);
        assert_int_equal(ttrpc_client_call_sync(c, "grpc.Health", "Echo", big, TTRPC_DATA_MAX, 0, NULL, &result), -EMSGSIZE);
        assert_int_equal(result.code, TTRPC_RESOURCE_EXHAUSTED);
        assert_non_null(result.message);
        free(big);

        server = ttrpc_server_free(server);
        ttrpc_result_done(&result);
        assert_int_equal(ttrpc_client_call_sync(c, "grpc.Health", "Echo", NULL, 0, 0, NULL, &result), -ENOTCONN);
        assert_int_equal(result.code, TTRPC_UNAVAILABLE);
}

static void no_socket_no_client(void **state) {
        TtrpcClient *c;

        assert_int_equal(ttrpc_client_new_unix(NULL, "/nonexistent/socket", &c), -ENOENT);
        assert_int_equal(ttrpc_client_new_unix(NULL, "@peerpod-test-nobody-listens", &c), -ECONNREFUSED);
        assert_int_equal(ttrpc_client_new_unix(NULL, "", &c), -EINVAL);
        assert_int_equal(ttrpc_client_new_unix(NULL, "/this/path/is/longer/than/the/hundred/and/seven/bytes/that/a/socket/address/"
                                                     "has/room/for/in/the/kernel/s/own/structure", &c), -ENAMETOOLONG);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
        static const struct CMUnitTest tests[] = {
                TEST(requests_are_the_bytes_of_the_go_client),
                TEST(responses_of_the_go_server_are_understood),
                TEST(rust_form_of_success_is_understood),
                TEST(error_with_a_payload_has_no_answer),
                TEST(ids_grow_by_two),
                TEST(answers_in_any_order_find_their_calls),
                TEST(timeout_fails_the_call_and_drops_its_late_answer),
                TEST(freeing_the_slot_gives_the_call_up),
                TEST(slot_may_be_freed_after_client_and_answer),
                TEST(lost_connection_fails_all_calls),
                TEST(answers_before_the_loss_count),
                TEST(server_that_refuses_to_read),
                TEST(what_is_not_ttrpc_ends_the_connection),
                TEST(broken_answers_fail_their_call_only),
                TEST(too_big_a_request_fails_here),
                TEST(unread_requests_are_bounded),
                TEST(calls_in_flight_are_limited),
                TEST(handler_may_free_the_client),
                TEST(handler_may_free_the_client_at_a_timeout),
                TEST(handler_may_free_the_client_at_the_loss),
                TEST(handler_may_call_again),
                TEST(waiting_for_answers),
                TEST(no_socket_no_client),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
