/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-api.h"

#include <json-c/json.h>
#include <strings.h>
#include <syslog.h>

#include "azure-id.h"
#include "basic/parse.h"
#include "retry-after.h"

#define DETAIL_MAX 700
#define PAGES_MAX 1000
#define PAUSE_MIN_USEC (50 * USEC_PER_MSEC)     /* where the service says "Retry-After: 0" */
#define PAUSE_FIRST_USEC USEC_PER_SEC
#define PAUSE_MAX_USEC (10 * USEC_PER_SEC)
#define RETRY_AFTER_MAX_USEC (600 * USEC_PER_SEC)

/* The request with what proves who we are: a 401 must refuse the very token that this request carried, not a newer one. */
typedef struct Authorized {
        HttpRequest http;
        Token used;
} Authorized;

void azure_reply_done(AzureReply *r) {
        if (r->body)
                json_object_put(r->body);
        free(r->operation);
        free(r->location);
        *r = AZURE_REPLY_NULL;
}

int azure_authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        Authorized *q = CONTAINER_OF(request, Authorized, http);
        _cleanup_(erase_free_stringp) char *value = NULL;
        Token token = {};
        Azure *a = userdata;
        int r;

        r = token_cache_get(a->tokens, call, fresh && q->used.parts[0] ? &q->used : NULL, &token, error);
        if (r < 0)
                return r;
        token_done(&q->used);
        q->used = token;
        if (asprintf(&value, "Bearer %s", q->used.parts[0]) < 0) {
                value = NULL;
                return oom(error);
        }
        r = http_add_header(request, "Authorization", value);
        return r < 0 ? peerpod_error_set(error, PEERPOD_E_INTERNAL, "The access token is no header's value.") : 0;
}

bool azure_state_is(json_object *resource, const char *key, const char *state) {
        return strcasecmp(json_path_string(json_path(resource, "properties"), key, ""), state) == 0;
}

static json_object* parse_body(const char *body, size_t size) {
        json_object *o = NULL;

        return json_parse(body, size, &o, NULL) < 0 ? NULL : o;
}

static const char* error_code(json_object *body) {
        return json_path_string(body, "error.code", "");
}

/* Codes of conflicts that pass by themselves, with nothing done. */
static bool code_is_passing(const char *code) {
        static const char *const codes[] = { "AnotherOperationInProgress", "RetryableError", "OperationPreempted", "InUseSubnetCannotBeUpdated",
                                             "RetryableErrorDueToAnotherOperation", "CanceledAndSupersededDueToAnotherOperation" };

        for (size_t i = 0; i < ELEMENTSOF(codes); i++)
                if (strcasecmp(code, codes[i]) == 0)
                        return true;
        return false;
}

HttpVerdict azure_judge(void *userdata, const HttpReply *reply) {
        _cleanup_(json_object_putp) json_object *body = NULL;
        HttpVerdict v = http_judge_by_status(userdata, reply);

        if (v != HTTP_DONE)
                return v;
        if (reply->status >= 200 && reply->status < 300) {
                if (reply->size == 0)
                        return HTTP_DONE;
                /* Cut off or from somebody else: the next one may be whole. */
                body = parse_body(reply->body, reply->size);
                return body ? HTTP_DONE : HTTP_AGAIN;
        }
        if (reply->status != 404 && reply->status != 409)
                return HTTP_DONE;
        body = parse_body(reply->body, reply->size);
        if (reply->status == 409)
                return code_is_passing(error_code(body)) ? HTTP_AGAIN_UNDONE : HTTP_DONE;
        return *error_code(body) ? HTTP_DONE : HTTP_AGAIN;      /* a 404 that is not the service's own: a gateway's, say */
}

typedef struct CodeKind {
        const char *code;
        PeerpodErrorKind kind;
} CodeKind;

/* What says more than its HTTP status. */
static const CodeKind code_kinds[] = {
        { "AllocationFailed",                           PEERPOD_E_EXHAUSTED },
        { "ZonalAllocationFailed",                      PEERPOD_E_EXHAUSTED },
        { "OverconstrainedAllocationRequest",           PEERPOD_E_EXHAUSTED },
        { "OverconstrainedZonalAllocationRequest",      PEERPOD_E_EXHAUSTED },
        { "SkuNotAvailable",                            PEERPOD_E_EXHAUSTED },
        { "OperationNotAllowed",                        PEERPOD_E_EXHAUSTED },  /* the code of a quota that is used up */
        { "QuotaExceeded",                              PEERPOD_E_EXHAUSTED },
        { "SubnetIsFull",                               PEERPOD_E_EXHAUSTED },
        { "PublicIPCountLimitReached",                  PEERPOD_E_EXHAUSTED },
        { "ImageNotFound",                              PEERPOD_E_FAILED_PRECONDITION },
        { "GalleryImageNotFound",                       PEERPOD_E_FAILED_PRECONDITION },
        { "PlatformImageNotFound",                      PEERPOD_E_FAILED_PRECONDITION },
        { "ResourceGroupNotFound",                      PEERPOD_E_FAILED_PRECONDITION },
        { "SubscriptionNotFound",                       PEERPOD_E_FAILED_PRECONDITION },
        { "InvalidResourceReference",                   PEERPOD_E_FAILED_PRECONDITION },
        { "PropertyChangeNotAllowed",                   PEERPOD_E_ALREADY_EXISTS },
        { "NicReservedForAnotherVm",                    PEERPOD_E_UNAVAILABLE },
        { "InternalExecutionError",                     PEERPOD_E_UNAVAILABLE },
        { "VMStartTimedOut",                            PEERPOD_E_TIMED_OUT },
        { "OSProvisioningTimedOut",                     PEERPOD_E_TIMED_OUT },
};

static PeerpodErrorKind kind_of_code(const char *code, PeerpodErrorKind otherwise) {
        for (size_t i = 0; i < ELEMENTSOF(code_kinds); i++)
                if (strcasecmp(code, code_kinds[i].code) == 0)
                        return code_kinds[i].kind;
        return otherwise;
}

/* "message", and what the first detail adds: the outer one often says no more than that there is a conflict. */
static void print_detail(json_object *error, char *to, size_t size) {
        const char *message = json_path_string(error, "message", ""), *inner = "";
        json_object *details = json_path_array(error, "details");
        char *plain;

        if (details && json_object_array_length(details) > 0)
                inner = json_path_string(json_object_array_get_idx(details, 0), "message", "");
        (void) snprintf(to, size, "%.400s%s%.300s", message, *inner ? ": " : "", inner);
        plain = text_make_plain(to, size - 1);
        (void) snprintf(to, size, "%s", strempty(plain));
        free(plain);
}

static int fail_by_reply(const char *what, const HttpReply *reply, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *body = parse_body(reply->body, reply->size);
        _cleanup_(freep) char *request_id = NULL, *plain_id = NULL, *plain_code = NULL;
        char detail[DETAIL_MAX] = "";
        const char *code = error_code(body);
        PeerpodErrorKind kind;

        (void) http_reply_header(reply, "x-ms-request-id", &request_id);
        plain_id = text_make_plain(strempty(request_id), 64);
        plain_code = text_make_plain(code, 64);
        if (!plain_id || !plain_code)
                return oom(error);
        if (*code)
                print_detail(json_path(body, "error"), detail, sizeof(detail));
        if (*plain_id && *code) {
                size_t n = strlen(detail);

                (void) snprintf(detail + n, sizeof(detail) - n, " [request %s]", plain_id);
        }

        (void) http_error(error, what, reply, *plain_code ? plain_code : NULL, *detail ? detail : NULL);
        kind = error ? error->kind : PEERPOD_E_INTERNAL;
        if (reply->status == 404 && !*code)
                kind = PEERPOD_E_UNAVAILABLE;
        if (reply->status != 429)               /* whose code is that of a used up quota, too */
                kind = kind_of_code(code, kind);
        if (reply->status == 412)
                kind = PEERPOD_E_ALREADY_EXISTS;
        if (error)
                error->kind = kind;
        return peerpod_error_to_errno(kind);
}

static uint64_t retry_after(const HttpReply *reply) {
        _cleanup_(freep) char *value = NULL;
        uint64_t usec;

        if (http_reply_header(reply, "Retry-After", &value) <= 0 || retry_after_parse(value, now_usec(CLOCK_REALTIME), &usec) < 0)
                return UINT64_MAX;
        return MIN(usec, RETRY_AFTER_MAX_USEC);
}

/* The token goes to where such a URL points, so it must be the same service. */
static int take_url(const Azure *a, const HttpReply *reply, const char *header, char **ret, PeerpodError *error) {
        _cleanup_(freep) char *url = NULL;
        int r = http_reply_header(reply, header, &url);

        if (r < 0)
                return oom(error);
        if (r > 0 && arm_url_is_below(url, azure_text(a, OPTION_ENDPOINT)))
                *ret = TAKE_PTR(url);
        return 0;
}

static int take_reply(const Azure *a, const AzureAsk *ask, const HttpReply *reply, AzureReply *ret, PeerpodError *error) {
        AzureReply got = AZURE_REPLY_NULL;
        int r;

        got.status = reply->status;
        got.pause_usec = retry_after(reply);
        if (reply->size > 0) {
                got.body = parse_body(reply->body, reply->size);
                if (!got.body)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: The reply is no JSON object.", ask->what);
        }
        r = take_url(a, reply, "Azure-AsyncOperation", &got.operation, error);
        if (r == 0)
                r = take_url(a, reply, "Location", &got.location, error);
        if (r < 0) {
                azure_reply_done(&got);
                return r;
        }
        *ret = got;
        return 0;
}

int azure_ask(Azure *a, const PeerpodCall *call, const AzureAsk *ask, AzureReply *ret, PeerpodError *error) {
        Authorized q = {
                .http = {
                        .api = &a->api,
                        .method = ask->method ?: "GET",
                        .url = ask->url,
                        .what = ask->what,
                        .body = ask->body,
                        .body_size = ask->body_size,
                        .repeatable = true,
                },
        };
        HttpReply reply = {};
        int r;

        r = http_add_header(&q.http, "Accept", "application/json");
        if (r == 0 && ask->body)
                r = http_add_header(&q.http, "Content-Type", "application/json");
        if (r == 0 && ask->create_only)
                r = http_add_header(&q.http, "If-None-Match", "*");
        r = r < 0 ? oom(error) : cloud_http_perform(a->http, call, &q.http, &reply, NULL, error);
        http_request_done(&q.http);
        token_done(&q.used);
        if (r < 0)
                return r;

        if (reply.status >= 200 && reply.status < 300)
                r = take_reply(a, ask, &reply, ret, error);
        else
                r = fail_by_reply(ask->what, &reply, error);
        http_reply_done(&reply);
        return r;
}

int azure_get(Azure *a, const PeerpodCall *call, const char *what, const char *url, json_object **ret, PeerpodError *error) {
        _cleanup_(azure_reply_done) AzureReply reply = AZURE_REPLY_NULL;
        int r;

        if (!url)
                return oom(error);
        r = azure_ask(a, call, &(AzureAsk) { .what = what, .url = url }, &reply, error);
        if (r < 0)
                return r;
        if (!reply.body)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: The reply is empty.", what);
        *ret = TAKE_PTR(reply.body);
        return 0;
}

int azure_list(Azure *a, const PeerpodCall *call, const char *what, const char *url, AzureItem item, void *userdata, PeerpodError *error) {
        _cleanup_(freep) char *next = NULL;

        if (!url)
                return oom(error);
        for (size_t pages = 0; pages < PAGES_MAX; pages++) {
                _cleanup_(json_object_putp) json_object *page = NULL;
                json_object *items;
                const char *link;
                int r;

                r = azure_get(a, call, what, next ?: url, &page, error);
                if (r < 0)
                        return r;
                items = json_path_array(page, "value");
                if (!items)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: The reply is no list.", what);
                for (size_t i = 0; i < json_object_array_length(items); i++) {
                        r = item(userdata, json_object_array_get_idx(items, i), error);
                        if (r < 0)
                                return r;
                }

                link = json_path_string(page, "nextLink", "");
                if (!*link)
                        return 0;
                if (!arm_url_is_below(link, azure_text(a, OPTION_ENDPOINT)))
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: The next page is at another server.", what);
                free(next);
                next = strdup(link);
                if (!next)
                        return oom(error);
        }
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: More than %d pages.", what, PAGES_MAX);
}

int azure_pause(const PeerpodCall *call, uint64_t *pause, PeerpodError *error) {
        *pause = *pause == 0 ? PAUSE_FIRST_USEC : MIN(*pause * 3 / 2, PAUSE_MAX_USEC);
        return peerpod_call_wait(call, -1, 0, *pause, error);
}

static int pause_before_look(const PeerpodCall *call, uint64_t asked, uint64_t *pause, PeerpodError *error) {
        if (asked == UINT64_MAX)
                return azure_pause(call, pause, error);
        return peerpod_call_wait(call, -1, 0, MAX(asked, PAUSE_MIN_USEC), error);
}

static int fail_by_operation(const char *what, const char *status, json_object *body, PeerpodError *error) {
        json_object *e = json_path(body, "error");
        char detail[DETAIL_MAX] = "";
        _cleanup_(freep) char *code = text_make_plain(json_path_string(e, "code", ""), 64);
        _cleanup_(freep) char *plain_status = text_make_plain(status, 32);

        if (!code || !plain_status)
                return oom(error);
        print_detail(e, detail, sizeof(detail));
        return peerpod_error_set(error, kind_of_code(code, PEERPOD_E_INTERNAL), "%s: %s (%s, operation %s)", what,
                                 *detail ? detail : "no reason given", *code ? code : "no code", plain_status);
}

/* 1: over, 0: goes on. The status style of Azure-AsyncOperation, or the HTTP status of Location (Azure/azure-resource-manager-rpc:
 * v1.0/async-api-reference.md). */
static int operation_is_over(const char *what, bool by_status, const AzureReply *look, PeerpodError *error) {
        const char *status = json_path_string(look->body, "status", "");

        if (!by_status)
                return look->status != 202;
        if (strcasecmp(status, "Succeeded") == 0)
                return 1;
        if (strcasecmp(status, "Failed") == 0 || strcasecmp(status, "Canceled") == 0)
                return fail_by_operation(what, status, look->body, error);
        return 0;
}

int azure_operation_wait(Azure *a, const PeerpodCall *call, const char *what, const AzureReply *begun, PeerpodError *error) {
        const char *url = begun->operation ?: begun->location;
        uint64_t asked = begun->pause_usec, pause = 0;

        if (!url || (!begun->operation && begun->status != 202))
                return 0;
        for (;;) {
                _cleanup_(azure_reply_done) AzureReply look = AZURE_REPLY_NULL;
                int r;

                r = pause_before_look(call, asked, &pause, error);
                if (r < 0)
                        return r;
                r = azure_ask(a, call, &(AzureAsk) { .what = what, .url = url }, &look, error);
                if (r == -ENOENT)
                        return 0;       /* forgotten: the resource itself will tell */
                if (r < 0)
                        return r;
                r = operation_is_over(what, begun->operation, &look, error);
                if (r != 0)
                        return r < 0 ? r : 0;
                asked = look.pause_usec;
        }
}

char* azure_url(const Azure *a, const char *type, const char *name, const char *version) {
        char *url;

        if (asprintf(&url, "%s/subscriptions/%s/resourceGroups/%s/providers/%s%s%s?api-version=%s", azure_text(a, OPTION_ENDPOINT),
                     azure_text(a, OPTION_SUBSCRIPTION), azure_text(a, OPTION_GROUP), type, name ? "/" : "", strempty(name), version) < 0)
                return NULL;
        return url;
}

char* azure_url_of(const Azure *a, const char *id, const char *version) {
        char *url;

        if (asprintf(&url, "%s%s?api-version=%s", azure_text(a, OPTION_ENDPOINT), id, version) < 0)
                return NULL;
        return url;
}
