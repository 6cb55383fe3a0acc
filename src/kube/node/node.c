/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/node.h"

#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "basic/hash.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/sandbox-store.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/kube-watch.h"
#include "kube/node/adaptor-watch.h"
#include "kube/node/capacity.h"
#include "kube/node/node-bus.h"
#include "kube/node/track.h"
#include "kube/peerpod-names.h"

#define OWN_UNIT "peerpod-node.service"

#define PAUSE_FIRST_USEC (500 * USEC_PER_MSEC)
#define PAUSE_LAST_USEC (60 * USEC_PER_SEC)
#define JOBS_TIMEOUT_USEC (2 * USEC_PER_SEC)

/* A node starts a whole crowd of pods at once, each with half a dozen questions, and none of them should wait. */
#define QPS 50U
#define BURST 200U

/* ---- the table ---- */

Track* node_find_track(Node *n, const char *id) {
        Track *t;

        HASH_FIND_STR(n->by_id, id, t);
        return t;
}

int node_add_track(Node *n, Track *t) {
        if (node_find_track(n, t->record.id))
                return -EEXIST;
        HASH_ADD_KEYPTR(hh, n->by_id, t->record.id, strlen(t->record.id), t);
        if (!hash_added(t))
                return -ENOMEM;

        t->in_tables = true;
        TAILQ_INSERT_TAIL(&n->tracks, t, tracks);
        n->n_tracks++;
        return 0;
}

/* Takes one that never came into the table, too. */
void node_remove_track(Node *n, Track *t) {
        if (!t->in_tables)
                return;

        t->in_tables = false;
        TAILQ_REMOVE(&n->tracks, t, tracks);
        HASH_DEL(n->by_id, t);
        n->n_tracks--;
}

unsigned node_count_pending(const Node *n) {
        const Track *t;
        unsigned count = 0;

        TAILQ_FOREACH(t, &n->tracks, tracks)
                count += !track_is_done(t);
        return count;
}

/* The oldest one: its PeerPod keeps its finalizer, which peerpod-ctrl removes when it has seen that there is no instance. */
int node_make_room(Node *n) {
        Track *t;

        if (n->n_tracks < n->settings->records_max)
                return 0;
        TAILQ_FOREACH(t, &n->tracks, tracks)
                if (t->record.state == TRACK_GONE) {
                        track_abandon(t);
                        return 0;
                }
        return -E2BIG;
}

void node_update_status(Node *n) {
        (void) sd_notifyf(/* unset_environment= */ false, "STATUS=%u pod VM%s%s", n->n_tracks, n->n_tracks == 1 ? "" : "s",
                          n->away ? ", the API server does not answer" : "");
        node_bus_changed(n, "NPeerPods");
}

/* ---- whether there is an API server ---- */

static int on_kick(sd_event_source *es, void *userdata) {
        Node *n = userdata;
        Track *t, *next;

        n->kick = sd_event_source_disable_unref(n->kick);
        for (t = TAILQ_FIRST(&n->tracks); t && node_may_ask(n); t = next) {
                next = TAILQ_NEXT(t, tracks);
                track_advance(t);
        }
        return 0;
}

void node_kick(Node *n) {
        int r;

        if (n->kick || sd_event_get_state(n->event) == SD_EVENT_FINISHED)
                return;
        r = sd_event_add_defer(n->event, &n->kick, on_kick, n);
        if (r >= 0)
                r = sd_event_source_set_priority(n->kick, SD_EVENT_PRIORITY_IDLE);
        if (r < 0)
                log_error_errno(r, "Failed to go on with what is to be told to the API server: %m");
}

bool node_may_ask(const Node *n) {
        return !n->pause && n->n_requests < NODE_REQUESTS_MAX;
}

static int on_pause_over(sd_event_source *es, uint64_t usec, void *userdata) {
        Node *n = userdata;

        n->pause = sd_event_source_disable_unref(n->pause);
        node_kick(n);
        return 0;
}

static void set_away(Node *n, bool away) {
        if (n->away == away)
                return;
        n->away = away;
        node_update_status(n);
        node_bus_changed(n, "Reachable");
}

/* No answer, one that is none, or one that we get whatever we ask; but a 500 is often about one object, such as an admission webhook of one
 * namespace that is down. */
static bool is_away(const KubeReply *reply) {
        switch (reply->error) {
        case -ETIMEDOUT: case -ENOTCONN: case -EPROTO: case -EBADMSG: case -EACCES: case -EAGAIN:
                return true;
        case -EREMOTEIO:
                return reply->status != 500;
        default:
                return false;
        }
}

bool node_api_answered(Node *n, const KubeReply *reply) {
        int r;

        if (!is_away(reply)) {
                n->n_failures = 0;
                if (n->pause) {
                        n->pause = sd_event_source_disable_unref(n->pause);
                        node_kick(n);   /* what waits for its end; this may be the answer to somebody else */
                }
                if (n->away)
                        log_full(NULL, LOG_NOTICE, MSG_KUBE_BACK, 0, "API server '%s' answers again, %u records are to be told.",
                                 kube_client_server(n->kube), node_count_pending(n));
                set_away(n, false);
                return false;
        }
        if (n->pause)
                return true;

        if (!n->away)
                log_full(NULL, LOG_WARNING, MSG_KUBE_AWAY, 0, "API server '%s' does not answer, what it is to be told is kept: %s",
                         kube_client_server(n->kube), reply->text);
        set_away(n, true);
        r = sd_event_add_time_relative(n->event, &n->pause, CLOCK_MONOTONIC,
                                       kube_backoff_usec(PAUSE_FIRST_USEC, PAUSE_LAST_USEC, n->n_failures++, reply->retry_after_usec), 0,
                                       on_pause_over, n);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer: %m");
        return true;
}

/* ---- the objects of this node ---- */

/* The id where the resource definition keeps it, the name elsewhere. */
static Track* find_by_object(Node *n, json_object *object) {
        const char *id = kube_string_at(object, "spec", "sandboxID", NULL), *name = kube_string_at(object, "metadata", "name", NULL);
        const char *ns = kube_string_at(object, "metadata", "namespace", NULL);
        Track *t = isempty(id) ? NULL : node_find_track(n, id);

        if (t)
                return streq(t->record.name, name) && streq(t->record.pod_namespace, ns) ? t : NULL;
        TAILQ_FOREACH(t, &n->tracks, tracks)
                if (streq(t->record.name, name) && streq(t->record.pod_namespace, ns))
                        return t;
        return NULL;
}

static void on_peerpod(KubeWatch *w, KubeChange change, json_object *object, void *userdata) {
        Node *n = userdata;
        Track *t = find_by_object(n, object);
        KubeMeta meta;

        if (t && change != KUBE_DELETED)
                track_object_changed(t, object);
        else if (t && streq_ptr(t->record.uid, kube_string_at(object, "metadata", "uid", NULL)))
                track_object_changed(t, NULL);
        else if (!t && change == KUBE_ADDED && kube_meta(object, &meta, /* reterr= */ NULL) >= 0 &&
                 kube_has_finalizer(&meta, PEERPOD_FINALIZER) && !streq(kube_string_at(object, "status", "phase", NULL), PEERPOD_PHASE_GONE))
                log_full(NULL, LOG_NOTICE, MSG_PEERPOD_STRAY, 0, "PeerPod '%s/%s' of this node has no sandbox here, and is left to peerpod-ctrl.",
                         meta.ns, meta.name);
}

void node_adaptor_synced(Node *n) {
        _cleanup_(freep) char *path = NULL, *label = NULL, *selector = NULL;
        KubeWatchSpec spec = { .on_object = on_peerpod };
        int r;

        if (n->peerpods)
                return;

        label = kube_name_make(n->settings->node, /* tail= */ NULL, 63);
        path = kube_path(PEERPOD_API_VERSION, /* ns= */ NULL, PEERPOD_PLURAL, NULL, NULL);
        r = !label || !path || asprintf(&selector, PEERPOD_LABEL_NODE "=%s", label) < 0 ? -ENOMEM : 0;
        spec.path = path;
        spec.label_selector = selector;
        if (r >= 0)
                r = kube_watch_new(n->kube, &spec, n, &n->peerpods);
        if (r < 0)
                log_error_errno(r, "Failed to watch this node's PeerPods, going on without: %m");
}

/* ---- the process ---- */

int node_new(const Settings *settings, const KubeConfig *config, sd_event *event, Node **ret) {
        const KubeClientOptions options = { .user_agent = "peerpod-node/" PEERPOD_VERSION, .qps = QPS, .burst = BURST };
        _cleanup_(freep) char *path = NULL, *reason = NULL;
        _cleanup_(node_freep) Node *n = new(Node);
        int r;

        if (!n)
                return log_oom();
        *n = (Node) { .settings = settings, .event = sd_event_ref(event) };
        TAILQ_INIT(&n->tracks);

        if (asprintf(&path, "%s/sandboxes", settings->state_dir) < 0)
                return log_oom();
        r = sandbox_store_new(path, /* durable= */ true, &n->store);
        if (r == -EBUSY)
                return log_error_errno(r, "Another peerpod-node uses the records in '%s'.", path);
        if (r < 0)
                return log_error_errno(r, "Failed to open the records in '%s': %m", path);

        r = kube_client_new(event, config, &options, &n->kube, &reason);
        if (r < 0)
                return log_error_errno(r, "Failed to prepare for the API server: %s", reason ?: strerror(-r));

        *ret = TAKE_PTR(n);
        return 0;
}

Node* node_free(Node *n) {
        Track *t;

        if (!n)
                return NULL;

        adaptor_watch_free(n->adaptor);
        kube_watch_free(n->peerpods);
        capacity_free(n->capacity);
        while ((t = TAILQ_FIRST(&n->tracks)))
                track_free(t);
        kube_client_free(n->kube);
        sd_event_source_disable_unref(n->kick);
        sd_event_source_disable_unref(n->pause);
        sd_bus_slot_unref(n->jobs);
        sd_bus_flush_close_unref(n->bus);
        sandbox_store_free(n->store);
        sd_event_unref(n->event);
        free(n);
        return NULL;
}

static int on_record(SandboxStore *store, const char *id, int error, const char *data, size_t size, void *userdata) {
        _cleanup_(track_record_done) TrackRecord record = TRACK_RECORD_NULL;
        _cleanup_(freep) char *reason = NULL, *aside = NULL;
        Node *n = userdata;
        Track *t;
        int r = error;

        if (r >= 0)
                r = track_record_parse(data, size, &record, &reason);
        if (r >= 0 && !streq(record.id, id))
                r = -EBADMSG;
        if (r >= 0)
                r = track_new_from_record(n, &record, &t);
        if (r >= 0 || r == -ENOMEM)
                return r;
        if (r == -EPROTONOSUPPORT) {
                log_full(NULL, LOG_ERR, MSG_RECORD_CORRUPT, 0, "Record of sandbox '%s' cannot be read (%s), leaving it alone.", id, strempty(reason));
                return 0;
        }

        /* It never stops the daemon: a sandbox that still exists is found on the bus, and its PeerPod by its name. */
        if (sandbox_store_set_aside(store, id, &aside) < 0)
                log_full(NULL, LOG_ERR, MSG_RECORD_CORRUPT, r, "Record of sandbox '%s' is unreadable (%s), and cannot be set aside: %m", id,
                         reason ?: "as a whole");
        else
                log_full(NULL, LOG_ERR, MSG_RECORD_CORRUPT, r, "Record of sandbox '%s' is unreadable (%s), set aside as '%s': %m", id,
                         reason ?: "as a whole", aside);
        return 0;
}

int node_load(Node *n) {
        int r;

        r = sandbox_store_load(n->store, TRACK_RECORD_SIZE_MAX, on_record, n);
        return r < 0 ? log_error_errno(r, "Failed to read the records of sandboxes: %m") : 0;
}

static int connect_bus(Node *n) {
        int r;

        r = sd_bus_open_system(&n->bus);
        if (r < 0)
                return log_error_errno(r, "Failed to connect to the system bus, which the adaptor is reached by: %m");
        r = sd_bus_set_exit_on_disconnect(n->bus, true);
        if (r >= 0)
                r = sd_bus_attach_event(n->bus, n->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return log_error_errno(r, "Failed to attach the system bus to the event loop: %m");
        r = node_bus_add(n->bus, n);
        if (r < 0)
                return log_error_errno(r, "Failed to add our object to the system bus: %m");
        r = node_bus_request_name(n->bus);
        if (r < 0)
                return log_error_errno(r, "Failed to take the name '" NODE_BUS_NAME "' on the system bus: %m");
        return 0;
}

int node_start(Node *n) {
        int r;

        r = connect_bus(n);
        if (r < 0)
                return r;
        r = adaptor_watch_new(n, &n->adaptor);
        if (r < 0)
                return log_error_errno(r, "Failed to listen to the adaptor: %m");
        r = capacity_new(n, &n->capacity);
        if (r < 0)
                return log_error_errno(r, "Failed to watch node '%s': %m", n->settings->node);
        node_kick(n);
        return 0;
}

/* ---- the end ---- */

static void end(void *userdata) {
        Node *n = userdata;

        (void) sd_event_exit(n->event, 0);
}

static void withdraw(Node *n) {
        if (capacity_withdraw(n->capacity, end, n) <= 0)
                end(n);
}

static int read_own_job(sd_bus_message *m, bool *ret_restart) {
        const char *unit, *type, *state, *job_path, *unit_path;
        uint32_t id;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "(usssoo)");
        while (r >= 0 && (r = sd_bus_message_read(m, "(usssoo)", &id, &unit, &type, &state, &job_path, &unit_path)) > 0)
                if (streq(unit, OWN_UNIT))
                        *ret_restart = streq(type, "restart") || streq(type, "try-restart") || streq(type, "start");
        return r;
}

static int on_jobs(sd_bus_message *reply, void *userdata, sd_bus_error *reterror) {
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        Node *n = userdata;
        bool restart = false;
        int r = 0;

        n->jobs = sd_bus_slot_unref(n->jobs);
        if (!error)
                r = read_own_job(reply, &restart);
        if (error || r < 0)
                log_warning("Failed to ask systemd whether this is a restart, taking it for an end: %s",
                            error ? error->message ?: error->name : strerror(-r));
        if (restart)
                end(n);
        else
                withdraw(n);
        return 0;
}

void node_stop(Node *n) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        if (n->stopping) {              /* told twice */
                end(n);
                return;
        }
        n->stopping = true;
        (void) sd_notify(/* unset_environment= */ false, "STOPPING=1");

        r = sd_bus_message_new_method_call(n->bus, &m, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                                           "org.freedesktop.systemd1.Manager", "ListJobs");
        if (r >= 0)
                r = sd_bus_call_async(n->bus, &n->jobs, m, on_jobs, n, JOBS_TIMEOUT_USEC);
        if (r < 0) {
                log_warning_errno(r, "Failed to ask systemd whether this is a restart, taking it for an end: %m");
                withdraw(n);
        }
}
