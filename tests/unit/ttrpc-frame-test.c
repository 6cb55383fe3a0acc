/* SPDX-License-Identifier: Apache-2.0 */
/* Headers, envelopes, reader and writer, without any server or client. */
#include "ttrpc-fixture.h"

#include <stdlib.h>

#include "ttrpc/status.h"
#include "ttrpc/utf8.h"
#include "ttrpc/writer.h"

/* Headers (containerd/ttrpc: channel.go) */

typedef struct HeaderCase {
        const char *name;
        size_t size;
        uint8_t wire[10];
        int result;
        TtrpcHeader header;
} HeaderCase;

static const HeaderCase header_cases[] = {
        { "header: unary request on stream 1",       10, { 0,0,0,5,    0,0,0,1,    1,0 }, 10,       { 5, 1, 1, 0 } },
        { "header: empty response",                  10, { 0,0,0,0,    0,0,0,7,    2,0 }, 10,       { 0, 7, 2, 0 } },
        { "header: 4 MiB is the largest frame",      10, { 0,0x40,0,0, 0,0,0,3,    2,0 }, 10,       { 4 << 20, 3, 2, 0 } },
        { "header: one byte more can be skipped",    10, { 0,0x40,0,1, 0,0,0,3,    2,0 }, 10,       { (4 << 20) + 1, 3, 2, 0 } },
        { "header: 16 MiB less one can be skipped",  10, { 0,255,255,255, 0,0,0,3, 2,0 }, 10,       { (16 << 20) - 1, 3, 2, 0 } },
        { "header: 16 MiB is not ttrpc",             10, { 1,0,0,0,    0,0,0,3,    2,0 }, -EBADMSG, {} },
        { "header: TLS ClientHello instead",         10, { 22,3,1,0,   0x8a,1,0,0, 3,3 }, -EBADMSG, {} },
        { "header: the first byte of one suffices",   1, { 22 },                          -EBADMSG, {} },
        { "header: even ids are for the server to judge", 10, { 0,0,0,0, 0,0,0,2,  1,0 }, 10,       { 0, 2, 1, 0 } },
        { "header: all ones behind the length",      10, { 0,0,0,0, 255,255,255,255, 255,255 }, 10, { 0, UINT32_MAX, 255, 255 } },
        { "header: nine bytes say nothing yet",       9, { 0,0,0,5,    0,0,0,1,    1 },   0,        {} },
        { "header: nor do none",                      0, {},                              0,        {} },
};

static void header_parses_as_specified(void **state) {
        const HeaderCase *c = *state;
        TtrpcHeader h = {};
        uint8_t wire[10];

        assert_int_equal(ttrpc_header_parse(c->size > 0 ? c->wire : NULL, c->size, &h), c->result);
        assert_int_equal(h.length, c->header.length);
        assert_int_equal(h.stream_id, c->header.stream_id);
        assert_int_equal(h.type, c->header.type);
        assert_int_equal(h.flags, c->header.flags);

        if (c->result > 0) {
                assert_ptr_equal(ttrpc_header_write(&h, wire), wire + 10);
                assert_memory_equal(wire, c->wire, 10);
        }
}

/* Golden requests: parsed as the Go client meant them, and written again to the same bytes */

typedef struct RequestCase {
        const char *name, *file;
        const char *service, *method, *payload;
        size_t payload_size;
        int64_t timeout_nano;
        const char *key, *value;
} RequestCase;

#define PEER "peerpod.test.Peer"
#define TRACE "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

static const RequestCase request_cases[] = {
        { "golden: request with a payload", "request-echo", PEER, "Echo", "\x0a\x05hello", 7, 0, NULL, NULL },
        { "golden: request without payload", "request-empty", PEER, "Echo", "", 0, 0, NULL, NULL },
        { "golden: request with a timeout", "request-timeout", PEER, "Echo", "\x0a\x01t", 3, 5000000000, NULL, NULL },
        { "golden: request that is late already", "request-expired", PEER, "Hang", "", 0, -1, NULL, NULL },
        { "golden: request with metadata", "request-metadata", PEER, "Metadata", "\x0a\x0btraceparent", 13, 0, "traceparent", TRACE },
        { "golden: StartVM", "request-start-vm", "hypervisor.Hypervisor", "StartVM", "\x0a\x09sandbox-1", 11, 0, NULL, NULL },
};

static void request_parses_and_is_written_as_in_go(void **state) {
        const RequestCase *c = *state;
        _cleanup_(freep) uint8_t *wire = NULL, *copy = NULL;
        TtrpcSlice key, value;
        TtrpcRequest r, fresh;
        size_t size, offset = 0;
        TtrpcHeader h;

        read_golden(c->file, &wire, &size);
        assert_int_equal(ttrpc_header_parse(wire, size, &h), TTRPC_HEADER_SIZE);
        assert_int_equal(h.length, size - TTRPC_HEADER_SIZE);
        assert_int_equal(h.type, TTRPC_TYPE_REQUEST);
        assert_int_equal(h.flags, 0);

        assert_int_equal(ttrpc_request_parse(wire + 10, size - 10, &r), size - 10);
        assert_true(ttrpc_slice_is(r.service, c->service));
        assert_true(ttrpc_slice_is(r.method, c->method));
        assert_int_equal(r.payload.size, c->payload_size);
        assert_memory_equal(r.payload.size > 0 ? r.payload.data : wire, r.payload.size > 0 ? (void*) c->payload : wire, c->payload_size);
        assert_true(r.timeout_nano == c->timeout_nano);
        assert_int_equal(ttrpc_request_next_metadata(&r, &offset, &key, &value), c->key ? 1 : 0);
        if (c->key) {
                assert_true(ttrpc_slice_is(key, c->key));
                assert_true(ttrpc_slice_is(value, c->value));
                assert_int_equal(ttrpc_request_next_metadata(&r, &offset, &key, &value), 0);
        }

        copy = malloc(size);
        assert_non_null(copy);

        /* as parsed, with the metadata from .rest … */
        assert_int_equal(ttrpc_request_size(&r), size - 10);
        assert_ptr_equal(ttrpc_request_write(&r, ttrpc_header_write(&h, copy)), copy + size);
        assert_memory_equal(copy, wire, size);

        /* … and made from nothing */
        fresh = (TtrpcRequest) {
                .service = ttrpc_slice(c->service),
                .method = ttrpc_slice(c->method),
                .payload = { .data = (const uint8_t*) c->payload, .size = c->payload_size },
                .timeout_nano = c->timeout_nano,
                .metadata = c->key ? (TtrpcMetadata[]) { { c->key, c->value }, {} } : NULL,
        };
        assert_int_equal(ttrpc_request_size(&fresh), size - 10);
        assert_ptr_equal(ttrpc_request_write(&fresh, copy + 10), copy + size);
        assert_memory_equal(copy, wire, size);
}

/* Golden responses */

typedef struct ResponseCase {
        const char *name, *file;
        uint32_t stream_id;
        int32_t code;
        const char *message, *payload;
        size_t payload_size;
} ResponseCase;

static const ResponseCase response_cases[] = {
        { "golden: response with a payload", "response-echo", 1, 0, "", "\x0a\x05hello", 7 },
        { "golden: empty response", "response-empty", 1, 0, "", "", 0 },
        { "golden: response with an error", "response-error-status", 1, 5, "sandbox 'x' not found", "", 0 },
        { "golden: unknown service", "response-unknown-service", 1, 12, "service no.Such", "", 0 },
        { "golden: even id", "response-even-id", 2, 3, "StreamID must be odd for client initiated streams", "", 0 },
};

static void response_parses_and_is_written_as_in_go(void **state) {
        const ResponseCase *c = *state;
        _cleanup_(freep) uint8_t *wire = NULL, *copy = NULL;
        TtrpcResponse r, fresh;
        TtrpcHeader h;
        size_t size;

        read_golden(c->file, &wire, &size);
        assert_int_equal(ttrpc_header_parse(wire, size, &h), TTRPC_HEADER_SIZE);
        assert_int_equal(h.stream_id, c->stream_id);
        assert_int_equal(ttrpc_response_parse(wire + 10, size - 10, &r), size - 10);
        assert_int_equal(r.code, c->code);
        assert_true(ttrpc_slice_is(r.message, c->message));
        assert_int_equal(r.payload.size, c->payload_size);

        copy = malloc(size);
        assert_non_null(copy);
        assert_int_equal(ttrpc_response_size(&r), size - 10);
        assert_ptr_equal(ttrpc_response_write(&r, ttrpc_header_write(&h, copy)), copy + size);
        assert_memory_equal(copy, wire, size);

        fresh = (TtrpcResponse) {
                .code = c->code,
                .message = ttrpc_slice(c->message),
                .payload = { .data = (const uint8_t*) c->payload, .size = c->payload_size },
        };
        assert_int_equal(ttrpc_response_size(&fresh), size - 10);
        assert_ptr_equal(ttrpc_response_write(&fresh, copy + 10), copy + size);
        assert_memory_equal(copy, wire, size);
}

/* Envelopes by hand, after the encoding's specification (protobuf.dev/programming-guides/encoding) */

typedef struct EnvelopeCase {
        const char *name;
        const char *wire;
        size_t size;
        bool good;
} EnvelopeCase;

#define WIRE(s) (s), sizeof(s) - 1

static const EnvelopeCase envelope_cases[] = {
        { "envelope: nothing at all is the empty message",      WIRE(""), true },
        { "envelope: last of two values counts, here empty",    WIRE("\x0a\x01" "a" "\x0a\x00"), true },
        { "envelope: unknown varint field",                     WIRE("\x78\x96\x01"), true },
        { "envelope: unknown field with the largest number",    WIRE("\xfa\xff\xff\xff\x0f\x01" "x"), true },
        { "envelope: field number above 2^29-1",                WIRE("\x82\x80\x80\x80\x10\x00"), false },
        { "envelope: field number 0",                           WIRE("\x02\x00"), false },
        { "envelope: unknown fixed64",                          WIRE("\x71" "12345678"), true },
        { "envelope: fixed64 cut off",                          WIRE("\x71" "1234567"), false },
        { "envelope: unknown fixed32",                          WIRE("\x75" "1234"), true },
        { "envelope: group",                                    WIRE("\x73\x74"), false },
        { "envelope: wire type 7",                              WIRE("\x77\x00"), false },
        { "envelope: service as a varint is an unknown field",  WIRE("\x08\x01"), true },
        { "envelope: length beyond the end",                    WIRE("\x0a\x05x"), false },
        { "envelope: length of 2^64-1",                         WIRE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), false },
        { "envelope: varint of ten bytes",                      WIRE("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), true },
        { "envelope: varint of more than 64 bits",              WIRE("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), false },
        { "envelope: varint of eleven bytes",                   WIRE("\x20\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), false },
        { "envelope: varint that does not end",                 WIRE("\x20\xff"), false },
        { "envelope: tag alone",                                WIRE("\x0a"), false },
        { "envelope: service that is not UTF-8",                WIRE("\x0a\x01\xff"), false },
        { "envelope: payload is bytes, not text",               WIRE("\x1a\x01\xff"), true },
        { "envelope: metadata cut off inside",                  WIRE("\x2a\x02\x0a\x05"), false },
        { "envelope: metadata that is not UTF-8",               WIRE("\x2a\x03\x0a\x01\xc0"), false },
        { "envelope: empty metadata pair",                      WIRE("\x2a\x00"), true },
};

static void envelope_is_judged(void **state) {
        const EnvelopeCase *c = *state;
        _cleanup_(freep) uint8_t *copy = malloc(c->size ?: 1);  /* AddressSanitizer sees a byte too many */
        TtrpcRequest r;

        assert_non_null(copy);
        memcpy(copy, c->wire, c->size);
        assert_int_equal(ttrpc_request_parse(copy, c->size, &r), c->good ? (int) c->size : -EBADMSG);
}

static void unknown_fields_survive_an_edit(void **state) {
        static const uint8_t wire[] = "\x0a\x01s\x12\x01m\x1a\x03old\x20\x05\x2a\x06\x0a\x01k\x12\x01v\x7a\x03new";
        uint8_t out[64];
        TtrpcRequest r;

        assert_int_equal(ttrpc_request_parse(wire, sizeof(wire) - 1, &r), sizeof(wire) - 1);
        r.payload = ttrpc_slice("edited");
        r.timeout_nano = 0;
        assert_int_equal(ttrpc_request_size(&r), ttrpc_request_write(&r, out) - out);
        assert_memory_equal(out, "\x0a\x01s\x12\x01m\x1a\x06" "edited\x2a\x06\x0a\x01k\x12\x01v\x7a\x03new", 27);
}

static void rust_ok_status_is_ok(void **state) {
        TtrpcResponse r;

        /* The Rust server sends an empty Status for success (containerd/ttrpc-rust: src/asynchronous/server.rs). */
        assert_int_equal(ttrpc_response_parse((const uint8_t*) "\x0a\x00\x12\x01x", 5, &r), 5);
        assert_int_equal(r.code, 0);
        assert_int_equal(r.payload.size, 1);
}

static void statuses_merge_and_keep_details(void **state) {
        static const uint8_t wire[] = "\x0a\x02\x08\x05\x0a\x05\x12\x03msg\x0a\x05\x1a\x03" "any";
        uint8_t out[64];
        TtrpcResponse r;

        assert_int_equal(ttrpc_response_parse(wire, sizeof(wire) - 1, &r), sizeof(wire) - 1);
        assert_int_equal(r.code, 5);
        assert_true(ttrpc_slice_is(r.message, "msg"));
        assert_int_equal(ttrpc_response_write(&r, out) - out, ttrpc_response_size(&r));
        assert_memory_equal(out, "\x0a\x0c\x08\x05\x12\x03msg\x1a\x03" "any", 14);
}

static void negative_code_is_kept(void **state) {
        TtrpcResponse r, again;
        uint8_t out[32];

        r = (TtrpcResponse) { .code = -1 };
        assert_int_equal(ttrpc_response_write(&r, out) - out, ttrpc_response_size(&r));
        assert_true(ttrpc_response_parse(out, ttrpc_response_size(&r), &again) > 0);
        assert_int_equal(again.code, -1);
}

/* RFC 3629, section 4, and the examples of Unicode's table 3-7 */
static void utf8_is_judged_by_the_rfc(void **state) {
        static const struct { const char *text; bool good; } cases[] = {
                { "plain", true }, { "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", true }, { "\xf4\x8f\xbf\xbf", true },
                { "\xc0\x80", false }, { "\xc1\xbf", false }, { "\xe0\x9f\xbf", false }, { "\xed\xa0\x80", false },
                { "\xf0\x8f\xbf\xbf", false }, { "\xf4\x90\x80\x80", false }, { "\xf5\x80\x80\x80", false }, { "\x80", false },
                { "\xe2\x82", false }, { "\xc3", false }, { "\xc3(", false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                if (utf8_is_valid((const uint8_t*) cases[i].text, strlen(cases[i].text)) != cases[i].good)
                        fail_msg("case %zu is judged wrongly", i);
}

/* Reader */

static void reader_feed(TtrpcReader *r, const uint8_t *data, size_t size) {
        while (size > 0) {
                uint8_t *room;
                size_t n;

                assert_int_equal(ttrpc_reader_get_room(r, &room, &n), 0);
                n = MIN(n, size);
                memcpy(room, data, n);
                ttrpc_reader_add(r, n);
                data += n;
                size -= n;
        }
}

static void reader_gives_the_same_frames_byte_by_byte(void **state) {
        _cleanup_(freep) uint8_t *wire = NULL;
        TtrpcReader r = TTRPC_READER_NULL;
        unsigned n_frames = 0;
        TtrpcFrame frame;
        size_t size;

        read_golden("response-oversize", &wire, &size);         /* two frames */
        for (size_t i = 0; i < size; i++) {
                reader_feed(&r, wire + i, 1);
                while (ttrpc_reader_next(&r, &frame) > 0) {
                        assert_int_equal(frame.header.stream_id, n_frames == 0 ? 7 : 1);
                        assert_memory_equal(frame.data, n_frames == 0 ? wire + 10 : wire + i + 1 - frame.header.length, frame.header.length);
                        n_frames++;
                }
        }
        assert_int_equal(n_frames, 2);
        assert_false(ttrpc_reader_is_partial(&r));
        ttrpc_reader_done(&r);
}

static void reader_grows_only_with_what_came(void **state) {
        TtrpcReader r = TTRPC_READER_NULL;
        uint8_t data[1000] = {};
        TtrpcFrame frame;

        ttrpc_header_write(&(TtrpcHeader) { .length = TTRPC_DATA_MAX, .stream_id = 1, .type = 1 }, data);
        reader_feed(&r, data, sizeof(data));
        assert_int_equal(ttrpc_reader_next(&r, &frame), 0);
        assert_true(r.capacity <= 16U << 10);
        assert_true(ttrpc_reader_is_partial(&r));
        ttrpc_reader_done(&r);
}

static void reader_passes_over_oversize_bodies(void **state) {
        TtrpcReader r = TTRPC_READER_NULL;
        uint8_t header[10], zeroes[4096] = {};
        size_t left = TTRPC_DATA_MAX + 1;
        TtrpcFrame frame;

        ttrpc_header_write(&(TtrpcHeader) { .length = left, .stream_id = 9, .type = 1 }, header);
        reader_feed(&r, header, sizeof(header));
        while (left > 0) {
                size_t n = MIN(left, sizeof(zeroes));

                assert_int_equal(ttrpc_reader_next(&r, &frame), 0);
                reader_feed(&r, zeroes, n);
                left -= n;
        }
        assert_true(r.capacity <= 16U << 10);
        assert_int_equal(ttrpc_reader_next(&r, &frame), 1);
        assert_true(frame.oversize);
        assert_int_equal(frame.header.stream_id, 9);
        assert_int_equal(ttrpc_reader_next(&r, &frame), 0);
        ttrpc_reader_done(&r);
}

static void reader_holds_the_largest_frame_and_shrinks_again(void **state) {
        _cleanup_(freep) uint8_t *big = calloc(1, TTRPC_HEADER_SIZE + TTRPC_DATA_MAX);
        TtrpcReader r = TTRPC_READER_NULL;
        uint8_t small[10];
        TtrpcFrame frame;

        assert_non_null(big);
        ttrpc_header_write(&(TtrpcHeader) { .length = TTRPC_DATA_MAX, .stream_id = 1, .type = 1 }, big);
        ttrpc_header_write(&(TtrpcHeader) { .length = 0, .stream_id = 3, .type = 1 }, small);
        reader_feed(&r, small, sizeof(small));
        assert_int_equal(ttrpc_reader_next(&r, &frame), 1);
        reader_feed(&r, big, TTRPC_HEADER_SIZE + TTRPC_DATA_MAX);
        assert_int_equal(ttrpc_reader_next(&r, &frame), 1);
        assert_int_equal(frame.header.length, TTRPC_DATA_MAX);
        assert_true(r.capacity >= TTRPC_DATA_MAX);

        for (unsigned i = 0; i < 20; i++) {
                reader_feed(&r, small, sizeof(small));
                assert_int_equal(ttrpc_reader_next(&r, &frame), 1);
        }
        assert_true(r.capacity <= 16U << 10);
        ttrpc_reader_done(&r);
}

static void reader_refuses_a_caller_that_takes_no_frames(void **state) {
        TtrpcReader r = TTRPC_READER_NULL;
        uint8_t *room;
        size_t size;
        int k;

        while ((k = ttrpc_reader_get_room(&r, &room, &size)) == 0) {
                memset(room, 0, size);
                ttrpc_reader_add(&r, size);
        }
        assert_int_equal(k, -ENOBUFS);
        ttrpc_reader_done(&r);
}

/* Writer */

static void writer_keeps_order_through_a_full_socket(void **state) {
        static const size_t sizes[] = { 1, 10, 5000, 70000, 3, 300000, 16384, 9, 1000000, 2 };
        _cleanup_(close_fdp) int a = -EBADF, b = -EBADF;
        TtrpcWriter w = TTRPC_WRITER_NULL;
        size_t total = 0, seen = 0;
        int fds[2], r;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        a = fds[0];
        b = fds[1];

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                uint8_t *data = malloc(sizes[i]);

                assert_non_null(data);
                for (size_t k = 0; k < sizes[i]; k++)
                        data[k] = (total + k) * 7 + (total + k) / 256;
                total += sizes[i];

                if (i % 2 == 0)
                        assert_int_equal(ttrpc_writer_append(&w, &(struct iovec) { data, sizes[i] }, 1), 0);
                else {
                        struct iovec iov[] = { { data, sizes[i] / 16 }, { data + sizes[i] / 16, sizes[i] - sizes[i] / 16 } };

                        assert_true(ttrpc_writer_send(&w, a, iov, 2) >= 0);
                }
                free(data);     /* whatever was left is the writer's own */
        }
        assert_true(w.n_bytes > 0);

        do {
                uint8_t buffer[65536];
                ssize_t n;

                r = ttrpc_writer_flush(&w, a);
                assert_true(r >= 0);
                while ((n = recv(b, buffer, sizeof(buffer), 0)) > 0)
                        for (ssize_t k = 0; k < n; k++, seen++)
                                if (buffer[k] != (uint8_t) (seen * 7 + seen / 256))
                                        fail_msg("byte %zu is wrong", seen);
        } while (r > 0);
        assert_int_equal(seen, total);
        assert_int_equal(w.n_bytes, 0);
        ttrpc_writer_done(&w);
}

static void writer_tells_a_closed_peer(void **state) {
        _cleanup_(close_fdp) int a = -EBADF;
        TtrpcWriter w = TTRPC_WRITER_NULL;
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        a = fds[0];
        close(fds[1]);
        assert_int_equal(ttrpc_writer_send(&w, a, &(struct iovec) { (void*) "x", 1 }, 1), -EPIPE);      /* and no SIGPIPE */
        ttrpc_writer_done(&w);
}

static void codes_have_names(void **state) {
        assert_string_equal(ttrpc_code_to_string(TTRPC_OK), "OK");
        assert_string_equal(ttrpc_code_to_string(16), "UNAUTHENTICATED");
        assert_string_equal(ttrpc_code_to_string(17), "CODE_OUT_OF_RANGE");
        assert_string_equal(ttrpc_code_to_string(-1), "CODE_OUT_OF_RANGE");
        for (int i = 0; i < _TTRPC_CODE_MAX; i++)
                assert_non_null(ttrpc_code_to_string(i));

        assert_int_equal(ttrpc_code_from_errno(-ENOENT), TTRPC_NOT_FOUND);
        assert_int_equal(ttrpc_code_from_errno(ETIMEDOUT), TTRPC_DEADLINE_EXCEEDED);
        assert_int_equal(ttrpc_code_from_errno(-EIO), TTRPC_UNKNOWN);
        assert_int_equal(ttrpc_code_from_errno(0), TTRPC_OK);
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(header_cases) + ELEMENTSOF(request_cases) + ELEMENTSOF(response_cases) +
                                ELEMENTSOF(envelope_cases)];
        const struct CMUnitTest more[] = {
                cmocka_unit_test(unknown_fields_survive_an_edit),
                cmocka_unit_test(rust_ok_status_is_ok),
                cmocka_unit_test(statuses_merge_and_keep_details),
                cmocka_unit_test(negative_code_is_kept),
                cmocka_unit_test(utf8_is_judged_by_the_rfc),
                cmocka_unit_test(reader_gives_the_same_frames_byte_by_byte),
                cmocka_unit_test(reader_grows_only_with_what_came),
                cmocka_unit_test(reader_passes_over_oversize_bodies),
                cmocka_unit_test(reader_holds_the_largest_frame_and_shrinks_again),
                cmocka_unit_test(reader_refuses_a_caller_that_takes_no_frames),
                cmocka_unit_test(writer_keeps_order_through_a_full_socket),
                cmocka_unit_test(writer_tells_a_closed_peer),
                cmocka_unit_test(codes_have_names),
        };
        size_t n = 0;

#define ADD(cases, function)                                                                            \
        for (size_t i = 0; i < ELEMENTSOF(cases); i++)                                                  \
                tests[n++] = (struct CMUnitTest) { .name = cases[i].name, .test_func = function,        \
                                                   .initial_state = (void*) &cases[i] }
        ADD(header_cases, header_parses_as_specified);
        ADD(request_cases, request_parses_and_is_written_as_in_go);
        ADD(response_cases, response_parses_and_is_written_as_in_go);
        ADD(envelope_cases, envelope_is_judged);

        return cmocka_run_group_tests_name("wire", tests, NULL, NULL) + cmocka_run_group_tests_name("parts", more, NULL, NULL);
}
