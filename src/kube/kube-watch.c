/* SPDX-License-Identifier: Apache-2.0 */
/* Lists, then watches, as kubernetes/client-go does it (tools/cache/reflector.go), but keeps no objects: an index of what the user was told.
 *
 * Three things can be under way, one at a time: a page of a list, a watch's stream, a pause. Bytes of a stream are put aside by libcurl's
 * callback and made into events from a source of our own, since a user's callback may free all of this. */
#include "kube/kube-watch.h"

#include <inttypes.h>
#include <json-c/json_object.h>
#include <stdio.h>

#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/kube-seen.h"
#include "kube/kube-session.h"
#include "kube/kube-transfer.h"

#define PAGE_SIZE_OBJECTS 100U
#define EVENT_MAX ((size_t) 4 << 20)
#define WATCH_SECONDS_MIN 300U
#define WATCH_SECONDS_MAX 600U
#define IDLE_USEC (90 * USEC_PER_SEC)   /* bookmarks come about each minute (kubernetes/apiserver: pkg/storage/cacher/cacher.go) */
#define PAUSE_USEC (800 * USEC_PER_MSEC)
#define PAUSE_MAX_USEC (30 * USEC_PER_SEC)
#define QUIET_USEC (120 * USEC_PER_SEC)
#define SHORT_WATCH_USEC (1 * USEC_PER_SEC)     /* ended sooner and without an event: that was no watch */
#define LIST_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define TEXT_MAX 512U
#define FAULTS_TO_LIST 4U               /* so many in a row without progress: the version may be at fault */

struct KubeWatch {
        KubeClient *client;
        KubeWatchSpec spec;             /* with defaults; its strings are owned */
        char *path, *label_selector, *field_selector;
        void *userdata;
        unsigned n_calls;               /* of the user's callbacks that have not returned */
        bool freed;                     /* from within one of them */

        KubeSeen seen;
        char *version, *token;          /* resourceVersion; "continue" of the list that is under way */
        bool synced;
        int trouble;                    /* what was told of it, 0: all is well */

        KubeRequest *request;
        KubeTransfer *transfer;
        sd_event_source *pause, *deliver, *idle;
        uint64_t began_usec;            /* of the watch */
        bool any_event, ended, full, renewed;
        char *buffer;
        size_t size, allocated;
        int stream_error;               /* from an ERROR event, or of our own */
        char *stream_text;

        unsigned n_faults;              /* in a row */
        unsigned n_barren;              /* watches in a row that failed without an event */
        uint64_t fault_usec;
        KubeWatchStats stats;
};

static void begin_list(KubeWatch *w);
static void begin_watch(KubeWatch *w);

/* ---- what the user is told ---- */

static void destroy(KubeWatch *w) {
        kube_seen_done(&w->seen);
        kube_transfer_free(w->transfer);        /* not before: what the user is told may be a part of it */
        free(w->path);
        free(w->label_selector);
        free(w->field_selector);
        free(w->version);
        free(w->token);
        free(w->buffer);
        free(w->stream_text);
        free(w);
}

/* Returns false when the user has freed the watch meanwhile. */
static bool call_returned(KubeWatch *w) {
        w->n_calls--;
        if (!w->freed)
                return true;
        if (w->n_calls == 0)
                destroy(w);
        return false;
}

static bool tell(KubeWatch *w, KubeChange change, json_object *object) {
        w->stats.n_events++;
        w->n_calls++;
        w->spec.on_object(w, change, object, w->userdata);
        return call_returned(w);
}

static bool tell_synced(KubeWatch *w) {
        w->n_calls++;
        if (w->spec.on_synced)
                w->spec.on_synced(w, w->userdata);
        return call_returned(w);
}

static bool tell_trouble(KubeWatch *w, const KubeReply *reply, uint64_t again_usec) {
        w->n_calls++;
        if (w->spec.on_trouble)
                w->spec.on_trouble(w, reply, again_usec, w->userdata);
        return call_returned(w);
}

/* A deletion that nobody saw. Takes the entry. Returns 1, 0 when the watch is gone, -ENOMEM. */
static int tell_vanished(KubeWatch *w, KubeSeenObject *k) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r;

        r = kube_seen_describe(k, &o);
        if (r < 0)
                return r;
        kube_seen_remove(&w->seen, k);
        return tell(w, KUBE_DELETED, o);
}

/* An object as it is now. Returns 1, 0 when the watch is gone, or -errno. */
static int take_object(KubeWatch *w, const KubeMeta *meta, json_object *o) {
        KubeSeenObject *k;
        int r;

        r = kube_seen_find(&w->seen, meta, &k);
        if (r < 0)
                return r;
        if (k && !kube_seen_is(k, meta)) {
                /* Another object of that name: the old one is gone. */
                r = tell_vanished(w, k);
                if (r <= 0)
                        return r;
                k = NULL;
        }
        if (!k) {
                r = kube_seen_add(&w->seen, meta);
                return r < 0 ? r : tell(w, KUBE_ADDED, o);
        }
        r = kube_seen_again(&w->seen, k, meta->resource_version);
        return r < 0 ? r : r == 0 ? 1 : tell(w, KUBE_MODIFIED, o);
}

static int take_deletion(KubeWatch *w, const KubeMeta *meta, json_object *o) {
        KubeSeenObject *k;
        int r;

        r = kube_seen_find(&w->seen, meta, &k);
        if (r < 0)
                return r;
        if (!k || !kube_seen_is(k, meta))
                return 1;
        kube_seen_remove(&w->seen, k);
        return tell(w, KUBE_DELETED, o);
}

static int keep_version(KubeWatch *w, const char *version) {
        char *copy;

        if (isempty(version) || streq(w->version, version))
                return 0;
        copy = strdup(version);
        if (!copy)
                return -ENOMEM;
        free(w->version);
        w->version = copy;
        return 0;
}

/* ---- pauses ---- */

static void stop(KubeWatch *w) {
        w->request = kube_request_free(w->request);
        w->transfer = kube_transfer_free(w->transfer);
        w->size = 0;
        w->ended = w->full = false;
        w->stream_error = 0;
        w->stream_text = (free(w->stream_text), NULL);
        (void) sd_event_source_set_enabled(w->deliver, SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(w->idle, SD_EVENT_OFF);
}

static void well(KubeWatch *w) {
        if (w->trouble)
                log_info("Watching '%s' goes on.", w->path);
        w->trouble = 0;
        w->renewed = false;
}

/* A pause is over, or a watch has lasted long enough to be one. */
static int on_pause(sd_event_source *es, uint64_t usec, void *userdata) {
        KubeWatch *w = userdata;

        if (w->transfer)
                well(w);
        else if (w->synced)
                begin_watch(w);
        else
                begin_list(w);
        return 0;
}

static void wait_until(KubeWatch *w, uint64_t at) {
        if (sd_event_source_set_time(w->pause, at) < 0 || sd_event_source_set_enabled(w->pause, SD_EVENT_ONESHOT) < 0)
                log_warning("Cannot go on watching '%s'.", w->path);    /* not seen: both only fail for a loop that is over */
}

/* A server that is not there becomes one that refuses, which somebody has to mend, and which those may go by who wait for the first list. */
static bool is_news(const KubeWatch *w, int error) {
        bool refused = error == -EACCES || error == -EPERM || error == -ENOENT || error == -EINVAL || error == -EPROTO;

        return w->trouble == 0 || (refused && error != w->trouble);
}

/* It did not go well: say so, wait, go on from the last version, or from the start. @relist: what is known may be out of date. */
static void trouble(KubeWatch *w, const KubeReply *reply, bool relist) {
        uint64_t now = now_usec(CLOCK_MONOTONIC), pause;
        bool news = is_news(w, reply->error);

        if (w->n_faults > 0 && now - w->fault_usec > w->spec.quiet_usec)
                w->n_faults = 0;
        /* A version that is gone is no fault of the server's. */
        pause = reply->error == -ESTALE && w->n_faults == 0 ? 0 : kube_backoff_usec(w->spec.pause_usec, w->spec.pause_max_usec, w->n_faults, reply->retry_after_usec);
        w->n_faults++;
        w->fault_usec = now;
        w->stats.n_faults++;
        if (news)
                w->trouble = reply->error;
        if (relist)
                w->synced = false;
        log_full(NULL, news ? LOG_WARNING : LOG_DEBUG, NULL, 0, "Watching '%s' does not go on, retrying in %s: %s", w->path, FORMAT_USEC(pause), reply->text);
        wait_until(w, usec_add(now, pause));

        /* Only afterwards is all stopped: the reply may be of what ends here. */
        if (!news || tell_trouble(w, reply, pause))
                stop(w);
}

static const char* describe(int error) {
        return error == -EBADMSG ? "what came is no object" : error == -E2BIG ? "there are too many objects" : error == -EMSGSIZE ? "an event is larger than allowed" : strerror(-error);
}

static void trouble_of_our_own(KubeWatch *w, int error, const char *why, bool relist) {
        KubeReply reply = { .error = error, .reason = "", .text = why };

        trouble(w, &reply, relist);
}

/* ---- list ---- */

/* Built-in kinds have no kind in lists. */
static void name_kind(json_object *item, json_object *list) {
        const char *kind = kube_string_at(list, "kind", NULL), *api_version = kube_string_at(list, "apiVersion", NULL);
        size_t n = strlen(kind);

        if (json_object_object_get(item, "kind") || n <= strlen("List") || !streq(kind + n - strlen("List"), "List"))
                return;
        (void) json_set(item, "kind", json_object_new_string_len(kind, (int) (n - strlen("List"))));
        (void) json_set_string(item, "apiVersion", api_version);
}

/* Returns 1, 0 when the watch is gone, or -errno. */
static int take_page(KubeWatch *w, json_object *list) {
        json_object *items = NULL;
        int r;

        r = json_get_array(list, "items", &items, NULL);
        for (size_t i = 0; r > 0 && i < json_object_array_length(items); i++) {
                json_object *item = json_object_array_get_idx(items, i);
                KubeMeta meta;

                if (!json_object_is_type(item, json_type_object) || kube_meta(item, &meta, NULL) < 0)
                        return -EBADMSG;
                name_kind(item, list);
                r = take_object(w, &meta, item);
                if (r <= 0)
                        return r;
        }
        return r < 0 ? r : 1;   /* an empty list may have null instead of items */
}

/* What no page of this list had is gone. */
static int sweep(KubeWatch *w) {
        KubeSeenObject *k;
        int r = 1;

        while (r > 0 && (k = kube_seen_stale(&w->seen)))
                r = tell_vanished(w, k);
        return r;
}

static int end_list(KubeWatch *w, const char *version) {
        int r;

        r = sweep(w);
        if (r <= 0)
                return r;
        r = keep_version(w, version);
        if (r < 0)
                return r;
        w->synced = true;
        well(w);
        return tell_synced(w);
}

static void on_page(KubeRequest *q, const KubeReply *reply, void *userdata) {
        KubeWatch *w = userdata;
        const char *token, *version;
        int r;

        if (reply->error < 0) {
                /* 410: the server does not know any more where this list was. */
                if (reply->error == -ESTALE || reply->error == -EINVAL)
                        w->token = (free(w->token), NULL);
                trouble(w, reply, true);
                return;
        }
        version = kube_string_at(reply->object, "metadata", "resourceVersion", NULL);
        token = kube_string_at(reply->object, "metadata", "continue", NULL);
        r = isempty(version) ? -EBADMSG : take_page(w, reply->object);
        if (r > 0) {
                free(w->token);
                w->token = *token ? strdup(token) : NULL;
                if (*token && !w->token)
                        r = -ENOMEM;
        }
        if (r > 0 && !w->token)
                r = end_list(w, version);
        if (r == 0)
                return;
        if (r < 0) {
                w->token = (free(w->token), NULL);
                trouble_of_our_own(w, r, describe(r), true);
                return;
        }
        w->request = kube_request_free(w->request);
        wait_until(w, 0);
}

static int make_path(KubeWatch *w, char **ret) {
        _cleanup_(freep) char *path = strdup(w->path);

        if (!path || kube_query_add(&path, "labelSelector", w->label_selector) < 0 || kube_query_add(&path, "fieldSelector", w->field_selector) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(path);
        return 0;
}

/* The next page. Always from what is stored, never "any version" (0): a cache would give all of it at once, whatever the limit is. */
static void begin_list(KubeWatch *w) {
        _cleanup_(freep) char *path = NULL;
        char limit[16];
        int r;

        if (!w->token) {
                kube_seen_begin(&w->seen);
                w->stats.n_lists++;
        }
        (void) snprintf(limit, sizeof(limit), "%" PRIu32, w->spec.page_size);
        if ((r = make_path(w, &path)) >= 0 && (r = kube_query_add(&path, "limit", limit)) >= 0 && (r = kube_query_add(&path, "continue", w->token)) >= 0)
                r = kube_request(w->client, &(KubeCall) { .method = "GET", .path = path, .timeout_usec = LIST_TIMEOUT_USEC, .reply_max = (size_t) 64 << 20, .once = true },
                                 on_page, w, &w->request);
        if (r < 0)
                trouble_of_our_own(w, r, strerror(-r), true);
}

/* ---- watch ---- */

/* One event. Returns 1; 0 when the watch is gone; or -errno for the end of this stream: -ESTALE to list again. */
static int take_event(KubeWatch *w, const char *line, size_t size) {
        _cleanup_(json_object_putp) json_object *event = NULL;
        const char *type;
        json_object *o;
        KubeMeta meta;
        int r;

        r = json_parse(line, size, &event, NULL);
        if (r < 0)
                return r;
        type = kube_string_at(event, "type", NULL);
        o = kube_object_at(event, "object", NULL);
        if (!json_object_is_type(o, json_type_object))
                return -EBADMSG;
        if (streq(type, "ERROR")) {
                const char *reason = kube_string_at(o, "reason", NULL);
                int code = json_object_get_int(kube_object_at(o, "code", NULL));

                w->stream_text = (free(w->stream_text), text_make_plain(kube_string_at(o, "message", NULL), TEXT_MAX));
                r = kube_reply_error(code, reason);
                return r == 0 ? -EREMOTEIO : r;
        }
        if (streq(type, "BOOKMARK")) {
                w->any_event = true;
                well(w);
                r = keep_version(w, kube_string_at(o, "metadata", "resourceVersion", NULL));
                return r < 0 ? r : 1;
        }
        if (kube_meta(o, &meta, NULL) < 0)
                return -EBADMSG;
        w->any_event = true;
        w->n_barren = 0;
        well(w);
        /* The version only afterwards: what could not be told is asked for again, and what is told already is known by its own version. */
        if (streq(type, "DELETED"))
                r = take_deletion(w, &meta, o);
        else if (streq(type, "ADDED") || streq(type, "MODIFIED"))
                r = take_object(w, &meta, o);
        else
                return 1;       /* a kind of event of a later version */
        if (r <= 0)
                return r;
        r = keep_version(w, meta.resource_version);
        return r < 0 ? r : 1;
}

static void end_stream(KubeWatch *w, KubeReply *reply) {
        bool is_short = now_usec(CLOCK_MONOTONIC) - w->began_usec < SHORT_WATCH_USEC && !w->any_event;

        if (reply->status == 401 && !w->renewed && kube_session_renew(kube_client_session(w->client))) {
                w->renewed = true;
                stop(w);
                wait_until(w, 0);
                return;
        }
        if (w->stream_error < 0) {
                reply->error = w->stream_error;
                reply->text = w->stream_text ?: describe(w->stream_error);
        } else if (reply->error == 0 && w->size > 0) {
                reply->error = -EBADMSG;
                reply->text = "the connection ended within an event";
        } else if (reply->error == 0 && is_short) {
                reply->error = -ENOTCONN;
                reply->text = "the watch ended at once";
        }
        if (reply->error < 0) {
                if (!w->any_event)
                        w->n_barren++;
                trouble(w, reply, reply->error == -ESTALE || w->n_barren >= FAULTS_TO_LIST);
                return;
        }
        well(w);
        stop(w);
        wait_until(w, 0);
}

/* Events out of the bytes that have come. */
static int on_deliver(sd_event_source *es, void *userdata) {
        KubeWatch *w = userdata;
        size_t used = 0;
        char *nl;
        int r = 1;

        while (r > 0 && w->size > used && (nl = memchr(w->buffer + used, '\n', w->size - used))) {
                size_t n = (size_t) (nl - (w->buffer + used));

                if (n > 0)
                        r = take_event(w, w->buffer + used, n);
                used += n + 1;
                if (r == 0)
                        return 0;
        }
        if (used > 0) {
                w->size -= used;
                memmove(w->buffer, w->buffer + used, w->size);
        }
        if (r < 0) {
                KubeReply reply = { .error = r, .reason = "", .text = "" };

                w->stream_error = r;
                end_stream(w, &reply);
        } else if (w->ended) {          /* it may have been held up at its end: nothing comes of it any more */
                KubeReply reply;

                kube_transfer_reply(w->transfer, &reply);
                end_stream(w, &reply);
        } else if (w->full) {
                w->full = false;
                kube_transfer_resume(w->transfer);
        }
        return 0;
}

static int on_data(KubeTransfer *t, const char *data, size_t size, void *userdata) {
        KubeWatch *w = userdata;

        if (size > w->spec.event_max - MIN(w->size, w->spec.event_max)) {
                if (w->size > 0 && memchr(w->buffer, '\n', w->size)) {
                        w->full = true;         /* of whole events: they come first */
                        return 1;
                }
                w->stream_error = -EMSGSIZE;
                return -EMSGSIZE;
        }
        if (w->size + size > w->allocated) {
                size_t want = MAX(w->size + size, w->allocated * 2 + 16384);
                char *bigger = realloc(w->buffer, want);

                if (!bigger)
                        return -ENOMEM;
                w->buffer = bigger;
                w->allocated = want;
        }
        if (size > 0)
                memcpy(w->buffer + w->size, data, size);
        w->size += size;
        (void) sd_event_source_set_time_relative(w->idle, w->spec.idle_usec);
        return sd_event_source_set_enabled(w->deliver, SD_EVENT_ONESHOT);
}

/* The server has taken the watch: it is one if it does not end at once. */
static void on_begin(KubeTransfer *t, void *userdata) {
        KubeWatch *w = userdata;

        wait_until(w, usec_add(now_usec(CLOCK_MONOTONIC), SHORT_WATCH_USEC));
}

static void on_stream_done(KubeTransfer *t, void *userdata) {
        KubeWatch *w = userdata;

        w->ended = true;
        (void) sd_event_source_set_enabled(w->idle, SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(w->deliver, SD_EVENT_ONESHOT);
}

/* Not even a bookmark: the other end of the connection is gone, and nobody told us. */
static int on_idle(sd_event_source *es, uint64_t usec, void *userdata) {
        KubeWatch *w = userdata;

        kube_session_distrust(kube_client_session(w->client));
        trouble_of_our_own(w, -ETIMEDOUT, "nothing comes on the connection any more", false);
        return 0;
}

static uint32_t choose_seconds(const KubeWatch *w) {
        /* By chance, so that those who began together do not come back together. */
        return w->spec.watch_seconds ?: WATCH_SECONDS_MIN + (uint32_t) kube_backoff_usec(WATCH_SECONDS_MAX - WATCH_SECONDS_MIN, UINT64_MAX, 0, 0);
}

static void begin_watch(KubeWatch *w) {
        _cleanup_(freep) char *path = NULL;
        char seconds[16];
        int r;

        (void) snprintf(seconds, sizeof(seconds), "%" PRIu32, choose_seconds(w));
        if ((r = make_path(w, &path)) >= 0 && (r = kube_query_add(&path, "watch", "true")) >= 0 && (r = kube_query_add(&path, "resourceVersion", w->version)) >= 0 &&
            (r = kube_query_add(&path, "allowWatchBookmarks", "true")) >= 0 && (r = kube_query_add(&path, "timeoutSeconds", seconds)) >= 0) {
                KubeTransferSpec spec = {
                        .method = "GET", .path = path, .timeout_usec = USEC_INFINITY, .reply_max = 1U << 20, .repeatable = true,
                        .on_begin = on_begin, .on_data = on_data, .on_done = on_stream_done, .userdata = w,
                };

                w->stats.n_watches++;
                w->began_usec = now_usec(CLOCK_MONOTONIC);
                w->any_event = false;
                r = kube_transfer_new(kube_client_session(w->client), &spec, &w->transfer);
        }
        if (r >= 0)
                r = sd_event_source_set_time_relative(w->idle, w->spec.idle_usec);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->idle, SD_EVENT_ONESHOT);
        if (r < 0)
                trouble_of_our_own(w, r, strerror(-r), false);
}

/* ---- the object ---- */

static int copy_strings(KubeWatch *w, const KubeWatchSpec *spec) {
        w->path = strdup(spec->path);
        w->version = strdup("");
        w->label_selector = spec->label_selector ? strdup(spec->label_selector) : NULL;
        w->field_selector = spec->field_selector ? strdup(spec->field_selector) : NULL;
        return !w->path || !w->version || (spec->label_selector && !w->label_selector) || (spec->field_selector && !w->field_selector) ? -ENOMEM : 0;
}

int kube_watch_new(KubeClient *client, const KubeWatchSpec *spec, void *userdata, KubeWatch **ret) {
        _cleanup_(kube_watch_freep) KubeWatch *w = NULL;
        sd_event *event = kube_client_event(client);
        int r;

        if (isempty(spec->path) || spec->path[0] != '/' || !spec->on_object)
                return -EINVAL;
        w = new(KubeWatch);
        if (!w)
                return -ENOMEM;
        *w = (KubeWatch) { .client = client, .spec = *spec, .userdata = userdata };
        w->spec.page_size = spec->page_size ?: PAGE_SIZE_OBJECTS;
        w->spec.event_max = spec->event_max ?: EVENT_MAX;
        w->spec.idle_usec = spec->idle_usec ?: IDLE_USEC;
        w->spec.pause_usec = spec->pause_usec ?: PAUSE_USEC;
        w->spec.pause_max_usec = spec->pause_max_usec ?: PAUSE_MAX_USEC;
        w->spec.quiet_usec = spec->quiet_usec ?: QUIET_USEC;
        if ((r = copy_strings(w, spec)) < 0 || (r = sd_event_add_time(event, &w->pause, CLOCK_MONOTONIC, 0, 1, on_pause, w)) < 0 ||
            (r = sd_event_add_time(event, &w->idle, CLOCK_MONOTONIC, UINT64_MAX, 1, on_idle, w)) < 0 ||
            (r = sd_event_source_set_enabled(w->idle, SD_EVENT_OFF)) < 0 || (r = sd_event_add_defer(event, &w->deliver, on_deliver, w)) < 0 ||
            (r = sd_event_source_set_enabled(w->deliver, SD_EVENT_OFF)) < 0)
                return r;
        *ret = TAKE_PTR(w);
        return 0;
}

KubeWatch* kube_watch_free(KubeWatch *w) {
        if (!w)
                return NULL;
        w->request = kube_request_free(w->request);
        w->pause = sd_event_source_disable_unref(w->pause);
        w->deliver = sd_event_source_disable_unref(w->deliver);
        w->idle = sd_event_source_disable_unref(w->idle);
        w->freed = true;
        if (w->n_calls == 0)
                destroy(w);
        return NULL;
}

bool kube_watch_is_synced(const KubeWatch *w) {
        return w->synced && !w->trouble;
}

size_t kube_watch_count(const KubeWatch *w) {
        return kube_seen_count(&w->seen);
}

const char* kube_watch_resource_version(const KubeWatch *w) {
        return w->version;
}

void kube_watch_stats(const KubeWatch *w, KubeWatchStats *ret) {
        *ret = w->stats;
}
