/* SPDX-License-Identifier: Apache-2.0 */
/* agent …: one call to the agent of a sandbox each. */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/main-func.h"
#include "basic/parse.h"
#include "basic/text.h"
#include "ctl/agent.h"
#include "ctl/container-request.h"
#include "ctl/podvms.h"
#include "proto-json/proto-json.h"

#define BUS_TIMEOUT_USEC (5 * USEC_PER_SEC)     /* the adaptor is asked for a path only */
#define SHARED_DIRECTORY "/run/kata-containers/shared/containers/"      /* the agent writes no file elsewhere */

int agent_connect(const CommandLine *line, sd_event *event, TtrpcClient **ret, char **ret_id) {
        _cleanup_(freep) char *path = NULL, *id = NULL, *error = NULL;
        int r;

        if (!arguments(line)->socket) {
                r = podvm_agent_socket(line->target, BUS_TIMEOUT_USEC, &path, &id, &error);
                if (r < 0)
                        return error ? complain("%s", error) : r;
        }

        r = rpc_connect(event, path ?: arguments(line)->socket, ret);
        if (r != 0)
                return r;

        if (ret_id)
                *ret_id = TAKE_PTR(id);
        return 0;
}

static int call_service(const CommandLine *line, const ProtobufCServiceDescriptor *service, const char *method,
                        const ProtobufCMessage *request, ProtobufCMessage **ret) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        int r;

        r = agent_connect(line, /* event= */ NULL, &client, /* ret_id= */ NULL);
        if (r != 0)
                return r;

        return rpc_call(client, service, method, request, command_timeout(line), ret);
}

static int call_agent(const CommandLine *line, const char *method, const ProtobufCMessage *request, ProtobufCMessage **ret) {
        return call_service(line, &grpc__agent_service__descriptor, method, request, ret);
}

/* "agent start-container" is StartContainer, and so on: where a command has the method's name, this is the link. */
static const char* method_of_command(const CommandLine *line, char *buffer, size_t size) {
        const char *p = strchr(line->command->name, ' ');
        bool upper = true;
        size_t n = 0;

        assert(p);
        for (p++; *p; p++)
                if (*p == '-')
                        upper = true;
                else if (n + 1 < size) {
                        buffer[n++] = upper ? (char) (*p - 'a' + 'A') : *p;
                        upper = false;
                }
        buffer[n] = '\0';

        return buffer;
}

/* CID [EXEC]; the container's first process has the container's id. */
static char* exec_id_of(const CommandLine *line, size_t position) {
        const char *option = arguments(line)->exec_id;

        return line->n_words > position ? line->words[position] : option ? (char*) option : line->words[0];
}

int command_agent_check(const CommandLine *line) {
        Grpc__CheckRequest request = GRPC__CHECK_REQUEST__INIT;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        int r;

        r = call_service(line, &grpc__health__descriptor, "Check", &request.base, &reply);
        if (r == 0)
                r = rpc_print(reply, arguments(line)->json);
        if (r != 0)
                return r;

        return ((Grpc__HealthCheckResponse*) reply)->status == GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING ?
                0 : EXIT_FAILURE;
}

static int call_and_print(const CommandLine *line, const ProtobufCServiceDescriptor *service, const char *method,
                          const ProtobufCMessage *request) {
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        int r;

        r = call_service(line, service, method, request, &reply);
        return r != 0 ? r : rpc_print(reply, arguments(line)->json);
}

int command_agent_version(const CommandLine *line) {
        Grpc__CheckRequest request = GRPC__CHECK_REQUEST__INIT;

        return call_and_print(line, &grpc__health__descriptor, "Version", &request.base);
}

int command_agent_guest_details(const CommandLine *line) {
        Grpc__GuestDetailsRequest request = GRPC__GUEST_DETAILS_REQUEST__INIT;

        request.mem_block_size = true;  /* as Kata's runtime asks */
        request.mem_hotplug_probe = true;
        return call_and_print(line, &grpc__agent_service__descriptor, "GetGuestDetails", &request.base);
}

static int write_stdout(const void *data, size_t size) {
        int r;

        r = write_full(STDOUT_FILENO, data, size);
        if (r < 0)
                return complain("Cannot write to standard output: %s", strerror(-r));

        return 0;
}

int command_agent_metrics(const CommandLine *line) {
        Grpc__GetMetricsRequest request = GRPC__GET_METRICS_REQUEST__INIT;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        int r;

        r = call_agent(line, "GetMetrics", &request.base, &reply);
        if (r != 0)
                return r;
        if (arguments(line)->json)
                return rpc_print(reply, /* json= */ true);

        const char *text = ((Grpc__Metrics*) reply)->metrics;   /* Prometheus' text form, for a program as it is */
        return write_stdout(text, strlen(text));
}

/* What Kata's runtime sends for a remote pod VM (kata-containers: src/runtime/virtcontainers/kata_agent.go, startSandbox). */
int command_agent_create_sandbox(const CommandLine *line) {
        static char *shm_options[] = { (char*) "noexec", (char*) "nosuid", (char*) "nodev", (char*) "mode=1777",
                                       (char*) "size=67108864" };
        const Arguments *arg = arguments(line);
        Grpc__CreateSandboxRequest request = GRPC__CREATE_SANDBOX_REQUEST__INIT;
        Grpc__Storage shm = GRPC__STORAGE__INIT, *storages[] = { &shm };
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(freep) char *id = NULL;
        int r;

        r = agent_connect(line, /* event= */ NULL, &client, &id);
        if (r != 0)
                return r;

        shm.driver = (char*) "ephemeral";
        shm.source = (char*) "shm";
        shm.fstype = (char*) "tmpfs";
        shm.mount_point = (char*) "/run/kata-containers/sandbox/shm";
        shm.options = shm_options;
        shm.n_options = ELEMENTSOF(shm_options);

        request.sandbox_id = line->n_words > 0 ? line->words[0] : (char*) strempty(id);
        request.hostname = (char*) strempty(arg->hostname);
        request.dns = (char**) arg->dns.items;
        request.n_dns = arg->dns.n_items;
        request.storages = storages;
        request.n_storages = ELEMENTSOF(storages);
        return rpc_call(client, &grpc__agent_service__descriptor, "CreateSandbox", &request.base, command_timeout(line), NULL);
}

int command_agent_create_container(const CommandLine *line) {
        const Arguments *arg = arguments(line);
        _cleanup_(proto_freep) ProtobufCMessage *request = NULL;
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(freep) char *config = NULL, *id = NULL, *error = NULL;
        int r;

        if (arg->bundle_config) {
                r = read_input(arg->bundle_config, INPUT_TEXT_MAX, &config, /* ret_size= */ NULL);
                if (r != 0)
                        return r;
        }

        r = agent_connect(line, /* event= */ NULL, &client, &id);
        if (r != 0)
                return r;

        r = container_request_new(line->words[0], id, config, arg, line->words + 1, &request, &error);
        if (r < 0)
                return error ? complain_usage("%s", error) : r;

        return rpc_call(client, &grpc__agent_service__descriptor, "CreateContainer", request, command_timeout(line), NULL);
}

/* All of these have a container id as their first and only field. */
int command_agent_container(const CommandLine *line) {
        char method[64];
        const ProtobufCServiceDescriptor *service;
        const ProtobufCMethodDescriptor *m;
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(proto_freep) ProtobufCMessage *request = NULL;
        _cleanup_(freep) char *error = NULL;
        int r;

        m = rpc_find("AgentService", method_of_command(line, method, sizeof(method)), &service);
        assert(m);

        o = json_object_new_object();
        if (!o || json_set_string(o, "container_id", line->words[0]) < 0)
                return -ENOMEM;
        r = proto_from_json(m->input, o, PROTO_JSON_PLAIN, &request, &error);
        if (r < 0)
                return error ? complain("%s", error) : r;

        return call_and_print(line, service, method, request);
}

int command_agent_stats(const CommandLine *line) {
        Grpc__StatsContainerRequest request = GRPC__STATS_CONTAINER_REQUEST__INIT;

        request.container_id = line->words[0];
        return call_and_print(line, &grpc__agent_service__descriptor, "StatsContainer", &request.base);
}

int command_agent_remove_container(const CommandLine *line) {
        Grpc__RemoveContainerRequest request = GRPC__REMOVE_CONTAINER_REQUEST__INIT;

        request.container_id = line->words[0];
        return call_agent(line, "RemoveContainer", &request.base, NULL);
}

int agent_exit_status(int32_t status) {
        return status >= 0 && status <= 255 ? status : 255;
}

int command_agent_wait(const CommandLine *line) {
        Grpc__WaitProcessRequest request = GRPC__WAIT_PROCESS_REQUEST__INIT;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        int r;

        request.container_id = line->words[0];
        request.exec_id = exec_id_of(line, 1);
        r = call_agent(line, "WaitProcess", &request.base, &reply);
        if (r == 0 && arguments(line)->json)
                r = rpc_print(reply, /* json= */ true);
        if (r != 0)
                return r;

        return agent_exit_status(((Grpc__WaitProcessResponse*) reply)->status);
}

int signal_from_text(const char *text) {
        uint32_t number;

        if (parse_u32(text, &number) >= 0)
                return number > 0 && number <= (uint32_t) SIGRTMAX ? (int) number : -EINVAL;

        text = startswith(text, "SIG") ?: text;
        for (int i = 1; i < NSIG; i++) {
                const char *name = sigabbrev_np(i);

                if (name && streq(name, text))
                        return i;
        }

        return -EINVAL;
}

int command_agent_signal(const CommandLine *line) {
        Grpc__SignalProcessRequest request = GRPC__SIGNAL_PROCESS_REQUEST__INIT;
        int number;

        number = signal_from_text(line->words[1]);
        if (number < 0)
                return complain_usage("'%s' is no signal", line->words[1]);

        request.container_id = line->words[0];
        request.exec_id = arguments(line)->all ? (char*) "" : exec_id_of(line, 2);
        request.signal = (uint32_t) number;
        return call_agent(line, "SignalProcess", &request.base, NULL);
}

bool agent_error_is_end_of_stream(int32_t code, const char *message) {
        return code == TTRPC_NOT_FOUND || code == TTRPC_OUT_OF_RANGE || strstr(message, "eof") || strstr(message, "EOF");
}

int command_agent_read(const CommandLine *line) {
        const Arguments *arg = arguments(line);
        Grpc__ReadStreamRequest request = GRPC__READ_STREAM_REQUEST__INIT;
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        char method[64];
        int r;

        r = agent_connect(line, /* event= */ NULL, &client, /* ret_id= */ NULL);
        if (r != 0)
                return r;

        request.container_id = line->words[0];
        request.exec_id = exec_id_of(line, 1);
        request.len = arg->length.is_set ? (uint32_t) MIN(arg->length.value, UINT32_MAX) : AGENT_STREAM_CHUNK;
        method_of_command(line, method, sizeof(method));

        for (;;) {
                _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
                const ProtobufCBinaryData *data;

                r = rpc_call(client, &grpc__agent_service__descriptor, method, &request.base, command_timeout(line), &reply);
                if (r != 0)
                        return r;

                data = &((Grpc__ReadStreamResponse*) reply)->data;
                r = write_stdout(data->data, data->len);
                if (r != 0 || data->len == 0 || !arg->all)
                        return r;
        }
}

int command_agent_write_stdin(const CommandLine *line) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(freep) uint8_t *buffer = NULL;
        int r;

        buffer = malloc(AGENT_STREAM_CHUNK);
        if (!buffer)
                return -ENOMEM;
        r = agent_connect(line, /* event= */ NULL, &client, /* ret_id= */ NULL);
        if (r != 0)
                return r;

        for (;;) {
                ssize_t n;

                n = read(STDIN_FILENO, buffer, AGENT_STREAM_CHUNK);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return complain("Cannot read standard input: %s", strerror(errno));
                if (n == 0)
                        return 0;

                for (size_t done = 0; done < (size_t) n;) {
                        Grpc__WriteStreamRequest request = GRPC__WRITE_STREAM_REQUEST__INIT;
                        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
                        uint32_t len;

                        request.container_id = line->words[0];
                        request.exec_id = exec_id_of(line, 1);
                        request.data = (ProtobufCBinaryData) { .data = buffer + done, .len = (size_t) n - done };
                        r = rpc_call(client, &grpc__agent_service__descriptor, "WriteStdin", &request.base,
                                     command_timeout(line), &reply);
                        if (r != 0)
                                return r;

                        len = ((Grpc__WriteStreamResponse*) reply)->len;
                        if (len == 0 || len > (size_t) n - done)
                                return complain("The agent says it took %" PRIu32 " of %zu bytes", len, (size_t) n - done);
                        done += len;
                }
        }
}

int command_agent_close_stdin(const CommandLine *line) {
        Grpc__CloseStdinRequest request = GRPC__CLOSE_STDIN_REQUEST__INIT;

        request.container_id = line->words[0];
        request.exec_id = exec_id_of(line, 1);
        return call_agent(line, "CloseStdin", &request.base, NULL);
}

int command_agent_resize_tty(const CommandLine *line) {
        Grpc__TtyWinResizeRequest request = GRPC__TTY_WIN_RESIZE_REQUEST__INIT;

        if (parse_u32(line->words[1], &request.row) < 0 || parse_u32(line->words[2], &request.column) < 0)
                return complain_usage("ROWS and COLUMNS are numbers");

        request.container_id = line->words[0];
        request.exec_id = exec_id_of(line, 3);
        return call_agent(line, "TtyWinResize", &request.base, NULL);
}

static int copy_chunks(const CommandLine *line, TtrpcClient *client, int fd, Grpc__CopyFileRequest *request) {
        _cleanup_(freep) uint8_t *buffer = NULL;
        int r;

        buffer = malloc(AGENT_CHUNK);
        if (!buffer)
                return -ENOMEM;

        do {    /* an empty file is one empty chunk */
                ssize_t n;

                n = pread(fd, buffer, (size_t) MIN((int64_t) AGENT_CHUNK, request->file_size - request->offset),
                          request->offset);
                if (n < 0)
                        return complain("Cannot read '%s': %s", line->words[0], strerror(errno));
                if (n == 0 && request->offset < request->file_size)
                        return complain("'%s' became shorter while it was read", line->words[0]);

                request->data = (ProtobufCBinaryData) { .data = buffer, .len = (size_t) n };
                r = rpc_call(client, &grpc__agent_service__descriptor, "CopyFile", &request->base, command_timeout(line), NULL);
                if (r != 0)
                        return r;
                request->offset += n;
        } while (request->offset < request->file_size);

        return 0;
}

int command_agent_copy_file(const CommandLine *line) {
        Grpc__CopyFileRequest request = GRPC__COPY_FILE_REQUEST__INIT;
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(freep) char *path = NULL, *link = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        struct stat st;
        int r;

        if (asprintf(&path, "%s%s", line->words[1][0] == '/' ? "" : SHARED_DIRECTORY, line->words[1]) < 0)
                return -ENOMEM;

        fd = open(line->words[0], O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK|O_NOFOLLOW);
        if (fd < 0 && errno == ELOOP)   /* a symlink is copied as one */
                fd = open(line->words[0], O_PATH|O_CLOEXEC|O_NOFOLLOW);
        if (fd < 0 || fstat(fd, &st) < 0)
                return complain("Cannot open '%s': %s", line->words[0], strerror(errno));

        request.path = path;
        request.file_mode = st.st_mode;
        request.dir_mode = 0750;        /* of parents that are not there, as Kata's runtime has it */
        request.uid = (int32_t) st.st_uid;
        request.gid = (int32_t) st.st_gid;

        r = agent_connect(line, /* event= */ NULL, &client, /* ret_id= */ NULL);
        if (r != 0)
                return r;

        if (S_ISREG(st.st_mode)) {
                request.file_size = st.st_size;
                return copy_chunks(line, client, fd, &request);
        }

        if (S_ISLNK(st.st_mode)) {
                ssize_t n;

                link = malloc(PATH_MAX);
                if (!link)
                        return -ENOMEM;
                n = readlinkat(fd, "", link, PATH_MAX);
                if (n < 0)
                        return complain("Cannot read the link '%s': %s", line->words[0], strerror(errno));
                request.data = (ProtobufCBinaryData) { .data = (uint8_t*) link, .len = (size_t) n };
                request.file_size = n;
        } else if (!S_ISDIR(st.st_mode))
                return complain("'%s' is neither a file nor a directory nor a symlink", line->words[0]);

        return rpc_call(client, &grpc__agent_service__descriptor, "CopyFile", &request.base, command_timeout(line), NULL);
}

int command_agent_oom(const CommandLine *line) {
        Grpc__GetOOMEventRequest request = GRPC__GET_OOMEVENT_REQUEST__INIT;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        int r;

        r = call_agent(line, "GetOOMEvent", &request.base, &reply);
        return r != 0 ? r : rpc_print_one(reply, ((Grpc__OOMEvent*) reply)->container_id, arguments(line)->json);
}

int command_agent_set_policy(const CommandLine *line) {
        Grpc__SetPolicyRequest request = GRPC__SET_POLICY_REQUEST__INIT;
        _cleanup_(freep) char *policy = NULL;
        int r;

        r = read_input(line->words[0], INPUT_TEXT_MAX, &policy, /* ret_size= */ NULL);
        if (r != 0)
                return r;

        request.policy = policy;
        return call_agent(line, "SetPolicy", &request.base, NULL);
}

int command_agent_destroy_sandbox(const CommandLine *line) {
        Grpc__DestroySandboxRequest request = GRPC__DESTROY_SANDBOX_REQUEST__INIT;

        return call_agent(line, "DestroySandbox", &request.base, NULL);
}

/* The bytes of the request: of JSON by the message's fields, of hex digits, of a file, or none. */
static int call_payload(const CommandLine *line, const ProtobufCMethodDescriptor *m, uint8_t **ret, size_t *ret_size) {
        const Arguments *arg = arguments(line);
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(proto_freep) ProtobufCMessage *request = NULL;
        _cleanup_(freep) char *error = NULL;
        int r;

        if ((line->n_words > 2) + !!arg->hex + !!arg->file > 1)
                return complain_usage("agent call takes one of JSON, --hex= and --file=");
        if (arg->file)
                return read_input(arg->file, INPUT_TEXT_MAX, (char**) ret, ret_size);
        if (arg->hex) {
                r = hex_decode(arg->hex, ret, ret_size);
                return r == -EINVAL ? complain_usage("--hex: not pairs of hex digits") : r;
        }
        if (line->n_words <= 2)
                return 0;
        if (!m)
                return complain_usage("%s/%s is not known here, so give --hex= or --file= instead of JSON",
                                      line->words[0], line->words[1]);

        r = json_parse(line->words[2], strlen(line->words[2]), &o, &error);
        if (r >= 0)
                r = proto_from_json(m->input, o, PROTO_JSON_PLAIN, &request, &error);
        if (r < 0)
                return error ? complain_usage("%s%s", *error == ' ' ? "The request is" : "", error) : r;

        *ret_size = protobuf_c_message_get_packed_size(request);
        *ret = malloc(*ret_size + 1);
        if (!*ret)
                return -ENOMEM;
        (void) protobuf_c_message_pack(request, *ret);
        return 0;
}

int command_agent_call(const CommandLine *line) {
        const ProtobufCServiceDescriptor *service = NULL;
        const ProtobufCMethodDescriptor *m = rpc_find(line->words[0], line->words[1], &service);
        const char *service_name = service ? service->name : line->words[0];
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(proto_freep) ProtobufCMessage *reply = NULL;
        _cleanup_(freep) uint8_t *payload = NULL;
        _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;
        size_t size = 0;
        int r;

        r = call_payload(line, m, &payload, &size);
        if (r == 0)
                r = agent_connect(line, /* event= */ NULL, &client, /* ret_id= */ NULL);
        if (r != 0)
                return r;

        r = ttrpc_client_call_sync(client, service_name, line->words[1], payload, size, command_timeout(line),
                                   /* metadata= */ NULL, &result);
        if (r < 0)
                return rpc_complain(service_name, line->words[1], result.code, result.message ?: strerror(-r));

        if (!m || arguments(line)->raw)
                return write_stdout(result.payload, result.size);

        r = proto_unpack(m->output, result.payload, result.size, &reply);
        if (r < 0)
                return complain("%s/%s: the answer is no %s, --raw shows it as it is", service_name, line->words[1],
                                m->output->short_name);

        return rpc_print(reply, arguments(line)->json);
}
