/* SPDX-License-Identifier: Apache-2.0 */
/* The server's messages and handlers, and who may come in.
 *
 * Expected texts are the Go server's; where the two servers that exist differ, or the Go one crashes, the test says whom we follow
 * (containerd/ttrpc: server.go, services.go, channel.go; containerd/ttrpc-rust: src/asynchronous/server.rs). */
#include "ttrpc-server-fixture.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "proto/hypervisor.pb-c.h"
#include "proto/proto.h"

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
                TEST(silent_connections_give_way_to_others),
                TEST(connections_beyond_the_limit_wait),
                TEST(accepting_pauses_without_descriptors),
                TEST(peers_are_known_by_their_credentials),
                TEST(other_users_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
