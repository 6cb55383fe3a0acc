/* SPDX-License-Identifier: Apache-2.0 */
/* The methods of grpc.AgentService and grpc.Health, all of them by name (kata-containers: src/libs/protocols/protos/agent.proto,
 * health.proto); what they do is in kata-containers: src/agent/src/rpc.rs. */
#include "agent.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"
#include "proto/health.pb-c.h"
#include "proto/proto.h"

#define TERMINATION_LOG_MAX 4096U               /* kata-containers: src/agent/src/rpc.rs */
#define STOP_USEC (2 * USEC_PER_SEC)

/* Unpacks the request into a variable of its type, or leaves the handler, as the call is answered then. */
#define UNPACK(call, type, descriptor, variable)                                                                \
        _cleanup_(proto_freep) ProtobufCMessage *variable##_message = NULL;                                     \
        int variable##_result = ttrpc_call_unpack(call, &descriptor, payload, size, &variable##_message);      \
        if (variable##_result < 0)                                                                              \
                return variable##_result;                                                                       \
        type *variable = (type*) variable##_message

static int reply_empty(TtrpcCall *call) {
        return ttrpc_call_reply(call, NULL, 0);
}

static int reply_failure(TtrpcCall *call, int error, const char *text) {
        return ttrpc_call_reply_status(call, error == -EINVAL ? TTRPC_INVALID_ARGUMENT :
                                             error == -EOPNOTSUPP ? TTRPC_UNIMPLEMENTED : TTRPC_INTERNAL,
                                       "%s", text ?: strerror(-error));
}

/* NULL: answered. */
static Container* find_container(Agent *a, TtrpcCall *call, const char *id) {
        Container *c = container_find(a, id);

        if (!c)
                (void) ttrpc_call_reply_status(call, TTRPC_INVALID_ARGUMENT, "Invalid container id");
        return c;
}

static Process* find_process(Agent *a, TtrpcCall *call, const char *container_id, const char *exec_id) {
        Container *c = find_container(a, call, container_id);
        Process *p;

        if (!c)
                return NULL;
        p = process_find(c, exec_id);
        if (!p || (p->starting && p->terminal)) {
                (void) ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "Process not found: container '%s', exec '%s'", container_id, exec_id);
                return NULL;
        }
        return p;
}

static int unimplemented(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply_status(call, TTRPC_UNIMPLEMENTED, "%s is not in the stand-in agent", ttrpc_call_get_method(call));
}

static int health_check(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Grpc__HealthCheckResponse response = GRPC__HEALTH_CHECK_RESPONSE__INIT;

        response.status = GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
        return ttrpc_call_reply_message(call, &response.base);
}

static int health_version(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Grpc__VersionCheckResponse response = GRPC__VERSION_CHECK_RESPONSE__INIT;

        response.grpc_version = (char*) AGENT_API_VERSION;
        response.agent_version = (char*) AGENT_VERSION;
        return ttrpc_call_reply_message(call, &response.base);
}

static int method_create_sandbox(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__CreateSandboxRequest, grpc__create_sandbox_request__descriptor, q);
        _cleanup_(freep) char *error = NULL;
        int r;

        r = sandbox_create(userdata, q, &error);
        return r < 0 ? reply_failure(call, r, error) : reply_empty(call);
}

static void stop_done(TtrpcServer *server, void *userdata) {
        Agent *a = userdata;

        (void) sd_event_exit(a->event, 0);
}

void agent_destroy_step(Agent *a) {
        _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = NULL;

        if (!a->destroy_call || a->containers)
                return;

        call = TAKE_PTR(a->destroy_call);
        sandbox_cleanup(a);
        (void) reply_empty(call);
        if (ttrpc_server_drain(a->server, STOP_USEC, stop_done, a) < 0)
                (void) sd_event_exit(a->event, 0);
}

static int method_destroy_sandbox(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Agent *a = userdata;

        if (a->destroy_call)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "The sandbox is being destroyed");
        a->destroy_call = ttrpc_call_ref(call);
        pending_flush(&a->oom_waiters, TTRPC_INTERNAL, "The sandbox is being destroyed");

        for (Container *c = a->containers, *next; c; c = next) {
                next = c->next;
                if (!c->removing)
                        container_remove(c, NULL, 0);
        }
        agent_destroy_step(a);
        return 0;
}

static int method_create_container(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__CreateContainerRequest, grpc__create_container_request__descriptor, q);

        return container_create(userdata, call, q);
}

static int method_start_container(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__StartContainerRequest, grpc__start_container_request__descriptor, q);
        Container *c = find_container(userdata, call, q->container_id);

        return c ? container_start(c, call) : 0;
}

static int method_remove_container(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__RemoveContainerRequest, grpc__remove_container_request__descriptor, q);
        Container *c = find_container(userdata, call, q->container_id);

        if (!c)
                return 0;
        if (c->removing)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Container '%s' is being removed", c->id);
        container_remove(c, call, q->timeout);
        return 0;
}

static int method_exec_process(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__ExecProcessRequest, grpc__exec_process_request__descriptor, q);
        Container *c = find_container(userdata, call, q->container_id);

        return c ? container_exec(c, call, q) : 0;
}

/* SigCgt: proc(5) */
static bool catches_signal(pid_t pid, int sig) {
        _cleanup_(freep) char *text = NULL;
        uint64_t mask = 0;
        const char *p;
        char path[64];

        (void) snprintf(path, sizeof(path), "/proc/%i/status", pid);
        if (read_full_file_at(AT_FDCWD, path, 64 << 10, &text, NULL) < 0)
                return true;
        p = strstr(text, "\nSigCgt:");
        if (!p || sscanf(p + strlen("\nSigCgt:"), " %" SCNx64, &mask) != 1)
                return true;
        return mask & (UINT64_C(1) << (sig - 1));
}

static int method_signal_process(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__SignalProcessRequest, grpc__signal_process_request__descriptor, q);
        Container *c = find_container(userdata, call, q->container_id);
        int sig = (int) q->signal, r;
        Process *p;

        if (!c)
                return 0;
        if (q->signal == 0 || q->signal > (uint32_t) SIGRTMAX)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "EINVAL: there is no signal %u", q->signal);
        if (q->exec_id[0] == '\0' && sig == SIGKILL) {
                (void) container_kill_all(c);
                return reply_empty(call);
        }

        p = find_process(userdata, call, q->container_id, q->exec_id);
        if (!p)
                return 0;
        /* The kernel keeps from the first process of a pid namespace what it does not handle. */
        if (p == c->init && sig == SIGTERM && p->pid > 0 && !p->exited && !catches_signal(p->pid, sig))
                sig = SIGKILL;
        r = process_signal(p, sig);
        return r < 0 ? reply_failure(call, r == -EINVAL ? -EIO : r, NULL) : reply_empty(call);
}

static int method_wait_process(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__WaitProcessRequest, grpc__wait_process_request__descriptor, q);
        Process *p = find_process(userdata, call, q->container_id, q->exec_id);

        if (!p)
                return 0;
        if (p->waited)
                return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "Process not found: '%s' was waited for", q->exec_id);
        return process_wait(p, call);
}

static int method_write_stdin(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__WriteStreamRequest, grpc__write_stream_request__descriptor, q);
        Process *p = find_process(userdata, call, q->container_id, q->exec_id);

        if (!p)
                return 0;
        if (q->data.len == 0) {
                Grpc__WriteStreamResponse response = GRPC__WRITE_STREAM_RESPONSE__INIT;

                process_close_stdin(p);
                return ttrpc_call_reply_message(call, &response.base);
        }
        if (p->in.fd < 0 || p->in.closing)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Broken pipe: stdin is closed");
        return process_write(p, call, q->data.data, q->data.len);
}

static int read_stream(TtrpcCall *call, const void *payload, size_t size, void *userdata, size_t offset) {
        UNPACK(call, Grpc__ReadStreamRequest, grpc__read_stream_request__descriptor, q);
        Process *p = find_process(userdata, call, q->container_id, q->exec_id);

        return p ? process_read(p, (Stream*) ((char*) p + offset), call, q->len) : 0;
}

static int method_read_stdout(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return read_stream(call, payload, size, userdata, offsetof(Process, out));
}

static int method_read_stderr(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return read_stream(call, payload, size, userdata, offsetof(Process, err));
}

static int method_close_stdin(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__CloseStdinRequest, grpc__close_stdin_request__descriptor, q);
        Process *p = find_process(userdata, call, q->container_id, q->exec_id);

        if (!p)
                return 0;
        process_close_stdin(p);
        return reply_empty(call);
}

static int method_tty_win_resize(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__TtyWinResizeRequest, grpc__tty_win_resize_request__descriptor, q);
        Process *p = find_process(userdata, call, q->container_id, q->exec_id);
        struct winsize ws;

        if (!p)
                return 0;
        if (!p->terminal || p->out.fd < 0)
                return ttrpc_call_reply_status(call, TTRPC_UNAVAILABLE, "no tty");
        ws = (struct winsize) { .ws_row = (unsigned short) q->row, .ws_col = (unsigned short) q->column };
        if (ioctl(p->out.fd, TIOCSWINSZ, &ws) < 0)
                return reply_failure(call, -errno, NULL);
        return reply_empty(call);
}

static int method_stats_container(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__StatsContainerRequest, grpc__stats_container_request__descriptor, q);
        Container *c = find_container(userdata, call, q->container_id);

        if (!c)
                return 0;
        if (!c->cgroup)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Container '%s' has no control group", c->id);
        return cgroup_stats_reply(c->cgroup, call);
}

static int method_get_oom_event(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        Grpc__OOMEvent event = GRPC__OOMEVENT__INIT;
        Agent *a = userdata;
        int r;

        if (a->destroy_call)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "The sandbox is being destroyed");
        if (a->n_oom_events == 0)
                return pending_add(&a->oom_waiters, call, NULL);

        event.container_id = a->oom_events[0];
        r = ttrpc_call_reply_message(call, &event.base);
        free(a->oom_events[0]);
        memmove(a->oom_events, a->oom_events + 1, --a->n_oom_events * sizeof(a->oom_events[0]));
        return r;
}

static int method_get_guest_details(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        static char *handlers[] = { (char*) "ephemeral", (char*) "local", (char*) "image_guest_pull" };
        UNPACK(call, Grpc__GuestDetailsRequest, grpc__guest_details_request__descriptor, q);
        Grpc__GuestDetailsResponse response = GRPC__GUEST_DETAILS_RESPONSE__INIT;
        Grpc__AgentDetails details = GRPC__AGENT_DETAILS__INIT;
        _cleanup_(freep) char *text = NULL;

        if (q->mem_block_size &&
            read_full_file_at(AT_FDCWD, "/sys/devices/system/memory/block_size_bytes", 64, &text, NULL) >= 0)
                response.mem_block_size_bytes = strtoull(text, NULL, 16);
        if (q->mem_hotplug_probe)
                response.support_mem_hotplug_probe = access("/sys/devices/system/memory/probe", F_OK) >= 0;
        details.version = (char*) AGENT_VERSION;
        details.n_storage_handlers = ELEMENTSOF(handlers);
        details.storage_handlers = handlers;
        details.supports_seccomp = true;
        response.agent_details = &details;
        return ttrpc_call_reply_message(call, &response.base);
}

static int method_copy_file(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__CopyFileRequest, grpc__copy_file_request__descriptor, q);
        _cleanup_(freep) char *error = NULL;
        int r;

        r = copy_file(userdata, q, &error);
        return r < 0 ? reply_failure(call, r, error) : reply_empty(call);
}

static int method_get_diagnostic_data(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        UNPACK(call, Grpc__GetDiagnosticDataRequest, grpc__get_diagnostic_data_request__descriptor, q);
        Grpc__GetDiagnosticDataResponse response = GRPC__GET_DIAGNOSTIC_DATA_RESPONSE__INIT;
        char text[TERMINATION_LOG_MAX + 1] = "";
        _cleanup_(close_fdp) int fd = -EBADF;
        Container *c;

        if (!streq(q->log_type, "termination_log"))
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Unsupported log type '%s'", q->log_type);
        c = find_container(userdata, call, q->container_id);
        if (!c)
                return 0;
        if (!c->termination_log)
                return ttrpc_call_reply_status(call, TTRPC_INTERNAL, "Container '%s' has no termination log", c->id);

        fd = open(c->termination_log, O_RDONLY|O_CLOEXEC|O_NONBLOCK|O_NOCTTY);
        if (fd >= 0) {
                ssize_t n = read(fd, text, TERMINATION_LOG_MAX);

                for (ssize_t i = 0; i < n; i++)         /* a protobuf string is UTF-8 */
                        if (text[i] == '\0' || (unsigned char) text[i] >= 0x80)
                                text[i] = '?';
        }
        response.data = text;
        return ttrpc_call_reply_message(call, &response.base);
}

/* There is nothing to undo: the pod VM has no virtiofs. The shim calls it after each RemoveContainer. */
static int method_remove_stale_mounts(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return reply_empty(call);
}

const TtrpcMethod agent_service_methods[] = {
        { "CreateContainer",                method_create_container    },
        { "StartContainer",                 method_start_container     },
        { "RemoveContainer",                method_remove_container    },
        { "ExecProcess",                    method_exec_process        },
        { "SignalProcess",                  method_signal_process      },
        { "WaitProcess",                    method_wait_process        },
        { "UpdateContainer",                unimplemented              },
        { "UpdateEphemeralMounts",          unimplemented              },
        { "StatsContainer",                 method_stats_container     },
        { "PauseContainer",                 unimplemented              },
        { "ResumeContainer",                unimplemented              },
        { "RemoveStaleVirtiofsShareMounts", method_remove_stale_mounts },
        { "GetDiagnosticData",              method_get_diagnostic_data },
        { "WriteStdin",                     method_write_stdin         },
        { "ReadStdout",                     method_read_stdout         },
        { "ReadStderr",                     method_read_stderr         },
        { "CloseStdin",                     method_close_stdin         },
        { "TtyWinResize",                   method_tty_win_resize      },
        { "UpdateInterface",                unimplemented              },
        { "UpdateRoutes",                   unimplemented              },
        { "ListInterfaces",                 unimplemented              },
        { "ListRoutes",                     unimplemented              },
        { "AddARPNeighbors",                unimplemented              },
        { "GetIPTables",                    unimplemented              },
        { "SetIPTables",                    unimplemented              },
        { "GetMetrics",                     unimplemented              },
        { "MemAgentMemcgSet",               unimplemented              },
        { "MemAgentCompactSet",             unimplemented              },
        { "CreateSandbox",                  method_create_sandbox      },
        { "DestroySandbox",                 method_destroy_sandbox     },
        { "OnlineCPUMem",                   unimplemented              },
        { "ReseedRandomDev",                unimplemented              },
        { "GetGuestDetails",                method_get_guest_details   },
        { "MemHotplugByProbe",              unimplemented              },
        { "SetGuestDateTime",               unimplemented              },
        { "CopyFile",                       method_copy_file           },
        { "GetOOMEvent",                    method_get_oom_event       },
        { "AddSwap",                        unimplemented              },
        { "AddSwapPath",                    unimplemented              },
        { "GetVolumeStats",                 unimplemented              },
        { "ResizeVolume",                   unimplemented              },
        { "SetPolicy",                      unimplemented              },
        {}
};

const TtrpcMethod health_service_methods[] = {
        { "Check",   health_check   },
        { "Version", health_version },
        {}
};

/* As subreaper we inherit what containers leave behind. A process that we know is reaped by its own descriptor; while crun is at
 * work one that we shall know may be among them, so nobody is touched then. */
void agent_reap_orphans(Agent *a) {
        while (a->n_commands == 0) {
                siginfo_t si = {};

                if (waitid(P_ALL, 0, &si, WEXITED|WNOHANG|WNOWAIT) < 0 || si.si_pid == 0)
                        return;
                for (Container *c = a->containers; c; c = c->next)
                        for (Process *p = c->processes; p; p = p->next)
                                if (p->pid == si.si_pid && !p->exited)
                                        return;
                (void) waitid(P_PID, (id_t) si.si_pid, &si, WEXITED|WNOHANG);
        }
}
