/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/registration.h"

#include "basic/bus-private.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-object.h"
#include "kube/node/node.h"
#include "kube/node/pull-secrets.h"
#include "kube/node/track.h"

/* A server that was away a moment ago is given a chance, but not the time that one has that works. */
#define AWAY_TIMEOUT_USEC USEC_PER_SEC

struct Registration {
        Track *track;                   /* borrowed */
        sd_bus_message *call;           /* NULL: answered */
        sd_event_source *deadline;
        uint64_t end_usec;              /* CLOCK_MONOTONIC */

        KubeRequest *request;           /* pod, service account and secrets are read one after the other */
        bool read;                      /* all of them, as far as they can be */
        bool not_recorded;              /* and will not be for now */
        char **of_pod;                  /* names of the pod's own secrets, which come after those of its account */
        char **names;
        size_t next;
        json_object *auths;             /* secret */
};

Registration* registration_free(Registration *r) {
        if (!r)
                return NULL;

        if (r->call) {
                (void) sd_bus_reply_method_errorf(r->call, PEERPOD_ERROR_CANCELLED, "Sandbox '%s' is not registered any more.",
                                                  r->track->record.id);
                sd_bus_message_unref(r->call);
        }
        r->track->registration = NULL;
        sd_event_source_disable_unref(r->deadline);
        kube_request_free(r->request);
        strv_free(r->of_pod);
        strv_free(r->names);
        json_object_put(r->auths);
        free(r);
        return NULL;
}
DEFINE_CLEANUP(Registration*, registration_free);

/* The credentials as a memfd, an empty one if there are none. */
static int make_auth(Registration *r) {
        _cleanup_(erase_free_stringp) char *text = NULL;
        int k;

        k = auth_json_format(r->auths, &text);
        if (k == -E2BIG) {
                log_track(r->track, LOG_ERR, MSG_PULL_SECRET, "Pull secrets of pod '%s/%s' have more than %zu bytes in all, and are not handed over.",
                          r->track->record.pod_namespace, r->track->record.pod_name, AUTH_JSON_SIZE_MAX);
                k = 0;
        }
        return k < 0 ? k : memfd_new_sealed("auth.json", strempty(text), text ? strlen(text) : 0);
}

static int answer(Registration *r) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        const Track *t = r->track;
        int k;

        fd = make_auth(r);
        if (fd < 0)
                return fd;
        k = sd_bus_message_new_method_return(r->call, &reply);
        if (k >= 0)
                k = sd_bus_message_append(reply, "sbh", t->pod_read ? strempty(t->record.pod_uid) : "", t->record.uid != NULL, fd);
        if (k >= 0)
                k = sd_bus_send(/* bus= */ NULL, reply, /* ret_cookie= */ NULL);
        if (k < 0)
                return k;
        r->call = sd_bus_message_unref(r->call);
        return 0;
}

static void finish(Registration *r) {
        Track *t = r->track;
        int k;

        k = answer(r);
        if (k < 0)
                log_track_errno(t, LOG_ERR, NULL, k, "Failed to answer for sandbox '%s': %m", t->record.id);
        registration_free(r);
        track_advance(t);
}

static void finish_if_done(Registration *r) {
        if (r->read && (r->track->record.uid || r->not_recorded))
                finish(r);
}

void registration_recorded(Registration *r) {
        finish_if_done(r);
}

void registration_not_recorded(Registration *r) {
        r->not_recorded = true;
        finish_if_done(r);
}

static int on_deadline(sd_event_source *es, uint64_t usec, void *userdata) {
        Registration *r = userdata;
        Track *t = r->track;

        log_track(t, LOG_WARNING, MSG_NOT_REGISTERED, "API server has not answered in time for sandbox '%s': it %s%s.", t->record.id,
                  t->record.uid ? "is recorded" : "will be recorded later", r->read ? "" : ", its pull secrets are missing");
        finish(r);
        return 0;
}

/* ---- reading ---- */

static int ask(Registration *r, char *path, KubeReplyHandler handler) {
        _cleanup_(freep) char *p = path;
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        const KubeCall call = {
                .method = "GET",
                .path = p,
                .timeout_usec = r->end_usec > now ? r->end_usec - now : 1,
                .repeatable = true,
        };

        r->request = kube_request_free(r->request);
        return p ? kube_request(r->track->node->kube, &call, handler, r, &r->request) : -ENOMEM;
}

static void reading_ends(Registration *r, int error) {
        if (error < 0)
                log_track_errno(r->track, LOG_WARNING, NULL, error, "Failed to ask the API server about sandbox '%s': %m", r->track->record.id);
        r->request = kube_request_free(r->request);
        r->read = true;
        finish_if_done(r);
}

static void pass_over(Registration *r, const char *what, const char *name, const char *reason) {
        log_track(r->track, LOG_WARNING, MSG_PULL_SECRET, "%s '%s/%s' is passed over for the images of pod '%s': %s", what,
                  r->track->record.pod_namespace, name, r->track->record.pod_name, reason);
}

static void read_next_secret(Registration *r);

static void on_secret(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Registration *r = userdata;
        const char *name = r->names[r->next++];
        int k;

        if (reply->error < 0)
                pass_over(r, "Secret", name, reply->text);
        else {
                k = pull_secret_merge(reply->object, r->auths);
                if (k < 0)
                        pass_over(r, "Secret", name, k == -ENOENT ? "it has neither .dockerconfigjson nor .dockercfg" :
                                                     k == -EBADMSG ? "what it has is no docker configuration" : strerror(-k));
        }
        read_next_secret(r);
}

static void read_next_secret(Registration *r) {
        int k;

        if (!r->names || !r->names[r->next]) {
                reading_ends(r, 0);
                return;
        }
        k = ask(r, kube_path("v1", r->track->record.pod_namespace, "secrets", r->names[r->next], NULL), on_secret);
        if (k < 0)
                reading_ends(r, k);
}

static int add_names(Registration *r, json_object *list) {
        int k = pull_secret_names(list, &r->names);

        if (k != -E2BIG)
                return k;
        log_track(r->track, LOG_WARNING, MSG_PULL_SECRET, "Pod '%s/%s' has more than %u pull secrets, the rest is passed over.",
                  r->track->record.pod_namespace, r->track->record.pod_name, PULL_SECRETS_MAX);
        return 0;
}

static void on_account(KubeRequest *request, const KubeReply *reply, void *userdata) {
        Registration *r = userdata;
        int k = 0;

        if (reply->error < 0)
                log_track(r->track, LOG_WARNING, MSG_PULL_SECRET, "Pull secrets of the service account of pod '%s/%s' are passed over: %s",
                          r->track->record.pod_namespace, r->track->record.pod_name, reply->text);
        else
                k = add_names(r, kube_object_at(reply->object, "imagePullSecrets", NULL));
        for (char **name = r->of_pod; k >= 0 && name && *name; name++)
                k = strv_length(r->names) < PULL_SECRETS_MAX ? strv_extend(&r->names, *name) : 0;
        if (k < 0)
                reading_ends(r, k);
        else
                read_next_secret(r);
}

static void on_pod(KubeRequest *request, const KubeReply *reply, void *userdata) {
        _cleanup_(freep) char *reason = NULL;
        Registration *r = userdata;
        Track *t = r->track;
        const char *account;
        int k;

        if (reply->error < 0)
                reason = strdup(reply->text);
        k = reply->error < 0 ? reply->error : track_take_pod(t, reply->object, &reason);
        if (k < 0) {
                log_track(t, LOG_WARNING, MSG_NOT_REGISTERED, "Pod '%s/%s' of sandbox '%s' is not known: %s", t->record.pod_namespace,
                          t->record.pod_name, t->record.id, reason ?: strerror(-k));
                r->not_recorded = true;
                reading_ends(r, 0);
                return;
        }
        track_advance(t);               /* makes the PeerPod meanwhile */

        account = kube_string_at(reply->object, "spec", "serviceAccountName", NULL);
        k = pull_secret_names(kube_object_at(reply->object, "spec", "imagePullSecrets", NULL), &r->of_pod);
        if (k >= 0 || k == -E2BIG)
                k = ask(r, kube_path("v1", t->record.pod_namespace, "serviceaccounts", isempty(account) ? "default" : account, NULL),
                        on_account);
        if (k < 0)
                reading_ends(r, k);
}

int registration_begin(Track *t, sd_bus_message *call, const char *pod_uid) {
        _cleanup_(registration_freep) Registration *r = NULL;
        uint64_t timeout = t->node->settings->register_timeout_usec;
        int k;

        assert(!t->registration);

        r = new(Registration);
        if (!r)
                return -ENOMEM;
        if (t->node->away)
                timeout = MIN(timeout, AWAY_TIMEOUT_USEC);
        *r = (Registration) { .track = t, .end_usec = now_usec(CLOCK_MONOTONIC) + timeout };
        t->registration = r;

        if (!isempty(pod_uid) && !t->record.pod_uid) {
                t->record.pod_uid = strdup(pod_uid);
                if (!t->record.pod_uid)
                        return -ENOMEM;
        }
        r->auths = json_object_new_object();
        if (!r->auths)
                return -ENOMEM;
        k = sd_event_add_time_relative(t->node->event, &r->deadline, CLOCK_MONOTONIC, timeout, 0, on_deadline, r);
        if (k < 0)
                return k;
        k = ask(r, kube_path("v1", t->record.pod_namespace, "pods", t->record.pod_name, NULL), on_pod);
        if (k < 0)
                return k;

        r->call = sd_bus_message_ref(call);
        (void) TAKE_PTR(r);
        return 0;
}
