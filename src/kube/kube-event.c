/* SPDX-License-Identifier: Apache-2.0 */
/* What repeats itself is one object in the API, whose series is counted up; a small table of the latest ones finds it again (kubernetes/client-go:
 * tools/events/event_broadcaster.go). */
#include "kube/kube-event.h"

#include <inttypes.h>
#include <json-c/json_object.h>
#include <stdio.h>

#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"

#define NOTE_MAX 1024U                  /* kubernetes/kubernetes: pkg/apis/core/validation/events.go */
#define RECENT_MAX 128U
#define SERIES_USEC (360 * USEC_PER_SEC)        /* a repetition after that is a new event */
#define SERIES_PAUSE_USEC (30 * USEC_PER_SEC)   /* between two counts that are written */
#define PACE_USEC (1 * USEC_PER_SEC)
#define BURST 25U
#define PENDING_MAX 32U

typedef struct Recent {
        char *key;                      /* what makes two events the same; NULL: free */
        char *path;                     /* of the object */
        uint64_t count, seen_usec, written_usec;
} Recent;

struct KubeEvents {
        KubeClient *client;
        char *controller, *instance;
        Recent recent[RECENT_MAX];
        uint64_t due_usec;              /* the bucket, as in kube-client.c */
        uint64_t n_made;
        KubeRequest *pending[PENDING_MAX];
        KubeEventsStats stats;
};

static void recent_done(Recent *r) {
        free(r->key);
        free(r->path);
        *r = (Recent) {};
}

int kube_events_new(KubeClient *client, const char *controller, const char *instance, KubeEvents **ret) {
        _cleanup_(kube_events_freep) KubeEvents *e = new0(KubeEvents, 1);

        if (!e)
                return -ENOMEM;
        e->client = client;
        e->controller = strdup(controller);
        e->instance = strdup(instance);
        if (!e->controller || !e->instance)
                return -ENOMEM;
        *ret = TAKE_PTR(e);
        return 0;
}

KubeEvents* kube_events_free(KubeEvents *e) {
        if (!e)
                return NULL;
        for (size_t i = 0; i < PENDING_MAX; i++)
                kube_request_free(e->pending[i]);
        for (size_t i = 0; i < RECENT_MAX; i++)
                recent_done(e->recent + i);
        free(e->controller);
        free(e->instance);
        free(e);
        return NULL;
}

void kube_events_stats(const KubeEvents *e, KubeEventsStats *ret) {
        *ret = e->stats;
}

int kube_reference_from_object(json_object *object, KubeReference *ret) {
        KubeMeta meta;
        int r;

        r = kube_meta(object, &meta, NULL);
        if (r < 0)
                return r;
        *ret = (KubeReference) {
                .api_version = kube_string_at(object, "apiVersion", NULL),
                .kind = kube_string_at(object, "kind", NULL),
                .ns = *meta.ns ? meta.ns : NULL,
                .name = meta.name,
                .uid = meta.uid,
        };
        return *ret->kind ? 0 : -EBADMSG;
}

/* ---- sending ---- */

static void on_done(KubeRequest *q, const KubeReply *reply, void *userdata) {
        KubeEvents *e = userdata;

        if (reply->error < 0) {
                e->stats.n_failed++;
                log_debug("An event was not written: %s", reply->text);
        }
        for (size_t i = 0; i < PENDING_MAX; i++)
                if (e->pending[i] == q)
                        e->pending[i] = NULL;
        kube_request_free(q);
}

static bool take_token(KubeEvents *e) {
        uint64_t now = now_usec(CLOCK_MONOTONIC), due = MAX(e->due_usec, now);

        if (due - now > PACE_USEC * (BURST - 1))
                return false;
        e->due_usec = due + PACE_USEC;
        return true;
}

/* Returns whether it is on its way. */
static bool send_call(KubeEvents *e, const KubeCall *call) {
        size_t i = 0;

        while (i < PENDING_MAX && e->pending[i])
                i++;
        if (i == PENDING_MAX || !take_token(e) || kube_request(e->client, call, on_done, e, &e->pending[i]) < 0) {
                e->stats.n_dropped++;
                return false;
        }
        return true;
}

/* ---- making ---- */

static json_object* make_reference(const KubeReference *about) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();

        if (!o || json_set_string(o, "apiVersion", about->api_version) < 0 || json_set_string(o, "kind", about->kind) < 0 ||
            json_set_string(o, "namespace", about->ns) < 0 || json_set_string(o, "name", about->name) < 0 || json_set_string(o, "uid", about->uid) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static json_object* make_event(KubeEvents *e, const KubeReference *about, const char *ns, const char *name, const char *type, const char *reason,
                               const char *action, const char *note) {
        _cleanup_(json_object_putp) json_object *o = kube_object_new("events.k8s.io/v1", "Event", ns, name);
        char time[KUBE_TIME_SIZE];

        kube_micro_time_format(now_usec(CLOCK_REALTIME), time);
        if (!o || json_set(o, "regarding", make_reference(about)) < 0 || json_set_string(o, "type", type) < 0 || json_set_string(o, "reason", reason) < 0 ||
            json_set_string(o, "action", action) < 0 || json_set_string(o, "note", note) < 0 || json_set_string(o, "eventTime", time) < 0 ||
            json_set_string(o, "reportingController", e->controller) < 0 || json_set_string(o, "reportingInstance", e->instance) < 0)
                return NULL;
        return TAKE_PTR(o);
}

/* The entry of that key; else a free one, or the oldest one, emptied. */
static Recent* find_recent(KubeEvents *e, const char *key) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        Recent *oldest = e->recent;

        for (size_t i = 0; i < RECENT_MAX; i++) {
                Recent *r = e->recent + i;

                if (r->key && now - r->seen_usec > SERIES_USEC)
                        recent_done(r);
                if (r->key && streq(r->key, key))
                        return r;
                if (!r->key || (oldest->key && r->seen_usec < oldest->seen_usec))
                        oldest = r;
        }
        recent_done(oldest);
        return oldest;
}

/* Once more the same. */
static void count_up(KubeEvents *e, Recent *r) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        _cleanup_(json_object_putp) json_object *patch = NULL, *series = json_object_new_object();
        char time[KUBE_TIME_SIZE];

        r->count++;
        r->seen_usec = now;
        e->stats.n_merged++;
        if (now - r->written_usec < SERIES_PAUSE_USEC)
                return;
        r->written_usec = now;
        kube_micro_time_format(now_usec(CLOCK_REALTIME), time);
        patch = json_object_new_object();
        if (!patch || !series || json_set_u64(series, "count", r->count) < 0 || json_set_string(series, "lastObservedTime", time) < 0 ||
            json_set(patch, "series", TAKE_PTR(series)) < 0)
                return;
        (void) send_call(e, &(KubeCall) { .method = "PATCH", .path = r->path, .content_type = KUBE_MERGE_PATCH, .body = patch, .repeatable = true });
}

static void begin(KubeEvents *e, Recent *r, char *key, const KubeReference *about, const char *type, const char *reason, const char *action, const char *note) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *name = NULL, *collection = NULL, *path = NULL;
        const char *ns = about->ns ?: "default";        /* where events of what has no namespace are */
        char tail[40];

        (void) snprintf(tail, sizeof(tail), "%" PRIx64 "-%" PRIx64, now_usec(CLOCK_REALTIME), e->n_made++);
        name = kube_name_make(about->name, tail, 253);
        if (!name)
                return;
        collection = kube_path("events.k8s.io/v1", ns, "events", NULL, NULL);
        path = kube_path("events.k8s.io/v1", ns, "events", name, NULL);
        o = make_event(e, about, ns, name, type, reason, action, note);
        if (!collection || !path || !o || !(key = strdup(key)))
                return;
        if (!send_call(e, &(KubeCall) { .method = "POST", .path = collection, .body = o })) {
                free(key);
                return;
        }
        e->stats.n_written++;
        *r = (Recent) { .key = key, .path = TAKE_PTR(path), .count = 1, .seen_usec = now_usec(CLOCK_MONOTONIC), .written_usec = now_usec(CLOCK_MONOTONIC) };
}

void kube_event(KubeEvents *e, const KubeReference *about, const char *type, const char *reason, const char *action, const char *note) {
        _cleanup_(freep) char *plain = text_make_plain(note, NOTE_MAX), *key = NULL;
        Recent *r;

        if (!plain || asprintf(&key, "%s\n%s\n%s\n%s\n%s\n%s\n%s", about->kind, strempty(about->ns), about->name, strempty(about->uid), type, reason, plain) < 0) {
                key = NULL;
                e->stats.n_dropped++;
                return;
        }
        r = find_recent(e, key);
        if (r->key)
                count_up(e, r);
        else
                begin(e, r, key, about, type, reason, action, plain);
}
