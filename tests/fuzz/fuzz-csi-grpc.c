/* SPDX-License-Identifier: Apache-2.0 */
/* Hostile HTTP/2 at the gRPC server: whatever comes, each call that was handed out is answered or cancelled exactly once, and nothing is left of it
 * when the connection ends. And the pieces of gRPC's wire format by themselves.
 *
 * The first byte says into what pieces the input is cut, and whether calls are answered at once. */
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-event.h>

#include "basic/util.h"
#include "kube/csi/grpc-server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Rig {
        GrpcCall *waiting[GRPC_STREAMS_MAX * 2];
        size_t n_waiting;
        bool at_once;
} Rig;

static void on_call(GrpcCall *call, void *userdata) {
        Rig *rig = userdata;
        const uint8_t *message;
        size_t n;

        message = grpc_call_message(call, &n);
        assert(n <= GRPC_MESSAGE_MAX && grpc_call_path(call)[0] == '/');
        if (rig->at_once)
                grpc_call_reply(call, n % 2 == 0 ? TTRPC_OK : TTRPC_ABORTED, "text \xff %", NULL, message, n);
        else {
                assert(rig->n_waiting < ELEMENTSOF(rig->waiting));
                rig->waiting[rig->n_waiting++] = call;
        }
}

static void on_cancelled(GrpcCall *call, void *userdata) {
        Rig *rig = userdata;

        for (size_t i = 0; i < rig->n_waiting; i++)
                if (rig->waiting[i] == call) {
                        rig->waiting[i] = rig->waiting[--rig->n_waiting];
                        return;
                }
        abort();                                /* it was never handed out, or twice cancelled */
}

static void check_wire(const uint8_t *data, size_t size) {
        _cleanup_(grpc_body_done) GrpcBody whole = GRPC_BODY_NULL, bytewise = GRPC_BODY_NULL;
        char timeout[GRPC_TIMEOUT_SIZE];
        char *text, *encoded;
        uint64_t usec, again;
        TtrpcCode code;
        int r, q = 0;

        if (grpc_timeout_parse((const char*) data, size, &usec) >= 0) {
                grpc_timeout_format(usec, timeout);
                assert(grpc_timeout_parse(timeout, strlen(timeout), &again) >= 0 && again >= usec);
        }
        (void) grpc_code_parse((const char*) data, size, &code);
        (void) grpc_content_type_is_valid((const char*) data, size);

        text = grpc_text_decode((const char*) data, size);
        assert(text);
        encoded = grpc_text_encode(text);
        free(text);
        assert(encoded);
        free(encoded);

        r = grpc_body_feed(&whole, data, size);
        for (size_t i = 0; i < size && q >= 0; i++)
                q = grpc_body_feed(&bytewise, data + i, 1);
        assert(r == q && (r < 0 || (whole.size == bytewise.size && grpc_body_is_complete(&whole) == grpc_body_is_complete(&bytewise))));
        assert(whole.capacity <= size);
}

/* An address of the kernel's choice, without a name in the file system. */
static int listen_somewhere(struct sockaddr_un *sa, socklen_t *sa_size) {
        int fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        sa_family_t family = AF_UNIX;

        *sa_size = sizeof(*sa);
        if (fd < 0 || bind(fd, (struct sockaddr*) &family, sizeof(family)) < 0 || listen(fd, 1) < 0 ||
            getsockname(fd, (struct sockaddr*) sa, sa_size) < 0)
                abort();
        return fd;
}

static void turn(sd_event *event) {
        for (unsigned i = 0; i < 64 && sd_event_run(event, 0) > 0; i++)
                ;
}

static void feed(sd_event *event, int fd, const uint8_t *data, size_t size, size_t step) {
        char drop[4096];

        while (size > 0) {
                ssize_t n = send(fd, data, MIN(size, step), MSG_NOSIGNAL|MSG_DONTWAIT);

                turn(event);
                while (recv(fd, drop, sizeof(drop), MSG_DONTWAIT) > 0)
                        turn(event);
                if (n < 0)
                        return;
                data += n;
                size -= (size_t) n;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const GrpcServerSpec spec = { .on_call = on_call, .on_cancelled = on_cancelled };
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(grpc_server_freep) GrpcServer *s = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        struct sockaddr_un sa;
        socklen_t sa_size;
        int r;

        if (size == 0)
                return 0;
        check_wire(data + 1, size - 1);

        Rig rig = { .at_once = data[0] & 1 };
        r = sd_event_new(&event);
        assert(r >= 0);
        r = grpc_server_new(event, listen_somewhere(&sa, &sa_size), &spec, &rig, &s);
        assert(r >= 0);
        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr*) &sa, sa_size) < 0)
                abort();

        feed(event, fd, data + 1, size - 1, (size_t) (data[0] >> 1) * 16 + 1);
        while (rig.n_waiting > 0) {
                size_t n;
                const uint8_t *message = grpc_call_message(rig.waiting[--rig.n_waiting], &n);

                grpc_call_reply(rig.waiting[rig.n_waiting], TTRPC_OK, NULL, NULL, message, n);
        }
        turn(event);
        assert(grpc_server_n_calls(s) == 0);
        fd = close_fd(fd);
        turn(event);
        return 0;
}
