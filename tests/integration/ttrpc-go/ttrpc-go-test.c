/* SPDX-License-Identifier: Apache-2.0 */
/* Our client against containerd's Go server, Go's client against our server, and the golden bytes made anew. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>

#include <cmocka.h>

#include "basic/io.h"
#include "basic/util.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/client.h"
#include "ttrpc/frame.h"
#include "ttrpc/server.h"

#define SERVICE "peerpod.test.Peer"
#define PATIENCE_USEC (60 * USEC_PER_SEC)
#define ENVELOPE_SIZE 64        /* more than the envelope and the wrapper message need around the bytes that are echoed */

static const char *ttrpc_go, *golden_dir;

typedef struct Fixture {
        sd_event *event;
        char directory[32], path[64];
        TtrpcServer *server;
        unsigned n_cancelled;
        int cancel_reason;
        pid_t pid;              /* Go's server */
        int stdin_fd;
        TtrpcClient *client;
} Fixture;

#define RUN_UNTIL(event, condition)                                                             \
        do {                                                                                    \
                uint64_t _end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;                      \
                while (!(condition)) {                                                          \
                        if (now_usec(CLOCK_MONOTONIC) > _end)                                   \
                                fail_msg("waited in vain for: %s", #condition);                 \
                        assert_true(sd_event_run((event), 10 * USEC_PER_MSEC) >= 0);            \
                }                                                                               \
        } while (false)

static size_t count_fds(void) {
        size_t n = 0;
        DIR *dir = opendir("/proc/self/fd");

        assert_non_null(dir);
        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

static pid_t spawn(const char *const argv[], int stdin_fd, int stdout_fd) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                if ((stdin_fd >= 0 && dup2(stdin_fd, STDIN_FILENO) < 0) || (stdout_fd >= 0 && dup2(stdout_fd, STDOUT_FILENO) < 0))
                        _exit(127);
                execv(argv[0], (char**) argv);
                _exit(127);
        }
        return pid;
}

/* Our server with main.go's methods. A StringValue is on the wire what a StartVMRequest is: one string, number 1. */

static int method_echo(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply(call, payload, size);
}

static int unpack_string(TtrpcCall *call, const void *payload, size_t size, Hypervisor__StartVMRequest **ret) {
        return ttrpc_call_unpack(call, &hypervisor__start_vmrequest__descriptor, payload, size, (ProtobufCMessage**) ret);
}

static int method_fail(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) Hypervisor__StartVMRequest *m = NULL;
        char *text;
        long code;
        int r;

        r = unpack_string(call, payload, size, &m);
        if (r < 0)
                return r;
        code = strtol(m->id, &text, 10);
        return ttrpc_call_reply_status(call, code, "%s", text + (*text == ' '));
}

static int method_metadata(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        _cleanup_(proto_freep) Hypervisor__StartVMRequest *m = NULL;
        Hypervisor__StartVMRequest answer = HYPERVISOR__START_VMREQUEST__INIT;
        int r;

        r = unpack_string(call, payload, size, &m);
        if (r < 0)
                return r;
        answer.id = (char*) ttrpc_call_get_metadata(call, m->id);
        if (!answer.id)
                return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "no such key");
        return ttrpc_call_reply_message(call, &answer.base);
}

static void on_cancelled(TtrpcCall *call, int reason, void *userdata) {
        Fixture *f = userdata;

        f->n_cancelled++;
        f->cancel_reason = reason;
        ttrpc_call_unref(call);
}

static int method_hang(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        ttrpc_call_set_cancelled_handler(ttrpc_call_ref(call), on_cancelled, userdata);
        return 0;
}

static const TtrpcMethod methods[] = {
        { "Echo", method_echo },
        { "Fail", method_fail },
        { "Metadata", method_metadata },
        { "Hang", method_hang },
        {}
};

static Fixture* fixture_new(void) {
        Fixture *f = calloc(1, sizeof(Fixture));

        assert_non_null(f);
        f->stdin_fd = -EBADF;
        strcpy(f->directory, "/tmp/ttrpc-go-XXXXXX");
        assert_non_null(mkdtemp(f->directory));
        (void) snprintf(f->path, sizeof(f->path), "%s/socket", f->directory);
        assert_true(sd_event_new(&f->event) >= 0);
        return f;
}

static void fixture_free(Fixture *f) {
        ttrpc_client_free(f->client);
        ttrpc_server_free(f->server);
        f->stdin_fd = close_fd(f->stdin_fd);
        if (f->pid > 0)
                (void) waitpid(f->pid, NULL, 0);        /* it ends with its standard input */
        sd_event_unref(f->event);
        (void) remove_tree(f->directory);
        free(f);
}

static int setup_our_server(void **state) {
        Fixture *f = fixture_new();
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd;

        strcpy(address.sun_path, f->path);
        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        assert_true(fd >= 0);
        assert_int_equal(bind(fd, (struct sockaddr*) &address, sizeof(address)), 0);
        assert_int_equal(listen(fd, 8), 0);
        assert_int_equal(ttrpc_server_new(f->event, &f->server), 0);
        assert_int_equal(ttrpc_server_add_service(f->server, SERVICE, methods, f), 0);
        assert_int_equal(ttrpc_server_add_listen_fd(f->server, fd), 0);
        *state = f;
        return 0;
}

static int setup_go_server(void **state) {
        Fixture *f = fixture_new();
        int in[2], out[2];
        char ready[6];
        bool good;

        assert_int_equal(pipe2(in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        f->pid = spawn((const char*[]) { ttrpc_go, "server", f->path, NULL }, in[0], out[1]);
        close(in[0]);
        close(out[1]);
        f->stdin_fd = in[1];
        good = read(out[0], ready, sizeof(ready)) == sizeof(ready) && memcmp(ready, "ready\n", sizeof(ready)) == 0;
        close(out[0]);
        if (!good || ttrpc_client_new_unix(f->event, f->path, &f->client) < 0) {
                print_error("Go's server did not start\n");
                fixture_free(f);        /* without a teardown: cmocka runs none for a set-up that failed */
                return -1;
        }
        *state = f;
        return 0;
}

static int teardown(void **state) {
        fixture_free(*state);
        return 0;
}

/* Go's client against our server */

static void run_go_client(Fixture *f, const char *name) {
        siginfo_t info = {};
        struct pollfd pollfd = { .events = POLLIN };
        pid_t pid;

        pid = spawn((const char*[]) { ttrpc_go, "client", f->path, name, NULL }, -EBADF, -EBADF);
        pollfd.fd = pidfd_open(pid, 0);
        assert_true(pollfd.fd >= 0);
        RUN_UNTIL(f->event, poll(&pollfd, 1, 0) != 0);
        close(pollfd.fd);
        assert_int_equal(waitid(P_PID, pid, &info, WEXITED), 0);
        if (info.si_code != CLD_EXITED || info.si_status != 0)
                fail_msg("case '%s' failed, see the client's message above", name);
}

static void go_client_case(void **state, const char *name) {
        Fixture *f = *state;

        run_go_client(f, name);
        RUN_UNTIL(f->event, ttrpc_server_get_n_connections(f->server) == 0);
        assert_int_equal(ttrpc_server_get_n_calls(f->server), 0);
}

#define GO_CLIENT(function, name) static void function(void **state) { go_client_case(state, name); }
GO_CLIENT(go_client_echoes_up_to_4_mib, "echo")
GO_CLIENT(go_client_200_concurrent, "concurrent")
GO_CLIENT(go_client_24_mib_concurrent, "big-concurrent")
GO_CLIENT(go_client_unknown_service, "unknown-service")
GO_CLIENT(go_client_unknown_method, "unknown-method")
GO_CLIENT(go_client_error_status, "error-status")
GO_CLIENT(go_client_metadata, "metadata")
GO_CLIENT(go_client_oversize_request, "oversize-request")

static void go_client_deadlines(void **state) {
        Fixture *f = *state;

        go_client_case(state, "server-deadline");
        assert_int_equal(f->n_cancelled, 1);
        assert_int_equal(f->cancel_reason, -ETIMEDOUT);
        go_client_case(state, "expired-deadline");
        assert_int_equal(f->n_cancelled, 1);
        go_client_case(state, "client-deadline");
}

static void go_client_disconnects(void **state) {
        Fixture *f = *state;

        go_client_case(state, "disconnect");
        assert_int_equal(f->n_cancelled, 1);
        assert_int_equal(f->cancel_reason, -ECANCELED);
}

/* Our client against Go's server */

static uint8_t* wrap_bytes(size_t size, uint8_t fill, size_t *ret_size) {
        uint8_t *wire = malloc(size + 8), *p = wire;

        assert_non_null(wire);
        if (size > 0) {
                *p++ = 1 << 3 | 2;
                for (size_t n = size; ; n >>= 7) {
                        *p++ = n >= 0x80 ? n | 0x80 : n;
                        if (n < 0x80)
                                break;
                }
                memset(p, fill, size);
                p += size;
        }
        *ret_size = p - wire;
        return wire;
}

static int call_string(Fixture *f, const char *method, const char *string, uint64_t timeout_usec, const TtrpcMetadata *metadata,
                       TtrpcResult *ret) {
        Hypervisor__StartVMRequest m = HYPERVISOR__START_VMREQUEST__INIT;

        m.id = (char*) string;
        return ttrpc_client_call_message_sync(f->client, SERVICE, method, &m.base, timeout_usec, metadata, NULL, NULL, ret);
}

static void expect_status(int r, TtrpcResult *result, int code, const char *message) {
        assert_int_equal(r, -EREMOTEIO);
        assert_int_equal(result->code, code);
        assert_string_equal(result->message, message);
        ttrpc_result_done(result);
}

static void go_server_echoes_up_to_4_mib(void **state) {
        static const size_t sizes[] = { 0, 1, 100, 16383, 16384, 65536, 1U << 20, TTRPC_DATA_MAX - ENVELOPE_SIZE };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                TtrpcResult result = TTRPC_RESULT_NULL;
                size_t size;
                uint8_t *wire = wrap_bytes(sizes[i], 'c', &size);

                assert_int_equal(ttrpc_client_call_sync(f->client, SERVICE, "Echo", wire, size, PATIENCE_USEC, NULL, &result), 0);
                assert_int_equal(result.size, size);
                assert_memory_equal(result.payload, wire, size);
                ttrpc_result_done(&result);
                free(wire);
        }
}

typedef struct Pending {
        uint8_t *wire;
        size_t size;
        unsigned *n_good;
} Pending;

static void on_echoed(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Pending *p = userdata;

        assert_int_equal(reply->error, 0);
        assert_int_equal(reply->size, p->size);
        assert_memory_equal(reply->payload, p->wire, p->size);
        (*p->n_good)++;
        free(p->wire);
}

static void go_server_200_concurrent(void **state) {
        Fixture *f = *state;
        Pending pending[200];
        unsigned n_good = 0;

        for (unsigned i = 0; i < ELEMENTSOF(pending); i++) {
                Pending *p = pending + i;

                p->wire = wrap_bytes(1 + i * 97, i, &p->size);
                p->n_good = &n_good;
                assert_int_equal(ttrpc_client_call(f->client, SERVICE, "Echo", p->wire, p->size, PATIENCE_USEC, NULL, on_echoed, p, NULL), 0);
        }
        RUN_UNTIL(f->event, n_good == ELEMENTSOF(pending));
}

static void go_server_errors(void **state) {
        TtrpcResult result = TTRPC_RESULT_NULL;
        Fixture *f = *state;

        expect_status(ttrpc_client_call_sync(f->client, "no.Such", "Echo", NULL, 0, PATIENCE_USEC, NULL, &result),
                      &result, TTRPC_UNIMPLEMENTED, "service no.Such");
        expect_status(ttrpc_client_call_sync(f->client, SERVICE, "NoSuch", NULL, 0, PATIENCE_USEC, NULL, &result),
                      &result, TTRPC_UNIMPLEMENTED, "method NoSuch");
        expect_status(call_string(f, "Fail", "9 not in this state: \xc3\xa4\xe2\x82\xac", PATIENCE_USEC, NULL, &result),
                      &result, TTRPC_FAILED_PRECONDITION, "not in this state: \xc3\xa4\xe2\x82\xac");
}

static void go_server_metadata(void **state) {
        static const TtrpcMetadata metadata[] = { { "traceparent", "00-ab-cd-01" }, { "repeated", "first" }, { "repeated", "second" }, {} };
        _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;
        Fixture *f = *state;

        assert_int_equal(call_string(f, "Metadata", "traceparent", PATIENCE_USEC, metadata, &result), 0);
        assert_int_equal(result.size, 13);
        assert_memory_equal(result.payload, "\x0a\x0b" "00-ab-cd-01", 13);
        ttrpc_result_done(&result);
        assert_int_equal(call_string(f, "Metadata", "repeated", PATIENCE_USEC, metadata, &result), 0);
        assert_memory_equal(result.payload, "\x0a\x05" "first", 7);
}

static void go_server_deadline(void **state) {
        _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;
        Fixture *f = *state;
        int r;

        r = call_string(f, "Hang", "", 50 * USEC_PER_MSEC, NULL, &result);
        assert_true(r == -ETIMEDOUT || r == -EREMOTEIO);        /* our clock or the server's, whichever is first */
        assert_int_equal(result.code, TTRPC_DEADLINE_EXCEEDED);
        assert_string_equal(result.message, "context deadline exceeded");
}

static void on_never(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        fail_msg("a call of a freed client was answered");
}

static void go_server_sees_the_disconnect(void **state) {
        Fixture *f = *state;
        TtrpcClient *other;
        bool cancelled = false;

        assert_int_equal(ttrpc_client_new_unix(f->event, f->path, &other), 0);
        assert_int_equal(ttrpc_client_call(other, SERVICE, "Hang", NULL, 0, 0, NULL, on_never, NULL, NULL), 0);
        ttrpc_client_free(other);
        for (uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC; !cancelled && now_usec(CLOCK_MONOTONIC) < end;) {
                _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;

                assert_int_equal(call_string(f, "CountCancelled", "", PATIENCE_USEC, NULL, &result), 0);
                cancelled = result.size == 2 && result.payload[1] == 1;
        }
        assert_true(cancelled);
}

/* The golden bytes are what this Go library writes */

static void golden_bytes_are_made_again(void **state) {
        Fixture *f = *state;
        siginfo_t info = {};
        unsigned n = 0;
        pid_t pid;
        DIR *dir;

        pid = spawn((const char*[]) { ttrpc_go, "golden", f->directory, NULL }, -EBADF, -EBADF);
        assert_int_equal(waitid(P_PID, pid, &info, WEXITED), 0);
        assert_int_equal(info.si_status, 0);

        dir = opendir(f->directory);
        assert_non_null(dir);
        for (struct dirent *de; (de = readdir(dir));) {
                _cleanup_(freep) char *fresh = NULL, *stored = NULL;
                size_t fresh_size, stored_size;
                char path[512];

                if (de->d_type != DT_REG)
                        continue;
                assert_int_equal(read_full_file_at(dirfd(dir), de->d_name, 1U << 20, &fresh, &fresh_size), 0);
                (void) snprintf(path, sizeof(path), "%s/%s", golden_dir, de->d_name);
                if (read_full_file_at(AT_FDCWD, path, 1U << 20, &stored, &stored_size) < 0)
                        fail_msg("%s is missing", path);
                if (fresh_size != stored_size || memcmp(fresh, stored, fresh_size) != 0)
                        fail_msg("%s is not what the Go library writes", path);
                n++;
        }
        closedir(dir);
        assert_true(n > 20);
}

#define OUR_SERVER(function) cmocka_unit_test_setup_teardown(function, setup_our_server, teardown)
#define GO_SERVER(function) cmocka_unit_test_setup_teardown(function, setup_go_server, teardown)

int main(int argc, char *argv[]) {
        static const struct CMUnitTest tests[] = {
                OUR_SERVER(go_client_echoes_up_to_4_mib),
                OUR_SERVER(go_client_200_concurrent),
                OUR_SERVER(go_client_24_mib_concurrent),
                OUR_SERVER(go_client_unknown_service),
                OUR_SERVER(go_client_unknown_method),
                OUR_SERVER(go_client_error_status),
                OUR_SERVER(go_client_metadata),
                OUR_SERVER(go_client_oversize_request),
                OUR_SERVER(go_client_deadlines),
                OUR_SERVER(go_client_disconnects),
                GO_SERVER(go_server_echoes_up_to_4_mib),
                GO_SERVER(go_server_200_concurrent),
                GO_SERVER(go_server_errors),
                GO_SERVER(go_server_metadata),
                GO_SERVER(go_server_deadline),
                GO_SERVER(go_server_sees_the_disconnect),
                OUR_SERVER(golden_bytes_are_made_again),
        };
        size_t n_fds;
        int r;

        if (argc != 3) {
                fprintf(stderr, "Usage: %s TTRPC-GO GOLDEN-DIRECTORY\n", argv[0]);
                return 2;
        }
        ttrpc_go = argv[1];
        golden_dir = argv[2];
        if (access(ttrpc_go, X_OK) < 0) {
                perror(ttrpc_go);
                return 1;
        }

        n_fds = count_fds();
        r = cmocka_run_group_tests(tests, NULL, NULL);
        if (count_fds() != n_fds) {
                fprintf(stderr, "%zu descriptors, %zu before the tests\n", count_fds(), n_fds);
                return 1;
        }
        return r;
}
