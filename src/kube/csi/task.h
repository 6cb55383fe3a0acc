/* SPDX-License-Identifier: Apache-2.0 */
/* One piece of work on one volume: a chain of calls to the API server and the driver, for a caller of ours or because of the volume's state.
 *
 * A task begins by reading the PeerpodVolume and ends by task_end(). Each function that asks somebody is a task's last act in that step; it goes
 * on in the function that was given. Every change is guarded by the version that was read: who comes second reads again and begins anew, so a
 * step must be one that can be done twice. There is at most one task for a volume in a process. A caller who gives up takes the task with it
 * at any point: what is written so far is a state to go on from. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <sys/queue.h>

#include "basic/json.h"
#include "basic/util.h"
#include "kube/csi/grpc-client.h"
#include "kube/csi/grpc-server.h"
#include "kube/csi/volume.h"

typedef struct KubeRequest KubeRequest;
typedef struct Task Task;
typedef struct VolumeEntry VolumeEntry;
typedef struct Wrapper Wrapper;

typedef void (*TaskStep)(Task *t);
typedef void (*TaskAnswer)(Task *t, const GrpcReply *reply);
typedef void (*TaskObject)(Task *t, json_object *object);       /* NULL: it does not exist */

struct Task {
        TAILQ_ENTRY(Task) tasks;
        Wrapper *wrapper;               /* borrowed */
        VolumeEntry *entry;             /* borrowed; NULL: not (yet) about one volume */
        GrpcCall *call;                 /* borrowed; NULL: nobody waits for an answer */
        bool for_itself;                /* it began without a caller */
        ProtobufCMessage *request;      /* the caller's message, decoded; or NULL */
        bool had_secrets;               /* the request, before secrets_strip() */
        bool has_volume;                /* there is a PeerpodVolume, and it is */
        Volume volume;
        json_object *object;            /* what it borrows from */

        TaskStep start, next;           /* after each fresh read; after what is being asked */
        TaskStep written;               /* after the patch that is under way */
        TaskAnswer answer;
        TaskObject on_object;
        KubeRequest *kube;
        GrpcRequest *driver;
        void *query;                    /* of task_ask() */
        void (*query_free)(void *query);
        VolumeState state;              /* to be written next */
        const char *secret_ref;         /* static; of secrets_fetch(), as is what follows it */
        TaskStep secrets_done;
        unsigned n_conflicts;
};

/**
 * task_begin() - begin with the volume's object
 * @call:    to be answered; NULL: for the volume's own sake, and repeated with pauses if it fails
 * @request: taken
 *
 * Another task for the same volume: the caller gets ABORTED, which CSI has for that. Fails by answering.
 */
void task_begin(Wrapper *w, const char *object_name, GrpcCall *call, ProtobufCMessage *request, TaskStep start);

/* task_begin_unnamed() - for a request that makes the volume: @start is called at once */
void task_begin_unnamed(Wrapper *w, GrpcCall *call, ProtobufCMessage *request, TaskStep start);

/* The end; the task is gone. task_pass() gives the caller's message to the driver as it came, and the answer back. */
void task_end(Task *t, TtrpcCode code, const char *text, const void *data, size_t size);
void task_end_ok(Task *t);              /* with an empty message */
void task_fail(Task *t, TtrpcCode code, const char *format, ...) PRINTF(3, 4);
void task_pass(Task *t);
void task_cancel(Task *t);              /* the caller has given up */
void task_end_like(Task *t, const GrpcReply *reply);

/* task_ask_driver() - without a caller, within DRIVER_USEC */
#define DRIVER_USEC (UINT64_C(120) * 1000000)
void task_ask_driver(Task *t, const char *path, const ProtobufCMessage *message, TaskAnswer answer);
void task_ask_driver_bytes(Task *t, const char *path, const void *data, size_t size, TaskAnswer answer);

/**
 * task_update() - write
 * @patch: {"metadata": …, "spec": …}, merged into the object first; taken; NULL: nothing of it
 * @state: written after it
 */
void task_update(Task *t, json_object *patch, VolumeState state, TaskStep next);
void task_create(Task *t, json_object *object, TaskStep next);          /* @object taken; one that exists already is success */
void task_delete(Task *t, const char *object_name, TaskStep next);      /* one that does not exist is success */
/* task_get() - any other object. It is borrowed, for the time of the call. */
void task_get(Task *t, const char *path, TaskObject on_object);

/* task_ask() - have something else cancelled with the task: @query is what @query_free() takes. task_answered() when it is over. */
void task_ask(Task *t, void *query, void (*query_free)(void *query));
void task_answered(Task *t);

/* patch_set() - a string below "spec", or another object, of a merge patch; NULL takes it out. Returns 0, -ENOMEM; *patch is made if it is NULL. */
int patch_set(json_object **patch, const char *parent, const char *key, const char *value);
int patch_set_in_metadata(json_object **patch, const char *parent, const char *key, const char *value);
