/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-reply.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "basic/cleanup.h"
#include "basic/parse.h"
#include "basic/util.h"

void http_reply_done(HttpReply *reply) {
        reply->body = erase_free(reply->body, reply->size);
        if (reply->headers)
                reply->headers = erase_free(reply->headers, strlen(reply->headers));
        *reply = (HttpReply) {};
}

int http_reply_header(const HttpReply *reply, const char *name, char **ret) {
        const char *found = NULL;
        size_t n = strlen(name), size;

        for (const char *p = strempty(reply->headers); *p;) {
                if (strncasecmp(p, name, n) == 0 && p[n] == ':')
                        found = p + n + 1;
                p += strcspn(p, "\n");
                p += *p == '\n';
        }
        if (!found)
                return 0;
        found += strspn(found, " \t");
        size = strcspn(found, "\r\n");
        while (size > 0 && (found[size - 1] == ' ' || found[size - 1] == '\t'))
                size--;
        *ret = strndup(found, size);
        return *ret ? 1 : -ENOMEM;
}

HttpVerdict http_judge_by_status(void *userdata, const HttpReply *reply) {
        switch (reply->status) {
        case 401:
                return HTTP_UNAUTHORIZED;
        case 429:
                return HTTP_AGAIN_UNDONE;
        case 408:
        case 500:
        case 502:
        case 503:
        case 504:
                return HTTP_AGAIN;
        default:
                return HTTP_DONE;
        }
}

static PeerpodErrorKind kind_of_status(int status) {
        switch (status) {
        case 400:
        case 422:
                return PEERPOD_E_INVALID_ARGUMENT;
        case 401:
        case 403:
                return PEERPOD_E_UNAUTHENTICATED;
        case 404:
        case 410:
                return PEERPOD_E_NOT_FOUND;
        case 409:
        case 412:
                return PEERPOD_E_FAILED_PRECONDITION;
        case 429:
                return PEERPOD_E_THROTTLED;
        default:
                return status >= 500 ? PEERPOD_E_UNAVAILABLE : PEERPOD_E_INTERNAL;
        }
}

int http_error(PeerpodError *error, const char *what, const HttpReply *reply, const char *code, const char *detail) {
        _cleanup_(freep) char *plain_detail = text_make_plain(strempty(detail), 600), *plain_code = text_make_plain(strempty(code), 100);

        return peerpod_error_set(error, kind_of_status(reply->status), "%s: %s%s%s%sHTTP %i%s", what, strempty(plain_detail),
                                 isempty(plain_detail) ? "" : " (", strempty(plain_code), isempty(plain_code) ? "" : ", ", reply->status,
                                 isempty(plain_detail) ? "" : ")");
}
