/* SPDX-License-Identifier: Apache-2.0 */
/* What a server has answered: its parts, and what its status means. */
#pragma once

#include <stddef.h>

#include "provider/peerpod-provider.h"

typedef struct HttpReply {
        int status;
        char *body;                     /* with a NUL behind it, never NULL; may hold secrets: erased by http_reply_done() */
        size_t size;
        char *headers;                  /* as received, lines "name: value\r\n"; at most 64 KiB */
} HttpReply;

/* What a reply means; see CloudApi.judge(). */
typedef enum HttpVerdict {
        HTTP_DONE,              /* for the caller, whatever its status */
        HTTP_AGAIN,             /* a passing fault: try again if the request is repeatable */
        HTTP_AGAIN_UNDONE,      /* likewise, and the server has done nothing: even if it is not repeatable (a throttle, a lock) */
        HTTP_UNAUTHORIZED,      /* once more with fresh credentials, then HTTP_DONE; the server has done nothing */
} HttpVerdict;

/* http_reply_done() - free and erase; a reply of {} is none */
void http_reply_done(HttpReply *reply);

/* http_reply_header() - the value of the last header of that name, newly allocated; 1, 0 without one, -ENOMEM */
int http_reply_header(const HttpReply *reply, const char *name, char **ret);

/* http_judge_by_status() - 401: unauthorized; 429: again, undone; 408, 500, 502, 503, 504: again; else done */
HttpVerdict http_judge_by_status(void *userdata, const HttpReply *reply);

/**
 * http_error() - the error of a reply whose status is no success, for clouds that say no more than that
 * @detail: what the cloud says in its own words; made plain and cut; may be NULL
 *
 * Sets *error ("WHAT: DETAIL (CODE, HTTP STATUS)") by status: 400, 422 invalid argument; 401, 403 unauthenticated; 404, 410 not found;
 * 409, 412 failed precondition; 429 throttled; others unavailable (5xx) or internal. Returns peerpod_error_to_errno() of it.
 */
int http_error(PeerpodError *error, const char *what, const HttpReply *reply, const char *code, const char *detail);
