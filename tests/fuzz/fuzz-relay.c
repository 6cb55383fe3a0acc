/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile bytes on either side of the relay, through the real loop, with the rules of both programs in place.
 *
 * The input is a script: each record is one byte of which the low two bits name the sender (0 and 1: callers, 2: upstream, 3: a
 * caller hangs up and comes again) and the others a count of bytes that follow (times four, so that frames fit). What the
 * upstream gets must always be whole frames with ids that grow, what callers get must be whole frames of their streams. */
#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>

#include "agent-proxy/container-edit.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"
#include "podvm/forwarder/edits.h"
#include "ttrpc/relay.h"
#include "ttrpc/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void edit_both(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        TtrpcRequest next = *request;
        RelayEdit first = {};

        container_edit(NULL, 0, request, &first);
        if (first.payload) {
                assert(wire_check((TtrpcSlice) { first.payload, first.size }) == 0);
                next.payload = (TtrpcSlice) { first.payload, first.size };
        }
        if (first.code == TTRPC_OK)
                edit_create_container("/run/netns/podns", "/nonexistent/root", NULL, NULL, &next, edit);
        else
                *edit = first;
        if (edit->code == TTRPC_OK)
                assert(edit->payload && wire_check((TtrpcSlice) { edit->payload, edit->size }) == 0);
        if (first.payload != edit->payload)
                free(first.payload);
}

static void edit_sandbox(const TtrpcRequest *request, RelayEdit *edit, void *userdata) {
        edit_create_sandbox(request, edit);
}

static const RelayRule rules[] = {
        { "grpc.AgentService", "CreateContainer", edit_both },
        { "grpc.AgentService", "CreateSandbox", edit_sandbox },
};

static void on_lost(Relay *r, int error, const char *text, void *userdata) {
        *(bool*) userdata = true;
}

static const RelayHandlers handlers = { .on_upstream_lost = on_lost };

static void turn(sd_event *event) {
        for (unsigned quiet = 0; quiet < 2;)
                quiet = sd_event_run(event, 0) > 0 ? 0 : quiet + 1;
}

static Channel* make_channel(sd_event *event, int *ret_far) {
        static const ChannelHandlers none = {};
        Channel *c = NULL;
        int fds[2], r;

        r = socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds);
        assert(r == 0);
        r = channel_new(event, fds[0], NULL, NULL, &none, NULL, &c);
        assert(r == 0);
        channel_pause_input(c);
        *ret_far = fds[1];
        return c;
}

/* Reads what came and checks that it is made of frames. */
static void check_frames(int fd, uint8_t *buffer, size_t *have, size_t max, uint32_t *last_id) {
        for (;;) {
                ssize_t n = recv(fd, buffer + *have, max - *have, 0);
                TtrpcHeader h;

                if (n > 0)
                        *have += n;
                while (ttrpc_header_parse(buffer, *have, &h) > 0 && *have >= TTRPC_HEADER_SIZE + (size_t) h.length) {
                        assert(h.length <= TTRPC_DATA_MAX);
                        if (last_id && h.type == TTRPC_TYPE_REQUEST) {
                                assert(h.stream_id % 2 == 1 && h.stream_id > *last_id);
                                *last_id = h.stream_id;
                        }
                        *have -= TTRPC_HEADER_SIZE + h.length;
                        memmove(buffer, buffer + TTRPC_HEADER_SIZE + h.length, *have);
                }
                assert(ttrpc_header_parse(buffer, *have, &h) >= 0);
                if (n <= 0)
                        return;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        enum { MAX = 1 << 17 };
        static uint8_t buffers[3][MAX];
        size_t have[3] = {};
        int fds[3] = { -EBADF, -EBADF, -EBADF }, r;
        uint32_t last_id = 0;
        sd_event *event = NULL;
        Relay *relay = NULL;
        bool lost = false;

        if (size > 1 << 16)
                return 0;
        log_set_max_level(-1);
        r = sd_event_new(&event);
        assert(r >= 0);
        r = relay_new(event, rules, ELEMENTSOF(rules), &handlers, &lost, &relay);
        assert(r == 0);
        relay_set_upstream(relay, make_channel(event, &fds[2]));
        for (int i = 0; i < 2; i++) {
                r = relay_add_downstream(relay, make_channel(event, &fds[i]));
                assert(r == 0);
        }

        while (size > 0 && !lost) {
                unsigned who = data[0] & 3;
                size_t n = MIN((size_t) (data[0] >> 2) * 4, size - 1);

                data++;
                size--;
                if (who == 3) {
                        int i = n % 2;

                        close_fd(fds[i]);
                        turn(event);
                        have[i] = 0;
                        r = relay_add_downstream(relay, make_channel(event, &fds[i]));
                        assert(r == 0);
                        continue;
                }
                (void) !send(fds[who], data, n, MSG_NOSIGNAL);
                data += n;
                size -= n;
                turn(event);
                check_frames(fds[2], buffers[2], &have[2], MAX, &last_id);
                for (int i = 0; i < 2; i++)
                        check_frames(fds[i], buffers[i], &have[i], MAX, NULL);
                assert(relay_get_memory(relay) < 2 * RELAY_CONNECTION_MEMORY_MAX);
        }

        relay_free(relay);
        sd_event_unref(event);
        for (int i = 0; i < 3; i++)
                close_fd(fds[i]);
        return 0;
}
