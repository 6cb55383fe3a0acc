/* SPDX-License-Identifier: Apache-2.0 */
/* A request is a row of tries with pauses between; all of it in one timer and one transfer, of which at most one is there at a time. */
#include "kube/kube-client.h"

#include <inttypes.h>
#include <json-c/json_object.h>
#include <stdio.h>
#include <sys/random.h>

#include "basic/error-text.h"
#include "basic/log.h"
#include "basic/util.h"
#include "kube/kube-config.h"
#include "kube/kube-session.h"
#include "kube/kube-transfer.h"

#define QPS 5U
#define BURST 10U
#define PAUSE_USEC (500 * USEC_PER_MSEC)
#define PAUSE_MAX_USEC (30 * USEC_PER_SEC)
#define TRIES_MAX 10U                   /* as client-go has it (rest/with_retry.go) */
#define TRY_MIN_USEC (1 * USEC_PER_SEC)

struct KubeRequest {
        KubeClient *client;             /* NULL: the client is gone */
        KubeRequest *previous, *next;   /* of the client's requests that are under way */
        KubeReplyHandler handler;
        void *userdata;
        bool owned;                     /* by the client, which drops it when it is done */
        bool linked;
        bool calling, freed;            /* the handler is being called; and has freed the request */

        char *method, *path, *content_type, *body;
        size_t reply_max;
        bool repeatable, once, unlimited;
        bool renewed;                   /* a 401 has been answered with fresh credentials */
        bool sent;                      /* by any try */
        unsigned n_tries;
        uint64_t deadline_usec;         /* CLOCK_MONOTONIC */

        sd_event_source *timer;
        KubeTransfer *transfer;
};

struct KubeClient {
        sd_event *event;
        KubeSession *session;
        KubeRequest *requests;
        unsigned n_requests;
        uint64_t interval_usec, slack_usec, due_usec;   /* the bucket: one token each interval; due: when it will be full */
        uint64_t pause_usec, pause_max_usec;
        KubeClientStats stats;
};

static uint64_t random_up_to(uint64_t limit) {
        uint64_t v = 0;

        if (getrandom(&v, sizeof(v), 0) < 0)
                v = now_usec(CLOCK_MONOTONIC) * UINT64_C(6364136223846793005);
        return limit == UINT64_MAX ? v : v % (limit + 1);
}

uint64_t kube_backoff_usec(uint64_t first, uint64_t max, unsigned n, uint64_t retry_after) {
        uint64_t limit = MIN(first, max);

        for (; n > 0 && limit < max; n--)
                limit = limit > max / 2 ? max : limit * 2;
        return usec_add(retry_after, random_up_to(limit));
}

/* ---- client ---- */

int kube_client_new(sd_event *event, const KubeConfig *config, const KubeClientOptions *options, KubeClient **ret, char **reterr) {
        _cleanup_(kube_client_freep) KubeClient *c = new(KubeClient);
        const KubeClientOptions none = {}, *o = options ?: &none;
        uint32_t qps = o->qps ?: QPS, burst = o->burst ?: BURST;
        int r;

        if (!c)
                return -ENOMEM;
        *c = (KubeClient) {
                .event = sd_event_ref(event),
                .interval_usec = qps == UINT32_MAX ? 0 : USEC_PER_SEC / MIN(qps, UINT32_C(1000000)),
                .pause_usec = o->pause_usec ?: PAUSE_USEC,
                .pause_max_usec = o->pause_max_usec ?: PAUSE_MAX_USEC,
        };
        c->slack_usec = c->interval_usec * (burst - 1);
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return -ENOMEM;
        r = kube_session_new(event, config, options, &c->session, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(c);
        return 0;
}

static void request_unlink(KubeRequest *q) {
        if (!q->linked)
                return;
        if (q->previous)
                q->previous->next = q->next;
        else
                q->client->requests = q->next;
        if (q->next)
                q->next->previous = q->previous;
        q->client->n_requests--;
        q->linked = false;
}

/* Nothing of it goes on; what its owner holds is left. */
static void request_stop(KubeRequest *q) {
        request_unlink(q);
        q->timer = sd_event_source_disable_unref(q->timer);
        q->transfer = kube_transfer_free(q->transfer);
}

KubeRequest* kube_request_free(KubeRequest *q) {
        if (!q)
                return NULL;
        if (q->calling) {
                q->freed = true;
                return NULL;
        }
        if (q->client)
                request_stop(q);
        erase_free_stringp(&q->body);
        free(q->method);
        free(q->path);
        free(q->content_type);
        free(q);
        return NULL;
}

KubeClient* kube_client_free(KubeClient *c) {
        if (!c)
                return NULL;
        while (c->requests) {
                KubeRequest *q = c->requests;

                request_stop(q);
                q->client = NULL;
                if (q->owned)
                        kube_request_free(q);
        }
        kube_session_free(c->session);
        sd_event_unref(c->event);
        free(c);
        return NULL;
}

sd_event* kube_client_event(KubeClient *c) {
        return c->event;
}

const char* kube_client_server(KubeClient *c) {
        return c->session->config->server;
}

const char* kube_client_default_namespace(KubeClient *c) {
        return c->session->config->default_namespace;
}

KubeSession* kube_client_session(KubeClient *c) {
        return c->session;
}

void kube_client_stats(KubeClient *c, KubeClientStats *ret) {
        *ret = c->stats;
        ret->n_token_reads = c->session->n_token_reads;
        ret->n_active = c->n_requests;
}

/* Takes a token of the bucket, which is kept as one time: how far ahead of a steady pace we are. Returns when it may be used; one that would come
 * too late is left to others. */
static uint64_t reserve(KubeClient *c, uint64_t deadline) {
        uint64_t now = now_usec(CLOCK_MONOTONIC), due = MAX(c->due_usec, now), at = due - now <= c->slack_usec ? now : due - c->slack_usec;

        if (at < deadline)
                c->due_usec = usec_add(due, c->interval_usec);
        return at;
}

/* ---- one request ---- */

static void request_try(KubeRequest *q);

static void request_end(KubeRequest *q, const KubeReply *reply) {
        /* What the reply consists of; it stays even if the handler frees the request. */
        _cleanup_(kube_transfer_freep) KubeTransfer *transfer = TAKE_PTR(q->transfer);

        request_unlink(q);
        q->timer = sd_event_source_disable_unref(q->timer);
        q->calling = true;
        if (q->handler)
                q->handler(q, reply, q->userdata);
        q->calling = false;
        if (q->owned || q->freed)
                kube_request_free(q);
}

static void request_fail(KubeRequest *q, int error, const char *why) {
        char text[512];
        KubeReply reply = { .error = error, .reason = "", .text = text, .sent = q->sent };

        (void) snprintf(text, sizeof(text), "%s %.*s: %s", q->method, (int) MIN(strcspn(q->path, "?"), (size_t) 400), q->path, why);
        request_end(q, &reply);
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        request_try(userdata);
        return 0;
}

static int request_schedule(KubeRequest *q, uint64_t at) {
        int r;

        if (!q->timer)
                return sd_event_add_time(q->client->event, &q->timer, CLOCK_MONOTONIC, at, 1, on_timer, q);
        r = sd_event_source_set_time(q->timer, at);
        return r < 0 ? r : sd_event_source_set_enabled(q->timer, SD_EVENT_ONESHOT);
}

/* A token for another try, not before @earliest. The time for it is over if that is the deadline. */
static uint64_t request_slot(KubeRequest *q, uint64_t earliest) {
        return q->unlimited ? earliest : MIN(MAX(earliest, reserve(q->client, q->deadline_usec)), q->deadline_usec);
}

static bool may_repeat(const KubeRequest *q, const KubeReply *reply) {
        if (q->once || q->n_tries >= TRIES_MAX)
                return false;
        if (reply->status == 429 || (reply->status == 0 && kube_transfer_is_undone(q->transfer) && reply->error != -EPROTO))
                return true;
        if (!q->repeatable)
                return false;
        return reply->status / 100 == 5 || reply->error == -ENOTCONN || reply->error == -ETIMEDOUT || reply->error == -EBADMSG;
}

/* Returns whether there is another try. */
static bool request_repeat(KubeRequest *q, const KubeReply *reply) {
        KubeClient *c = q->client;
        uint64_t pause = 0, at;

        if (reply->status == 401 && !q->renewed) {
                q->renewed = true;
                if (!kube_session_renew(c->session))
                        return false;
        } else if (may_repeat(q, reply))
                pause = kube_backoff_usec(c->pause_usec, c->pause_max_usec, q->n_tries - 1, reply->retry_after_usec);
        else
                return false;
        at = usec_add(now_usec(CLOCK_MONOTONIC), pause);
        if (at >= q->deadline_usec)
                return false;
        at = request_slot(q, at);
        if (at >= q->deadline_usec || request_schedule(q, at) < 0)
                return false;
        q->transfer = kube_transfer_free(q->transfer);
        return true;
}

static void on_transfer_done(KubeTransfer *t, void *userdata) {
        KubeRequest *q = userdata;
        KubeReply reply;

        kube_transfer_reply(t, &reply);
        q->sent = q->sent || reply.sent;
        if (reply.error == -ETIMEDOUT && reply.sent)
                kube_session_distrust(q->client->session);
        if (reply.status == 0 || reply.status == 429 || reply.status >= 500)
                q->client->stats.n_failures++;
        if (reply.error < 0 && request_repeat(q, &reply))
                return;
        reply.sent = q->sent;
        request_end(q, &reply);
}

/* A try that could follow another leaves it time: what was sent into a connection that is dead would else use up all. */
static uint64_t try_timeout(const KubeRequest *q, uint64_t left) {
        return q->repeatable && !q->once ? MIN(left, MAX(left / 2, TRY_MIN_USEC)) : left;
}

static void request_try(KubeRequest *q) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        KubeTransferSpec spec = {
                .method = q->method,
                .path = q->path,
                .content_type = q->content_type,
                .body = q->body,
                .reply_max = q->reply_max,
                .repeatable = q->repeatable,
                .on_done = on_transfer_done,
                .userdata = q,
        };
        int r;

        if (now >= q->deadline_usec) {
                request_fail(q, -ETIMEDOUT, q->n_tries == 0 ? "there was no turn for it in time, as too many requests are under way" : "not within the time for it");
                return;
        }
        spec.timeout_usec = try_timeout(q, q->deadline_usec - now);
        r = kube_transfer_new(q->client->session, &spec, &q->transfer);
        if (r < 0) {
                request_fail(q, r, strerror(-r));
                return;
        }
        q->n_tries++;
        q->client->stats.n_requests++;
}

static int copy_call(KubeRequest *q, const KubeCall *call) {
        const char *body = call->body ? json_object_to_json_string_ext(call->body, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;

        q->method = strdup(call->method);
        q->path = strdup(call->path);
        q->content_type = call->content_type ? strdup(call->content_type) : NULL;
        q->body = body ? strdup(body) : NULL;
        return !q->method || !q->path || (call->content_type && !q->content_type) || (call->body && !q->body) ? -ENOMEM : 0;
}

int kube_request(KubeClient *c, const KubeCall *call, KubeReplyHandler handler, void *userdata, KubeRequest **ret) {
        KubeRequest *q;
        int r;

        if (isempty(call->path) || call->path[0] != '/')
                return -EINVAL;
        if (c->n_requests >= KUBE_REQUESTS_MAX)
                return -E2BIG;
        q = new(KubeRequest);
        if (!q)
                return -ENOMEM;
        *q = (KubeRequest) {
                .client = c,
                .handler = handler,
                .userdata = userdata,
                .owned = !ret,
                .reply_max = call->reply_max ?: KUBE_REPLY_MAX,
                .repeatable = call->repeatable || streq(call->method, "GET"),
                .once = call->once,
                .unlimited = call->unlimited,
                .deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), call->timeout_usec ?: KUBE_TIMEOUT_USEC),
        };
        r = copy_call(q, call);
        if (r >= 0)
                r = request_schedule(q, request_slot(q, 0));
        if (r < 0) {
                kube_request_free(q);
                return r;
        }

        q->next = c->requests;
        if (q->next)
                q->next->previous = q;
        c->requests = q;
        c->n_requests++;
        q->linked = true;
        if (ret)
                *ret = q;
        return 0;
}

int kube_get(KubeClient *c, const char *path, KubeReplyHandler handler, void *userdata, KubeRequest **ret) {
        return kube_request(c, &(KubeCall) { .method = "GET", .path = path }, handler, userdata, ret);
}

int kube_create(KubeClient *c, const char *path, json_object *object, KubeReplyHandler handler, void *userdata, KubeRequest **ret) {
        return kube_request(c, &(KubeCall) { .method = "POST", .path = path, .body = object }, handler, userdata, ret);
}

int kube_replace(KubeClient *c, const char *path, json_object *object, KubeReplyHandler handler, void *userdata, KubeRequest **ret) {
        return kube_request(c, &(KubeCall) { .method = "PUT", .path = path, .body = object }, handler, userdata, ret);
}

int kube_patch(KubeClient *c, const char *path, const char *content_type, json_object *patch, KubeReplyHandler handler, void *userdata, KubeRequest **ret) {
        return kube_request(c, &(KubeCall) { .method = "PATCH", .path = path, .content_type = content_type, .body = patch }, handler, userdata, ret);
}

int kube_delete(KubeClient *c, const char *path, json_object *options, KubeReplyHandler handler, void *userdata, KubeRequest **ret) {
        return kube_request(c, &(KubeCall) { .method = "DELETE", .path = path, .body = options, .repeatable = true }, handler, userdata, ret);
}
