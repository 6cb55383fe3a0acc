/* SPDX-License-Identifier: Apache-2.0 */
/* The wire is that of the vendor's own clients (aliyun/darabonba-openapi: POST, parameters in the query, empty body), so what holds for
 * them (limits, policies, gateways) holds here. */
#include "alibabacloud-api.h"

#include <stdarg.h>
#include <sys/random.h>
#include <syslog.h>

#include "basic/json.h"
#include "cloud-config.h"
#include "cloud-form.h"
#include "cloud-sign.h"

#define ECS_VERSION "2014-05-26"
#define VPC_VERSION "2016-04-28"
#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define PARAMETERS_MAX 512
#define NONCE_SIZE 33

static void add(ApiRequest *q, char *key, const char *value) {
        char *copy = strdup(value);

        if (!key || !copy || grow_array(&q->parameters, q->n_parameters, PARAMETERS_MAX, sizeof(ApiParameter)) < 0) {
                free(key);
                erase_free(copy, copy ? strlen(copy) : 0);
                q->failed = true;
                return;
        }
        q->parameters[q->n_parameters++] = (ApiParameter) { key, copy };
}

void api_add(ApiRequest *q, const char *key, const char *value) {
        if (!isempty(value))
                add(q, strdup(key), value);
}

void api_add_item(ApiRequest *q, const char *prefix, size_t index, const char *suffix, const char *value) {
        char *key;

        if (isempty(value))
                return;
        if (asprintf(&key, "%s.%zu%s%s", prefix, index, suffix ? "." : "", strempty(suffix)) < 0)
                key = NULL;
        add(q, key, value);
}

void api_add_list(ApiRequest *q, const char *prefix, const char *list) {
        const char *item;
        size_t n, index = 1;

        for (const char *p = list; list_next(&p, &item, &n);) {
                _cleanup_(freep) char *value = strndup(item, n);

                if (!value)
                        q->failed = true;
                else
                        api_add_item(q, prefix, index++, NULL, value);
        }
}

void api_request_done(ApiRequest *q) {
        FOREACH_ELEMENT(ApiParameter, p, q->parameters, q->n_parameters) {
                free(p->key);
                erase_free(p->value, strlen(p->value));
        }
        free(q->parameters);
        *q = (ApiRequest) {};
}

void api_reply_done(ApiReply *reply) {
        if (reply->body)
                json_object_put(reply->body);
        *reply = (ApiReply) {};
}

bool code_is(const char *code, const char *prefix) {
        const char *rest = startswith(code, prefix);

        return rest && (*rest == '\0' || *rest == '.');
}

int api_malformed(PeerpodError *error, const ApiRequest *q, int r) {
        if (r == -ENOMEM)
                return oom(error);
        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: The answer is not what it should be.", q->action);
}

/* One call, as the HTTP client's callbacks see it. */
typedef struct Exchange {
        Alibaba *alibaba;               /* borrowed */
        const ApiRequest *request;      /* borrowed */
        const char *query, *host;       /* borrowed */
        Token token;                    /* that the last try was signed with */
} Exchange;

static int make_nonce(char ret[static NONCE_SIZE], PeerpodError *error) {
        uint8_t bytes[(NONCE_SIZE - 1) / 2];

        if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t) sizeof(bytes))
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "No random bytes: %s", strerror(errno));
        for (size_t i = 0; i < sizeof(bytes); i++)
                (void) snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
        return 0;
}

static int sign(Exchange *x, HttpRequest *request, PeerpodError *error) {
        char date[sizeof("2026-01-02T03:04:05Z")], nonce[NONCE_SIZE];
        _cleanup_(freep) char *authorization = NULL;
        time_t now = time(NULL);
        struct tm tm;
        int r;

        r = make_nonce(nonce, error);
        if (r < 0)
                return r;
        (void) gmtime_r(&now, &tm);
        (void) strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);

        const SignHeader headers[] = {
                { "host", x->host },
                { "x-acs-action", x->request->action },
                { "x-acs-content-sha256", EMPTY_SHA256 },
                { "x-acs-date", date },
                { "x-acs-signature-nonce", nonce },
                { "x-acs-version", x->request->vpc ? VPC_VERSION : ECS_VERSION },
                { "x-acs-accesskey-id", x->token.parts[0] },    /* these two with a session token only */
                { "x-acs-security-token", x->token.parts[2] },
        };
        size_t n = ELEMENTSOF(headers) - (isempty(x->token.parts[2]) ? 2 : 0);

        r = acs3_sign(x->token.parts[0], strempty(x->token.parts[1]), "POST", x->query, headers, n, &authorization);
        if (r < 0)
                return oom(error);
        for (size_t i = 1; i < n && r == 0; i++)        /* "host" is the client's own */
                r = http_add_header(request, headers[i].name, headers[i].value);
        if (r == 0)
                r = http_add_header(request, "Authorization", authorization);
        if (r == -EINVAL)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The access key holds characters that it cannot.");
        return r < 0 ? oom(error) : 0;
}

static int authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        Exchange *x = userdata;
        Token token = {};
        int r;

        if (x->alibaba->tokens)
                r = token_cache_get(x->alibaba->tokens, call, fresh ? &x->token : NULL, &token, error);
        else
                r = token_copy(&x->alibaba->fixed, &token) < 0 ? oom(error) : 0;
        if (r < 0)
                return r;
        token_done(&x->token);
        x->token = token;
        return sign(x, request, error);
}

/* Codes that only say "later", or "with another key". Everything else is for the caller. */
static HttpVerdict judge(void *userdata, const HttpReply *reply) {
        static const char *const refused[] = { "InvalidSecurityToken", "InvalidAccessKeyId", "SecurityTokenExpired" };
        static const char *const undone[] = { "Throttling", "SignatureNonceUsed", "IdempotentProcessing", "LastTokenProcessing" };
        static const char *const again[] = { "ServiceUnavailable", "InternalError", "SystemBusy", "UnknownError" };
        const Exchange *x = userdata;
        char code[ALIBABA_CODE_SIZE];

        if (reply->status >= 200 && reply->status < 300) {
                _cleanup_(json_object_putp) json_object *o = NULL;

                return json_parse(reply->body, reply->size, &o, NULL) == -EBADMSG ? HTTP_AGAIN : HTTP_DONE;
        }
        if (error_parse(reply->body, reply->size, code, NULL) < 0)
                return reply->status == 403 ? HTTP_DONE : http_judge_by_status(NULL, reply);

        for (size_t i = 0; i < ELEMENTSOF(refused); i++)
                if (code_is(code, refused[i]) && x && x->alibaba->tokens)
                        return HTTP_UNAUTHORIZED;
        for (size_t i = 0; i < ELEMENTSOF(undone); i++)
                if (code_is(code, undone[i]))
                        return HTTP_AGAIN_UNDONE;
        for (size_t i = 0; i < ELEMENTSOF(again); i++)
                if (code_is(code, again[i]))
                        return HTTP_AGAIN;
        return reply->status == 401 && !(x && x->alibaba->tokens) ? HTTP_DONE : http_judge_by_status(NULL, reply);
}

HttpVerdict api_judge(const HttpReply *reply) {
        return judge(NULL, reply);
}

/* A gateway asks to wait in a header of its own: "Limit:10,Remain:0,TimeLeft:880" (aliyun/tea: GetThrottlingTimeLeft(); milliseconds). */
static uint64_t pause_of(void *userdata, const HttpReply *reply) {
        static const char *const names[] = { "x-ratelimit-user-api", "x-ratelimit-user" };
        uint64_t longest = 0;

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_(freep) char *value = NULL;
                const char *left;

                if (http_reply_header(reply, names[i], &value) <= 0)
                        continue;
                left = strstr(value, "TimeLeft:");
                if (left) {
                        uint64_t ms = strtoul(left + strlen("TimeLeft:"), NULL, 10);

                        longest = MAX(longest, MIN(ms, UINT64_C(60000)) * USEC_PER_MSEC);
                }
        }
        return longest;
}

static PeerpodErrorKind kind_of(int status, const char *code) {
        static const struct {
                const char *prefix;
                PeerpodErrorKind kind;
        } table[] = {
                { "Throttling",                         PEERPOD_E_THROTTLED             },
                { "OperationDenied.NoStock",            PEERPOD_E_EXHAUSTED             },
                { "Zone.NotOnSale",                     PEERPOD_E_EXHAUSTED             },
                { "QuotaExceed",                        PEERPOD_E_EXHAUSTED             },
                { "QuotaExceeded",                      PEERPOD_E_EXHAUSTED             },
                { "ResourceNotAvailable",               PEERPOD_E_EXHAUSTED             },
                { "Account.Arrearage",                  PEERPOD_E_EXHAUSTED             },
                { "InvalidAccountStatus",               PEERPOD_E_EXHAUSTED             },
                { "InvalidVSwitchId.IpNotEnough",       PEERPOD_E_EXHAUSTED             },
                { "InvalidUserData.SizeExceeded",       PEERPOD_E_EXHAUSTED             },
                { "Forbidden",                          PEERPOD_E_UNAUTHENTICATED       },
                { "NoPermission",                       PEERPOD_E_UNAUTHENTICATED       },
                { "Unauthorized",                       PEERPOD_E_UNAUTHENTICATED       },
                { "InvalidAccessKeyId",                 PEERPOD_E_UNAUTHENTICATED       },
                { "InvalidSecurityToken",               PEERPOD_E_UNAUTHENTICATED       },
                { "SignatureDoesNotMatch",              PEERPOD_E_UNAUTHENTICATED       },
                { "IncompleteSignature",                PEERPOD_E_UNAUTHENTICATED       },
        };
        size_t n = strlen(code);

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (code_is(code, table[i].prefix))
                        return table[i].kind;
        if (status >= 500)
                return PEERPOD_E_UNAVAILABLE;
        if (status == 429)
                return PEERPOD_E_THROTTLED;
        if (status == 404 || (n > strlen(".NotFound") && streq(code + n - strlen(".NotFound"), ".NotFound")))
                return PEERPOD_E_FAILED_PRECONDITION;
        if (status == 401 || (status == 403 && isempty(code)))
                return PEERPOD_E_UNAUTHENTICATED;
        return status == 400 || status == 422 ? PEERPOD_E_INVALID_ARGUMENT : PEERPOD_E_FAILED_PRECONDITION;
}

static int refused(const ApiRequest *q, const HttpReply *reply, ApiReply *ret, PeerpodError *error) {
        _cleanup_(freep) char *message = NULL;

        if (error_parse(reply->body, reply->size, ret->code, &message) < 0) {
                ret->code[0] = '\0';
                return peerpod_error_set(error, kind_of(reply->status, ""), "%s: HTTP status %i.", q->action, reply->status);
        }
        return peerpod_error_set(error, kind_of(reply->status, ret->code), "%s: %s (%s, HTTP status %i)", q->action, message, ret->code, reply->status);
}

static int compare(const void *a, const void *b) {
        return strcmp(((const ApiParameter*) a)->key, ((const ApiParameter*) b)->key);
}

int api_call(Alibaba *a, const PeerpodCall *call, ApiRequest *q, ApiReply *ret, PeerpodError *error) {
        const char *base = q->vpc ? a->vpc_url : a->ecs_url;
        _cleanup_(http_request_done) HttpRequest request = {};
        _cleanup_(http_reply_done) HttpReply reply = {};
        _cleanup_(erase_free_stringp) char *url = NULL;
        _cleanup_(form_done) Form form = {};
        bool sent = false;
        int r;

        *ret = (ApiReply) {};
        if (q->failed)
                return oom(error);
        if (q->n_parameters > 0)
                qsort(q->parameters, q->n_parameters, sizeof(ApiParameter), compare);
        FOREACH_ELEMENT(ApiParameter, p, q->parameters, q->n_parameters)
                form_add(&form, p->key, p->value);
        if (!form_text(&form) || asprintf(&url, "%s/?%s", base, form_text(&form)) < 0)
                return oom(error);

        Exchange x = { .alibaba = a, .request = q, .query = form_text(&form), .host = strstr(base, "://") + strlen("://") };
        const CloudApi api = { .authorize = authorize, .judge = judge, .pause = pause_of, .userdata = &x };

        request = (HttpRequest) { .api = &api, .method = "POST", .url = url, .what = q->action, .body = "", .repeatable = true };
        r = http_add_header(&request, "Accept", "application/json");
        if (r == 0)
                r = http_add_header(&request, "Content-Type", NULL);    /* what is sent unsigned is refused */
        r = r < 0 ? oom(error) : cloud_http_perform(a->http, call, &request, &reply, &sent, error);
        token_done(&x.token);
        if (r < 0) {
                ret->unknown = sent;
                return r;
        }

        if (reply.status < 200 || reply.status >= 300) {
                ret->unknown = reply.status >= 500;
                return refused(q, &reply, ret, error);
        }
        r = json_parse(reply.body, reply.size, &ret->body, NULL);
        if (r < 0) {
                ret->unknown = true;
                return api_malformed(error, q, r);
        }
        return 0;
}
