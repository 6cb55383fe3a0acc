/* SPDX-License-Identifier: Apache-2.0 */
/* Requests, their failures, and operations (googleapis/googleapis: google/rpc/status, Compute Engine API v1: zoneOperations). */
#include "gcp.h"

#include "basic/parse.h"

#define OPERATION_WAIT_USEC (130 * USEC_PER_SEC)        /* the server holds the request for up to two minutes */
#define PAUSE_USEC (500 * USEC_PER_MSEC)

void gcp_reply_done(GcpReply *r) {
        if (r->root)
                json_object_put(r->root);
        *r = (GcpReply) {};
}

char* gcp_url(const Gcp *g, const char *format, ...) {
        char *rest = NULL, *url = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&rest, format, ap);
        va_end(ap);
        if (r < 0)
                return NULL;
        if (asprintf(&url, "%s/projects/%s/%s", g->compute_endpoint, g->project, rest) < 0)
                url = NULL;
        free(rest);
        return url;
}

char* gcp_resource_url(const Gcp *g, const char *resource) {
        const char *path = strstr(resource, "projects/");
        char *url;

        return asprintf(&url, "%s/%s", g->compute_endpoint, path ?: resource) < 0 ? NULL : url;
}

/* error.errors[0].reason, or the newer error.status */
static void read_reason(const char *text, size_t size, char *ret, size_t ret_size, char **ret_message) {
        _cleanup_(json_object_putp) json_object *root = NULL;
        json_object *error = NULL, *errors = NULL;
        const char *reason = NULL, *message = NULL;

        ret[0] = '\0';
        if (json_parse(text, size, &root, NULL) < 0 || json_get_object(root, "error", &error, NULL) <= 0)
                return;
        if (json_get_array(error, "errors", &errors, NULL) > 0 && json_object_array_length(errors) > 0)
                (void) json_get_string(json_object_array_get_idx(errors, 0), "reason", &reason, NULL);
        if (!reason)
                (void) json_get_string(error, "status", &reason, NULL);
        (void) json_get_string(error, "message", &message, NULL);
        (void) snprintf(ret, ret_size, "%.*s", (int) ret_size - 1, strempty(reason));
        if (message && ret_message)
                *ret_message = strdup(message);
}

static HttpVerdict judge(void *userdata, const HttpReply *reply) {
        char reason[64];

        if (reply->status != 403)
                return http_judge_by_status(NULL, reply);
        read_reason(reply->body, reply->size, reason, sizeof(reason), NULL);
        return streq(reason, "rateLimitExceeded") || streq(reason, "userRateLimitExceeded") ? HTTP_AGAIN_UNDONE : HTTP_DONE;
}

static int fail(const char *what, const HttpReply *reply, const char *reason, const char *message, PeerpodError *error) {
        int r = http_error(error, what, reply, reason, message);

        if (streq(reason, "quotaExceeded") || streq(reason, "ZONE_RESOURCE_POOL_EXHAUSTED"))
                error->kind = PEERPOD_E_EXHAUSTED;
        else if (streq(reason, "rateLimitExceeded") || streq(reason, "userRateLimitExceeded"))
                error->kind = PEERPOD_E_THROTTLED;
        else
                return r;
        return peerpod_error_to_errno(error->kind);
}

int gcp_query(Gcp *g, const PeerpodCall *call, const GcpQuery *q, const char *url, GcpReply *ret, PeerpodError *error) {
        Authorizer authorizer = { .gcp = g };
        const CloudApi api = { .authorize = credentials_authorize, .judge = judge, .userdata = &authorizer };
        const char *body = q->body ? json_object_to_json_string_ext(q->body, JSON_C_TO_STRING_PLAIN) : NULL;
        HttpRequest request = { .api = &api, .method = q->method, .url = url, .what = q->what, .body = body, .body_size = body ? strlen(body) : 0,
                                .repeatable = q->repeatable, .timeout_usec = q->timeout_usec };
        _cleanup_(freep) char *message = NULL;
        HttpReply reply = {};
        bool sent = false;
        int r = 0;

        *ret = (GcpReply) {};
        if (!url || (q->body && !body))
                return oom(error);
        if (body)
                r = http_add_header(&request, "Content-Type", "application/json");
        r = r < 0 ? oom(error) : cloud_http_perform(g->http, call, &request, &reply, &sent, error);
        http_request_done(&request);
        token_done(&authorizer.used);
        if (r < 0) {
                ret->unknown = sent;
                return r;
        }

        ret->status = reply.status;
        if (reply.status / 100 == 2) {
                r = json_parse(reply.body, reply.size, &ret->root, NULL);
                if (r < 0) {
                        ret->unknown = true;
                        r = peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer is no JSON object.", q->what);
                }
        } else {
                ret->unknown = reply.status >= 500;
                read_reason(reply.body, reply.size, ret->reason, sizeof(ret->reason), &message);
                r = fail(q->what, &reply, ret->reason, message, error);
        }
        http_reply_done(&reply);
        return r;
}

static PeerpodErrorKind kind_of_operation(const char *code, uint64_t http_status) {
        if (startswith(code, "ZONE_RESOURCE_POOL_EXHAUSTED") || streq(code, "QUOTA_EXCEEDED") || streq(code, "STOCKOUT"))
                return PEERPOD_E_EXHAUSTED;
        if (streq(code, "RESOURCE_NOT_FOUND") || streq(code, "UNSUPPORTED_OPERATION") || streq(code, "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"))
                return PEERPOD_E_FAILED_PRECONDITION;
        if (streq(code, "RESOURCE_ALREADY_EXISTS"))
                return PEERPOD_E_ALREADY_EXISTS;
        if (streq(code, "PERMISSIONS_ERROR"))
                return PEERPOD_E_UNAUTHENTICATED;
        return http_status >= 400 && http_status < 500 ? PEERPOD_E_FAILED_PRECONDITION : PEERPOD_E_UNAVAILABLE;
}

/* What a finished operation came to. */
static int read_result(const char *what, json_object *operation, char *ret_code, PeerpodError *error) {
        json_object *e = NULL, *errors = NULL, *first = NULL;
        const char *code = NULL, *message = NULL;
        _cleanup_(freep) char *plain = NULL;
        uint64_t status = 0;

        (void) json_get_u64(operation, "httpErrorStatusCode", 999, &status, NULL);
        if (json_get_object(operation, "error", &e, NULL) > 0 && json_get_array(e, "errors", &errors, NULL) > 0 && json_object_array_length(errors) > 0)
                first = json_object_array_get_idx(errors, 0);
        if (!first && !e && (status == 0 || status / 100 == 2))
                return 0;
        if (first) {
                (void) json_get_string(first, "code", &code, NULL);
                (void) json_get_string(first, "message", &message, NULL);
        }
        if (!message)
                (void) json_get_string(operation, "httpErrorMessage", &message, NULL);
        (void) snprintf(ret_code, GCP_NAME_SIZE, "%.63s", strempty(code));
        plain = text_make_plain(message ?: "it says no more", 700);
        return peerpod_error_set(error, kind_of_operation(strempty(code), status), "%s: %s (%s)", what, strempty(plain), isempty(code) ? "failed" : ret_code);
}

static bool operation_is_done(json_object *operation) {
        const char *status = NULL;

        return json_get_string(operation, "status", &status, NULL) > 0 && streq(status, "DONE");
}

int gcp_wait(Gcp *g, const PeerpodCall *call, const char *what, json_object *operation, char *ret_code, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *current = json_object_get(operation);
        _cleanup_(freep) char *url = NULL, *name = NULL;
        const char *text = NULL;

        ret_code[0] = '\0';
        if (json_get_string(operation, "name", &text, NULL) <= 0 || strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != strlen(text))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer is no operation.", what);
        url = gcp_url(g, "zones/%s/operations/%s/wait", g->zone, text);

        for (;;) {
                const GcpQuery q = { .what = what, .method = "POST", .repeatable = true, .timeout_usec = OPERATION_WAIT_USEC };
                _cleanup_(gcp_reply_done) GcpReply reply = {};
                int r;

                if (operation_is_done(current))
                        return read_result(what, current, ret_code, error);
                r = gcp_query(g, call, &q, url, &reply, error);
                if (r < 0)
                        return r;
                json_object_put(current);
                current = TAKE_PTR(reply.root);
                r = operation_is_done(current) ? 0 : peerpod_call_wait(call, -1, 0, PAUSE_USEC, error);
                if (r < 0)
                        return r;
        }
}
