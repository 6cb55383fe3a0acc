/* SPDX-License-Identifier: Apache-2.0 */
/* The stand-in for Kata's agent: its objects, and who owns what.
 *
 * Agent ─owns→ Container ─owns→ Process ─owns→ Stream ─owns→ Pending (a call that waits).
 *
 * Everything runs in one event loop. What takes time is a child (crun) or a pipe, and the call that waits for it is kept where the
 * event will look for it. No output is buffered here: a pipe is read when somebody asks for its content, so a process whose
 * output nobody reads is stopped by its full pipe, as it should be.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "proto/agent.pb-c.h"
#include "ttrpc/server.h"

#define AGENT_VERSION "3.99.0-stand-in"
#define AGENT_API_VERSION "0.0.1"               /* kata-containers: src/agent/src/rpc.rs */

/* Not Kata's: a container with it sees the VM's processes, and the VM's systemd sees it. For tests of the VM from inside. */
#define VM_PROCESSES_ANNOTATION "io.peerpod.test.vm-processes"

#define CONTAINERS_MAX 256U
#define PROCESSES_MAX 1024U                     /* of one container, ended ones that nobody waited for among them */
#define PENDING_MAX 64U                         /* calls that wait for one thing */
#define OOM_EVENTS_MAX 64U                      /* not fetched yet */
#define READ_MAX (1U << 20)                     /* in one answer */
#define DRAIN_USEC (500 * USEC_PER_MSEC)        /* for what descendants of an ended process still hold open; as the real one */

typedef struct Agent Agent;
typedef struct Command Command;
typedef struct Container Container;
typedef struct Pending Pending;
typedef struct PendingQueue PendingQueue;
typedef struct Process Process;

/* pending.c: calls that wait */

struct PendingQueue {
        Pending *first, *last;
        unsigned n;
};

struct Pending {
        PendingQueue *queue;            /* borrowed */
        Pending *previous, *next;
        TtrpcCall *call;
        uint32_t len;                   /* of a read */
        uint8_t *data;                  /* of a write */
        size_t size, done;
};

/* Takes a reference on the call. A call that its peer gives up leaves the queue by itself. 0, -EBUSY, -ENOMEM. */
int pending_add(PendingQueue *queue, TtrpcCall *call, Pending **ret);
Pending* pending_free(Pending *p);
void pending_flush(PendingQueue *queue, TtrpcCode code, const char *text);     /* answers all with this error */

/* command.c: children that do one thing and end */

/* status: exit status, or 128 + signal; error: what it wrote into its log, one line, "" if nothing. */
typedef void (*CommandDone)(int status, const char *error, void *userdata);

/**
 * command_start() - run a program; no shell
 * @argv: "--log=" of crun is added by command_start_crun()
 * @fds:  its stdin, stdout, stderr, borrowed; negative = /dev/null
 * @done: called once, from the loop
 */
int command_start_crun(Agent *a, const char *const *args, const int fds[3], CommandDone done, void *userdata);

/* process.c */

typedef struct Stream {
        Process *process;               /* borrowed */
        int fd;                         /* our end, non-blocking; -EBADF: not there or at its end */
        sd_event_source *source;        /* enabled while a call waits */
        PendingQueue queue;
        bool closing;                   /* stdin: close when the queue is written */
        bool ended;                     /* output: end of file was told to somebody */
} Stream;

struct Process {
        Container *container;           /* borrowed */
        Process *next;
        char *exec_id;
        bool terminal;
        bool starting;                  /* crun is at work */
        pid_t pid;
        int pidfd;
        sd_event_source *exit_source, *drain_source;
        bool exited, drained, waited;
        int status;
        Stream in, out, err;
        PendingQueue waiters;
        int child_fds[3];               /* until crun has them */
        char *console_path;             /* socket for the terminal; NULL without */
        int console_fd;
        TtrpcCall *call;                /* CreateContainer or ExecProcess, while starting */
};

int process_new(Container *c, const char *exec_id, bool terminal, Process **ret);
Process* process_free(Process *p);
DEFINE_CLEANUP(Process*, process_free);
Process* process_find(Container *c, const char *exec_id);       /* "" is the first process */
int process_started(Process *p, const char *pid_file);          /* after crun: takes pid and terminal */
void process_close_child_fds(Process *p);
int process_signal(Process *p, int sig);

int process_read(Process *p, Stream *s, TtrpcCall *call, uint32_t len);
int process_write(Process *p, TtrpcCall *call, const void *data, size_t size);
void process_close_stdin(Process *p);
int process_wait(Process *p, TtrpcCall *call);

/* container.c, oci.c */

struct Container {
        Agent *agent;                   /* borrowed */
        Container *next;
        char *id;
        char *bundle;                   /* STATE-DIR/ID */
        Process *processes;             /* the first one made is the last in the list */
        Process *init;                  /* borrowed: one of them; NULL when it was waited for */
        unsigned n_processes;
        unsigned n_commands;            /* children of ours that know of this container */
        char *cgroup;                   /* its directory; NULL until it runs */
        int oom_watch;                  /* inotify; -1 */
        uint64_t n_oom_kills;
        char *termination_log;          /* mount source of the termination message; NULL */
        char *termination_error;
        bool rootfs_mounted, removing, deleted;
        TtrpcCall *remove_call;
        sd_event_source *remove_timeout;
};

int container_create(Agent *a, TtrpcCall *call, const Grpc__CreateContainerRequest *request);
int container_start(Container *c, TtrpcCall *call);
int container_exec(Container *c, TtrpcCall *call, const Grpc__ExecProcessRequest *request);
int container_kill_all(Container *c);
void container_remove(Container *c, TtrpcCall *call, uint32_t timeout_sec);
void container_step(Container *c);      /* goes on with a removal; may free the container */
Container* container_find(Agent *a, const char *id);
Container* container_free(Container *c);        /* at once and whatever its state: only when the agent ends */

/* OCI: what is sent becomes what crun reads. */
int oci_write_config(const Agent *a, const Container *c, const Grpc__Spec *spec, bool pause, bool sandbox_pidns, const char *path);
const char* oci_annotation(const Grpc__Spec *spec, const char *key);     /* NULL: it has none of that name */
int oci_write_process(const Grpc__Process *process, const char *path);

/* cgroup.c */

int cgroup_of_pid(const char *cgroup_root, pid_t pid, char **ret);
int cgroup_stats_reply(const char *dir, TtrpcCall *call);
int cgroup_read_oom_kills(const char *dir, uint64_t *ret);
bool cgroup_has_controller(const char *cgroup_root, const char *name);
int oom_init(Agent *a);
void oom_watch(Container *c);
void oom_unwatch(Container *c);

/* The agent; sandbox.c, copy-file.c, host-mode.c, service.c */

typedef struct Settings {
        char *config;                   /* as kata-agent's */
        char *listen;
        char *rootfs;
        char *pause;
        char *crun;
        char *cgroup_manager;
        char *cgroup_parent;            /* set: all containers are put below it */
        char *state_dir;
        char *runtime_dir;
        bool host_mode;
} Settings;

struct Agent {
        const Settings *settings;       /* borrowed */
        sd_event *event;
        TtrpcServer *server;
        Container *containers;
        unsigned n_containers, n_commands;
        uint64_t serial;                /* for names of temporary files */

        char *sandbox_id, *hostname;
        bool sandbox_pidns;
        bool sandbox_namespaces;        /* ipc and uts are there */
        TtrpcCall *destroy_call;

        char *oom_events[OOM_EVENTS_MAX];
        unsigned n_oom_events;
        PendingQueue oom_waiters;
        int oom_fd;
        sd_event_source *oom_source;
};

extern const TtrpcMethod agent_service_methods[], health_service_methods[];

void agent_reap_orphans(Agent *a);
void agent_destroy_step(Agent *a);      /* goes on with DestroySandbox */

int sandbox_create(Agent *a, const Grpc__CreateSandboxRequest *request, char **reterr);
void sandbox_cleanup(Agent *a);         /* unmounts what sandbox_create() and containers have mounted */
int storage_add(const Agent *a, const Grpc__Storage *storage, char **reterr);
const char* sandbox_namespace_path(const Agent *a, const char *type, char *buffer, size_t size);

int copy_file(const Agent *a, const Grpc__CopyFileRequest *request, char **reterr);

int host_mode_enter(Settings *settings, int *ret_exit);
