/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client of the provider modules: one for each module, used by all its worker threads at once.
 *
 * One thread of its own drives libcurl's multi handle, so that connections are kept and shared (HTTP/2 where the server offers it); a
 * caller waits on its call's cancel descriptor and deadline, and is back within a second of either. Never follows a redirect, keeps no
 * cookies, does not decode what it has not asked for. TLS 1.2 or newer. A proxy comes from the usual variables (libcurl:
 * HTTPS_PROXY, NO_PROXY …), never for loopback and link-local addresses.
 *
 * Requests are tried again only where that is safe (HttpRequest.repeatable), with full jitter, after Retry-After where there is one.
 * At debug level each try is logged with method, URL without query, status and time; never headers, queries, bodies. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "cloud-reply.h"
#include "provider/peerpod-provider.h"

typedef struct CloudHttp CloudHttp;
typedef struct HttpRequest HttpRequest;

/* What the requests to one cloud have in common. */
typedef struct CloudApi {
        /* Add what proves who we are, right before each try: headers by http_add_header(), or another URL. @fresh: the last ones were
         * refused. NULL: nothing is added. Returns 0 or a negative errno with *error set. */
        int (*authorize)(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error);

        /* NULL: http_judge_by_status(). */
        HttpVerdict (*judge)(void *userdata, const HttpReply *reply);

        void *userdata;

        /* How many µs the service asks to wait before the next try, where it says so in headers of its own; 0: it does not. NULL: there are
         * none beside Retry-After. */
        uint64_t (*pause)(void *userdata, const HttpReply *reply);
} CloudApi;

typedef struct CloudHttpConfig {
        const char *user_agent;         /* "peerpod-aws/0.1.0" */
        const char *ca_file;            /* PEM of the authorities to trust instead of the system's, or "" */
        const char *pinned_key;         /* "sha256//BASE64": that public key instead of any authority; or NULL */
        const char *thumbprint;         /* that certificate instead of any authority (cloud-thumbprint.h); or NULL */
        bool insecure;                  /* whoever answers is trusted */
        const char *unix_socket;        /* every connection goes there; or NULL */
        uint32_t connections_max;       /* to one host; 0: 16 */
        uint32_t tries_max;             /* 0: 5; ten times as many where the server only wants it later (HTTP_AGAIN_UNDONE) */
        uint64_t pause_usec;            /* the longest before the first repetition, doubled for each; 0: 500 ms */
        uint64_t pause_max_usec;        /* 0: 20 s */
        const char *cert_file, *key_file; /* PEM of a client certificate; or NULL */
} CloudHttpConfig;

#define HTTP_HEADERS_MAX 32
#define HTTP_BODY_MAX (UINT64_C(16) << 20)

struct HttpRequest {
        const CloudApi *api;            /* NULL: no credentials, http_judge_by_status() */
        const char *method;
        const char *url;                /* complete, query included; borrowed */
        const char *what;               /* "RunInstances": for people */
        const void *body;               /* NULL: none, which is not an empty one ("") */
        size_t body_size;
        bool repeatable;                /* doing it twice is doing it once: a GET, a DELETE, a PUT by name, a token of idempotency */
        uint64_t timeout_usec;          /* of each try; 0: 60 s */
        size_t reply_max;               /* bytes of the reply's body; 0: HTTP_BODY_MAX */
        /* A body too big to hold: takes it piece by piece instead of HttpReply.body, on the client's thread, for 2xx only. A negative
         * return ends the transfer and is the result. Such a request is tried once. */
        int (*on_body)(void *userdata, const void *data, size_t size);
        void *userdata;

        char *headers[HTTP_HEADERS_MAX]; /* "Name: value", by http_add_header(); those of authorize() are dropped before the next try */
        size_t n_headers;
        char *signed_url;               /* newly allocated, by authorize(): used instead of url for this try */
};

/**
 * cloud_http_new() - open the client; its thread begins with all signals blocked
 *
 * Returns 0, or a negative errno with *error set (a CA file that cannot be read: PEERPOD_E_INVALID_ARGUMENT).
 */
int cloud_http_new(const CloudHttpConfig *config, CloudHttp **ret, PeerpodError *error);
/* cloud_http_free() - when no request runs any more; takes NULL, returns NULL */
CloudHttp* cloud_http_free(CloudHttp *h);
DEFINE_CLEANUP(CloudHttp*, cloud_http_free);

/**
 * cloud_http_perform() - ask, again where that is allowed, and wait for the answer
 * @request: its headers stay until http_request_done()
 * @ret:     untouched on failure; freed by http_reply_done()
 *
 * A reply of any status is success. Else a negative errno with *error set, text "WHAT: REASON": PEERPOD_E_UNAVAILABLE (no connection, or
 * no whole reply), PEERPOD_E_FAILED_PRECONDITION (a certificate that is not trusted), PEERPOD_E_TIMED_OUT, PEERPOD_E_CANCELLED, PEERPOD_E_INTERNAL (reply too big, memory), or what authorize() says.
 * Whether the server did it is unknown then, unless the request is repeatable or *ret_sent (may be NULL) is false. Any thread.
 */
int cloud_http_perform(CloudHttp *h, const PeerpodCall *call, HttpRequest *request, HttpReply *ret, bool *ret_sent, PeerpodError *error);

/* http_add_header() - NULL as the value: that header is not sent, where libcurl would. Returns 0, -ENOMEM, -E2BIG, -EINVAL (line ends in it) */
int http_add_header(HttpRequest *request, const char *name, const char *value);
void http_request_done(HttpRequest *request);
