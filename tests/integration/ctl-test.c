/* SPDX-License-Identifier: Apache-2.0 */
/* peerpodctl as a process: against a ttrpc server that plays adaptor and agent, and against a bus of its own on which a small
 * service plays the adaptor. What the peer was asked is written to a file as JSON, by the protocol's own descriptors. */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/util.h"
#include "ctl/podvms.h"
#include "proto-json/proto-json.h"
#include "proto/agent.pb-c.h"
#include "proto/health.pb-c.h"
#include "proto/hypervisor.pb-c.h"
#include "proto/podvminfo.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/server.h"

#define TIMEOUT (20 * USEC_PER_SEC)
#define OUTPUT_MAX (8U << 20)

extern char **environ;
static const char *program;

/* ---- the peer: a process of its own -------------------------------------------------------------------------------- */

typedef struct Stream {
        uint8_t *data;
        size_t size;
        bool ended, endless;
        TtrpcCall *reader;
        size_t asked;
} Stream;

typedef struct Process {
        char id[64];
        Stream out, err;
        bool echo, old;         /* old: the end of a stream is an error, as in older agents */
        int32_t status;
        TtrpcCall *waiter;
} Process;

static struct {
        const char *directory;
        Process process;        /* one at a time */
        TtrpcCall *held[16];
        size_t n_held;
} peer;

static void peer_note(const char *service, const char *method, const ProtobufCMessage *m) {
        char path[128];
        json_object *o;
        FILE *f;

        assert(proto_to_json(m, PROTO_JSON_PLAIN, &o) == 0);
        (void) snprintf(path, sizeof(path), "%s/requests", peer.directory);
        f = fopen(path, "ae");
        assert(f);
        fprintf(f, "%s/%s %s\n", service, method, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE));
        (void) fclose(f);
        json_object_put(o);
}

static void stream_serve(Process *p, Stream *s) {
        Grpc__ReadStreamResponse reply = GRPC__READ_STREAM_RESPONSE__INIT;
        static uint8_t flood[4096];
        size_t n = MIN(s->size, s->asked);

        if (!s->reader)
                return;

        if (s->endless && !s->ended) {
                reply.data = (ProtobufCBinaryData) { .data = flood, .len = MIN(sizeof(flood), s->asked) };
                (void) ttrpc_call_reply_message(s->reader, &reply.base);
        } else if (n > 0) {
                reply.data = (ProtobufCBinaryData) { .data = s->data, .len = n };
                (void) ttrpc_call_reply_message(s->reader, &reply.base);
                memmove(s->data, s->data + n, s->size - n);
                s->size -= n;
        } else if (s->ended && p->old)
                (void) ttrpc_call_reply_status(s->reader, TTRPC_INTERNAL, "read meet eof\nStack backtrace:\n  0: <unknown>");
        else if (s->ended)
                (void) ttrpc_call_reply_message(s->reader, &reply.base);
        else
                return;

        s->reader = ttrpc_call_unref(s->reader);
}

static void process_serve(Process *p) {
        stream_serve(p, &p->out);
        stream_serve(p, &p->err);

        /* As the real one: whoever waits too early loses the streams, so the tool must wait last. */
        if (p->waiter && p->out.ended && p->err.ended) {
                Grpc__WaitProcessResponse reply = GRPC__WAIT_PROCESS_RESPONSE__INIT;

                reply.status = p->status;
                (void) ttrpc_call_reply_message(p->waiter, &reply.base);
                p->waiter = ttrpc_call_unref(p->waiter);
                p->id[0] = '\0';
        }
}

static void stream_add(Stream *s, const void *data, size_t size) {
        s->data = realloc(s->data, s->size + size);
        assert(s->data);
        memcpy(s->data + s->size, data, size);
        s->size += size;
}

static void process_end(Process *p, int status) {
        p->status = status;
        p->out.ended = p->err.ended = true;
}

static int peer_exec(TtrpcCall *call, const Grpc__ExecProcessRequest *m) {
        Process *p = &peer.process;
        char **args = m->process->args;
        size_t n = m->process->n_args;

        if (streq(args[0], "refuse"))
                return ttrpc_call_reply_status(call, TTRPC_INVALID_ARGUMENT, "Invalid\x1b[2J container\nid");
        if (streq(args[0], "drop"))
                _exit(0);

        *p = (Process) {};
        (void) snprintf(p->id, sizeof(p->id), "%s", m->exec_id);
        if (streq(args[0], "cat")) {
                p->echo = true;
                p->status = n > 1 ? atoi(args[1]) : 0;
        } else if (streq(args[0], "print") || streq(args[0], "old")) {
                p->old = streq(args[0], "old");
                stream_add(&p->out, args[1], strlen(args[1]));
                stream_add(&p->err, args[2], strlen(args[2]));
                process_end(p, atoi(args[3]));
        } else if (streq(args[0], "flood"))
                p->out.endless = true;

        return ttrpc_call_reply(call, NULL, 0);
}

static int peer_agent(TtrpcCall *call, const char *method, const ProtobufCMessage *m) {
        Process *p = &peer.process;

        if (streq(method, "ExecProcess"))
                return peer_exec(call, (const Grpc__ExecProcessRequest*) m);
        if (streq(method, "ReadStdout") || streq(method, "ReadStderr")) {
                const Grpc__ReadStreamRequest *q = (const Grpc__ReadStreamRequest*) m;
                Stream *s = streq(method, "ReadStdout") ? &p->out : &p->err;

                if (!streq(q->exec_id, p->id))
                        return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "Process not found: %s", q->exec_id);
                s->reader = ttrpc_call_ref(call);
                s->asked = q->len;
                process_serve(p);
                return 0;
        }
        if (streq(method, "WriteStdin")) {
                const Grpc__WriteStreamRequest *q = (const Grpc__WriteStreamRequest*) m;
                Grpc__WriteStreamResponse reply = GRPC__WRITE_STREAM_RESPONSE__INIT;

                reply.len = (uint32_t) MIN(q->data.len, (size_t) 20000);        /* pipes take less, too */
                if (p->echo)
                        stream_add(&p->out, q->data.data, reply.len);
                (void) ttrpc_call_reply_message(call, &reply.base);
                process_serve(p);
                return 0;
        }
        if (streq(method, "CloseStdin") && p->echo)
                process_end(p, p->status);
        if (streq(method, "SignalProcess"))
                process_end(p, 128 + (int) ((const Grpc__SignalProcessRequest*) m)->signal);
        if (streq(method, "WaitProcess")) {
                const Grpc__WaitProcessRequest *q = (const Grpc__WaitProcessRequest*) m;

                if (streq(q->exec_id, p->id))
                        p->waiter = ttrpc_call_ref(call);
                else if (streq(q->exec_id, "three")) {
                        Grpc__WaitProcessResponse reply = GRPC__WAIT_PROCESS_RESPONSE__INIT;

                        reply.status = 3;
                        return ttrpc_call_reply_message(call, &reply.base);
                } else
                        return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "Process not found: %s", q->exec_id);
                process_serve(p);
                return 0;
        }
        if (streq(method, "GetOOMEvent")) {
                Grpc__OOMEvent reply = GRPC__OOMEVENT__INIT;

                reply.container_id = (char*) "hungry";
                return ttrpc_call_reply_message(call, &reply.base);
        }
        if (streq(method, "GetGuestDetails")) {
                Grpc__GuestDetailsResponse reply = GRPC__GUEST_DETAILS_RESPONSE__INIT;
                Grpc__AgentDetails details = GRPC__AGENT_DETAILS__INIT;
                char *handlers[] = { (char*) "ephemeral", (char*) "local" };

                details.version = (char*) "3.30.0";
                details.storage_handlers = handlers;
                details.n_storage_handlers = 2;
                reply.mem_block_size_bytes = 134217728;
                reply.agent_details = &details;
                return ttrpc_call_reply_message(call, &reply.base);
        }

        (void) ttrpc_call_reply(call, NULL, 0);
        process_serve(p);
        return 0;
}

static int peer_hypervisor(TtrpcCall *call, const char *method, const ProtobufCMessage *m) {
        if (streq(method, "Version")) {
                Hypervisor__VersionResponse reply = HYPERVISOR__VERSION_RESPONSE__INIT;

                reply.version = (char*) "0.0.0";
                return ttrpc_call_reply_message(call, &reply.base);
        }
        if (streq(method, "CreateVM")) {
                const Hypervisor__CreateVMRequest *q = (const Hypervisor__CreateVMRequest*) m;
                Hypervisor__CreateVMResponse reply = HYPERVISOR__CREATE_VMRESPONSE__INIT;
                char path[256];

                (void) snprintf(path, sizeof(path), "/run/peerpod/pods/%s/agent.ttrpc", q->id);
                reply.agentsocketpath = path;
                return ttrpc_call_reply_message(call, &reply.base);
        }
        if (streq(method, "StartVM") && streq(((const Hypervisor__StartVMRequest*) m)->id, "slow")) {
                peer.held[peer.n_held++] = ttrpc_call_ref(call);
                return 0;
        }
        if (streq(method, "StopVM") && streq(((const Hypervisor__StopVMRequest*) m)->id, "unknown"))
                return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "no sandbox 'unknown'");

        return ttrpc_call_reply(call, NULL, 0);
}

static int peer_call(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        const ProtobufCServiceDescriptor *service = userdata;
        const ProtobufCMethodDescriptor *method =
                protobuf_c_service_descriptor_get_method_by_name(service, ttrpc_call_get_method(call));
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        int r;

        r = ttrpc_call_unpack(call, method->input, payload, size, &m);
        if (r < 0)
                return r;
        if (!streq(method->name, "ReadStdout") && !streq(method->name, "ReadStderr") && !streq(method->name, "WriteStdin"))
                peer_note(service->name, method->name, m);

        if (service == &grpc__agent_service__descriptor)
                return peer_agent(call, method->name, m);
        if (service == &hypervisor__hypervisor__descriptor)
                return peer_hypervisor(call, method->name, m);
        if (service == &podvminfo__pod_vminfo__descriptor) {
                Podvminfo__GetInfoResponse reply = PODVMINFO__GET_INFO_RESPONSE__INIT;

                reply.vmid = (char*) "i-0123";
                return ttrpc_call_reply_message(call, &reply.base);
        }
        if (streq(method->name, "Check")) {
                Grpc__HealthCheckResponse reply = GRPC__HEALTH_CHECK_RESPONSE__INIT;

                reply.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
                return ttrpc_call_reply_message(call, &reply.base);
        }

        Grpc__VersionCheckResponse reply = GRPC__VERSION_CHECK_RESPONSE__INIT;
        reply.grpc_version = (char*) "0.0.1";
        reply.agent_version = (char*) "3.30.0";
        return ttrpc_call_reply_message(call, &reply.base);
}

static void peer_run(const char *directory, int listen_fd) {
        static const ProtobufCServiceDescriptor *const services[] = {
                &grpc__agent_service__descriptor, &grpc__health__descriptor,
                &hypervisor__hypervisor__descriptor, &podvminfo__pod_vminfo__descriptor,
        };
        static TtrpcMethod methods[ELEMENTSOF(services)][64];
        TtrpcServer *server;
        sd_event *event;

        peer.directory = directory;
        assert(sd_event_new(&event) >= 0);
        assert(ttrpc_server_new(event, &server) >= 0);
        for (size_t i = 0; i < ELEMENTSOF(services); i++) {
                assert(services[i]->n_methods < ELEMENTSOF(methods[i]));
                for (size_t j = 0; j < services[i]->n_methods; j++)
                        methods[i][j] = (TtrpcMethod) { services[i]->methods[j].name, peer_call };
                assert(ttrpc_server_add_service(server, services[i]->name, methods[i], (void*) services[i]) >= 0);
        }
        assert(ttrpc_server_add_listen_fd(server, listen_fd) >= 0);
        (void) sd_event_loop(event);
        _exit(1);
}

/* ---- running the program ------------------------------------------------------------------------------------------- */

typedef struct Fixture {
        char directory[64], socket[96];
        pid_t peer, bus, adaptor;
        char *out, *err;
        size_t out_size;
        int status;
} Fixture;

static pid_t fork_child(void) {
        pid_t pid = fork();

        assert(pid >= 0);
        if (pid == 0)
                assert(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        return pid;
}

static void end_child(pid_t *pid) {
        if (*pid > 0) {
                (void) kill(*pid, SIGKILL);
                (void) waitpid(*pid, NULL, 0);
        }
        *pid = 0;
}

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(*f));
        int fd;

        strcpy(f->directory, "/tmp/peerpodctl-test-XXXXXX");
        assert_non_null(mkdtemp(f->directory));
        (void) snprintf(f->socket, sizeof(f->socket), "%s/peer.sock", f->directory);
        fd = daemon_listen_unix(f->socket);
        assert_true(fd >= 0);
        f->peer = fork_child();
        if (f->peer == 0)
                peer_run(f->directory, fd);
        (void) close(fd);

        /* No bus unless a test has one. */
        assert_int_equal(setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent", 1), 0);
        assert_int_equal(setenv("PODS_DIR", f->directory, 1), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;

        end_child(&f->peer);
        end_child(&f->adaptor);
        end_child(&f->bus);
        (void) remove_tree(f->directory);
        free(f->out);
        free(f->err);
        free(f);
        return 0;
}

static char* read_file(const Fixture *f, const char *name, size_t *ret_size) {
        char path[128], *text = NULL;
        size_t size;

        (void) snprintf(path, sizeof(path), "%s/%s", f->directory, name);
        if (read_full_file_at(AT_FDCWD, path, OUTPUT_MAX, &text, &size) < 0)
                return strdup("");
        if (ret_size)
                *ret_size = size;
        return text;
}

static void write_file(const Fixture *f, const char *name, const void *data, size_t size) {
        char path[128];

        (void) snprintf(path, sizeof(path), "%s/%s", f->directory, name);
        assert_int_equal(write_file_atomic(path, data, size, 0700), 0);
}

/* Starts the program with stdin, and stdout and stderr to files. */
static pid_t start(const Fixture *f, int stdin_fd, int stdout_fd, const char *const *argv) {
        posix_spawn_file_actions_t actions;
        char out[128], err[128];
        pid_t pid;

        (void) snprintf(out, sizeof(out), "%s/out", f->directory);
        (void) snprintf(err, sizeof(err), "%s/err", f->directory);
        assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
        if (stdin_fd >= 0)
                assert_int_equal(posix_spawn_file_actions_adddup2(&actions, stdin_fd, 0), 0);
        else
                assert_int_equal(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0), 0);
        if (stdout_fd >= 0)
                assert_int_equal(posix_spawn_file_actions_adddup2(&actions, stdout_fd, 1), 0);
        else
                assert_int_equal(posix_spawn_file_actions_addopen(&actions, 1, out, O_WRONLY|O_CREAT|O_TRUNC, 0600), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 2, err, O_WRONLY|O_CREAT|O_TRUNC, 0600), 0);
        assert_int_equal(posix_spawn(&pid, program, &actions, NULL, (char *const*) argv, environ), 0);
        posix_spawn_file_actions_destroy(&actions);
        return pid;
}

static void finish(Fixture *f, pid_t pid) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + TIMEOUT;
        int status;

        while (waitpid(pid, &status, WNOHANG) == 0) {
                if (now_usec(CLOCK_MONOTONIC) > end) {
                        (void) kill(pid, SIGKILL);
                        (void) waitpid(pid, &status, 0);
                        fail_msg("the program did not end");
                }
                (void) poll(NULL, 0, 2);
        }

        free(f->out);
        free(f->err);
        f->out = read_file(f, "out", &f->out_size);
        f->err = read_file(f, "err", NULL);
        f->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#define RUN_WITH(f, stdin_fd, ...)                                                                      \
        finish((f), start((f), (stdin_fd), -EBADF, (const char *const[]) { program, __VA_ARGS__, NULL }))
#define RUN(f, ...) RUN_WITH(f, -EBADF, __VA_ARGS__)
#define AGENT(f, ...) RUN(f, "agent", "--socket", (f)->socket, __VA_ARGS__)

#define assert_succeeds(f)                                                                              \
        do {                                                                                            \
                assert_string_equal((f)->err, "");                                                      \
                assert_int_equal((f)->status, 0);                                                       \
        } while (0)

static void wait_for(const Fixture *f, const char *file, const char *text) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + TIMEOUT;

        for (;;) {
                _cleanup_(freep) char *all = read_file(f, file, NULL);

                if (strstr(all, text))
                        return;
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("'%s' has no '%s' but: %s", file, text, all);
                (void) poll(NULL, 0, 2);
        }
}

static void assert_requests(const Fixture *f, const char *expected) {
        _cleanup_(freep) char *all = read_file(f, "requests", NULL);

        assert_string_equal(all, expected);
}

/* ---- hypervisor ---------------------------------------------------------------------------------------------------- */

static void create_vm_sends_the_nine_annotations(void **state) {
        Fixture *f = *state;

        RUN(f, "hypervisor", "create-vm", "-s", f->socket, "sb1", "--netns", "/run/netns/x", "--pod-name=web", "--pod-namespace=demo");
        assert_succeeds(f);
        assert_string_equal(f->out, "/run/peerpod/pods/sb1/agent.ttrpc\n");
        assert_requests(f, "hypervisor.Hypervisor/CreateVM {\"id\":\"sb1\",\"annotations\":{"
                           "\"io.kubernetes.cri.sandbox-name\":\"web\",\"io.kubernetes.cri.sandbox-namespace\":\"demo\","
                           "\"io.katacontainers.config.hypervisor.machine_type\":\"\","
                           "\"io.katacontainers.config.hypervisor.image\":\"\","
                           "\"io.katacontainers.config.hypervisor.default_vcpus\":\"0\","
                           "\"io.katacontainers.config.hypervisor.default_memory\":\"0\","
                           "\"io.katacontainers.config.hypervisor.default_gpus\":\"0\","
                           "\"io.katacontainers.config.hypervisor.default_gpu_model\":\"\","
                           "\"io.katacontainers.config.hypervisor.cc_init_data\":\"\"},"
                           "\"networkNamespacePath\":\"/run/netns/x\"}\n");
}

static void create_vm_sends_what_it_is_told(void **state) {
        Fixture *f = *state;
        char initdata[128];

        write_file(f, "initdata", "version = \"0.1.0\"\n", 18);
        (void) snprintf(initdata, sizeof(initdata), "%s/initdata", f->directory);
        RUN(f, "hypervisor", "create-vm", "-s", f->socket, "sb1", "--netns=/n", "--pod-name=web", "--pod-namespace=demo", "--cpus=2",
            "--memory=4096", "--gpus=1", "--gpu-model=h100", "--machine-type=big", "--image=ours", "--initdata", initdata,
            "-a", "io.katacontainers.config.hypervisor.default_vcpus=1.5", "-a", "more=a=b", "--json");
        assert_succeeds(f);
        assert_string_equal(f->out, "{\n  \"agentSocketPath\": \"/run/peerpod/pods/sb1/agent.ttrpc\"\n}\n");
        assert_requests(f, "hypervisor.Hypervisor/CreateVM {\"id\":\"sb1\",\"annotations\":{"
                           "\"io.kubernetes.cri.sandbox-name\":\"web\",\"io.kubernetes.cri.sandbox-namespace\":\"demo\","
                           "\"io.katacontainers.config.hypervisor.machine_type\":\"big\","
                           "\"io.katacontainers.config.hypervisor.image\":\"ours\","
                           "\"io.katacontainers.config.hypervisor.default_vcpus\":\"1.5\","
                           "\"io.katacontainers.config.hypervisor.default_memory\":\"4096\","
                           "\"io.katacontainers.config.hypervisor.default_gpus\":\"1\","
                           "\"io.katacontainers.config.hypervisor.default_gpu_model\":\"h100\","
                           "\"io.katacontainers.config.hypervisor.cc_init_data\":\"version = \\\"0.1.0\\\"\\n\","
                           "\"more\":\"a=b\"},\"networkNamespacePath\":\"/n\"}\n");
}

static void create_vm_needs_pod_and_netns(void **state) {
        Fixture *f = *state;

        RUN(f, "hypervisor", "create-vm", "-s", f->socket, "sb1", "--netns=/n", "--pod-name=web");
        assert_int_equal(f->status, 2);
        assert_string_equal(f->err, "peerpodctl: hypervisor create-vm needs --netns=, --pod-name= and --pod-namespace=\n");
        assert_requests(f, "");
}

static void errors_say_the_call_the_code_and_the_text(void **state) {
        Fixture *f = *state;

        RUN(f, "hypervisor", "stop-vm", "-s", f->socket, "unknown");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: hypervisor.Hypervisor/StopVM: NOT_FOUND: no sandbox 'unknown'\n");

        AGENT(f, "exec", "web", "refuse");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: grpc.AgentService/ExecProcess: INVALID_ARGUMENT: Invalid\\x1b[2J container\nid\n");

        RUN(f, "hypervisor", "version", "-s/nonexistent/socket");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: Cannot connect to '/nonexistent/socket': No such file or directory\n");
}

static void a_time_limit_ends_a_call(void **state) {
        Fixture *f = *state;

        RUN(f, "hypervisor", "start-vm", "-s", f->socket, "slow", "--timeout=50ms");
        assert_int_equal(f->status, 1);
        assert_non_null(strstr(f->err, "peerpodctl: hypervisor.Hypervisor/StartVM: DEADLINE_EXCEEDED: "));
}

static void short_answers_stand_alone(void **state) {
        Fixture *f = *state;

        RUN(f, "hypervisor", "version", "-s", f->socket);
        assert_succeeds(f);
        assert_string_equal(f->out, "0.0.0\n");
        RUN(f, "info", "demo", "web", "--wait", "-s", f->socket);
        assert_succeeds(f);
        assert_string_equal(f->out, "i-0123\n");
        AGENT(f, "oom");
        assert_succeeds(f);
        assert_string_equal(f->out, "hungry\n");
        assert_requests(f, "hypervisor.Hypervisor/Version {\"version\":\"\"}\n"
                           "podvminfo.PodVMInfo/GetInfo {\"PodName\":\"web\",\"PodNamespace\":\"demo\",\"Wait\":true}\n"
                           "grpc.AgentService/GetOOMEvent {}\n");
}

/* ---- agent --------------------------------------------------------------------------------------------------------- */

static void answers_are_lines_or_json(void **state) {
        Fixture *f = *state;

        AGENT(f, "check");
        assert_succeeds(f);
        assert_string_equal(f->out, "            status: SERVING\n");
        AGENT(f, "guest-details");
        assert_succeeds(f);
        assert_string_equal(f->out, "mem_block_size_bytes: 134217728\n"
                                    "agent_details.version: 3.30.0\n"
                                    "agent_details.storage_handlers[0]: ephemeral\n"
                                    "agent_details.storage_handlers[1]: local\n");
        AGENT(f, "version", "--json");
        assert_succeeds(f);
        assert_string_equal(f->out, "{\n  \"grpc_version\": \"0.0.1\",\n  \"agent_version\": \"3.30.0\"\n}\n");
}

static void a_pod_s_life_by_hand(void **state) {
        Fixture *f = *state;
        _cleanup_(freep) char *requests = NULL;

        AGENT(f, "create-sandbox", "sb1", "--hostname=web", "--dns=nameserver 10.0.0.1");
        assert_succeeds(f);
        AGENT(f, "create-container", "web", "--rootfs=/srv", "--", "sleep", "-1");
        assert_succeeds(f);
        AGENT(f, "start-container", "web");
        assert_succeeds(f);
        AGENT(f, "wait", "web", "three");
        assert_int_equal(f->status, 3);
        assert_string_equal(f->err, "");
        AGENT(f, "signal", "web", "TERM");
        assert_succeeds(f);
        AGENT(f, "signal", "web", "SIGKILL", "--all");
        assert_succeeds(f);
        AGENT(f, "resize-tty", "web", "24", "80");
        assert_succeeds(f);
        AGENT(f, "stats", "web");
        assert_succeeds(f);
        AGENT(f, "remove-container", "web");
        assert_succeeds(f);
        AGENT(f, "destroy-sandbox");
        assert_succeeds(f);

        requests = read_file(f, "requests", NULL);
        assert_non_null(strstr(requests, "CreateSandbox {\"hostname\":\"web\",\"dns\":[\"nameserver 10.0.0.1\"],\"storages\":[{\"driver\":\"ephemeral\","));
        assert_non_null(strstr(requests, "\"sandbox_id\":\"sb1\""));
        assert_non_null(strstr(requests, "CreateContainer {\"container_id\":\"web\",\"exec_id\":\"web\","));
        assert_non_null(strstr(requests, "\"Args\":[\"sleep\",\"-1\"]"));
        assert_non_null(strstr(requests, "StartContainer {\"container_id\":\"web\"}"));
        assert_non_null(strstr(requests, "SignalProcess {\"container_id\":\"web\",\"exec_id\":\"web\",\"signal\":15}"));
        assert_non_null(strstr(requests, "SignalProcess {\"container_id\":\"web\",\"exec_id\":\"\",\"signal\":9}"));
        assert_non_null(strstr(requests, "TtyWinResize {\"container_id\":\"web\",\"exec_id\":\"web\",\"row\":24,\"column\":80}"));
        assert_non_null(strstr(requests, "RemoveContainer {\"container_id\":\"web\",\"timeout\":0}"));
        assert_non_null(strstr(requests, "DestroySandbox {}"));
}

static void exec_gives_both_streams_and_the_status(void **state) {
        Fixture *f = *state;

        AGENT(f, "exec", "web", "--", "print", "to stdout", "to stderr", "42");
        assert_int_equal(f->status, 42);
        assert_string_equal(f->out, "to stdout");
        assert_string_equal(f->err, "to stderr");
}

static void exec_knows_the_end_of_a_stream_of_older_agents(void **state) {
        Fixture *f = *state;

        AGENT(f, "exec", "web", "--", "old", "out", "err", "0");
        assert_int_equal(f->status, 0);
        assert_string_equal(f->out, "out");
        assert_string_equal(f->err, "err");
}

static void exec_without_stdin_ends_it(void **state) {
        Fixture *f = *state;

        AGENT(f, "exec", "web", "--exec=e1", "--", "cat", "7");
        assert_int_equal(f->status, 7);
        assert_string_equal(f->out, "");
}

static uint8_t* pattern(size_t size) {
        uint8_t *data = malloc(size);
        uint32_t x = 1;

        for (size_t i = 0; i < size; i++) {
                x = x * 1664525 + 1013904223;
                data[i] = (uint8_t) (x >> 24);
        }
        return data;
}

static void exec_echoes(Fixture *f, bool by_pipe) {
        size_t size = 3U << 20;
        _cleanup_(freep) uint8_t *data = pattern(size);
        char path[128];
        int fd = -EBADF, pipe_fds[2];
        pid_t writer = 0;

        if (by_pipe) {
                assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
                writer = fork_child();
                if (writer == 0) {
                        (void) close(pipe_fds[0]);
                        (void) write_full(pipe_fds[1], data, size);
                        _exit(0);
                }
                (void) close(pipe_fds[1]);
                fd = pipe_fds[0];
        } else {
                write_file(f, "in", data, size);
                (void) snprintf(path, sizeof(path), "%s/in", f->directory);
                fd = open(path, O_RDONLY|O_CLOEXEC);
        }

        RUN_WITH(f, fd, "agent", "--socket", f->socket, "exec", "-i", "web", "--", "cat", "5");
        (void) close(fd);
        end_child(&writer);
        assert_string_equal(f->err, "");
        assert_int_equal(f->status, 5);
        assert_int_equal(f->out_size, size);
        assert_memory_equal(f->out, data, size);
}

static void exec_echoes_three_megabytes_of_a_file(void **state) {
        exec_echoes(*state, /* by_pipe= */ false);
}

static void exec_echoes_three_megabytes_of_a_pipe(void **state) {
        exec_echoes(*state, /* by_pipe= */ true);
}

static void exec_hands_signals_on(void **state) {
        Fixture *f = *state;
        pid_t pid = start(f, -EBADF, -EBADF, (const char *const[]) { program, "agent", "-s", f->socket, "exec", "web", "--", "hang", NULL });

        wait_for(f, "requests", "CloseStdin");
        assert_int_equal(kill(pid, SIGTERM), 0);
        finish(f, pid);
        assert_int_equal(f->status, 128 + SIGTERM);
        assert_string_equal(f->err, "");
        wait_for(f, "requests", "\"signal\":15}");
}

static void exec_kills_what_takes_too_long(void **state) {
        Fixture *f = *state;

        AGENT(f, "exec", "web", "--timeout=100ms", "--", "hang");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: The process did not end within 100ms and is killed\n");
        wait_for(f, "requests", "\"signal\":9}");
}

static void exec_passes_a_closed_stdout_on(void **state) {
        Fixture *f = *state;
        char byte;
        int fds[2];
        pid_t pid;

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        pid = start(f, -EBADF, fds[1], (const char *const[]) { program, "agent", "-s", f->socket, "exec", "web", "--", "flood", NULL });
        (void) close(fds[1]);
        assert_int_equal(read(fds[0], &byte, 1), 1);
        (void) close(fds[0]);
        finish(f, pid);
        assert_int_equal(f->status, 128 + SIGPIPE);
        assert_string_equal(f->err, "");
}

static void exec_tells_a_lost_connection(void **state) {
        Fixture *f = *state;

        AGENT(f, "exec", "web", "--", "drop");
        assert_int_equal(f->status, 1);
        assert_non_null(strstr(f->err, "peerpodctl: grpc.AgentService/ExecProcess: UNAVAILABLE: "));
}

static void exec_with_a_terminal_has_its_size(void **state) {
        Fixture *f = *state;
        struct winsize size = { .ws_row = 33, .ws_col = 101 };
        char text[64] = "";
        int controller, terminal;
        pid_t pid;

        assert_int_equal(openpty(&controller, &terminal, NULL, NULL, &size), 0);
        pid = start(f, terminal, terminal, (const char *const[]) { program, "agent", "-s", f->socket, "exec", "-it", "web", "--", "cat", NULL });
        wait_for(f, "requests", "TtyWinResize");
        wait_for(f, "requests", "\"row\":33,\"column\":101}");
        assert_int_equal(write(controller, "x\x03", 2), 2);    /* raw: ^C goes through */
        for (size_t n = 0; n < 2;) {
                ssize_t k = read(controller, text + n, 2 - n);

                assert_true(k > 0);
                n += (size_t) k;
        }
        assert_string_equal(text, "x\x03");
        assert_int_equal(kill(pid, SIGTERM), 0);
        finish(f, pid);
        assert_int_equal(f->status, 128 + SIGTERM);

        struct termios t;
        assert_int_equal(tcgetattr(terminal, &t), 0);
        assert_true(t.c_lflag & ECHO);          /* the terminal is as it was */
        (void) close(terminal);
        (void) close(controller);
}

static void files_are_copied_in_pieces_of_one_megabyte(void **state) {
        Fixture *f = *state;
        size_t size = (2U << 20) + 5;
        _cleanup_(freep) uint8_t *data = pattern(size);
        _cleanup_(freep) char *requests = NULL;
        char path[128];
        unsigned n = 0;

        write_file(f, "in", data, size);
        (void) snprintf(path, sizeof(path), "%s/in", f->directory);
        AGENT(f, "copy-file", path, "web/resolv.conf");
        assert_succeeds(f);

        requests = read_file(f, "requests", NULL);
        for (const char *p = requests; (p = strstr(p, "CopyFile ")); p++)
                n++;
        assert_int_equal(n, 3);
        assert_non_null(strstr(requests, "CopyFile {\"path\":\"/run/kata-containers/shared/containers/web/resolv.conf\","
                                         "\"file_size\":2097157,\"file_mode\":33216,\"dir_mode\":488,"));
        assert_non_null(strstr(requests, "\"offset\":2097152,\"data\":\""));
}

static void an_empty_file_and_a_symlink_are_one_piece(void **state) {
        Fixture *f = *state;
        char path[128], link[128];

        write_file(f, "empty", "", 0);
        (void) snprintf(path, sizeof(path), "%s/empty", f->directory);
        (void) snprintf(link, sizeof(link), "%s/link", f->directory);
        assert_int_equal(symlink("../x", link), 0);
        AGENT(f, "copy-file", path, "/a");
        assert_succeeds(f);
        AGENT(f, "copy-file", link, "/b");
        assert_succeeds(f);
        wait_for(f, "requests", "\"path\":\"/a\",\"file_size\":0,");
        wait_for(f, "requests", "\"path\":\"/b\",\"file_size\":4,\"file_mode\":41471,");
        wait_for(f, "requests", "\"data\":\"Li4veA==\"");       /* "../x" */
}

static void call_makes_any_method(void **state) {
        Fixture *f = *state;

        AGENT(f, "call", "AgentService", "PauseContainer", "{\"container_id\":\"web\"}");
        assert_succeeds(f);
        AGENT(f, "call", "grpc.AgentService", "ResumeContainer", "--hex=0a03776562");
        assert_succeeds(f);
        assert_requests(f, "grpc.AgentService/PauseContainer {\"container_id\":\"web\"}\n"
                           "grpc.AgentService/ResumeContainer {\"container_id\":\"web\"}\n");

        AGENT(f, "call", "grpc.Health", "Check", "--raw");
        assert_succeeds(f);
        assert_int_equal(f->out_size, 2);
        assert_memory_equal(f->out, "\x08\x01", 2);

        AGENT(f, "call", "some.Service", "Method", "--hex=00");
        assert_int_equal(f->status, 1);
        assert_non_null(strstr(f->err, "peerpodctl: some.Service/Method: UNIMPLEMENTED: "));

        AGENT(f, "call", "some.Service", "Method", "{}");
        assert_int_equal(f->status, 2);
        AGENT(f, "call", "AgentService", "PauseContainer", "{\"cid\":\"web\"}");
        assert_int_equal(f->status, 2);
        assert_string_equal(f->err, "peerpodctl: cid: PauseContainerRequest has no such field\n");
}

static void the_agent_is_found_without_the_adaptor(void **state) {
        Fixture *f = *state;
        char directory[128], link[160];

        (void) snprintf(directory, sizeof(directory), "%s/sandbox-1", f->directory);
        (void) snprintf(link, sizeof(link), "%s/agent.ttrpc", directory);
        assert_int_equal(mkdir(directory, 0700), 0);
        assert_int_equal(symlink(f->socket, link), 0);

        RUN(f, "agent", "sand", "check");
        assert_succeeds(f);
        RUN(f, "agent", "other", "check");
        assert_int_equal(f->status, 1);
        assert_non_null(strstr(f->err, "There is no sandbox 'other', neither on the bus nor in "));
}

/* ---- bus ----------------------------------------------------------------------------------------------------------- */

#define SANDBOX_A "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"
#define SANDBOX_B "ffff"

typedef struct PodVM {
        char *id, *pod_namespace, *pod_name, *state, *instance_id, *agent_socket, *last_error;
        char **addresses;
        uint32_t tunnel_id;
        uint64_t created, running;
        char *path;
        sd_bus_slot *slot;
} PodVM;

static struct {
        sd_bus *bus;
        PodVM vms[2];
        PodVM *stopping;
} adaptor;

#define TEXT(name, field) SD_BUS_PROPERTY(name, "s", NULL, offsetof(PodVM, field), SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE)

static const sd_bus_vtable podvm_vtable[] = {
        SD_BUS_VTABLE_START(0),
        TEXT("SandboxId", id),
        TEXT("PodNamespace", pod_namespace),
        TEXT("PodName", pod_name),
        TEXT("State", state),
        TEXT("InstanceId", instance_id),
        TEXT("AgentSocket", agent_socket),
        TEXT("LastError", last_error),
        SD_BUS_PROPERTY("Addresses", "as", NULL, offsetof(PodVM, addresses), 0),
        SD_BUS_PROPERTY("TunnelId", "u", NULL, offsetof(PodVM, tunnel_id), 0),
        SD_BUS_PROPERTY("CreatedTimestamp", "t", NULL, offsetof(PodVM, created), 0),
        SD_BUS_PROPERTY("RunningTimestamp", "t", NULL, offsetof(PodVM, running), 0),
        SD_BUS_VTABLE_END
};

static int on_gone(sd_event_source *source, uint64_t usec, void *userdata) {
        PodVM *vm = adaptor.stopping;

        sd_event_source_unref(source);
        assert(sd_bus_emit_object_removed(adaptor.bus, vm->path) >= 0);
        vm->slot = sd_bus_slot_unref(vm->slot);
        assert(sd_bus_emit_signal(adaptor.bus, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, "PodVMRemoved", "so", vm->id, vm->path) >= 0);
        return 0;
}

static int method_stop(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        sd_event_source *timer = NULL;
        const char *id;

        assert(sd_bus_message_read(m, "s", &id) >= 0);
        if (streq(id, SANDBOX_B))
                return sd_bus_error_set(error, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, "Not today.");
        if (sd_bus_message_get_allow_interactive_authorization(m) <= 0)
                return sd_bus_error_set(error, SD_BUS_ERROR_ACCESS_DENIED, "Nobody may be asked.");

        adaptor.stopping = &adaptor.vms[0];
        assert(sd_event_add_time_relative(sd_bus_get_event(adaptor.bus), &timer, CLOCK_MONOTONIC, 50 * USEC_PER_MSEC, 0, on_gone, NULL) >= 0);
        return sd_bus_reply_method_return(m, NULL);
}

static const sd_bus_vtable manager_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("StopPodVM", "s", NULL, method_stop, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL("PodVMRemoved", "so", 0),
        SD_BUS_VTABLE_END
};

static void adaptor_run(const char *socket, int ready_fd) {
        static char *addresses[] = { (char*) "10.89.0.7", (char*) "fd00::7", NULL }, *none[] = { NULL };
        uint64_t now = now_usec(CLOCK_REALTIME);
        sd_event *event;

        adaptor.vms[0] = (PodVM) {
                .id = (char*) SANDBOX_A, .pod_namespace = (char*) "demo", .pod_name = (char*) "web", .state = (char*) "running",
                .instance_id = (char*) "i-0123", .agent_socket = (char*) socket, .last_error = (char*) "", .addresses = addresses,
                .tunnel_id = 555000, .created = now - 23400 * USEC_PER_SEC, .running = now - 23378 * USEC_PER_SEC,
        };
        adaptor.vms[1] = (PodVM) {
                .id = (char*) SANDBOX_B, .pod_namespace = (char*) "demo", .pod_name = (char*) "db", .state = (char*) "creating",
                .instance_id = (char*) "", .agent_socket = (char*) "", .last_error = (char*) "quota\x1b[1m exceeded", .addresses = none,
                .created = now - 19800 * USEC_PER_SEC,
        };

        assert(sd_event_new(&event) >= 0);
        assert(sd_bus_open_system(&adaptor.bus) >= 0);
        assert(sd_bus_add_object_manager(adaptor.bus, NULL, PEERPOD_BUS_PATH) >= 0);
        assert(sd_bus_add_object_vtable(adaptor.bus, NULL, PEERPOD_BUS_PATH, PEERPOD_MANAGER_INTERFACE, manager_vtable, NULL) >= 0);
        for (size_t i = 0; i < ELEMENTSOF(adaptor.vms); i++) {
                PodVM *vm = &adaptor.vms[i];

                assert(sd_bus_path_encode(PEERPOD_BUS_PATH "/podvm", vm->id, &vm->path) >= 0);
                assert(sd_bus_add_object_vtable(adaptor.bus, &vm->slot, vm->path, PEERPOD_PODVM_INTERFACE, podvm_vtable, vm) >= 0);
        }
        assert(sd_bus_request_name(adaptor.bus, PEERPOD_BUS_NAME, 0) >= 0);
        assert(sd_bus_attach_event(adaptor.bus, event, 0) >= 0);
        assert(write_full(ready_fd, "x", 1) == 0);
        (void) sd_event_loop(event);
        _exit(1);
}

static void await_ready(int fds[2]) {
        char byte;

        (void) close(fds[1]);
        assert_int_equal(read(fds[0], &byte, 1), 1);
        (void) close(fds[0]);
}

static int set_up_bus(void **state) {
        char config[1024], path[128], address[160], print[16];
        Fixture *f;
        int fds[2];

        assert_int_equal(set_up(state), 0);
        f = *state;

        (void) snprintf(config, sizeof(config),
                        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" "
                        "\"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\"><busconfig><type>custom</type>"
                        "<listen>unix:path=%s/bus</listen><policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>"
                        "<allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>", f->directory);
        write_file(f, "bus.conf", config, strlen(config));
        (void) snprintf(path, sizeof(path), "--config-file=%s/bus.conf", f->directory);
        (void) snprintf(address, sizeof(address), "unix:path=%s/bus", f->directory);
        assert_int_equal(setenv("DBUS_SYSTEM_BUS_ADDRESS", address, 1), 0);

        assert_int_equal(pipe(fds), 0);
        f->bus = fork_child();
        if (f->bus == 0) {
                (void) close(fds[0]);
                (void) snprintf(print, sizeof(print), "%d", fds[1]);
                (void) snprintf(config, sizeof(config), "%s/bus.log", f->directory);
                (void) dup2(open(config, O_WRONLY|O_CREAT|O_CLOEXEC, 0600), STDERR_FILENO);
                (void) execlp("dbus-daemon", "dbus-daemon", path, "--nofork", "--print-address", print, NULL);
                _exit(1);
        }
        await_ready(fds);

        assert_int_equal(pipe(fds), 0);
        f->adaptor = fork_child();
        if (f->adaptor == 0) {
                (void) close(fds[0]);
                adaptor_run(f->socket, fds[1]);
        }
        await_ready(fds);
        return 0;
}

static void list_is_a_table_or_json(void **state) {
        Fixture *f = *state;
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *vm;

        RUN(f, "list");
        assert_succeeds(f);
        assert_string_equal(f->out, "SANDBOX        NAMESPACE  POD  STATE     INSTANCE  ADDRESS    AGE\n"
                                    "0a1b2c3d4e5f6  demo       web  running   i-0123    10.89.0.7  6h\n"
                                    "ffff           demo       db   creating  -         -          5h\n");

        RUN(f, "--full");
        assert_non_null(strstr(f->out, SANDBOX_A "  demo"));

        RUN(f, "list", "--json");
        assert_succeeds(f);
        o = json_tokener_parse(f->out);
        assert_int_equal(json_object_array_length(o), 2);
        vm = json_object_array_get_idx(o, 0);
        assert_string_equal(podvm_text(vm, "SandboxId"), SANDBOX_A);
        assert_string_equal(podvm_text(vm, "Path"), PEERPOD_BUS_PATH "/podvm/_30a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9");
        assert_string_equal(json_object_to_json_string_ext(json_object_object_get(vm, "Addresses"), JSON_C_TO_STRING_PLAIN),
                            "[\"10.89.0.7\",\"fd00::7\"]");
        assert_int_equal(json_object_get_int64(json_object_object_get(vm, "TunnelId")), 555000);
}

static void status_shows_all(void **state) {
        Fixture *f = *state;

        RUN(f, "status", "0a1b");
        assert_succeeds(f);
        assert_non_null(strstr(f->out, "           Sandbox: " SANDBOX_A "\n"));
        assert_non_null(strstr(f->out, "         Addresses: 10.89.0.7\n                  : fd00::7\n"));
        assert_non_null(strstr(f->out, " UTC (6h ago, 22.000s after the state before)\n"));
        assert_null(strstr(f->out, "Last error"));

        RUN(f, "status", SANDBOX_B);
        assert_succeeds(f);
        assert_non_null(strstr(f->out, "        Last error: quota\\x1b[1m exceeded\n"));

        RUN(f, "status", "nobody");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: There is no sandbox 'nobody'\n");
}

static void stop_waits_until_it_is_gone(void **state) {
        Fixture *f = *state;

        RUN(f, "stop", "0a", "--wait");
        assert_succeeds(f);
        RUN(f, "list");
        assert_null(strstr(f->out, "0a1b"));
}

static void stop_tells_why_it_was_refused(void **state) {
        Fixture *f = *state;

        RUN(f, "stop", SANDBOX_B);
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: Cannot stop sandbox 'ffff': Not today.\n");
        RUN(f, "stop", "0a", "--no-ask-password");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: Cannot stop sandbox '" SANDBOX_A "': Nobody may be asked.\n");
}

static void stop_gives_up_waiting(void **state) {
        Fixture *f = *state;
        pid_t pid;

        assert_int_equal(kill(f->bus, 0), 0);
        pid = start(f, -EBADF, -EBADF, (const char *const[]) { program, "stop", "0a", "--wait", "--timeout=20ms", NULL });
        finish(f, pid);
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: Sandbox '" SANDBOX_A "' is still being deleted, 'peerpodctl status' tells the last error\n");
}

static void agent_socket_comes_from_the_bus(void **state) {
        Fixture *f = *state;

        RUN(f, "agent", "0a", "check");
        assert_succeeds(f);
        RUN(f, "agent", "0a", "create-sandbox");
        assert_succeeds(f);
        RUN(f, "agent", "ffff", "check");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: Sandbox 'ffff' is creating and has no agent socket\n");
        wait_for(f, "requests", "\"sandbox_id\":\"" SANDBOX_A "\"");
}

static void log_runs_journalctl(void **state) {
        static const char script[] = "#!/bin/sh\nfor a; do echo \"[$a]\"; done\n";
        const char *old = getenv("PATH");
        _cleanup_(freep) char *path = NULL;
        Fixture *f = *state;

        write_file(f, "journalctl", script, strlen(script));
        assert_true(asprintf(&path, "%s:%s", f->directory, old) > 0);
        _cleanup_(freep) char *saved = strdup(old);

        assert_int_equal(setenv("PATH", path, 1), 0);
        RUN(f, "log", "0a", "-n", "5", "--json");
        assert_succeeds(f);
        assert_string_equal(f->out, "[PEERPOD_SANDBOX_ID=" SANDBOX_A "]\n[-n]\n[5]\n[--json]\n");
        RUN(f, "log", "gone-1");
        assert_string_equal(f->out, "[PEERPOD_SANDBOX_ID=gone-1]\n");
        RUN(f, "log", "a b");
        assert_int_equal(f->status, 2);
        assert_int_equal(setenv("PATH", saved, 1), 0);
}

static void an_adaptor_that_is_not_there_is_named(void **state) {
        Fixture *f = *state;

        end_child(&f->adaptor);
        RUN(f, "list");
        assert_int_equal(f->status, 1);
        assert_string_equal(f->err, "peerpodctl: peerpod-adaptor is not on the bus, is peerpod-adaptor.service running?\n");
        end_child(&f->bus);
        RUN(f, "list");
        assert_int_equal(f->status, 1);
        assert_non_null(startswith(f->err, "peerpodctl: Cannot connect to the system bus: "));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
#define BUS_TEST(function) cmocka_unit_test_setup_teardown(function, set_up_bus, tear_down)

int main(int argc, char *argv[]) {
        static const struct CMUnitTest tests[] = {
                TEST(create_vm_sends_the_nine_annotations),
                TEST(create_vm_sends_what_it_is_told),
                TEST(create_vm_needs_pod_and_netns),
                TEST(errors_say_the_call_the_code_and_the_text),
                TEST(a_time_limit_ends_a_call),
                TEST(short_answers_stand_alone),
                TEST(answers_are_lines_or_json),
                TEST(a_pod_s_life_by_hand),
                TEST(exec_gives_both_streams_and_the_status),
                TEST(exec_knows_the_end_of_a_stream_of_older_agents),
                TEST(exec_without_stdin_ends_it),
                TEST(exec_echoes_three_megabytes_of_a_file),
                TEST(exec_echoes_three_megabytes_of_a_pipe),
                TEST(exec_hands_signals_on),
                TEST(exec_kills_what_takes_too_long),
                TEST(exec_passes_a_closed_stdout_on),
                TEST(exec_tells_a_lost_connection),
                TEST(exec_with_a_terminal_has_its_size),
                TEST(files_are_copied_in_pieces_of_one_megabyte),
                TEST(an_empty_file_and_a_symlink_are_one_piece),
                TEST(call_makes_any_method),
                TEST(the_agent_is_found_without_the_adaptor),
                BUS_TEST(list_is_a_table_or_json),
                BUS_TEST(status_shows_all),
                BUS_TEST(stop_waits_until_it_is_gone),
                BUS_TEST(stop_tells_why_it_was_refused),
                BUS_TEST(stop_gives_up_waiting),
                BUS_TEST(agent_socket_comes_from_the_bus),
                BUS_TEST(log_runs_journalctl),
                BUS_TEST(an_adaptor_that_is_not_there_is_named),
        };

        if (argc != 2) {
                fprintf(stderr, "Usage: %s PEERPODCTL\n", argv[0]);
                return 2;
        }

        program = argv[1];
        return cmocka_run_group_tests_name("peerpodctl", tests, NULL, NULL);
}
