/* SPDX-License-Identifier: Apache-2.0 */
/* What the ttrpc tests share: a real loop, a peer that speaks raw bytes, and a count of open descriptors. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/io.h"
#include "basic/util.h"
#include "fd-count.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"
#include "ttrpc/reader.h"

#define PATIENCE_USEC (20 * USEC_PER_SEC)       /* for what must happen at once; long only for slow machines */

/* Runs the loop until the condition holds; fails the test when patience ends. */
#define RUN_UNTIL(event, condition)                                                             \
        do {                                                                                    \
                uint64_t _end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;                      \
                while (!(condition)) {                                                          \
                        if (now_usec(CLOCK_MONOTONIC) > _end)                                   \
                                fail_msg("waited in vain for: %s", #condition);                 \
                        assert_true(sd_event_run((event), 5 * USEC_PER_MSEC) >= 0);             \
                }                                                                               \
        } while (false)

/* Runs the loop until there is nothing more to do in it. */
static inline void run_idle(sd_event *event) {
        int r;

        while ((r = sd_event_run(event, 0)) > 0)
                ;
        assert_int_equal(r, 0);
}

/* The other end of a connection, driven by the test. */
typedef struct Peer {
        sd_event *event;        /* borrowed */
        int fd;
        TtrpcReader reader;
} Peer;

static inline void peer_done(Peer *p) {
        p->fd = close_fd(p->fd);
        ttrpc_reader_done(&p->reader);
}

/* Makes a pair; the other end is returned for server or client to take. */
static inline int peer_init(Peer *p, sd_event *event) {
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        *p = (Peer) { .event = event, .fd = fds[0] };
        return fds[1];
}

/* Sends all, running the loop while the socket is full. */
static inline void peer_send(Peer *p, const void *data, size_t size) {
        for (const uint8_t *d = data; size > 0;) {
                ssize_t n = send(p->fd, d, size, MSG_NOSIGNAL);

                if (n < 0) {
                        if (errno != EAGAIN)
                                fail_msg("send: %s", strerror(errno));
                        assert_true(sd_event_run(p->event, USEC_PER_MSEC) >= 0);
                        continue;
                }
                d += n;
                size -= n;
        }
}

static inline void peer_send_frame(Peer *p, uint32_t id, uint8_t type, uint8_t flags, const void *data, uint32_t size) {
        uint8_t header[TTRPC_HEADER_SIZE];

        ttrpc_header_write(&(TtrpcHeader) { .length = size, .stream_id = id, .type = type, .flags = flags }, header);
        peer_send(p, header, sizeof(header));
        peer_send(p, data, size);
}

static inline void peer_send_request(Peer *p, uint32_t id, const TtrpcRequest *request) {
        size_t size = ttrpc_request_size(request);
        uint8_t *data = malloc(size ?: 1);

        assert_non_null(data);
        ttrpc_request_write(request, data);
        peer_send_frame(p, id, TTRPC_TYPE_REQUEST, 0, data, size);
        free(data);
}

/* The next frame; valid until the next call. */
static inline void peer_receive(Peer *p, TtrpcFrame *ret) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;
        int r;

        while ((r = ttrpc_reader_next(&p->reader, ret)) == 0) {
                ssize_t n = ttrpc_reader_receive(&p->reader, p->fd, NULL);

                if (n == 0)
                        fail_msg("the connection was closed instead of a frame");
                if (n == -EAGAIN) {
                        if (now_usec(CLOCK_MONOTONIC) > end)
                                fail_msg("waited in vain for a frame");
                        assert_true(sd_event_run(p->event, USEC_PER_MSEC) >= 0);
                } else if (n < 0)
                        fail_msg("recv: %s", strerror((int) -n));
        }
        assert_int_equal(r, 1);
}

static inline void peer_receive_response(Peer *p, uint32_t id, TtrpcResponse *ret) {
        TtrpcFrame frame;

        peer_receive(p, &frame);
        assert_int_equal(frame.header.type, TTRPC_TYPE_RESPONSE);
        assert_int_equal(frame.header.flags, 0);
        assert_int_equal(frame.header.stream_id, id);
        assert_int_equal(ttrpc_response_parse(frame.data, frame.header.length, ret), frame.header.length);
}

static inline void peer_expect_status(Peer *p, uint32_t id, int code, const char *text) {
        TtrpcResponse response;

        peer_receive_response(p, id, &response);
        assert_int_equal(response.code, code);
        if (!ttrpc_slice_is(response.message, text))
                fail_msg("status text is '%.*s', not '%s'", (int) response.message.size, response.message.data, text);
        assert_int_equal(response.payload.size, 0);
}

static inline void peer_expect_ok(Peer *p, uint32_t id, const void *payload, size_t size) {
        TtrpcResponse response;

        peer_receive_response(p, id, &response);
        assert_int_equal(response.code, 0);
        assert_int_equal(response.payload.size, size);
        if (size > 0)
                assert_memory_equal(response.payload.data, payload, size);
}

static inline void peer_expect_closed(Peer *p) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;
        TtrpcFrame frame;
        ssize_t n;

        while ((n = ttrpc_reader_receive(&p->reader, p->fd, NULL)) == -EAGAIN) {
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("waited in vain for the end of the connection");
                assert_true(sd_event_run(p->event, USEC_PER_MSEC) >= 0);
        }
        if (n > 0)
                fail_msg("%zd bytes instead of the end of the connection (frame: %d)", n, ttrpc_reader_next(&p->reader, &frame));
        assert_true(n == 0 || n == -ECONNRESET);
}

static inline void peer_expect_nothing(Peer *p) {
        TtrpcFrame frame;
        ssize_t n;

        run_idle(p->event);
        n = ttrpc_reader_receive(&p->reader, p->fd, NULL);
        if (n != -EAGAIN)
                fail_msg("%zd instead of silence", n);
        assert_int_equal(ttrpc_reader_next(&p->reader, &frame), 0);
}

/* What containerd's Go implementation put on the wire: tests/integration/ttrpc-go/main.go, "golden". The integration test
 * ttrpc-go makes the files anew and compares. */
static inline void read_golden(const char *name, uint8_t **ret, size_t *ret_size) {
        char path[512], *data;
        int r;

        (void) snprintf(path, sizeof(path), "%s/%s", TTRPC_GOLDEN_DIR, name);
        r = read_full_file_at(AT_FDCWD, path, 1U << 20, &data, ret_size);
        if (r < 0)
                fail_msg("%s: %s", path, strerror(-r));

        /* In memory of exactly this size, so that AddressSanitizer sees a byte too many. */
        *ret = malloc(*ret_size ?: 1);
        assert_non_null(*ret);
        memcpy(*ret, data, *ret_size);
        free(data);
}
