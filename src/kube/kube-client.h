/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to a Kubernetes API server, on the event loop: libcurl's multi handle with its sockets and timer as event sources, so HTTP/2 with
 * many requests on one connection, and no thread.
 *
 * Each request ends by exactly one call of its handler, from the loop, never from within kube_request(); a request that is freed before is
 * cancelled, and its handler is not called. All requests share a bucket of tokens (qps, burst), so that no fault of ours can flood the
 * server. At debug level each try is logged with method, path without query, status and time; never headers, queries, bodies. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/json.h"

typedef struct KubeClient KubeClient;
typedef struct KubeConfig KubeConfig;
typedef struct KubeReply KubeReply;
typedef struct KubeRequest KubeRequest;

#define KUBE_JSON "application/json"
#define KUBE_JSON_PATCH "application/json-patch+json"           /* RFC 6902 */
#define KUBE_MERGE_PATCH "application/merge-patch+json"         /* RFC 7386 */
#define KUBE_STRATEGIC_PATCH "application/strategic-merge-patch+json" /* built-in kinds only */
#define KUBE_APPLY_PATCH "application/apply-patch+yaml"         /* path with ?fieldManager=…[&force=true] */

#define KUBE_REPLY_MAX (UINT64_C(8) << 20)
#define KUBE_TIMEOUT_USEC (UINT64_C(30) * 1000000)

typedef struct KubeClientOptions {
        const char *user_agent;         /* "peerpod-node/0.1.0"; NULL: "peerpod/VERSION" */
        uint32_t qps, burst;            /* 0: 5 and 10, as client-go has it; UINT32_MAX: no limit */
        uint64_t pause_usec;            /* the longest before the first repetition, doubled for each; 0: 500 ms */
        uint64_t pause_max_usec;        /* 0: 30 s */
        uint64_t connect_timeout_usec;  /* 0: 10 s */
        uint64_t token_max_age_usec;    /* a token file is read again after that; 0: 60 s */
} KubeClientOptions;

/**
 * kube_client_new() - open a client; connects to nothing yet
 * @config:  copied
 * @options: NULL: all defaults
 *
 * Returns 0, or -errno with *reterr (a CA or certificate that cannot be read, a token file likewise: both named).
 */
int kube_client_new(sd_event *event, const KubeConfig *config, const KubeClientOptions *options, KubeClient **ret, char **reterr);

/* kube_client_free() - cancels all requests; those that their owners still hold stay valid for kube_request_free(). Not from within a
 * handler. Takes NULL, returns NULL. */
KubeClient* kube_client_free(KubeClient *c);
DEFINE_CLEANUP(KubeClient*, kube_client_free);

sd_event* kube_client_event(KubeClient *c);                     /* borrowed */
const char* kube_client_server(KubeClient *c);                  /* URL, for people */
const char* kube_client_default_namespace(KubeClient *c);       /* or NULL */

/* What came of a request; all of it borrowed for the time of the call. */
struct KubeReply {
        /* 0 for a 2xx, else: -EACCES (401), -EPERM (403), -ENOENT (404), -EEXIST (409 AlreadyExists), -ESTALE (409 of another reason, 410),
         * -EINVAL (400, 405, 413, 415, 422 and other 4xx), -EAGAIN (429), -EREMOTEIO (5xx). Without an answer: -ETIMEDOUT, -ENOTCONN (cannot
         * connect, or lost), -EPROTO (TLS: a certificate is not trusted), -EBADMSG (the answer is no JSON object), -EMSGSIZE (it is larger
         * than reply_max), -ENOMEM. */
        int error;
        int status;             /* HTTP, 0: no answer */
        const char *reason;     /* of the Status object, "" without: "Conflict", "AlreadyExists", "Invalid", "Expired" … */
        const char *text;       /* one line for people, "PATCH /apis/…: HTTP 409 Conflict: …"; "" on success */
        json_object *object;    /* the answer, on failure the Status object; NULL where there is none */
        bool sent;              /* on failure: the server may have done it all the same */
        uint64_t retry_after_usec; /* what the server asked for, 0: nothing */
};

/* May free @request and any other one, and begin new ones. */
typedef void (*KubeReplyHandler)(KubeRequest *request, const KubeReply *reply, void *userdata);

typedef struct KubeCall {
        const char *method;             /* "GET" … */
        const char *path;               /* "/api/v1/…?query", escaped: kube_path(), kube_query_add() */
        const char *content_type;       /* of the body; NULL: KUBE_JSON */
        json_object *body;              /* borrowed, not needed any more when kube_request() returns; NULL: none */
        uint64_t timeout_usec;          /* for all tries and the pauses between; 0: KUBE_TIMEOUT_USEC */
        size_t reply_max;               /* 0: KUBE_REPLY_MAX */
        /* Doing it twice is doing it once: repeated on lost connections and 5xx as a GET always is. Others are repeated only where the server
         * has done nothing (429, no connection, 401 once with a fresh token). */
        bool repeatable;
        bool once;                      /* never repeated but after a 401, for who has a rhythm of his own */
        bool unlimited;                 /* does not wait for a token of the bucket: leases, releases at exit */
} KubeCall;

/**
 * kube_request() - begin a request
 * @call:     borrowed for this call only
 * @ret:      the request, kept until kube_request_free() even after its handler was called; NULL: the client keeps it and drops it when its
 *            handler has returned
 *
 * Returns 0, -EINVAL (a path without "/" in front), -E2BIG (KUBE_REQUESTS_MAX are under way), -ENOMEM; no handler is called then.
 */
#define KUBE_REQUESTS_MAX 1024U
int kube_request(KubeClient *c, const KubeCall *call, KubeReplyHandler handler, void *userdata, KubeRequest **ret);

/* Short forms for the common calls, with the default time-out; a DELETE and a GET are repeatable. */
int kube_get(KubeClient *c, const char *path, KubeReplyHandler handler, void *userdata, KubeRequest **ret);
int kube_create(KubeClient *c, const char *path, json_object *object, KubeReplyHandler handler, void *userdata, KubeRequest **ret);
int kube_replace(KubeClient *c, const char *path, json_object *object, KubeReplyHandler handler, void *userdata, KubeRequest **ret);
int kube_patch(KubeClient *c, const char *path, const char *content_type, json_object *patch, KubeReplyHandler handler, void *userdata, KubeRequest **ret);
int kube_delete(KubeClient *c, const char *path, json_object *options, KubeReplyHandler handler, void *userdata, KubeRequest **ret); /* @options NULL: none */

/* kube_request_free() - cancel, if it is still under way. Takes NULL, returns NULL. */
KubeRequest* kube_request_free(KubeRequest *q);
DEFINE_CLEANUP(KubeRequest*, kube_request_free);

/* kube_backoff_usec() - full jitter: anything up to @first doubled @n times, at most @max; what is asked for (@retry_after) is added */
uint64_t kube_backoff_usec(uint64_t first, uint64_t max, unsigned n, uint64_t retry_after);

typedef struct KubeClientStats {
        uint64_t n_requests;            /* tries sent */
        uint64_t n_failures;            /* of them: no answer, 429 or 5xx */
        uint64_t n_token_reads;
        unsigned n_active;
} KubeClientStats;

void kube_client_stats(KubeClient *c, KubeClientStats *ret);
