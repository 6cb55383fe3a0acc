/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/track.h"

#include <stdio.h>
#include <string.h>

#include "basic/crash-point.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "basic/sandbox-store.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/node/node.h"
#include "kube/node/peerpod-object.h"
#include "kube/node/registration.h"
#include "kube/peerpod-names.h"

#define RETRY_FIRST_USEC (500 * USEC_PER_MSEC)
#define RETRY_LAST_USEC (60 * USEC_PER_SEC)

/* ---- the object ---- */

static int make_log_fields(Track *t) {
        const struct {
                const char *name, *value;
        } fields[] = {
                { "PEERPOD_SANDBOX_ID",    t->record.id },
                { "PEERPOD_POD_NAME",      t->record.pod_name },
                { "PEERPOD_POD_NAMESPACE", t->record.pod_namespace },
        };

        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                int r = log_context_add(&t->log, fields[i].name, fields[i].value);

                if (r < 0)
                        return r;
        }
        return 0;
}

int track_new_from_record(Node *n, TrackRecord *record, Track **ret) {
        _cleanup_(track_freep) Track *t = new(Track);
        int r;

        if (!t)
                return -ENOMEM;
        *t = (Track) { .node = n, .record = *record };

        r = make_log_fields(t);
        if (r >= 0)
                r = node_add_track(n, t);
        if (r < 0) {
                t->record = TRACK_RECORD_NULL;          /* still the caller's */
                return r;
        }

        *record = TRACK_RECORD_NULL;
        *ret = TAKE_PTR(t);
        return 0;
}

static int save(Track *t) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = track_record_format(&t->record, &text);
        if (r >= 0)
                r = sandbox_store_save(t->node->store, t->record.id, text, strlen(text));
        if (r < 0)
                return log_track_errno(t, LOG_ERR, NULL, r, "Failed to write down what is known of sandbox '%s': %m", t->record.id);
        return 0;
}

int track_new(Node *n, const char *id, const char *pod_namespace, const char *pod_name, uint64_t created_usec, Track **ret) {
        _cleanup_(track_record_done) TrackRecord record = { .state = TRACK_CREATING, .created_usec = created_usec };
        Track *t;
        int r;

        if (!sandbox_id_is_valid(id) || !kube_name_is_valid(pod_namespace) || !kube_name_is_valid(pod_name))
                return -EINVAL;
        r = node_make_room(n);
        if (r < 0)
                return r;

        record.id = strdup(id);
        record.pod_namespace = strdup(pod_namespace);
        record.pod_name = strdup(pod_name);
        if (!record.id || !record.pod_namespace || !record.pod_name)
                return -ENOMEM;
        r = peerpod_name_make(pod_name, id, &record.name);
        if (r < 0)
                return r;

        r = track_new_from_record(n, &record, &t);
        if (r < 0)
                return r;
        r = save(t);
        if (r < 0) {
                track_free(t);
                return r;
        }

        node_update_status(n);
        *ret = t;
        return 0;
}

static void set_object(Track *t, json_object *object) {
        json_object_get(object);
        json_object_put(t->object);
        t->object = object;
}

static void drop_request(Track *t) {
        if (!t->request)
                return;
        t->request = kube_request_free(t->request);
        t->node->n_requests--;
        node_kick(t->node);             /* its place is free */
}

Track* track_free(Track *t) {
        if (!t)
                return NULL;

        registration_free(t->registration);
        drop_request(t);
        set_object(t, NULL);
        sd_event_source_disable_unref(t->retry);
        node_remove_track(t->node, t);
        log_context_done(&t->log);
        track_record_done(&t->record);
        free(t->trouble);
        free(t);
        return NULL;
}

/* Nothing is left to do, here and at the server. */
static void forget(Track *t) {
        Node *n = t->node;
        int r;

        crash_point("released");
        r = sandbox_store_remove(n->store, t->record.id);
        if (r < 0)              /* the next start finds the record, and that there is nothing to do */
                log_track_errno(t, LOG_WARNING, NULL, r, "Failed to remove the record of sandbox '%s', ignoring: %m", t->record.id);
        track_free(t);
        node_update_status(n);
}

bool track_is_done(const Track *t) {
        return t->record.uid && t->spec_told && t->status_told && t->record.state != TRACK_GONE;
}

/* ---- what the adaptor says ---- */

/* Takes what is good enough for the record; the rest is as if it had not been said. Returns true if that is a change. */
static bool set_text(char **field, const char *value, size_t size_max) {
        char *copy;

        copy = value ? text_make_plain(value, size_max) : NULL;
        if (!copy || streq(strempty(*field), copy)) {
                free(copy);
                return false;
        }
        free(*field);
        *field = copy;
        return true;
}

static bool set_addresses(char ***field, char *const *value) {
        char **copy;

        if (!value || strv_equal(*field, value) || strv_length(value) > TRACK_ADDRESSES_MAX || strv_copy(value, &copy) < 0)
                return false;
        strv_free(*field);
        *field = copy;
        return true;
}

void track_update(Track *t, const TrackNews *news) {
        bool spec = false, status = false;

        if (t->record.state == TRACK_GONE)
                return;

        spec |= set_text(&t->record.provider, news->provider, 64);
        spec |= set_text(&t->record.instance_name, news->instance_name, 256);
        if (set_text(&t->record.instance_id, news->instance_id, 1024)) {
                spec = status = true;
                if (t->record.instance_usec == 0)
                        t->record.instance_usec = now_usec(CLOCK_REALTIME);
        }
        status |= set_text(&t->record.instance_type, news->instance_type, 256);
        status |= set_text(&t->record.last_error, news->last_error, TRACK_ERROR_MAX);
        status |= set_addresses(&t->record.addresses, news->addresses);
        if (news->state >= 0 && news->state != t->record.state) {
                t->record.state = news->state;
                status = true;
        }
        if (!spec && !status)
                return;

        (void) save(t);
        t->spec_told &= !spec;
        t->status_told &= !status;
        node_update_status(t->node);
        track_advance(t);
}

void track_gone(Track *t) {
        if (t->record.state == TRACK_GONE)
                return;

        t->absent = false;
        t->record.state = TRACK_GONE;
        t->record.gone_usec = now_usec(CLOCK_REALTIME);
        (void) save(t);
        t->status_told = false;
        t->retry = sd_event_source_disable_unref(t->retry);
        t->n_retries = 0;
        registration_free(t->registration);
        crash_point("gone");
        node_update_status(t->node);
        track_advance(t);
}

void track_abandon(Track *t) {
        if (t->record.posted)
                log_track(t, LOG_WARNING, MSG_PEERPOD_STRAY, "PeerPod '%s/%s' is left to peerpod-ctrl, as nobody here knows what became of "
                          "sandbox '%s'.", t->record.pod_namespace, t->record.name, t->record.id);
        forget(t);
}

/* ---- what the server says ---- */

static void trouble(Track *t, const char *text) {
        if (streq_ptr(t->trouble, text))
                return;
        log_track(t, LOG_WARNING, MSG_PEERPOD_FAILED, "PeerPod '%s/%s' is not as it should be, trying again: %s", t->record.pod_namespace,
                  t->record.name, text);
        free(t->trouble);
        t->trouble = strdup(text);
}

static int on_retry(sd_event_source *es, uint64_t usec, void *userdata) {
        Track *t = userdata;

        t->retry = sd_event_source_disable_unref(t->retry);
        track_advance(t);
        return 0;
}

static void begin_retry(Track *t, uint64_t retry_after) {
        uint64_t usec = kube_backoff_usec(RETRY_FIRST_USEC, RETRY_LAST_USEC, t->n_retries++, retry_after);
        int r;

        t->retry = sd_event_source_disable_unref(t->retry);
        r = sd_event_add_time_relative(t->node->event, &t->retry, CLOCK_MONOTONIC, usec, 0, on_retry, t);
        if (r < 0)
                log_track_errno(t, LOG_ERR, NULL, r, "Failed to set a timer, waiting for the next news of sandbox '%s': %m", t->record.id);
}

/* What all answers have in common. Returns true if it is a good one. */
static bool request_ended(Track *t, const KubeReply *reply) {
        drop_request(t);

        return !node_api_answered(t->node, reply) && reply->error == 0;
}

/* A refusal of this one request: the server is well. */
static void refused(Track *t, const KubeReply *reply) {
        if (t->node->pause)
                return;
        trouble(t, reply->text);
        begin_retry(t, reply->retry_after_usec);
        if (t->registration)
                registration_not_recorded(t->registration);
}

static void take_uid(Track *t, json_object *object) {
        const char *uid = kube_string_at(object, "metadata", "uid", NULL);

        set_object(t, object);
        free(t->record.uid);
        t->record.uid = isempty(uid) ? NULL : strdup(uid);
        if (!t->record.uid) {
                trouble(t, "the API server has told no uid");
                begin_retry(t, 0);
                return;
        }
        (void) save(t);         /* else it is found again by its name */
        t->n_retries = 0;
        t->spec_told = t->status_told = false;
        if (t->registration)
                registration_recorded(t->registration);
        track_advance(t);
}

/* Somebody has removed it, finalizer and all; or what was posted has never arrived. It is made again if its pod is still there: a VM without a
 * record may be forgotten. */
static void vanished(Track *t) {
        if (t->record.state == TRACK_GONE) {
                forget(t);
                return;
        }
        if (!t->record.uid) {
                t->record.posted = false;
                track_advance(t);
                return;
        }

        log_track(t, LOG_WARNING, MSG_PEERPOD_FAILED, "PeerPod '%s/%s' has been removed while its pod VM is %s.", t->record.pod_namespace,
                  t->record.name, track_state_to_string(t->record.state));
        set_object(t, NULL);
        free(t->record.uid);
        t->record.uid = NULL;
        t->record.posted = t->pod_read = false;
        (void) save(t);
        begin_retry(t, 0);
}

void track_object_changed(Track *t, json_object *object) {
        if (!object) {
                drop_request(t);
                vanished(t);
                return;
        }
        if (t->request)
                return;         /* its answer is as new */
        if (track_is_done(t) || t->object)
                return;
        if (!t->record.uid && peerpod_is_of(object, &t->record, t->node->settings->node)) {
                t->record.posted = true;
                take_uid(t, object);
                return;
        }
        if (streq_ptr(t->record.uid, kube_string_at(object, "metadata", "uid", NULL)))
                set_object(t, object);
        track_advance(t);
}

int track_take_pod(Track *t, json_object *pod, char **reason) {
        const char *uid = kube_string_at(pod, "metadata", "uid", NULL), *node = kube_string_at(pod, "spec", "nodeName", NULL);
        int r;

        if (!streq(node, t->node->settings->node))
                r = asprintf(reason, "its pod is on node '%s', and not on '%s'", node, t->node->settings->node);
        else if (isempty(uid) || !text_is_plain(uid, 128))
                r = asprintf(reason, "its pod has no uid");
        else if (t->record.pod_uid && !streq(t->record.pod_uid, uid))
                r = asprintf(reason, "its pod has been replaced by another one of the same name");
        else
                r = 0;
        if (r != 0) {
                if (r < 0)
                        *reason = NULL;
                return -ENOENT;
        }

        t->pod_read = true;
        if (t->record.pod_uid)
                return 0;
        t->record.pod_uid = strdup(uid);
        return t->record.pod_uid ? save(t) : -ENOMEM;
}

static void on_pod(KubeRequest *request, const KubeReply *reply, void *userdata) {
        _cleanup_(freep) char *reason = NULL;
        Track *t = userdata;
        int r;

        if (!request_ended(t, reply)) {
                refused(t, reply);
                return;
        }

        r = track_take_pod(t, reply->object, &reason);
        if (r < 0) {
                trouble(t, reason ?: strerror(-r));
                begin_retry(t, 0);
                return;
        }
        track_advance(t);
}

static void on_posted(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Track *t = userdata;

        if (request_ended(t, reply)) {
                crash_point("posted");
                log_track(t, LOG_INFO, MSG_PEERPOD_CREATED, "PeerPod '%s/%s' is made for sandbox '%s'.", t->record.pod_namespace,
                          t->record.name, t->record.id);
                take_uid(t, reply->object);
                return;
        }
        if (reply->error == -EEXIST) {          /* by us, before an answer was lost */
                track_advance(t);
                return;
        }
        if (!reply->sent)                       /* the pod may be another one by the next try */
                t->record.posted = t->pod_read = false;
        refused(t, reply);
}

static void on_object(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Track *t = userdata;

        if (!request_ended(t, reply)) {
                if (reply->error == -ENOENT)
                        vanished(t);
                else
                        refused(t, reply);
                return;
        }
        if (streq_ptr(t->record.uid, kube_string_at(reply->object, "metadata", "uid", NULL))) {
                set_object(t, reply->object);
                track_advance(t);
                return;
        }
        if (!peerpod_is_of(reply->object, &t->record, t->node->settings->node)) {
                if (t->record.state == TRACK_GONE) {
                        forget(t);
                        return;
                }
                trouble(t, "there is an object of that name that is not ours");
                begin_retry(t, 0);
                return;
        }
        take_uid(t, reply->object);
}

/* Somebody else was quicker, or the object is another one: it is read again. */
static bool is_conflict(const KubeReply *reply) {
        return reply->error == -ESTALE || reply->status == 422;
}

static void patch_refused(Track *t, const KubeReply *reply) {
        if (reply->error == -ENOENT) {
                vanished(t);
                return;
        }
        set_object(t, NULL);
        if (is_conflict(reply) && t->n_retries == 0) {
                t->n_retries++;
                track_advance(t);
                return;
        }
        refused(t, reply);
}

static void on_spec(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Track *t = userdata;

        if (!request_ended(t, reply)) {
                t->spec_told = false;
                patch_refused(t, reply);
                return;
        }
        t->n_retries = 0;
        set_object(t, reply->object);
        track_advance(t);
}

static void on_status(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Track *t = userdata;

        if (!request_ended(t, reply)) {
                /* A server that does not take it does not keep us from letting go. */
                t->status_told = t->record.state == TRACK_GONE && t->n_retries > 1;
                patch_refused(t, reply);
                return;
        }
        t->n_retries = 0;
        set_object(t, reply->object);
        track_advance(t);
}

static void on_released(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Track *t = userdata;

        if (!request_ended(t, reply)) {
                patch_refused(t, reply);
                return;
        }
        log_track(t, LOG_INFO, MSG_NODE_RELEASED, "PeerPod '%s/%s' is released.", t->record.pod_namespace, t->record.name);
        forget(t);
}

/* ---- what is asked of it ---- */

static char* peerpod_path(const Track *t, bool collection, const char *subresource) {
        return kube_path(PEERPOD_API_VERSION, t->record.pod_namespace, PEERPOD_PLURAL, collection ? NULL : t->record.name, subresource);
}

/* Repetitions are ours, as the node has one rhythm for all of them. Takes path and body. */
static int ask(Track *t, const char *method, char *path, const char *type, json_object *body, KubeReplyHandler handler) {
        _cleanup_(json_object_putp) json_object *b = body;
        _cleanup_(freep) char *p = path;
        const KubeCall call = { .method = method, .path = p, .content_type = type, .body = b, .once = true };
        int r;

        if (!p)
                return -ENOMEM;
        r = kube_request(t->node->kube, &call, handler, t, &t->request);
        if (r >= 0)
                t->node->n_requests++;
        return r;
}

static int post(Track *t) {
        json_object *object;
        int r;

        if (!t->record.posted) {
                t->record.posted = true;
                r = save(t);
                if (r < 0) {
                        t->record.posted = false;
                        return r;
                }
        }
        crash_point("before-post");
        r = peerpod_object_make(&t->record, t->node->settings->node, &object);
        return r < 0 ? r : ask(t, "POST", peerpod_path(t, true, NULL), KUBE_JSON, object, on_posted);
}

/* Returns 1: nothing is left to be told. */
static int patch_next(Track *t) {
        json_object *patch;
        int r;

        if (!t->spec_told && t->record.state != TRACK_GONE) {
                t->spec_told = true;            /* until something else is to be told; the handler takes it back if this fails */
                r = peerpod_spec_patch(t->object, &t->record, &patch);
                if (r == -EEXIST)
                        trouble(t, "its spec names another instance, and is left as it is");
                else if (r != 0)
                        return r < 0 ? r : ask(t, "PATCH", peerpod_path(t, false, NULL), KUBE_JSON_PATCH, patch, on_spec);
        }
        if (!t->status_told) {
                t->status_told = true;
                r = peerpod_status_patch(t->object, &t->record, now_usec(CLOCK_REALTIME), &patch);
                if (r != 0)
                        return r < 0 ? r : ask(t, "PATCH", peerpod_path(t, false, "status"), KUBE_JSON_PATCH, patch, on_status);
        }
        if (t->record.state != TRACK_GONE)
                return 1;

        r = kube_patch_remove_finalizer(t->object, PEERPOD_FINALIZER, &patch);
        return r < 0 ? r : r == 0 ? 1 : ask(t, "PATCH", peerpod_path(t, false, NULL), KUBE_JSON_PATCH, patch, on_released);
}

static int ask_next(Track *t) {
        bool look = t->record.state == TRACK_GONE || t->record.posted;

        if (!t->record.uid && !look)
                return t->pod_read ? post(t) : ask(t, "GET", kube_path("v1", t->record.pod_namespace, "pods", t->record.pod_name, NULL),
                                                   NULL, NULL, on_pod);
        if (!t->object)
                return ask(t, "GET", peerpod_path(t, false, NULL), NULL, NULL, on_object);
        return patch_next(t);
}

void track_advance(Track *t) {
        int r;

        if (t->request || t->retry || track_is_done(t))
                return;
        if (t->record.state == TRACK_GONE && !t->record.posted) {
                forget(t);
                return;
        }
        if (t->registration && !t->record.uid && !t->record.posted && !t->pod_read)
                return;         /* it reads the pod itself */
        if (!node_may_ask(t->node))
                return;

        r = ask_next(t);
        if (r < 0) {
                log_track_errno(t, LOG_WARNING, NULL, r, "Failed to ask the API server about sandbox '%s', trying again: %m", t->record.id);
                t->spec_told = t->status_told = false;
                begin_retry(t, 0);
                return;
        }
        if (r == 0)
                return;

        /* The server says what we say. */
        set_object(t, NULL);
        free(t->trouble);
        t->trouble = NULL;
        if (t->record.state == TRACK_GONE)
                forget(t);
        else
                node_update_status(t->node);
}
