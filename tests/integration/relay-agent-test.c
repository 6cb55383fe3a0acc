/* SPDX-License-Identifier: Apache-2.0 */
/* One pod's life through the whole data plane: client, peerpod-agent-proxy, TLS, agent-protocol-forwarder and the stand-in agent,
 * which runs real containers. Root. Arguments: the agent's program, the pause program; $PROXY and $FORWARDER as relay-test.c. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "agent-rig.h"
#include "basic/util.h"
#include "proto/health.pb-c.h"
#include "proto/proto.h"
#include "relay-rig.h"
#include "ttrpc/client.h"
#include "ttrpc/frame.h"

#define AGENT "grpc.AgentService"
#define CALL_USEC (20 * USEC_PER_SEC)
#define N_CLIENTS 4U
#define N_POLLS 30U                             /* of each kind */
#define N_CALLS 200U
#define N_EXECS 40U                             /* among the calls; each goes on for five steps */
#define PIECE (TTRPC_DATA_MAX - 512U)           /* of a copied file: nearly the largest frame */
#define FILE_SIZE (2U * PIECE)
#define FILE_PATH "/run/kata-containers/shared/containers/big"

static const char *agent_program, *pause_program;

typedef struct Pod {
        Rig rig;
        size_t own_fds;
        char netns[96];
        pid_t agent;                            /* also when it has ended */
        sd_event *event;
        TtrpcClient *clients[N_CLIENTS];
        TtrpcResult result;
        ProtobufCMessage *message;
        uint8_t *file;
        int raw_fd;
} Pod;

static int setup(void **state) {
        size_t own_fds = rig_count_fds(getpid());
        Pod *p = new0(Pod, 1);

        if (!p)
                return -1;
        *state = p;
        p->own_fds = own_fds;
        p->raw_fd = -EBADF;
        p->file = malloc(FILE_SIZE);
        rig_make(&p->rig);
        (void) snprintf(p->netns, sizeof(p->netns), "%s/podns", p->rig.dir);
        p->rig.pod_namespace = p->netns;
        if (!p->file || agent_rig_make(p->rig.dir) < 0 || sd_event_new(&p->event) < 0)
                return -1;
        for (size_t i = 0; i < FILE_SIZE; i++)
                p->file[i] = i * UINT32_C(2654435761) >> 13;

        p->agent = p->rig.agent = agent_rig_start(agent_program, pause_program, p->rig.dir, p->rig.agent_socket);
        rig_start_forwarder(&p->rig);
        rig_start_proxy(&p->rig);
        rig_wait_ready(&p->rig, 2);             /* the proxy's: Health.Check was answered through all of it */
        for (size_t i = 0; i < N_CLIENTS; i++)
                if (ttrpc_client_new_unix(p->event, p->rig.proxy_socket, &p->clients[i]) < 0)
                        return -1;
        return 0;
}

static int teardown(void **state) {
        Pod *p = *state;
        size_t own_fds = p->own_fds;
        int r = 0;

        ttrpc_result_done(&p->result);
        proto_free(p->message);
        for (size_t i = 0; i < N_CLIENTS; i++)
                ttrpc_client_free(p->clients[i]);
        sd_event_unref(p->event);
        close_fd(p->raw_fd);
        free(p->file);

        /* Leak checkers have their say in the daemons' statuses. */
        if (rig_stop(&p->rig.proxy, SIGTERM) != 0 || rig_stop(&p->rig.forwarder, SIGTERM) != 0) {
                print_error("a daemon did not end well\n");
                r = -1;
        }
        (void) rig_stop(&p->rig.agent, SIGTERM);
        if (agent_rig_has_leftovers(p->agent)) {
                print_error("control groups of the agent are left\n");
                r = -1;
        }
        agent_rig_done(p->rig.dir);
        rig_done(&p->rig);
        if (access(p->rig.dir, F_OK) >= 0) {
                print_error("'%s' is left\n", p->rig.dir);
                r = -1;
        }
        free(p);
        if (rig_count_fds(getpid()) != own_fds) {
                print_error("descriptors: %zu before, %zu after\n", own_fds, rig_count_fds(getpid()));
                r = -1;
        }
        return r;
}

static void must(Pod *p, const char *service, const char *method, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type) {
        int r;

        ttrpc_result_done(&p->result);
        p->result = TTRPC_RESULT_NULL;
        proto_free(p->message);
        p->message = NULL;
        r = ttrpc_client_call_message_sync(p->clients[0], service, method, request, CALL_USEC, NULL, type, &p->message, &p->result);
        if (r < 0)
                fail_msg("%s: %i, code %i: %s", method, r, p->result.code, strempty(p->result.message));
}

static void check(Pod *p) {
        Grpc__CheckRequest q = GRPC__CHECK_REQUEST__INIT;

        must(p, "grpc.Health", "Check", &q.base, NULL);
}

static void start_container(Pod *p, Spec *s) {
        Grpc__StartContainerRequest q = GRPC__START_CONTAINER_REQUEST__INIT;

        must(p, AGENT, "CreateContainer", &s->q.base, NULL);
        q.container_id = s->q.container_id;
        must(p, AGENT, "StartContainer", &q.base, NULL);
}

static void remove_container(Pod *p, const char *id) {
        Grpc__RemoveContainerRequest q = GRPC__REMOVE_CONTAINER_REQUEST__INIT;

        q.container_id = (char*) id;
        must(p, AGENT, "RemoveContainer", &q.base, NULL);
}

static void create_pod(Pod *p) {
        static const char *const sleeper[] = { BUSYBOX, "sleep", "1000000", NULL };
        Grpc__CreateSandboxRequest q = GRPC__CREATE_SANDBOX_REQUEST__INIT;
        Spec s;

        q.hostname = (char*) "web-1";
        q.sandbox_id = (char*) "sandbox1";
        must(p, AGENT, "CreateSandbox", &q.base, NULL);
        spec_init(&s, /* netns= */ NULL, "c1", "docker.io/library/busybox", sleeper);
        start_container(p, &s);
}

typedef struct Calls {
        unsigned n_done, n_failed;
} Calls;

static void on_answer(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Calls *calls = userdata;

        calls->n_done++;
        if (reply->error < 0) {
                print_message("%i, code %i: %s\n", reply->error, reply->code, strempty(reply->message));
                calls->n_failed++;
        }
}

static void begin(Pod *p, unsigned client, const char *service, const char *method, const ProtobufCMessage *request, uint64_t usec, Calls *calls) {
        assert_int_equal(ttrpc_client_call_message(p->clients[client % N_CLIENTS], service, method, request, usec, NULL, on_answer, calls, NULL), 0);
}

static void run_until(Pod *p, const unsigned *n, unsigned wanted) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + CALL_USEC;

        while (*n < wanted && now_usec(CLOCK_MONOTONIC) < end)
                assert_true(sd_event_run(p->event, USEC_PER_SEC) >= 0);
        assert_int_equal(*n, wanted);
}

/* What the shim holds open all the time. */
typedef struct Polls {
        Calls wait, output, oom;
} Polls;

static void hold_polls(Pod *p, Polls *polls) {
        Grpc__WaitProcessRequest wait = GRPC__WAIT_PROCESS_REQUEST__INIT;
        Grpc__ReadStreamRequest output = GRPC__READ_STREAM_REQUEST__INIT;
        Grpc__GetOOMEventRequest oom = GRPC__GET_OOMEVENT_REQUEST__INIT;

        wait.container_id = output.container_id = (char*) "c1";
        output.len = 32768;
        for (unsigned i = 0; i < N_POLLS; i++) {
                begin(p, i, AGENT, "WaitProcess", &wait.base, 0, &polls->wait);
                begin(p, i, AGENT, "ReadStdout", &output.base, 0, &polls->output);
                begin(p, i, AGENT, "GetOOMEvent", &oom.base, 0, &polls->oom);
        }
}

/* "cat" in the container: what goes in comes out. */
typedef struct Exec {
        Calls *calls;
        char id[16];
        unsigned step;
} Exec;

static void exec_step(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        Exec *e = userdata;
        char *args[] = { (char*) BUSYBOX, (char*) "cat", NULL };
        Grpc__ExecProcessRequest exec;
        Grpc__Process process;
        Grpc__WriteStreamRequest write = GRPC__WRITE_STREAM_REQUEST__INIT;
        Grpc__ReadStreamRequest output = GRPC__READ_STREAM_REQUEST__INIT;
        Grpc__CloseStdinRequest close = GRPC__CLOSE_STDIN_REQUEST__INIT;
        Grpc__WaitProcessRequest wait = GRPC__WAIT_PROCESS_REQUEST__INIT;
        const struct {
                const char *method;
                ProtobufCMessage *request;
        } steps[] = {
                { "ExecProcess", &exec.base }, { "WriteStdin", &write.base }, { "ReadStdout", &output.base },
                { "CloseStdin", &close.base }, { "WaitProcess", &wait.base },
        };

        if (reply && e->step == 3 && reply->error == 0) {
                _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
                const Grpc__ReadStreamResponse *a;

                if (proto_unpack(&grpc__read_stream_response__descriptor, reply->payload, reply->size, &m) < 0)
                        e->calls->n_failed++;
                else if (a = (const Grpc__ReadStreamResponse*) m, a->data.len != strlen(e->id) || memcmp(a->data.data, e->id, a->data.len) != 0)
                        e->calls->n_failed++;
        }
        if (e->step == ELEMENTSOF(steps) || (reply && reply->error < 0)) {
                on_answer(client, reply, e->calls);
                return;
        }

        exec_request(&exec, &process, "c1", e->id, args);
        write.container_id = output.container_id = close.container_id = wait.container_id = (char*) "c1";
        write.exec_id = output.exec_id = close.exec_id = wait.exec_id = e->id;
        write.data = (ProtobufCBinaryData) { .data = (uint8_t*) e->id, .len = strlen(e->id) };
        output.len = 100;
        assert_int_equal(ttrpc_client_call_message(client, AGENT, steps[e->step].method, steps[e->step].request, CALL_USEC, NULL,
                                                   exec_step, e, NULL), 0);
        e->step++;
}

static void make_many_calls(Pod *p) {
        static Exec execs[N_EXECS];
        Grpc__CheckRequest check_request = GRPC__CHECK_REQUEST__INIT;
        Grpc__StatsContainerRequest stats = GRPC__STATS_CONTAINER_REQUEST__INIT;
        Grpc__CopyFileRequest copy = GRPC__COPY_FILE_REQUEST__INIT;
        Calls calls = {};

        stats.container_id = (char*) "c1";
        copy.path = (char*) FILE_PATH;
        copy.file_mode = S_IFREG | 0644;
        copy.dir_mode = 0755;
        copy.file_size = FILE_SIZE;

        for (unsigned i = 0; i < N_CALLS; i++)
                if (i < N_EXECS) {
                        execs[i] = (Exec) { .calls = &calls };
                        (void) snprintf(execs[i].id, sizeof(execs[i].id), "exec-%u", i);
                        exec_step(p->clients[i % N_CLIENTS], NULL, execs + i);
                } else if (i < N_EXECS + 2) {   /* on one connection, which keeps the order */
                        copy.offset = (i - N_EXECS) * PIECE;
                        copy.data = (ProtobufCBinaryData) { .data = p->file + copy.offset, .len = PIECE };
                        begin(p, 0, AGENT, "CopyFile", &copy.base, CALL_USEC, &calls);
                } else if (i % 2 == 0)
                        begin(p, i / 2, "grpc.Health", "Check", &check_request.base, CALL_USEC, &calls);
                else
                        begin(p, i / 2, AGENT, "StatsContainer", &stats.base, CALL_USEC, &calls);

        run_until(p, &calls.n_done, N_CALLS);
        assert_int_equal(calls.n_failed, 0);
}

static void connect_raw(Pod *p) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        close_fd(p->raw_fd);
        p->raw_fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        memcpy(sa.sun_path, p->rig.proxy_socket, strlen(p->rig.proxy_socket));
        assert_int_equal(connect(p->raw_fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
}

static void send_raw(Pod *p, uint32_t id, const char *method, const ProtobufCMessage *message) {
        uint8_t payload[128], frame[256];
        TtrpcRequest request = { .service = ttrpc_slice(AGENT), .method = ttrpc_slice(method), .payload = { payload, 0 } };
        size_t n;

        assert_true(protobuf_c_message_get_packed_size(message) <= sizeof(payload));
        request.payload.size = protobuf_c_message_pack(message, payload);
        n = ttrpc_request_size(&request);
        assert_true(TTRPC_HEADER_SIZE + n <= sizeof(frame));
        ttrpc_header_write(&(TtrpcHeader) { .length = n, .stream_id = id, .type = TTRPC_TYPE_REQUEST }, frame);
        ttrpc_request_write(&request, frame + TTRPC_HEADER_SIZE);
        n += TTRPC_HEADER_SIZE;
        assert_int_equal(send(p->raw_fd, frame, n, MSG_NOSIGNAL), n);
}

/* The payload of the next answer, in a static buffer; false at the end of the connection. */
static bool take_raw(Pod *p, TtrpcSlice *ret) {
        static uint8_t data[TTRPC_DATA_MAX];
        uint8_t head[TTRPC_HEADER_SIZE];
        TtrpcResponse response;
        TtrpcHeader h;
        ssize_t n;

        assert_int_equal(poll(&(struct pollfd) { .fd = p->raw_fd, .events = POLLIN }, 1, CALL_USEC / USEC_PER_MSEC), 1);
        n = recv(p->raw_fd, head, sizeof(head), MSG_WAITALL);
        if (n == 0)
                return false;
        assert_int_equal(n, sizeof(head));
        assert_int_equal(ttrpc_header_parse(head, sizeof(head), &h), TTRPC_HEADER_SIZE);
        assert_true(h.length <= sizeof(data));
        assert_int_equal(recv(p->raw_fd, data, h.length, MSG_WAITALL), h.length);
        assert_true(ttrpc_response_parse(data, h.length, &response) >= 0);
        assert_int_equal(response.code, TTRPC_OK);
        *ret = response.payload;
        return true;
}

/* The copied file comes back through a container's output, to somebody who asks for much and reads little at a time: between two
 * reads, others are served. */
static void read_slowly(Pod *p) {
        static const char *const args[] = { BUSYBOX, "cat", "/etc/big", NULL };
        char *bind_options[] = { (char*) "rbind", (char*) "ro" };
        Grpc__ReadStreamRequest q = GRPC__READ_STREAM_REQUEST__INIT;
        uint32_t id = 1;
        size_t done = 0;
        Spec s;

        spec_init(&s, /* netns= */ NULL, "c2", "docker.io/library/busybox", args);
        s.mounts[3].destination = (char*) "/etc/big";
        s.mounts[3].source = (char*) FILE_PATH;
        s.mounts[3].type = (char*) "bind";
        s.mounts[3].options = bind_options;
        s.mounts[3].n_options = ELEMENTSOF(bind_options);
        s.spec.n_mounts = 4;
        start_container(p, &s);

        connect_raw(p);
        q.container_id = (char*) "c2";
        q.len = 1 << 20;
        for (; id < 2 * 64; id += 2)
                send_raw(p, id, "ReadStdout", &q.base);
        for (unsigned n = 0;; n++) {
                _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
                const Grpc__ReadStreamResponse *a;
                TtrpcSlice payload;

                if (n % 8 == 0)
                        check(p);
                assert_true(take_raw(p, &payload));
                assert_true(proto_unpack(&grpc__read_stream_response__descriptor, payload.data, payload.size, &m) >= 0);
                a = (const Grpc__ReadStreamResponse*) m;
                if (a->data.len == 0)
                        break;
                assert_true(a->data.len <= FILE_SIZE - done);
                assert_memory_equal(a->data.data, p->file + done, a->data.len);
                done += a->data.len;
                send_raw(p, id, "ReadStdout", &q.base);
                id += 2;
        }
        assert_int_equal(done, FILE_SIZE);
        p->raw_fd = close_fd(p->raw_fd);        /* with answers on their way */
        remove_container(p, "c2");
}

static void half_close(Pod *p) {
        Grpc__StatsContainerRequest q = GRPC__STATS_CONTAINER_REQUEST__INIT;
        TtrpcSlice payload;
        unsigned n = 0;

        connect_raw(p);
        q.container_id = (char*) "c1";
        for (uint32_t id = 1; id < 2 * 20; id += 2)
                send_raw(p, id, "StatsContainer", &q.base);
        assert_int_equal(shutdown(p->raw_fd, SHUT_WR), 0);
        while (take_raw(p, &payload))
                n++;
        assert_int_equal(n, 20);
        p->raw_fd = close_fd(p->raw_fd);
}

/* Long polls end with what they wait for, and not before. */
static void end_pod(Pod *p, Polls *polls) {
        Grpc__SignalProcessRequest kill_request = GRPC__SIGNAL_PROCESS_REQUEST__INIT;
        Grpc__DestroySandboxRequest destroy = GRPC__DESTROY_SANDBOX_REQUEST__INIT;
        int status;

        assert_int_equal(polls->wait.n_done + polls->output.n_done + polls->oom.n_done, 0);
        kill_request.container_id = (char*) "c1";
        kill_request.signal = SIGKILL;
        must(p, AGENT, "SignalProcess", &kill_request.base, NULL);
        run_until(p, &polls->wait.n_done, N_POLLS);
        run_until(p, &polls->output.n_done, N_POLLS);
        assert_int_equal(polls->wait.n_failed + polls->output.n_failed, 0);
        assert_int_equal(polls->oom.n_done, 0);
        remove_container(p, "c1");

        must(p, AGENT, "DestroySandbox", &destroy.base, NULL);
        run_until(p, &polls->oom.n_done, N_POLLS);
        assert_int_equal(polls->oom.n_failed, N_POLLS);
        status = rig_wait(&p->rig.agent, CALL_USEC / USEC_PER_MSEC);
        assert_int_equal(status, 0);
}

static void a_busy_pod_lives_and_ends_through_the_whole_path(void **state) {
        Polls polls = {};
        Pod *p = *state;

        create_pod(p);
        hold_polls(p, &polls);
        make_many_calls(p);
        read_slowly(p);
        half_close(p);
        end_pod(p, &polls);
}

int main(int argc, char *argv[]) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(a_busy_pod_lives_and_ends_through_the_whole_path, setup, teardown),
        };

        if (argc != 3) {
                fprintf(stderr, "Usage: %s STAND-IN-AGENT PAUSE\n", argv[0]);
                return 2;
        }
        agent_program = argv[1];
        pause_program = argv[2];

        /* What we mount is seen by our children only. */
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE|MS_REC, NULL) < 0) {
                perror("cannot make a mount namespace");
                return 1;
        }
        (void) signal(SIGPIPE, SIG_IGN);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
