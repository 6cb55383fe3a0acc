/* SPDX-License-Identifier: Apache-2.0 */
#include "relay-fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "basic/io.h"
#include "fd-count.h"

static void on_wanted(Relay *r, void *userdata) {
        ((Fixture*) userdata)->n_wanted++;
}

static void on_lost(Relay *r, int error, const char *text, void *userdata) {
        Fixture *f = userdata;

        f->n_lost++;
        f->lost_error = error;
}

static void on_changed(Relay *r, void *userdata) {
        Fixture *f = userdata;
        size_t n = relay_get_n_connections(r);

        f->n_closed += n < f->n_connections;
        f->n_connections = n;
}

static const RelayHandlers handlers = { on_wanted, on_lost, on_changed };

void on_answer(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        Fixture *f = userdata;

        f->n_answers++;
        f->last_code = code;
}

static void rule_edit(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        edit->size = request->payload.size + 3;
        edit->payload = malloc(edit->size);
        memcpy(edit->payload, "new", 3);
        if (request->payload.size > 0)
                memcpy(edit->payload + 3, request->payload.data, request->payload.size);
        edit->on_answer = on_answer;
}

static void rule_refuse(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        edit->code = TTRPC_FAILED_PRECONDITION;
        (void) snprintf(edit->message, sizeof(edit->message), "no");
}

static const RelayRule rules[] = {
        { "s", "Edit", rule_edit },
        { "s", "Refuse", rule_refuse },
};

static Channel* channel_on_pair(Fixture *f, int *ret_far) {
        static const ChannelHandlers none = {};
        Channel *c;
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        assert_int_equal(channel_new(f->event, fds[0], NULL, NULL, &none, NULL, &c), 0);
        channel_pause_input(c);
        *ret_far = fds[1];
        return c;
}

void add_client(Fixture *f, size_t i) {
        Channel *c = channel_on_pair(f, &f->clients[i]);

        assert_int_equal(relay_add_downstream(f->relay, c), 0);
        f->n_connections = relay_get_n_connections(f->relay);
}

void add_upstream(Fixture *f) {
        close_fd(f->upstream);
        relay_set_upstream(f->relay, channel_on_pair(f, &f->upstream));
}

void turn(Fixture *f) {
        for (unsigned quiet = 0; quiet < 3;) {
                int r = sd_event_run(f->event, 0);

                assert_true(r >= 0);
                quiet = r > 0 ? 0 : quiet + 1;
        }
}

int make_relay(Fixture *f, Relay **ret) {
        return relay_new(f->event, rules, ELEMENTSOF(rules), &handlers, f, ret);
}

int setup(void **state) {
        Fixture *f = calloc(1, sizeof(Fixture));

        f->own_fds = count_fds();
        f->upstream = -EBADF;
        for (size_t i = 0; i < N_CLIENTS_MAX; i++)
                f->clients[i] = -EBADF;
        if (sd_event_new(&f->event) < 0 || make_relay(f, &f->relay) < 0)
                return -1;
        *state = f;
        return 0;
}

int setup_two(void **state) {
        int r = setup(state);

        add_upstream(*state);
        add_client(*state, 0);
        add_client(*state, 1);
        return r;
}

int teardown(void **state) {
        Fixture *f = *state;
        size_t own = f->own_fds, now;

        relay_free(f->relay);
        sd_event_unref(f->event);
        close_fd(f->upstream);
        for (size_t i = 0; i < N_CLIENTS_MAX; i++)
                close_fd(f->clients[i]);
        free(f);
        now = count_fds();
        if (now != own)
                print_error("%zu descriptors before, %zu after\n", own, now);
        return now == own ? 0 : -1;
}

size_t make_frame(uint8_t *p, uint32_t id, uint8_t type, uint8_t flags, const void *data, size_t size) {
        ttrpc_header_write(&(TtrpcHeader) { .length = size, .stream_id = id, .type = type, .flags = flags }, p);
        if (size > 0)
                memcpy(p + TTRPC_HEADER_SIZE, data, size);
        return TTRPC_HEADER_SIZE + size;
}

/* Of one-byte lengths: written by hand. */
size_t make_request(uint8_t *p, uint32_t id, uint8_t flags, const char *method, const char *payload) {
        uint8_t data[128], *q = data;
        size_t n = strlen(method), m = strlen(payload);

        *q++ = 0x0a; *q++ = 1; *q++ = 's';
        *q++ = 0x12; *q++ = n; memcpy(q, method, n); q += n;
        *q++ = 0x1a; *q++ = m; memcpy(q, payload, m); q += m;
        *q++ = 0x20; *q++ = 0x05;                               /* timeout_nano: 5 */
        *q++ = 0x98; *q++ = 0x06; *q++ = 0x07;                  /* field 99, unknown: 7 */
        return make_frame(p, id, TTRPC_TYPE_REQUEST, flags, data, q - data);
}

void put(int fd, const void *data, size_t size) {
        assert_int_equal(send(fd, data, size, MSG_NOSIGNAL), size);
}

void request(Fixture *f, size_t client, uint32_t id, const char *method, const char *payload) {
        uint8_t frame[256];

        put(f->clients[client], frame, make_request(frame, id, 0, method, payload));
        turn(f);
}

void answer(Fixture *f, uint32_t id, const char *data) {
        uint8_t frame[256];

        put(f->upstream, frame, make_frame(frame, id, TTRPC_TYPE_RESPONSE, 0, data, strlen(data)));
        turn(f);
}

TtrpcHeader take(int fd, const uint8_t **ret) {
        static uint8_t data[TTRPC_DATA_MAX];
        uint8_t head[TTRPC_HEADER_SIZE];
        TtrpcHeader h;

        assert_int_equal(recv(fd, head, sizeof(head), 0), sizeof(head));
        assert_int_equal(ttrpc_header_parse(head, sizeof(head), &h), TTRPC_HEADER_SIZE);
        for (size_t done = 0; done < h.length;) {
                ssize_t n = recv(fd, data + done, h.length - done, 0);
                assert_true(n > 0);
                done += n;
        }
        if (ret)
                *ret = data;
        return h;
}

bool nothing_to_read(int fd) {
        uint8_t b;

        return recv(fd, &b, 1, MSG_PEEK) < 0 && errno == EAGAIN;
}

void expect_status(int fd, uint32_t id, int code, const char *text) {
        TtrpcResponse response;
        const uint8_t *data;
        TtrpcHeader h = take(fd, &data);

        assert_int_equal(h.stream_id, id);
        assert_int_equal(h.type, TTRPC_TYPE_RESPONSE);
        assert_true(ttrpc_response_parse(data, h.length, &response) >= 0);
        assert_int_equal(response.code, code);
        if (text)
                assert_true(ttrpc_slice_is(response.message, text));
}

void expect_end(int fd) {
        uint8_t b;

        assert_int_equal(recv(fd, &b, 1, 0), 0);
}
