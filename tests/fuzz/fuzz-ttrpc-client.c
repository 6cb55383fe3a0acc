/* SPDX-License-Identifier: Apache-2.0 */
/* A real client with calls in flight, answered by hostile bytes. Each call ends exactly once unless it is given up, and after the
 * connection nothing is left of any. */
#include <errno.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "basic/log.h"
#include "basic/util.h"
#include "ttrpc/client.h"

#define CALLS 4U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static sd_event *event;
static unsigned n_answers[CALLS], n_closed;

static void on_reply(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        unsigned *n = userdata;
        uint8_t sum = 0;

        assert((*n)++ == 0);
        assert(reply->message);
        assert((reply->error == 0) == (reply->code == TTRPC_OK));
        assert(reply->error == 0 || reply->size == 0);
        for (size_t i = 0; i < reply->size; i++)        /* AddressSanitizer looks */
                sum += reply->payload[i];
        (void) sum;
}

static void on_closed(TtrpcClient *c, int error, void *userdata) {
        assert(error < 0);
        n_closed++;
}

static void run_idle(int fd) {
        uint8_t requests[4096];

        while (sd_event_run(event, 0) > 0)
                while (recv(fd, requests, sizeof(requests), MSG_DONTWAIT) > 0)
                        ;
}

static void feed(const uint8_t *data, size_t size, size_t step) {
        TtrpcSlot *slots[CALLS] = {};
        TtrpcClient *c;
        int fds[2], r;

        memset(n_answers, 0, sizeof(n_answers));
        n_closed = 0;
        if (socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds) < 0)
                abort();
        r = ttrpc_client_new(event, fds[0], &c);
        assert(r == 0);
        ttrpc_client_set_closed_handler(c, on_closed, NULL);
        for (unsigned i = 0; i < CALLS; i++) {
                r = ttrpc_client_call(c, "grpc.AgentService", "WaitProcess", "x", 1, 0, NULL, on_reply, n_answers + i, slots + i);
                assert(r == 0);
        }
        run_idle(fds[1]);
        slots[CALLS - 1] = ttrpc_slot_free(slots[CALLS - 1]);   /* its answer, if any comes, is for nobody */

        while (size > 0) {
                ssize_t n = send(fds[1], data, MIN(size, step), MSG_NOSIGNAL|MSG_DONTWAIT);

                if (n <= 0 && errno != EAGAIN)
                        break;
                if (n > 0) {
                        data += n;
                        size -= n;
                }
                run_idle(fds[1]);
        }
        close_fd(fds[1]);
        while (sd_event_run(event, 0) > 0)
                ;

        assert(n_closed == 1);
        assert(!ttrpc_client_is_connected(c));
        for (unsigned i = 0; i < CALLS; i++)
                assert(n_answers[i] == (i < CALLS - 1));
        for (unsigned i = 0; i < CALLS; i++)
                ttrpc_slot_free(slots[i]);
        ttrpc_client_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (!event) {
                log_set_max_level(-1);
                if (sd_event_new(&event) < 0)
                        abort();
        }

        feed(data, size, SIZE_MAX);
        if (size < 4096)
                feed(data, size, 3);
        return 0;
}
