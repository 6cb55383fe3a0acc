/* SPDX-License-Identifier: Apache-2.0 */
/* The server against a peer that sends raw bytes, in the real loop over socketpairs.
 *
 * Expected texts are the Go server's; where the two servers that exist differ, or the Go one crashes, the test says whom we follow
 * (containerd/ttrpc: server.go, services.go, channel.go; containerd/ttrpc-rust: src/asynchronous/server.rs). */
#include "ttrpc-fixture.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "proto/health.pb-c.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/server.h"

#define SERVICE "peerpod.test.Peer"

typedef struct Fixture {
        sd_event *event;
        TtrpcServer *server;
        Peer peer, second;
        size_t n_fds;
        TtrpcCall *kept[64];            /* what "Keep" did not answer */
        unsigned n_kept;
        unsigned n_calls;               /* handlers run */
        unsigned n_cancelled;
        int reason;
        bool answer_when_cancelled, answer_others_when_cancelled;
        bool drained;
        char text[256];
} Fixture;

static int method_echo(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Fixture *f = userdata;

        f->n_calls++;
        return ttrpc_call_reply(call, payload, size);
}

static int method_unpack(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        int r;

        r = ttrpc_call_unpack(call, &hypervisor__start_vmrequest__descriptor, payload, size, &m);
        if (r < 0)
                return r;
        return ttrpc_call_reply_message(call, m);
}

static void on_cancelled(TtrpcCall *call, int reason, void *userdata) {
        Fixture *f = userdata;

        f->n_cancelled++;
        f->reason = reason;
        if (f->answer_when_cancelled)
                assert_int_equal(ttrpc_call_reply_status(call, TTRPC_ABORTED, "gave up by itself"), 0);
        if (f->answer_others_when_cancelled)
                for (unsigned i = 0; i < f->n_kept; i++)
                        assert_true(f->kept[i] == call || ttrpc_call_reply(f->kept[i], NULL, 0) <= 0);
}

static int method_keep(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Fixture *f = userdata;

        assert_true(f->n_kept < ELEMENTSOF(f->kept));
        f->n_calls++;
        f->kept[f->n_kept++] = ttrpc_call_ref(call);
        ttrpc_call_set_cancelled_handler(call, on_cancelled, f);
        return 0;
}

static int method_forget(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return 0;
}

static int method_errno(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return -ENOENT;
}

static int method_status(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply_status(call, TTRPC_FAILED_PRECONDITION, "bytes \xff\xc3 and \xe2\x82\xac");
}

static int method_twice(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        assert_int_equal(ttrpc_call_reply(call, "once", 4), 0);
        assert_false(ttrpc_call_is_active(call));
        return ttrpc_call_reply(call, "twice", 5);
}

static int method_big(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        uint8_t *data = calloc(1, TTRPC_DATA_MAX);
        int r;

        assert_non_null(data);
        /* The envelope adds a tag and four bytes of length, so this is the first size that does not fit. */
        r = ttrpc_call_reply(call, data, TTRPC_DATA_MAX - 4);
        free(data);
        assert_int_equal(r, -EMSGSIZE);
        return r;
}

/* Answers much more than was asked. */
static int method_inflate(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        static const uint8_t data[30000];
        Fixture *f = userdata;

        f->n_calls++;
        return ttrpc_call_reply(call, data, sizeof(data));
}

static int method_metadata(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Fixture *f = userdata;
        char key[64];

        assert_true(size < sizeof(key));
        memcpy(key, payload, size);
        key[size] = 0;
        (void) snprintf(f->text, sizeof(f->text), "%s/%s", ttrpc_call_get_service(call), ttrpc_call_get_method(call));

        const char *value = ttrpc_call_get_metadata(call, key);
        if (!value)
                return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "no such key");
        return ttrpc_call_reply(call, value, strlen(value));
}

static int method_credentials(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        struct ucred cred;
        int r;

        r = ttrpc_call_get_peer_cred(call, &cred);
        if (r < 0)
                return r;
        return ttrpc_call_reply(call, &cred, sizeof(cred));
}

static const TtrpcMethod methods[] = {
        { "Echo", method_echo },
        { "Unpack", method_unpack },
        { "Keep", method_keep },
        { "Forget", method_forget },
        { "Errno", method_errno },
        { "Status", method_status },
        { "Twice", method_twice },
        { "Big", method_big },
        { "Inflate", method_inflate },
        { "Metadata", method_metadata },
        { "Credentials", method_credentials },
        {}
};

static int setup(void **state) {
        Fixture *f = calloc(1, sizeof(Fixture));

        assert_non_null(f);
        f->n_fds = count_fds();
        f->second.fd = -EBADF;
        assert_true(sd_event_new(&f->event) >= 0);
        assert_int_equal(ttrpc_server_new(f->event, &f->server), 0);
        assert_int_equal(ttrpc_server_add_service(f->server, SERVICE, methods, f), 0);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->peer, f->event)), 0);
        *state = f;
        return 0;
}

static int teardown(void **state) {
        Fixture *f = *state;
        size_t n;

        /* A test that failed may have left calls; the server cancels them, their references are ours. */
        f->answer_when_cancelled = false;
        f->server = ttrpc_server_free(f->server);
        for (unsigned i = 0; i < f->n_kept; i++)
                ttrpc_call_unref(f->kept[i]);
        peer_done(&f->peer);
        peer_done(&f->second);
        sd_event_unref(f->event);
        n = count_fds();
        if (n != f->n_fds)
                print_error("%zu descriptors, %zu before the test\n", n, f->n_fds);
        n -= f->n_fds;
        free(f);
        return n == 0 ? 0 : -1;
}

static void send_call(Peer *p, uint32_t id, const char *method, const char *payload) {
        peer_send_request(p, id, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice(method), .payload = ttrpc_slice(payload),
        });
}

static void send_call_timeout(Peer *p, uint32_t id, const char *method, int64_t timeout_nano) {
        peer_send_request(p, id, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice(method), .timeout_nano = timeout_nano,
        });
}

/* The connection is good: a call goes through. */
static void expect_alive(Peer *p, uint32_t id) {
        send_call(p, id, "Echo", "alive?");
        peer_expect_ok(p, id, "alive?", 6);
}

static void golden_requests_get_golden_answers(void **state) {
        static const struct { const char *name; uint32_t id; } cases[] = {
                { "echo", 1 }, { "empty", 1 }, { "timeout", 1 }, { "expired", 1 }, { "unknown-service", 1 }, { "unknown-method", 1 },
                { "even-id", 2 }, { "start-vm", 1 },
        };
        /* The golden requests call methods that main.go has; "Hang" is never run, as its deadline is over. */
        static const TtrpcMethod golden_methods[] = { { "Echo", method_echo }, { "Hang", method_keep }, {} };
        Fixture *f = *state;

        f->server = ttrpc_server_free(f->server);
        assert_int_equal(ttrpc_server_new(f->event, &f->server), 0);
        assert_int_equal(ttrpc_server_add_service(f->server, SERVICE, golden_methods, f), 0);
        assert_int_equal(ttrpc_server_add_service(f->server, SERVICE, golden_methods, f), -EEXIST);
        peer_done(&f->peer);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->peer, f->event)), 0);

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) uint8_t *request = NULL, *response = NULL;
                size_t request_size, response_size;
                TtrpcFrame frame;
                char name[64];

                (void) snprintf(name, sizeof(name), "request-%s", cases[i].name);
                read_golden(name, &request, &request_size);
                (void) snprintf(name, sizeof(name), "response-%s", cases[i].name);
                read_golden(name, &response, &response_size);

                peer_send(&f->peer, request, request_size);
                peer_receive(&f->peer, &frame);
                assert_int_equal(frame.header.stream_id, cases[i].id);
                assert_int_equal(frame.header.length, response_size - TTRPC_HEADER_SIZE);
                if (frame.header.length > 0)
                        assert_memory_equal(frame.data, response + TTRPC_HEADER_SIZE, frame.header.length);
        }
        assert_int_equal(f->n_kept, 0);
}

/* remote side's errors, a test for each */

static void even_stream_id_is_refused(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 2, "Echo", "x");
        peer_expect_status(&f->peer, 2, 3, "StreamID must be odd for client initiated streams");
        send_call(&f->peer, 0, "Echo", "x");
        peer_expect_status(&f->peer, 0, 3, "StreamID must be odd for client initiated streams");
        expect_alive(&f->peer, 1);
}

static void ids_may_come_in_any_order(void **state) {
        Fixture *f = *state;

        /* ttrpc-rust's client queues concurrent calls out of order; the Go server would refuse the second. */
        send_call(&f->peer, 7, "Echo", "seven");
        send_call(&f->peer, 3, "Echo", "three");
        peer_expect_ok(&f->peer, 7, "seven", 5);
        peer_expect_ok(&f->peer, 3, "three", 5);
        send_call(&f->peer, 3, "Echo", "again");        /* not in use any more */
        peer_expect_ok(&f->peer, 3, "again", 5);
}

static void id_in_use_is_refused(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 5, "Keep", "");
        send_call(&f->peer, 5, "Echo", "x");
        peer_expect_status(&f->peer, 5, 3, "StreamID cannot be re-used and must increment");
        assert_true(ttrpc_call_is_active(f->kept[0]));
        expect_alive(&f->peer, 7);
}

static void bad_request_envelope(void **state) {
        Fixture *f = *state;

        peer_send_frame(&f->peer, 1, TTRPC_TYPE_REQUEST, 0, "\x0a\x05x", 3);
        peer_expect_status(&f->peer, 1, 3, "unmarshal request error: proto: cannot parse invalid wire-format data");
        expect_alive(&f->peer, 3);
}

static void unknown_service_and_method(void **state) {
        Fixture *f = *state;

        peer_send_request(&f->peer, 1, &(TtrpcRequest) { .service = ttrpc_slice("no.Such"), .method = ttrpc_slice("Echo") });
        peer_expect_status(&f->peer, 1, 12, "service no.Such");
        send_call(&f->peer, 3, "NoSuch", "");
        peer_expect_status(&f->peer, 3, 12, "method NoSuch");
        send_call(&f->peer, 5, "Ech", "");              /* a part of a name is not the name */
        peer_expect_status(&f->peer, 5, 12, "method Ech");
        peer_send_frame(&f->peer, 7, TTRPC_TYPE_REQUEST, 0, NULL, 0);
        peer_expect_status(&f->peer, 7, 12, "service ");
        assert_int_equal(f->n_calls, 0);
}

static void bad_payload(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Unpack", "\x0a\x05x");
        peer_expect_status(&f->peer, 1, 13, "ttrpc: error unmarshalling payload: proto: cannot parse invalid wire-format data");
        send_call(&f->peer, 3, "Unpack", "\x0a\x02ok");
        peer_expect_ok(&f->peer, 3, "\x0a\x02ok", 4);
}

static void oversize_frame_is_passed_over(void **state) {
        Fixture *f = *state;
        char *zeroes = calloc(1, TTRPC_DATA_MAX + 1);

        assert_non_null(zeroes);
        peer_send_frame(&f->peer, 1, TTRPC_TYPE_REQUEST, 0, zeroes, TTRPC_DATA_MAX + 1);
        free(zeroes);
        peer_expect_status(&f->peer, 1, 8, "message length 4194305 exceed maximum message size of 4194304");
        expect_alive(&f->peer, 3);
}

static void what_is_not_ttrpc_is_disconnected(void **state) {
        Fixture *f = *state;

        peer_send(&f->peer, "\x16\x03\x01\x02\x00\x01", 6);     /* TLS ClientHello (RFC 8446, 5.1) */
        peer_expect_closed(&f->peer);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 0);
}

static void answers_before_the_junk_are_sent(void **state) {
        Fixture *f = *state;
        static const uint8_t junk = 'G';

        send_call(&f->peer, 1, "Echo", "good");
        peer_send(&f->peer, &junk, 1);
        peer_expect_ok(&f->peer, 1, "good", 4);
        peer_expect_closed(&f->peer);
}

static void oversize_response_ends_its_stream_only(void **state) {
        Fixture *f = *state;

        /* The Go server closes the whole connection. */
        send_call(&f->peer, 1, "Keep", "");
        send_call(&f->peer, 3, "Big", "");
        peer_expect_status(&f->peer, 3, 8, "message length 4194305 exceed maximum message size of 4194304");
        assert_int_equal(ttrpc_call_reply(f->kept[0], "still here", 10), 0);
        peer_expect_ok(&f->peer, 1, "still here", 10);
}

static void largest_message_goes_both_ways(void **state) {
        size_t size = TTRPC_DATA_MAX - (2 + strlen(SERVICE) + 2 + strlen("Echo") + 1 + 4);
        Fixture *f = *state;
        uint8_t *data = malloc(size);

        assert_non_null(data);
        for (size_t i = 0; i < size; i++)
                data[i] = i * 13 + i / 256;
        peer_send_request(&f->peer, 1, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Echo"), .payload = { data, size },
        });
        peer_expect_ok(&f->peer, 1, data, size);
        free(data);
}

static void data_on_an_unknown_stream(void **state) {
        Fixture *f = *state;

        /* The Go server's read loop panics behind this answer. */
        peer_send_frame(&f->peer, 9, TTRPC_TYPE_DATA, 0, "x", 1);
        peer_expect_status(&f->peer, 9, 3, "StreamID is no longer active");
        peer_send_frame(&f->peer, 9, TTRPC_TYPE_DATA, TTRPC_FLAG_NO_DATA|TTRPC_FLAG_REMOTE_CLOSED, NULL, 0);
        peer_expect_status(&f->peer, 9, 3, "StreamID is no longer active");
        expect_alive(&f->peer, 11);
}

static void data_on_a_pending_unary_stream(void **state) {
        Fixture *f = *state;

        /* The Go server dereferences nil; as the Rust server we refuse it, for this stream. */
        send_call(&f->peer, 1, "Keep", "");
        peer_send_frame(&f->peer, 1, TTRPC_TYPE_DATA, 0, "x", 1);
        peer_expect_status(&f->peer, 1, 3, "received data on a unary stream");
        assert_int_equal(f->n_cancelled, 1);
        assert_int_equal(f->reason, -EPROTO);
        assert_int_equal(ttrpc_call_reply(f->kept[0], "late", 4), 0);   /* into the void */
        expect_alive(&f->peer, 3);
}

static void empty_close_of_a_pending_unary_stream_is_harmless(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Keep", "");
        peer_send_frame(&f->peer, 1, TTRPC_TYPE_DATA, TTRPC_FLAG_NO_DATA|TTRPC_FLAG_REMOTE_CLOSED, NULL, 0);
        peer_expect_nothing(&f->peer);
        assert_int_equal(ttrpc_call_reply(f->kept[0], "done", 4), 0);
        peer_expect_ok(&f->peer, 1, "done", 4);
}

static void frames_of_other_types_are_ignored(void **state) {
        Fixture *f = *state;

        peer_send_frame(&f->peer, 1, TTRPC_TYPE_RESPONSE, 0, "x", 1);
        peer_send_frame(&f->peer, 3, 0, 0, "x", 1);
        peer_send_frame(&f->peer, 5, 255, 255, "x", 1);
        expect_alive(&f->peer, 7);
        peer_expect_nothing(&f->peer);
}

/* Handlers */

static void handler_that_forgets_to_answer(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Forget", "");
        peer_expect_status(&f->peer, 1, 2, "ttrpc: marshal called with nil");
}

static void handler_that_drops_its_reference_unanswered(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Keep", "");
        RUN_UNTIL(f->event, f->n_kept == 1);
        f->n_kept = 0;
        ttrpc_call_unref(f->kept[0]);
        peer_expect_status(&f->peer, 1, 2, "ttrpc: marshal called with nil");
        assert_int_equal(f->n_cancelled, 0);
}

static void handler_that_returns_an_error(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Errno", "");
        peer_expect_status(&f->peer, 1, 5, "No such file or directory");
}

static void handler_that_answers_twice(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Twice", "");            /* the second is -EALREADY, and that is not answered again */
        peer_expect_ok(&f->peer, 1, "once", 4);
        peer_expect_nothing(&f->peer);
}

static void status_text_is_made_utf8(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Status", "");
        peer_expect_status(&f->peer, 1, 9, "bytes ?? and \xe2\x82\xac");
}

static void answers_leave_in_the_order_given(void **state) {
        Fixture *f = *state;

        send_call(&f->peer, 1, "Keep", "");
        send_call(&f->peer, 3, "Keep", "");
        send_call(&f->peer, 5, "Echo", "quick");
        peer_expect_ok(&f->peer, 5, "quick", 5);
        assert_int_equal(ttrpc_server_get_n_calls(f->server), 2);
        assert_int_equal(ttrpc_call_reply(f->kept[1], "b", 1), 0);
        assert_int_equal(ttrpc_call_reply(f->kept[0], "a", 1), 0);
        peer_expect_ok(&f->peer, 3, "b", 1);
        peer_expect_ok(&f->peer, 1, "a", 1);
        assert_int_equal(ttrpc_server_get_n_calls(f->server), 0);
}

static void byte_by_byte(void **state) {
        _cleanup_(freep) uint8_t *wire = NULL;
        Fixture *f = *state;
        size_t size;

        read_golden("request-echo", &wire, &size);
        for (size_t i = 0; i < size; i++) {
                assert_int_equal(f->n_calls, 0);
                peer_send(&f->peer, wire + i, 1);
                run_idle(f->event);
        }
        peer_expect_ok(&f->peer, 1, "\x0a\x05hello", 7);
}

static void many_calls_in_one_write(void **state) {
        uint8_t wire[200 * 64], *p = wire;
        Fixture *f = *state;

        for (uint32_t i = 0; i < 200; i++) {
                TtrpcRequest r = {
                        .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Echo"), .payload = { (uint8_t*) &i, sizeof(i) },
                };

                p = ttrpc_header_write(&(TtrpcHeader) { .length = ttrpc_request_size(&r), .stream_id = 2 * i + 1, .type = 1 }, p);
                p = ttrpc_request_write(&r, p);
        }
        peer_send(&f->peer, wire, p - wire);
        for (uint32_t i = 0; i < 200; i++)
                peer_expect_ok(&f->peer, 2 * i + 1, &i, sizeof(i));
}

static void metadata_reaches_the_handler(void **state) {
        static const TtrpcMetadata metadata[] = { { "TraceParent", "00-ab" }, { "repeated", "first" }, { "repeated", "second" }, {} };
        Fixture *f = *state;
        TtrpcRequest r = {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Metadata"), .metadata = metadata,
        };

        r.payload = ttrpc_slice("traceparent");
        peer_send_request(&f->peer, 1, &r);
        peer_expect_ok(&f->peer, 1, "00-ab", 5);
        r.payload = ttrpc_slice("REPEATED");
        peer_send_request(&f->peer, 3, &r);
        peer_expect_ok(&f->peer, 3, "first", 5);
        r.payload = ttrpc_slice("00-ab");               /* a value is no key */
        peer_send_request(&f->peer, 5, &r);
        peer_expect_status(&f->peer, 5, 5, "no such key");
        assert_string_equal(f->text, SERVICE "/Metadata");
}

static void too_much_metadata_is_refused(void **state) {
        static char value[TTRPC_METADATA_MAX];
        TtrpcMetadata metadata[] = { { "k", value }, {} };
        Fixture *f = *state;

        memset(value, 'v', sizeof(value) - 1);
        peer_send_request(&f->peer, 1, &(TtrpcRequest) {
                .service = ttrpc_slice(SERVICE), .method = ttrpc_slice("Echo"), .metadata = metadata,
        });
        peer_expect_status(&f->peer, 1, 8, "metadata of 16386 bytes exceed the maximum of 16384");
}

static void message_that_would_eat_memory_is_refused(void **state) {
        _cleanup_(freep) uint8_t *wire = malloc(4000000);
        ProtobufCMessage *m;

        /* Two bytes each, which ask for a struct with a pointer to it: CreateVMRequest.annotations (hypervisor.proto) */
        assert_non_null(wire);
        for (size_t i = 0; i < 4000000; i += 2) {
                wire[i] = 2 << 3 | 2;
                wire[i + 1] = 0;
        }
        assert_int_equal(proto_unpack(&hypervisor__create_vmrequest__descriptor, wire, 4000000, &m), -E2BIG);
        assert_int_equal(proto_unpack(&hypervisor__create_vmrequest__descriptor, wire, 2000, &m), 0);
        assert_int_equal(((Hypervisor__CreateVMRequest*) m)->n_annotations, 1000);
        proto_free(m);
}

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

/* Listening */

static int listen_abstract(struct sockaddr_un *ret, socklen_t *ret_size) {
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        *ret = (struct sockaddr_un) { .sun_family = AF_UNIX };
        assert_int_equal(bind(fd, (struct sockaddr*) ret, sizeof(sa_family_t)), 0);     /* the kernel finds a name: unix(7) */
        *ret_size = sizeof(*ret);
        assert_int_equal(getsockname(fd, (struct sockaddr*) ret, ret_size), 0);
        assert_int_equal(listen(fd, 16), 0);
        return fd;
}

static void peer_connect(Peer *p, sd_event *event, const struct sockaddr_un *address, socklen_t size) {
        *p = (Peer) { .event = event, .fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0) };
        assert_true(p->fd >= 0);
        assert_int_equal(connect(p->fd, (const struct sockaddr*) address, size), 0);
}

static void silent_connections_give_way_to_others(void **state) {
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        Fixture *f = *state;
        struct sockaddr_un address;
        Peer silent[8];
        socklen_t size;

        limits.n_connections_max = 3;
        ttrpc_server_set_limits(f->server, &limits);
        expect_alive(&f->peer, 1);
        assert_int_equal(ttrpc_server_add_listen_fd(f->server, listen_abstract(&address, &size)), 0);
        for (size_t i = 0; i < ELEMENTSOF(silent); i++) {
                peer_connect(silent + i, f->event, &address, size);
                assert_int_equal(send(silent[i].fd, "\0\0\0\xff", 4, MSG_NOSIGNAL), 4);       /* the beginning of a frame is no call */
        }
        run_idle(f->event);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 3);

        peer_connect(&f->second, f->event, &address, size);
        expect_alive(&f->second, 1);
        expect_alive(&f->peer, 3);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 3);
        for (size_t i = 0; i < ELEMENTSOF(silent); i++)
                peer_done(silent + i);
}

static void connections_beyond_the_limit_wait(void **state) {
        TtrpcServerLimits limits = TTRPC_SERVER_LIMITS_DEFAULT;
        Fixture *f = *state;
        struct sockaddr_un address;
        socklen_t size;

        limits.n_connections_max = 2;
        ttrpc_server_set_limits(f->server, &limits);
        expect_alive(&f->peer, 1);
        assert_int_equal(ttrpc_server_add_listen_fd(f->server, listen_abstract(&address, &size)), 0);
        peer_connect(&f->second, f->event, &address, size);
        expect_alive(&f->second, 1);

        Peer third;
        peer_connect(&third, f->event, &address, size);
        send_call(&third, 1, "Echo", "patient");
        run_idle(f->event);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 2);
        peer_done(&f->second);
        peer_expect_ok(&third, 1, "patient", 7);
        peer_done(&third);
}

static void accepting_pauses_without_descriptors(void **state) {
        struct rlimit limit, low;
        Fixture *f = *state;
        struct sockaddr_un address;
        unsigned n = 0;
        socklen_t size;
        int fd;

        assert_int_equal(ttrpc_server_add_listen_fd(f->server, listen_abstract(&address, &size)), 0);
        peer_connect(&f->second, f->event, &address, size);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
        fd = open("/dev/null", O_RDONLY|O_CLOEXEC);     /* the lowest free number, so nothing is left below it */
        assert_true(fd >= 0);
        close(fd);
        low = limit;
        low.rlim_cur = fd;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        send_call(&f->second, 1, "Echo", "x");
        /* EMFILE; and the loop is not busy with it */
        for (unsigned i = 0; i < 20 && sd_event_run(f->event, USEC_PER_MSEC) > 0; i++)
                n++;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        assert_true(n < 10);
        assert_int_equal(ttrpc_server_get_n_connections(f->server), 1);
        peer_expect_ok(&f->second, 1, "x", 1);          /* the pause ends by itself */
}

static void peers_are_known_by_their_credentials(void **state) {
        struct ucred cred = { .pid = getpid(), .uid = getuid(), .gid = getgid() };
        Fixture *f = *state;

        send_call(&f->peer, 1, "Credentials", "");
        peer_expect_ok(&f->peer, 1, &cred, sizeof(cred));
}

static void other_users_are_refused(void **state) {
        Fixture *f = *state;

        assert_int_equal(ttrpc_server_allow_uid(f->server, getuid() + 1), 0);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), -EPERM);
        peer_expect_closed(&f->second);
        peer_done(&f->second);

        assert_int_equal(ttrpc_server_allow_uid(f->server, getuid()), 0);
        assert_int_equal(ttrpc_server_add_connection_fd(f->server, peer_init(&f->second, f->event)), 0);
        expect_alive(&f->second, 1);
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
                TEST(golden_requests_get_golden_answers),
                TEST(even_stream_id_is_refused),
                TEST(ids_may_come_in_any_order),
                TEST(id_in_use_is_refused),
                TEST(bad_request_envelope),
                TEST(unknown_service_and_method),
                TEST(bad_payload),
                TEST(oversize_frame_is_passed_over),
                TEST(what_is_not_ttrpc_is_disconnected),
                TEST(answers_before_the_junk_are_sent),
                TEST(oversize_response_ends_its_stream_only),
                TEST(largest_message_goes_both_ways),
                TEST(data_on_an_unknown_stream),
                TEST(data_on_a_pending_unary_stream),
                TEST(empty_close_of_a_pending_unary_stream_is_harmless),
                TEST(frames_of_other_types_are_ignored),
                TEST(handler_that_forgets_to_answer),
                TEST(handler_that_drops_its_reference_unanswered),
                TEST(handler_that_returns_an_error),
                TEST(handler_that_answers_twice),
                TEST(status_text_is_made_utf8),
                TEST(answers_leave_in_the_order_given),
                TEST(byte_by_byte),
                TEST(many_calls_in_one_write),
                TEST(metadata_reaches_the_handler),
                TEST(too_much_metadata_is_refused),
                TEST(message_that_would_eat_memory_is_refused),
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
                TEST(silent_connections_give_way_to_others),
                TEST(connections_beyond_the_limit_wait),
                TEST(accepting_pauses_without_descriptors),
                TEST(peers_are_known_by_their_credentials),
                TEST(other_users_are_refused),
                TEST(drain_closes_idle_connections_at_once),
                TEST(drain_lets_calls_end),
                TEST(drain_cuts_off_after_its_time),
                TEST(callbacks_may_answer_others_while_draining),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
