/* SPDX-License-Identifier: Apache-2.0 */
/* What the three roles have in common: a gRPC server in front, the driver behind, the PeerpodVolumes beside. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include <systemd/sd-id128.h>

#include "basic/hash.h"
#include "kube/csi/grpc-client.h"
#include "kube/csi/grpc-server.h"
#include "kube/csi/task.h"
#include "kube/csi/volume.h"

typedef struct KubeClient KubeClient;
typedef struct KubeRequest KubeRequest;
typedef struct KubeWatch KubeWatch;
typedef struct Role Role;
typedef struct TtrpcClient TtrpcClient;
typedef struct Wrapper Wrapper;

typedef struct Settings {
        char *role, *endpoint, *target, *namespace, *kubeconfig, *vm_socket, *records_dir;
        char *node_name, *pod_name, *pod_namespace, *pod_uid;
        bool leader_elect;
        char *lease_name;
} Settings;

/* A call that is handled otherwise than by passing it on. */
typedef struct Method {
        const char *path;
        const ProtobufCMessageDescriptor *type;
        void (*handle)(Wrapper *w, GrpcCall *call, ProtobufCMessage *request);  /* @request taken */
} Method;

struct Role {
        const char *name;
        const char *const *services;            /* passed on; others do not exist here. NULL-terminated */
        const Method *methods;                  /* ends with an empty one */
        /* Is there anything to be done for a volume in this state by this role? Then advance() does it. */
        bool (*wants)(const Wrapper *w, const Volume *v);
        TaskStep advance;
};

/* A volume that has a task, or is waiting for the next one. */
struct VolumeEntry {
        UT_hash_handle hh;
        Wrapper *wrapper;               /* borrowed */
        Task *task;                     /* borrowed */
        bool again;                     /* it has changed meanwhile */
        unsigned n_failures;
        sd_event_source *timer;         /* the next try */
        char name[];
};

struct Wrapper {
        sd_event *event;
        const Settings *settings;       /* borrowed */
        const Role *role;
        GrpcServer *server;
        GrpcClient *driver;
        KubeClient *kube;
        KubeWatch *watch;
        VolumeEntry *entries;
        TAILQ_HEAD(, Task) tasks;
        TtrpcClient *adaptor;           /* NULL: not connected */
        sd_bus *bus;                    /* likewise */
        KubeRequest *leave_request;
        sd_event_source *leave_timer, *leave_again;
        bool leaving;                   /* podvm: the pod ends */
        char boot_id[SD_ID128_STRING_MAX]; /* podvm: of this VM, by which a restart of the container is told from a VM that has replaced another */
};

extern const Role controller_role, node_role, podvm_role;

/* wrapper_new() - connect to all; @listen_fd is taken, on failure too. Returns 0 or -errno, logged. */
int wrapper_new(sd_event *event, const Settings *settings, const Role *role, int listen_fd, KubeClient *kube, Wrapper **ret);
Wrapper* wrapper_free(Wrapper *w);
DEFINE_CLEANUP(Wrapper*, wrapper_free);

/* wrapper_poke() - see to a volume: now, or when its task is over */
void wrapper_poke(Wrapper *w, const char *object_name);

/* wrapper_leave() - podvm: SIGTERM. If that is because the pod ends, unmount all its volumes, then end the loop. Another reason (kubelet restarts
 * the container) leaves them to our successor; so does an API server that gives no answer in time. Returns 0 or -errno. */
int wrapper_leave(Wrapper *w);

/* For tasks. */
int volume_entry_get(Wrapper *w, const char *object_name, VolumeEntry **ret);   /* 0, -ENOMEM */
void volume_entry_done(VolumeEntry *e, bool retry);                             /* its task is over, and gone */
