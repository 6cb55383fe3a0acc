/* SPDX-License-Identifier: Apache-2.0 */
/* One HTTP request to a service of the platform, bounded in time and size. A module of its own: libcurl and its seventeen libraries are
 * loaded where there is such a service, and add nothing to the boot elsewhere. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HTTP_MODULE "podvm-http.so"             /* beside the program */

typedef struct HttpRequest {
        const char *method;
        const char *url;                        /* http, and an address instead of a name: nothing is resolved */
        const char *const *headers;             /* "Name: value"; ends with NULL */
        const char *body;                       /* "" = an empty one, NULL = none */
        const char *reply_header;               /* "Name: value" that the answer must have, or NULL */
        size_t size_max;                        /* of the answer's body */
        uint64_t timeout_usec;                  /* for all of it; five seconds at most until the connection is there */
} HttpRequest;

typedef struct HttpReply {
        int status;
        char *body;                             /* with a NUL behind it; to be erased */
        size_t size;
} HttpReply;

/**
 * http_request() - ask and wait for the answer
 * @ret:    untouched on failure; an answer of any status is success
 * @reterr: a clause for people on failure, freed by the caller; *@reterr is NULL before
 *
 * No proxy, whatever the environment says; no redirect is followed; nothing is decoded (Content-Encoding is not asked for, so what
 * comes with one arrives as it is); no cookies, no credentials but the headers given.
 *
 * Returns 0; -EHOSTUNREACH (no connection); -ETIMEDOUT, -ECONNRESET (no answer, or a part of one); -E2BIG; -EBADMSG (the answer
 * lacks @reply_header); -ENOMEM.
 */
int http_request(const HttpRequest *q, HttpReply *ret, char **reterr);
typedef int (*HttpFunction)(const HttpRequest *q, HttpReply *ret, char **reterr);
