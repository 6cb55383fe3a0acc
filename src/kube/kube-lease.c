/* SPDX-License-Identifier: Apache-2.0 */
/* One request is under way at most, and one timer says when the next one is due. A second timer, ahead of all other sources, ends the leadership when
 * no renewal has been confirmed in time: counted from when the renewal was sent, so that nobody who goes by the object can be earlier. */
#include "kube/kube-lease.h"

#include <inttypes.h>
#include <json-c/json_object.h>
#include <stdio.h>
#include <systemd/sd-id128.h>

#include "basic/log.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"

#define DURATION_USEC (15 * USEC_PER_SEC)
#define RENEW_DEADLINE_USEC (10 * USEC_PER_SEC)
#define RETRY_USEC (2 * USEC_PER_SEC)
#define RELEASE_USEC (5 * USEC_PER_SEC)
#define RELEASES_MAX 5U
#define RECORD_DURATION_MAX_SECONDS 3600U

struct KubeLease {
        KubeClient *client;
        char *ns, *name, *identity, *path, *collection;
        uint64_t duration_usec, renew_deadline_usec, retry_usec;
        KubeLeaseSpec spec;             /* its callbacks */
        void *userdata;
        unsigned n_calls;               /* of the user's callbacks that have not returned */
        bool freed;                     /* from within one of them */

        sd_event_source *timer, *deadline;      /* CLOCK_BOOTTIME: a machine that sleeps does not renew */
        KubeRequest *request;
        uint64_t sent_usec;             /* of the request */

        bool held, known, releasing;
        unsigned n_releases;            /* tries to let go */
        bool writing;                   /* the request is a renewal */
        int complaint;                  /* what the journal was told of last, 0: nothing */
        char *holder, *version, *acquired;      /* of the record as last seen; version NULL: not known */
        uint64_t transitions, seen_usec, valid_usec;    /* when it has last changed, and how long it is good from there */

        void (*done)(KubeLease *l, void *userdata);
        void *done_userdata;
};

static void release_step(KubeLease *l);

static uint64_t now(void) {
        return now_usec(CLOCK_BOOTTIME);
}

static void schedule(KubeLease *l, uint64_t usec) {
        if (sd_event_source_set_time(l->timer, usec_add(now(), usec)) < 0 || sd_event_source_set_enabled(l->timer, SD_EVENT_ONESHOT) < 0)
                log_warning("Cannot go on with the lease '%s'.", l->name);
}

/* retry … retry × 2.2: several that wait do not come together (client-go: JitterFactor 1.2). */
static void schedule_retry(KubeLease *l) {
        schedule(l, l->held ? l->retry_usec : l->retry_usec + kube_backoff_usec(l->retry_usec * 12 / 10, UINT64_MAX, 0, 0));
}

/* Once for each reason, as it is tried again every few seconds. That another one was faster is no reason for a complaint. */
static void complain(KubeLease *l, int error, const char *text) {
        bool usual = error == -ESTALE || error == -EEXIST;

        log_full(NULL, usual || error == l->complaint ? LOG_DEBUG : LOG_WARNING, NULL, 0, "Cannot take or renew the lease '%s/%s', trying again: %s",
                 l->ns, l->name, isempty(text) ? strerror(-error) : text);
        if (!usual)
                l->complaint = error;
}

/* ---- what the user is told; false: he has freed the lease ---- */

static void destroy(KubeLease *l) {
        free(l->ns);
        free(l->name);
        free(l->identity);
        free(l->path);
        free(l->collection);
        free(l->holder);
        free(l->version);
        free(l->acquired);
        free(l);
}

static bool call_returned(KubeLease *l) {
        l->n_calls--;
        if (!l->freed)
                return true;
        if (l->n_calls == 0)
                destroy(l);
        return false;
}

static bool tell_acquired(KubeLease *l) {
        log_info("Holding the lease '%s/%s' as '%s'.", l->ns, l->name, l->identity);
        l->n_calls++;
        if (l->spec.on_acquired)
                l->spec.on_acquired(l, l->userdata);
        return call_returned(l);
}

static bool tell_leader(KubeLease *l) {
        l->n_calls++;
        if (l->spec.on_leader)
                l->spec.on_leader(l, strempty(l->holder), l->userdata);
        return call_returned(l);
}

static bool lose(KubeLease *l, const char *why) {
        if (!l->held)
                return true;
        l->held = false;
        (void) sd_event_source_set_enabled(l->deadline, SD_EVENT_OFF);
        log_warning("Not holding the lease '%s/%s' any more: %s", l->ns, l->name, why);
        l->n_calls++;
        if (l->spec.on_lost)
                l->spec.on_lost(l, why, l->userdata);
        return call_returned(l);
}

static int on_deadline(sd_event_source *es, uint64_t usec, void *userdata) {
        KubeLease *l = userdata;

        l->request = kube_request_free(l->request);
        l->writing = false;
        l->version = (free(l->version), NULL);
        if (lose(l, "it could not be renewed in time"))
                schedule_retry(l);
        return 0;
}

/* ---- the record ---- */

static int replace_string(char **to, const char *from) {
        char *copy = strdup(from);

        if (!copy)
                return -ENOMEM;
        free(*to);
        *to = copy;
        return 0;
}

/* A record as the server has it. Returns 1 when somebody else holds it than before, 0, or -errno. */
static int learn(KubeLease *l, json_object *object) {
        const char *version = kube_string_at(object, "metadata", "resourceVersion", NULL), *holder = kube_string_at(object, "spec", "holderIdentity", NULL);
        json_object *spec = kube_object_at(object, "spec", NULL);
        uint64_t seconds = 0;
        int other;

        if (isempty(version))
                return -EBADMSG;
        if (!l->version || !streq(l->version, version))
                l->seen_usec = now();
        other = !l->known || !streq(strempty(l->holder), holder);
        l->transitions = 0;
        if (json_object_is_type(spec, json_type_object)) {
                (void) json_get_u64(spec, "leaseTransitions", INT32_MAX - 1, &l->transitions, NULL);
                (void) json_get_u64(spec, "leaseDurationSeconds", RECORD_DURATION_MAX_SECONDS, &seconds, NULL);
        }
        l->valid_usec = seconds > 0 ? seconds * USEC_PER_SEC : l->duration_usec;
        if (replace_string(&l->version, version) < 0 || replace_string(&l->holder, holder) < 0 ||
            replace_string(&l->acquired, kube_string_at(object, "spec", "acquireTime", NULL)) < 0)
                return -ENOMEM;
        l->known = true;
        return other;
}

static json_object* make_record(KubeLease *l, const char *holder, uint64_t seconds, bool mine, bool create) {
        _cleanup_(json_object_putp) json_object *o = kube_object_new("coordination.k8s.io/v1", "Lease", l->ns, l->name);
        char time[KUBE_TIME_SIZE];
        json_object *spec;

        kube_micro_time_format(now_usec(CLOCK_REALTIME), time);
        if (!o || json_set(o, "spec", json_object_new_object()) < 0 ||
            (!create && json_set_string(kube_object_at(o, "metadata", NULL), "resourceVersion", l->version) < 0))
                return NULL;
        spec = kube_object_at(o, "spec", NULL);
        if (json_set_string(spec, "holderIdentity", holder) < 0 || json_set_u64(spec, "leaseDurationSeconds", seconds) < 0 ||
            json_set_string(spec, "acquireTime", mine && !isempty(l->acquired) ? l->acquired : time) < 0 || json_set_string(spec, "renewTime", time) < 0 ||
            json_set_u64(spec, "leaseTransitions", l->transitions + (mine || create ? 0 : 1)) < 0)
                return NULL;
        return TAKE_PTR(o);
}

static int ask(KubeLease *l, const char *method, const char *path, json_object *body, KubeReplyHandler handler) {
        KubeCall call = {
                .method = method, .path = path, .body = body,
                .timeout_usec = MAX(USEC_PER_SEC, l->renew_deadline_usec / 2),
                /* A record that was written twice has the version of the second time, which a look at it shows. */
                .repeatable = !streq(method, "POST"), .once = true, .unlimited = true,
        };

        l->request = kube_request_free(l->request);
        l->writing = false;
        l->sent_usec = now();
        return kube_request(l->client, &call, handler, l, &l->request);
}

/* ---- letting go ---- */

static void release_done(KubeLease *l) {
        void (*done)(KubeLease *, void *) = l->done;

        l->done = NULL;
        l->request = kube_request_free(l->request);
        (void) sd_event_source_set_enabled(l->timer, SD_EVENT_OFF);
        if (done)
                done(l, l->done_userdata);
}

static void on_released(KubeRequest *q, const KubeReply *reply, void *userdata) {
        KubeLease *l = userdata;

        if (reply->error == 0) {
                log_info("Let go of the lease '%s/%s'.", l->ns, l->name);
                release_done(l);
                return;
        }
        log_debug("Lease '%s/%s' not let go of: %s", l->ns, l->name, reply->text);
        l->version = (free(l->version), NULL);
        if (reply->error == -EPERM || ++l->n_releases >= RELEASES_MAX)
                release_done(l);
        else
                release_step(l);
}

static void on_read_for_release(KubeRequest *q, const KubeReply *reply, void *userdata) {
        KubeLease *l = userdata;

        if (reply->error == 0 && learn(l, reply->object) >= 0)
                release_step(l);
        else
                release_done(l);
}

/* Until it is not ours any more, or the time is over: of a renewal that was under way it is not known what became of it. */
static void release_step(KubeLease *l) {
        _cleanup_(json_object_putp) json_object *record = NULL;
        int r;

        if (!l->version)
                r = ask(l, "GET", l->path, NULL, on_read_for_release);
        else if (!streq(strempty(l->holder), l->identity))
                r = -EALREADY;
        else {
                record = make_record(l, "", 1, true, false);
                r = record ? ask(l, "PUT", l->path, record, on_released) : -ENOMEM;
        }
        if (r < 0)
                release_done(l);
}

int kube_lease_release(KubeLease *l, void (*done)(KubeLease *l, void *userdata), void *userdata) {
        /* One that is just being taken may be ours already, as far as the server is concerned. */
        bool ours = l->held || l->writing;
        int r;

        r = sd_event_source_set_time_relative(l->timer, ours ? RELEASE_USEC : 0);
        if (r >= 0)
                r = sd_event_source_set_enabled(l->timer, SD_EVENT_ONESHOT);
        if (r < 0)
                return r;
        l->held = false;
        l->releasing = true;
        l->done = done;
        l->done_userdata = userdata;
        (void) sd_event_source_set_enabled(l->deadline, SD_EVENT_OFF);
        if (!ours)
                l->request = kube_request_free(l->request);
        else if (!l->writing)
                release_step(l);        /* else on_written() does */
        return 0;
}

/* ---- steps ---- */

static void take_hold(KubeLease *l) {
        bool was = l->held;

        l->held = true;
        l->complaint = 0;
        if (sd_event_source_set_time(l->deadline, usec_add(l->sent_usec, l->renew_deadline_usec)) < 0 ||
            sd_event_source_set_enabled(l->deadline, SD_EVENT_ONESHOT) < 0)
                log_warning("Cannot watch over the lease '%s'.", l->name);
        if (!was && !tell_acquired(l))
                return;
        schedule_retry(l);
}

static void on_written(KubeRequest *q, const KubeReply *reply, void *userdata) {
        KubeLease *l = userdata;
        int r = reply->error;

        l->writing = false;
        if (r >= 0)
                r = learn(l, reply->object);
        if (l->releasing) {
                if (r < 0)
                        l->version = (free(l->version), NULL);
                release_step(l);
                return;
        }
        if (r >= 0 && streq(l->holder, l->identity)) {
                if (r > 0 && !tell_leader(l))
                        return;
                take_hold(l);
                return;
        }
        if (r < 0)
                complain(l, r, reply->text);
        /* Another one was faster, or what became of it is not known: look. */
        l->version = (free(l->version), NULL);
        schedule_retry(l);
}

static void write_record(KubeLease *l, bool create) {
        bool mine = !create && streq(strempty(l->holder), l->identity);
        _cleanup_(json_object_putp) json_object *record = make_record(l, l->identity, l->duration_usec / USEC_PER_SEC, mine, create);
        int r;

        r = record ? ask(l, create ? "POST" : "PUT", create ? l->collection : l->path, record, on_written) : -ENOMEM;
        l->writing = r >= 0;
        if (r < 0)
                schedule_retry(l);
}

static void on_read(KubeRequest *q, const KubeReply *reply, void *userdata) {
        KubeLease *l = userdata;
        int r;

        if (reply->error == -ENOENT) {
                if (!lose(l, "it has been deleted"))
                        return;
                l->transitions = 0;
                write_record(l, true);
                return;
        }
        r = reply->error < 0 ? reply->error : learn(l, reply->object);
        if (r < 0) {
                complain(l, r, reply->text);
                schedule_retry(l);
                return;
        }
        if (r > 0 && !tell_leader(l))
                return;
        if (!streq(l->holder, l->identity)) {
                if (!lose(l, "another one has taken it"))
                        return;
                if (*l->holder && now() - l->seen_usec < l->valid_usec) {
                        l->complaint = 0;
                        schedule_retry(l);
                        return;
                }
        }
        write_record(l, false);
}

static void read_record(KubeLease *l) {
        if (ask(l, "GET", l->path, NULL, on_read) < 0)
                schedule_retry(l);
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        KubeLease *l = userdata;

        if (l->releasing) {
                release_done(l);
                return 0;
        }
        /* Who holds it and knows the version writes at once. */
        if (l->held && l->version)
                write_record(l, false);
        else
                read_record(l);
        return 0;
}

/* ---- the object ---- */

static int make_identity(char **ret) {
        char host[256] = "";
        sd_id128_t id;
        int r;

        r = sd_id128_randomize(&id);
        if (r < 0)
                return r;
        if (gethostname(host, sizeof(host) - 1) < 0)
                return -errno;
        if (asprintf(ret, "%s_" SD_ID128_UUID_FORMAT_STR, host, SD_ID128_FORMAT_VAL(id)) < 0) {
                *ret = NULL;
                return -ENOMEM;
        }
        return 0;
}

int kube_lease_new(KubeClient *client, const KubeLeaseSpec *spec, void *userdata, KubeLease **ret) {
        _cleanup_(kube_lease_freep) KubeLease *l = new(KubeLease);
        sd_event *event = kube_client_event(client);
        int r;

        if (!l)
                return -ENOMEM;
        *l = (KubeLease) {
                .client = client, .spec = *spec, .userdata = userdata,
                .duration_usec = spec->duration_usec ?: DURATION_USEC,
                .renew_deadline_usec = spec->renew_deadline_usec ?: RENEW_DEADLINE_USEC,
                .retry_usec = spec->retry_usec ?: RETRY_USEC,
                .ns = strdup(spec->ns), .name = strdup(spec->name),
                .path = kube_path("coordination.k8s.io/v1", spec->ns, "leases", spec->name, NULL),
                .collection = kube_path("coordination.k8s.io/v1", spec->ns, "leases", NULL, NULL),
        };
        if (l->renew_deadline_usec >= l->duration_usec || l->retry_usec >= l->renew_deadline_usec || l->duration_usec % USEC_PER_SEC != 0)
                return -EINVAL;
        if (!l->ns || !l->name || !l->path || !l->collection)
                return -ENOMEM;
        r = spec->identity ? replace_string(&l->identity, spec->identity) : make_identity(&l->identity);
        if (r < 0)
                return r;
        if ((r = sd_event_add_time(event, &l->timer, CLOCK_BOOTTIME, 0, 1, on_timer, l)) < 0 ||
            (r = sd_event_add_time(event, &l->deadline, CLOCK_BOOTTIME, UINT64_MAX, 1, on_deadline, l)) < 0 ||
            (r = sd_event_source_set_enabled(l->deadline, SD_EVENT_OFF)) < 0 || (r = sd_event_source_set_priority(l->deadline, SD_EVENT_PRIORITY_IMPORTANT)) < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

KubeLease* kube_lease_free(KubeLease *l) {
        if (!l)
                return NULL;
        l->request = kube_request_free(l->request);
        l->timer = sd_event_source_disable_unref(l->timer);
        l->deadline = sd_event_source_disable_unref(l->deadline);
        l->freed = true;
        if (l->n_calls == 0)
                destroy(l);
        return NULL;
}

/* By the clock, too: the timer may be late where the process was stopped. */
bool kube_lease_is_held(const KubeLease *l) {
        uint64_t end = 0;

        return l->held && l->deadline && sd_event_source_get_time(l->deadline, &end) >= 0 && now() < end;
}

const char* kube_lease_identity(const KubeLease *l) {
        return l->identity;
}
