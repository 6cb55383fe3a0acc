/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/wrapper.h"

#include "basic/log.h"
#include "basic/util.h"
#include "kube/csi/csi-message.h"
#include "kube/csi/vm.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/kube-watch.h"
#include "kube/peerpod-names.h"
#include "proto/proto.h"

#define RETRY_USEC (500 * USEC_PER_MSEC)
#define RETRY_MAX_USEC (30 * USEC_PER_SEC)
#define LEAVE_USEC (25 * USEC_PER_SEC)          /* kubelet gives a pod 30 s by default */
#define LEAVE_PAUSE_USEC USEC_PER_SEC

/* ---- volumes that something is to be done about ---- */

static void entry_free(VolumeEntry *e) {
        HASH_DEL(e->wrapper->entries, e);
        sd_event_source_disable_unref(e->timer);
        free(e);
}

int volume_entry_get(Wrapper *w, const char *object_name, VolumeEntry **ret) {
        VolumeEntry *e;
        size_t size = strlen(object_name);

        HASH_FIND(hh, w->entries, object_name, size, e);
        if (!e) {
                e = calloc(1, sizeof(*e) + size + 1);
                if (!e)
                        return -ENOMEM;
                e->wrapper = w;
                memcpy(e->name, object_name, size + 1);
                HASH_ADD_KEYPTR(hh, w->entries, e->name, size, e);
                if (!hash_added(e)) {
                        free(e);
                        return -ENOMEM;
                }
        }

        *ret = e;
        return 0;
}

static void entry_start(VolumeEntry *e) {
        e->again = false;
        e->timer = sd_event_source_disable_unref(e->timer);
        task_begin(e->wrapper, e->name, /* call= */ NULL, /* request= */ NULL, e->wrapper->role->advance);
}

/* While a task is under way, even one of a caller's, its turn comes after that. */
static void entry_poke(VolumeEntry *e) {
        if (e->task)
                e->again = true;
        else
                entry_start(e);
}

static int on_retry(sd_event_source *es, uint64_t usec, void *userdata) {
        VolumeEntry *e = userdata;

        e->timer = sd_event_source_disable_unref(e->timer);
        entry_poke(e);
        return 0;
}

static void entry_retry(VolumeEntry *e) {
        unsigned doubled = MIN(e->n_failures, 8U);
        uint64_t pause = MIN(RETRY_USEC << doubled, RETRY_MAX_USEC);
        int r;

        e->n_failures++;
        e->timer = sd_event_source_disable_unref(e->timer);
        r = sd_event_add_time_relative(e->wrapper->event, &e->timer, CLOCK_MONOTONIC, pause, 0, on_retry, e);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer for volume '%s'; it is seen to when it changes: %m", e->name);
}

static void leave_if_done(Wrapper *w) {
        if (w->leaving && !w->entries && !w->leave_request && !w->leave_again)
                (void) sd_event_exit(w->event, 0);
}

void volume_entry_done(VolumeEntry *e, bool retry) {
        Wrapper *w = e->wrapper;

        e->task = NULL;
        if (e->again)
                entry_start(e);
        else if (retry)
                entry_retry(e);
        else if (!e->timer) {
                entry_free(e);
                leave_if_done(w);
        }
}

void wrapper_poke(Wrapper *w, const char *object_name) {
        VolumeEntry *e;

        if (volume_entry_get(w, object_name, &e) < 0)
                log_error("Out of memory, volume '%s' is seen to when it changes.", object_name);
        else
                entry_poke(e);
}

static void on_object(KubeWatch *watch, KubeChange change, json_object *object, void *userdata) {
        _cleanup_(freep) char *reason = NULL;
        Wrapper *w = userdata;
        Volume v;

        if (change == KUBE_DELETED)
                return;
        if (volume_read(object, &v, &reason) < 0)
                log_warning("Passing over a PeerpodVolume: %s", strempty(reason));
        else if (w->role->wants(w, &v))
                wrapper_poke(w, v.name);
}

/* ---- calls ---- */

static bool service_exists(const Role *role, const char *path) {
        for (const char *const *s = role->services; *s; s++) {
                const char *rest = startswith(path, *s);

                if (rest && rest[0] == '/')
                        return true;
        }
        return false;
}

static void refuse_service(GrpcCall *call) {
        _cleanup_(freep) char *text = NULL;
        const char *path = grpc_call_path(call) + 1;

        if (asprintf(&text, "unknown service %.*s", (int) strcspn(path, "/"), path) < 0)
                text = NULL;
        grpc_call_reply(call, TTRPC_UNIMPLEMENTED, text, NULL, NULL, 0);
}

static void on_call(GrpcCall *call, void *userdata) {
        const char *path = grpc_call_path(call);
        ProtobufCMessage *request;
        Wrapper *w = userdata;
        const uint8_t *data;
        size_t size;
        int r;

        if (!service_exists(w->role, path)) {
                refuse_service(call);
                return;
        }
        for (const Method *m = w->role->methods; m->path; m++) {
                if (!streq(m->path, path))
                        continue;
                data = grpc_call_message(call, &size);
                r = proto_unpack(m->type, data, size, &request);
                if (r < 0)
                        grpc_call_reply(call, r == -EBADMSG ? TTRPC_INVALID_ARGUMENT : TTRPC_RESOURCE_EXHAUSTED,
                                        r == -EBADMSG ? "The message is malformed." : "The message takes too much memory.", NULL, NULL, 0);
                else
                        m->handle(w, call, request);
                return;
        }

        task_begin_unnamed(w, call, /* request= */ NULL, task_pass);
}

static void on_cancelled(GrpcCall *call, void *userdata) {
        task_cancel(grpc_call_userdata(call));
}

/* ---- the whole ---- */

/* Each role sees no more objects than it has to. */
static int make_selector(const Wrapper *w, char **ret) {
        _cleanup_(freep) char *value = NULL;
        const char *label, *name;

        if (w->role == &controller_role)
                return 0;
        label = w->role == &node_role ? "podNodeName" : "podUid";
        name = w->role == &node_role ? w->settings->node_name : w->settings->pod_uid;
        value = kube_name_make(name, /* tail= */ NULL, 63);
        return value && asprintf(ret, "%s=%s", label, value) >= 0 ? 0 : -ENOMEM;
}

static int read_boot_id(Wrapper *w) {
        sd_id128_t id;
        int r;

        if (w->role != &podvm_role)
                return 0;
        r = sd_id128_get_boot(&id);
        if (r >= 0)
                (void) sd_id128_to_string(id, w->boot_id);
        return r;
}

static int start_watch(Wrapper *w) {
        _cleanup_(freep) char *selector = NULL, *path = NULL;
        KubeWatchSpec spec = { .on_object = on_object };
        int r;

        path = kube_path(PEERPOD_API_VERSION, w->settings->namespace, PEERPOD_VOLUME_PLURAL, NULL, NULL);
        r = path ? make_selector(w, &selector) : -ENOMEM;
        if (r < 0)
                return r;
        spec.path = path;
        spec.label_selector = selector;
        return kube_watch_new(w->kube, &spec, w, &w->watch);
}

int wrapper_new(sd_event *event, const Settings *settings, const Role *role, int listen_fd, KubeClient *kube, Wrapper **ret) {
        const GrpcServerSpec spec = { .on_call = on_call, .on_cancelled = on_cancelled };
        _cleanup_(close_fdp) int fd = listen_fd;
        _cleanup_(wrapper_freep) Wrapper *w = NULL;
        int r;

        w = new(Wrapper);
        if (!w)
                return log_oom();
        *w = (Wrapper) { .event = sd_event_ref(event), .settings = settings, .role = role, .kube = kube };
        TAILQ_INIT(&w->tasks);

        r = read_boot_id(w);
        if (r < 0)
                return log_error_errno(r, "Failed to read the kernel's boot id: %m");
        r = grpc_client_new(event, settings->target, &w->driver);
        if (r < 0)
                return log_error_errno(r, "Failed to make a client of the driver at '%s': %m", settings->target);
        r = start_watch(w);
        if (r < 0)
                return log_error_errno(r, "Failed to watch PeerpodVolumes: %m");
        r = grpc_server_new(event, TAKE_FD(fd), &spec, w, &w->server);
        if (r < 0)
                return log_error_errno(r, "Failed to make the gRPC server: %m");

        *ret = TAKE_PTR(w);
        return 0;
}

Wrapper* wrapper_free(Wrapper *w) {
        VolumeEntry *e, *next;
        Task *t;

        if (!w)
                return NULL;

        w->leaving = false;
        HASH_ITER(hh, w->entries, e, next)
                e->again = false;
        while ((t = TAILQ_FIRST(&w->tasks)))
                task_cancel(t);
        HASH_ITER(hh, w->entries, e, next)
                entry_free(e);
        grpc_server_free(w->server);
        grpc_client_free(w->driver);
        kube_request_free(w->leave_request);
        sd_event_source_disable_unref(w->leave_timer);
        sd_event_source_disable_unref(w->leave_again);
        kube_watch_free(w->watch);
        vm_disconnect(w);
        sd_event_unref(w->event);
        free(w);
        return NULL;
}

/* ---- podvm: the pod ends ---- */

static void leave_ask(Wrapper *w);

static int on_leave_again(sd_event_source *es, uint64_t usec, void *userdata) {
        Wrapper *w = userdata;

        w->leave_again = sd_event_source_disable_unref(w->leave_again);
        leave_ask(w);
        return 0;
}

/* An error is no answer: until LEAVE_USEC are over there may be one. */
static void leave_ask_again(Wrapper *w, const char *text) {
        int r;

        log_warning("Failed to learn %s, asking again: %s", w->leaving ? "which volumes the pod has" : "whether the pod ends", text);
        r = sd_event_add_time_relative(w->event, &w->leave_again, CLOCK_MONOTONIC, LEAVE_PAUSE_USEC, 0, on_leave_again, w);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer: %m");        /* then on_leave_timer() is the end */
}

static void on_listed(KubeRequest *q, const KubeReply *reply, void *userdata) {
        json_object *items = kube_object_at(reply->object, "items", NULL);
        Wrapper *w = userdata;

        if (reply->error < 0)
                leave_ask_again(w, reply->text);
        for (size_t i = 0; reply->error >= 0 && json_object_is_type(items, json_type_array) && i < json_object_array_length(items); i++)
                on_object(w->watch, KUBE_MODIFIED, json_object_array_get_idx(items, i), w);
        w->leave_request = kube_request_free(w->leave_request);
        leave_if_done(w);
}

static void on_pod(KubeRequest *q, const KubeReply *reply, void *userdata) {
        _cleanup_(freep) char *reason = NULL;
        Wrapper *w = userdata;
        KubeMeta meta;

        if (reply->error == -ENOENT)
                w->leaving = true;
        else if (reply->error < 0)
                leave_ask_again(w, reply->text);
        else if (kube_meta(reply->object, &meta, &reason) < 0)
                leave_ask_again(w, strempty(reason));
        else if (meta.deleting || !streq(meta.uid, w->settings->pod_uid))
                w->leaving = true;
        else {
                log_notice("The pod goes on, its volumes stay mounted.");
                (void) sd_event_exit(w->event, 0);
        }
        w->leave_request = kube_request_free(w->leave_request);
        if (w->leaving)
                leave_ask(w);
}

static int list_volumes(Wrapper *w) {
        _cleanup_(freep) char *selector = NULL, *path = NULL;
        int r;

        path = kube_path(PEERPOD_API_VERSION, w->settings->namespace, PEERPOD_VOLUME_PLURAL, NULL, NULL);
        r = path ? make_selector(w, &selector) : -ENOMEM;
        if (r >= 0)
                r = kube_query_add(&path, "labelSelector", selector);
        return r < 0 ? r : kube_get(w->kube, path, on_listed, w, &w->leave_request);
}

static int read_pod(Wrapper *w) {
        _cleanup_(freep) char *path = kube_path("v1", w->settings->pod_namespace, "pods", w->settings->pod_name, NULL);

        return path ? kube_get(w->kube, path, on_pod, w, &w->leave_request) : -ENOMEM;
}

static void leave_ask(Wrapper *w) {
        int r = w->leaving ? list_volumes(w) : read_pod(w);

        if (r < 0)
                leave_ask_again(w, strerror(-r));
}

static int on_leave_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        Wrapper *w = userdata;

        log_warning(w->leaving ? "Leaving before all volumes are unmounted." : "Leaving without knowing whether the pod ends, its volumes stay mounted.");
        return sd_event_exit(w->event, 0);
}

int wrapper_leave(Wrapper *w) {
        int r;

        if (w->leave_timer)
                return 0;
        r = sd_event_add_time_relative(w->event, &w->leave_timer, CLOCK_MONOTONIC, LEAVE_USEC, 0, on_leave_timer, w);
        if (r < 0)
                return r;
        leave_ask(w);
        return 0;
}
