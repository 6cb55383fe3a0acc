/* SPDX-License-Identifier: Apache-2.0 */
/* A real server in a real loop, fed over a socketpair. Whatever comes, it answers with well-formed frames or closes the connection,
 * the next connection works, and nothing of the last one is left. */
#include <errno.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "basic/util.h"
#include "proto/agent.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"
#include "ttrpc/reader.h"
#include "ttrpc/server.h"

#define SERVICE "peerpod.test.Peer"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static sd_event *event;
static TtrpcServer *server;
static TtrpcCall *kept[4];
static unsigned n_kept;

static int method_echo(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply(call, payload, size);
}

static int method_unpack(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        int r;

        r = ttrpc_call_unpack(call, &grpc__create_container_request__descriptor, payload, size, &m);
        if (r < 0)
                return r;
        return ttrpc_call_reply_message(call, m);
}

/* Answers one call when another comes, so that answers cross. */
static int method_keep(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        TtrpcCall **slot = &kept[n_kept++ % ELEMENTSOF(kept)];

        if (*slot) {
                int r = ttrpc_call_reply(*slot, "kept", 4);

                assert(r == 0);
                ttrpc_call_unref(*slot);
        }
        *slot = ttrpc_call_ref(call);
        return 0;
}

static const TtrpcMethod methods[] = {
        { "Echo", method_echo }, { "Fail", method_unpack }, { "Hang", method_keep }, { "Metadata", method_keep }, {}
};

static void run_idle(void) {
        while (sd_event_run(event, 0) > 0)
                ;
}

/* Reads what the server wrote. Returns false at the end of the connection. */
static bool read_answers(TtrpcReader *reader, int fd, unsigned *n_frames) {
        ssize_t n;

        while ((n = ttrpc_reader_receive(reader, fd, NULL)) > 0) {
                TtrpcFrame frame;
                int k;

                while ((k = ttrpc_reader_next(reader, &frame)) > 0) {
                        TtrpcResponse response;

                        assert(frame.header.type == TTRPC_TYPE_RESPONSE);
                        assert(!frame.oversize);
                        assert(ttrpc_response_parse(frame.data, frame.header.length, &response) >= 0);
                        (*n_frames)++;
                }
                assert(k == 0);
        }

        return n == -EAGAIN;
}

/* Feeds the bytes in steps, reading on the way. Returns how many answers came. */
static unsigned feed(const uint8_t *data, size_t size, size_t step) {
        TtrpcReader reader = TTRPC_READER_NULL;
        unsigned n_frames = 0;
        bool open = true;
        int fds[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds) < 0)
                abort();
        r = ttrpc_server_add_connection_fd(server, fds[1]);
        assert(r == 0);

        while (open && size > 0) {
                ssize_t n = send(fds[0], data, MIN(size, step), MSG_NOSIGNAL);

                assert(n > 0 || errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
                if (n > 0) {
                        data += n;
                        size -= n;
                }
                run_idle();
                open = read_answers(&reader, fds[0], &n_frames);
        }

        (void) shutdown(fds[0], SHUT_WR);
        while (open) {
                run_idle();
                open = read_answers(&reader, fds[0], &n_frames);
        }
        close(fds[0]);
        run_idle();
        ttrpc_reader_done(&reader);

        for (size_t i = 0; i < ELEMENTSOF(kept); i++)
                kept[i] = ttrpc_call_unref(kept[i]);
        assert(ttrpc_server_get_n_connections(server) == 0);
        assert(ttrpc_server_get_n_calls(server) == 0);
        return n_frames;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const TtrpcRequest alive = {
                .service = { (const uint8_t*) SERVICE, sizeof(SERVICE) - 1 },
                .method = { (const uint8_t*) "Echo", 4 },
        };
        uint8_t wire[64];

        if (!server) {
                if (sd_event_new(&event) < 0 || ttrpc_server_new(event, &server) < 0 ||
                    ttrpc_server_add_service(server, SERVICE, methods, NULL) < 0)
                        abort();
        }

        (void) feed(data, size, SIZE_MAX);
        if (size < 4096)
                (void) feed(data, size, 5);

        (void) ttrpc_request_write(&alive, ttrpc_header_write(&(TtrpcHeader) {
                .length = ttrpc_request_size(&alive), .stream_id = 1, .type = TTRPC_TYPE_REQUEST }, wire));
        if (feed(wire, TTRPC_HEADER_SIZE + ttrpc_request_size(&alive), SIZE_MAX) != 1)
                abort();
        return 0;
}
