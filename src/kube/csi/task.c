/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/task.h"

#include <stdarg.h>
#include <stdio.h>

#include "basic/log.h"
#include "basic/messages.h"
#include "kube/csi/csi-message.h"
#include "kube/csi/wrapper.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/peerpod-names.h"
#include "proto/proto.h"

#define CONFLICTS_MAX 8U

static void task_read(Task *t);

/* ---- life ---- */

static void forget_object(Task *t) {
        json_object_put(t->object);
        t->object = NULL;
        t->volume = (Volume) {};
        t->has_volume = false;
}

/* Cancels whatever is under way. The entry is not told here. */
static void task_free(Task *t) {
        TAILQ_REMOVE(&t->wrapper->tasks, t, tasks);
        kube_request_free(t->kube);
        grpc_request_cancel(t->driver);
        if (t->query)
                t->query_free(t->query);
        proto_free(t->request);
        forget_object(t);
        free(t);
}

static Task* task_new(Wrapper *w, GrpcCall *call, ProtobufCMessage *request, TaskStep start) {
        Task *t = new(Task);

        if (!t)
                return NULL;
        *t = (Task) { .wrapper = w, .call = call, .for_itself = !call, .request = request, .start = start };
        TAILQ_INSERT_TAIL(&w->tasks, t, tasks);
        if (call)
                grpc_call_set_userdata(call, t);
        return t;
}

static void task_over(Task *t, bool failed) {
        bool retry = failed && t->for_itself;
        VolumeEntry *e = t->entry;

        task_free(t);
        if (e)
                volume_entry_done(e, retry);
}

void task_begin(Wrapper *w, const char *object_name, GrpcCall *call, ProtobufCMessage *request, TaskStep start) {
        VolumeEntry *e;
        Task *t;

        if (volume_entry_get(w, object_name, &e) < 0) {
                e = NULL;
                t = NULL;
        } else if (e->task) {
                proto_free(request);
                if (call)
                        grpc_call_reply(call, TTRPC_ABORTED, "An operation on this volume is pending.", NULL, NULL, 0);
                return;
        } else
                t = task_new(w, call, request, start);
        if (!t) {
                proto_free(request);
                if (call)
                        grpc_call_reply(call, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.", NULL, NULL, 0);
                if (e)
                        volume_entry_done(e, /* retry= */ !call);
                return;
        }

        t->entry = e;
        e->task = t;
        task_read(t);
}

void task_begin_unnamed(Wrapper *w, GrpcCall *call, ProtobufCMessage *request, TaskStep start) {
        Task *t = task_new(w, call, request, start);

        if (!t) {
                proto_free(request);
                grpc_call_reply(call, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.", NULL, NULL, 0);
                return;
        }
        start(t);
}

void task_end(Task *t, TtrpcCode code, const char *text, const void *data, size_t size) {
        if (t->call)
                grpc_call_reply(TAKE_PTR(t->call), code, text, NULL, data, size);
        task_over(t, code != TTRPC_OK);
}

void task_end_ok(Task *t) {
        task_end(t, TTRPC_OK, NULL, NULL, 0);
}

void task_end_like(Task *t, const GrpcReply *reply) {
        if (t->call)
                grpc_call_reply(TAKE_PTR(t->call), reply->code, reply->text, reply->details, reply->data, reply->size);
        task_over(t, reply->code != TTRPC_OK);
}

void task_fail(Task *t, TtrpcCode code, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&text, format, ap);
        va_end(ap);
        if (n < 0)
                text = NULL;

        /* A caller logs by itself; of what is tried again, each try would be too much. */
        if (t->for_itself)
                (void) log_full(NULL, t->entry->n_failures == 0 ? LOG_WARNING : LOG_DEBUG, MSG_VOLUME_WAITS, 0, "Volume '%s', trying again: %s",
                         t->entry->name, strempty(text));
        task_end(t, code, text, NULL, 0);
}

void task_cancel(Task *t) {
        t->call = NULL;
        task_over(t, /* failed= */ false);
}

/* ---- the API server ---- */

static void fail_kube(Task *t, const char *text, int error) {
        task_fail(t, TTRPC_UNAVAILABLE, "API server: %s", isempty(text) ? strerror(-error) : text);
}

static bool take_object(Task *t, json_object *object) {
        _cleanup_(freep) char *reason = NULL;

        forget_object(t);
        if (volume_read(object, &t->volume, &reason) < 0) {
                task_fail(t, TTRPC_FAILED_PRECONDITION, "%s", strempty(reason));
                return false;
        }
        t->object = json_object_get(object);
        t->has_volume = true;
        return true;
}

/* Who was faster has done what we wanted, or has made it void: the next look tells. */
static void read_again(Task *t) {
        if (++t->n_conflicts > CONFLICTS_MAX)
                task_fail(t, TTRPC_ABORTED, "The PeerpodVolume is being changed by somebody else all the time.");
        else
                task_read(t);
}

static void request_done(Task *t) {
        t->kube = kube_request_free(t->kube);
}

static void on_read(KubeRequest *q, const KubeReply *reply, void *userdata) {
        Task *t = userdata;

        request_done(t);
        if (reply->error == -ENOENT)
                forget_object(t);
        else if (reply->error < 0) {
                fail_kube(t, reply->text, reply->error);
                return;
        } else if (!take_object(t, reply->object))
                return;
        t->start(t);
}

static char* volume_path(Task *t, const char *name, const char *subresource) {
        return kube_path(PEERPOD_API_VERSION, t->wrapper->settings->namespace, PEERPOD_VOLUME_PLURAL, name, subresource);
}

static void task_read(Task *t) {
        _cleanup_(freep) char *path = volume_path(t, t->entry->name, NULL);
        int r;

        r = path ? kube_get(t->wrapper->kube, path, on_read, t, &t->kube) : -ENOMEM;
        if (r < 0)
                fail_kube(t, NULL, r);
}

static void on_written(KubeRequest *q, const KubeReply *reply, void *userdata) {
        Task *t = userdata;

        request_done(t);
        if (reply->error == -ESTALE || reply->error == -ENOENT)
                read_again(t);
        else if (reply->error < 0)
                fail_kube(t, reply->text, reply->error);
        else if (take_object(t, reply->object))
                t->written(t);
}

/* Of the version that was read, so that nobody else's change is lost. */
static void write_patch(Task *t, json_object **patch, const char *subresource, TaskStep written) {
        _cleanup_(freep) char *path = volume_path(t, t->volume.name, subresource);
        int r;

        t->written = written;
        r = patch_set(patch, "metadata", "resourceVersion", t->volume.resource_version);
        if (r >= 0)
                r = path ? kube_patch(t->wrapper->kube, path, KUBE_MERGE_PATCH, *patch, on_written, t, &t->kube) : -ENOMEM;
        if (r < 0)
                fail_kube(t, NULL, r);
}

static void state_written(Task *t) {
        log_debug("Volume '%s' is '%s'.", t->volume.name, volume_state_to_string(t->volume.state));
        t->next(t);
}

static void write_state(Task *t) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        int r;

        if (t->volume.state == t->state) {
                t->next(t);
                return;
        }
        r = patch_set(&patch, "status", "state", volume_state_to_string(t->state));
        if (r < 0)
                fail_kube(t, NULL, r);
        else
                write_patch(t, &patch, "status", state_written);
}

void task_update(Task *t, json_object *patch, VolumeState state, TaskStep next) {
        _cleanup_(json_object_putp) json_object *owned = patch;

        t->state = state;
        t->next = next;
        if (owned)
                write_patch(t, &owned, NULL, write_state);
        else
                write_state(t);
}

static void on_created(KubeRequest *q, const KubeReply *reply, void *userdata) {
        Task *t = userdata;

        request_done(t);
        if (reply->error == -EEXIST && t->entry)
                read_again(t);                  /* a change to it needs its version */
        else if (reply->error == -EEXIST)
                t->next(t);
        else if (reply->error < 0)
                fail_kube(t, reply->text, reply->error);
        else if (take_object(t, reply->object))
                t->next(t);
}

void task_create(Task *t, json_object *object, TaskStep next) {
        _cleanup_(json_object_putp) json_object *owned = object;
        _cleanup_(freep) char *path = volume_path(t, NULL, NULL);
        int r;

        t->next = next;
        r = path ? kube_create(t->wrapper->kube, path, owned, on_created, t, &t->kube) : -ENOMEM;
        if (r < 0)
                fail_kube(t, NULL, r);
}

static void on_deleted(KubeRequest *q, const KubeReply *reply, void *userdata) {
        Task *t = userdata;

        request_done(t);
        if (reply->error < 0 && reply->error != -ENOENT)
                fail_kube(t, reply->text, reply->error);
        else
                t->next(t);
}

void task_delete(Task *t, const char *object_name, TaskStep next) {
        _cleanup_(freep) char *path = volume_path(t, object_name, NULL);
        int r;

        t->next = next;
        r = path ? kube_delete(t->wrapper->kube, path, NULL, on_deleted, t, &t->kube) : -ENOMEM;
        if (r < 0)
                fail_kube(t, NULL, r);
}

static void on_got(KubeRequest *q, const KubeReply *reply, void *userdata) {
        _cleanup_(json_object_putp) json_object *object = NULL;
        Task *t = userdata;

        request_done(t);
        if (reply->error < 0 && reply->error != -ENOENT) {
                fail_kube(t, reply->text, reply->error);
                return;
        }
        object = reply->error < 0 ? NULL : json_object_get(reply->object);
        t->on_object(t, object);
}

void task_get(Task *t, const char *path, TaskObject on_object) {
        int r;

        t->on_object = on_object;
        r = kube_get(t->wrapper->kube, path, on_got, t, &t->kube);
        if (r < 0)
                fail_kube(t, NULL, r);
}

/* ---- the driver, and others ---- */

static void on_driver(const GrpcReply *reply, void *userdata) {
        Task *t = userdata;

        t->driver = NULL;
        t->answer(t, reply);
}

void task_ask_driver_bytes(Task *t, const char *path, const void *data, size_t size, TaskAnswer answer) {
        uint64_t deadline = t->call ? grpc_call_deadline(t->call) : usec_add(now_usec(CLOCK_MONOTONIC), DRIVER_USEC);
        int r;

        t->answer = answer;
        r = grpc_client_call(t->wrapper->driver, path, data, size, deadline, on_driver, t, &t->driver);
        if (r < 0)
                task_fail(t, ttrpc_code_from_errno(r), "%s: %s", path, strerror(-r));
}

void task_ask_driver(Task *t, const char *path, const ProtobufCMessage *message, TaskAnswer answer) {
        uint8_t *data = NULL;
        size_t size = 0;

        if (message_pack(message, &data, &size) < 0) {
                task_fail(t, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
                return;
        }
        task_ask_driver_bytes(t, path, data, size, answer);
        (void) erase_free(data, size);
}

void task_pass(Task *t) {
        VolumeEntry *e = TAKE_PTR(t->entry);
        const uint8_t *data;
        size_t size;

        if (e)                                  /* it is no business of ours */
                volume_entry_done(e, /* retry= */ false);
        data = grpc_call_message(t->call, &size);
        task_ask_driver_bytes(t, grpc_call_path(t->call), data, size, task_end_like);
}

void task_ask(Task *t, void *query, void (*query_free)(void *query)) {
        assert(!t->query);
        t->query = query;
        t->query_free = query_free;
}

void task_answered(Task *t) {
        t->query_free(TAKE_PTR(t->query));
}

/* ---- patches ---- */

static int get_or_make(json_object *parent, const char *key, json_object **ret) {
        json_object *o;

        if (json_object_object_get_ex(parent, key, &o) && o) {
                *ret = o;
                return 0;
        }
        o = json_object_new_object();
        if (!o)
                return -ENOMEM;
        *ret = o;
        return json_set(parent, key, o);
}

static int set_or_null(json_object *o, const char *key, const char *value) {
        return value ? json_set_string(o, key, value) : json_object_object_add(o, key, NULL) < 0 ? -ENOMEM : 0;
}

int patch_set(json_object **patch, const char *parent, const char *key, const char *value) {
        json_object *o;
        int r;

        if (!*patch && !(*patch = json_object_new_object()))
                return -ENOMEM;
        r = get_or_make(*patch, parent, &o);
        return r < 0 ? r : set_or_null(o, key, value);
}

int patch_set_in_metadata(json_object **patch, const char *parent, const char *key, const char *value) {
        json_object *metadata, *o;
        int r;

        if (!*patch && !(*patch = json_object_new_object()))
                return -ENOMEM;
        r = get_or_make(*patch, "metadata", &metadata);
        if (r >= 0)
                r = get_or_make(metadata, parent, &o);
        return r < 0 ? r : set_or_null(o, key, value);
}
