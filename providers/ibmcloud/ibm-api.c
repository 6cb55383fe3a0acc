/* SPDX-License-Identifier: Apache-2.0 */
#include "ibm-api.h"

#include <arpa/inet.h>
#include <json-c/json.h>
#include <stdarg.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-owner.h"

#define MESSAGE_MAX 400
#define THROTTLED_ROUNDS 8              /* of the client's own tries */
#define THROTTLED_PAUSE_USEC UINT64_C(1000000)

void ibm_trim_url(char *url) {
        for (size_t n = strlen(url); n > 0 && url[n - 1] == '/'; n--)
                url[n - 1] = '\0';
}

char* ibm_url(const char *base, const char *format, ...) {
        _cleanup_(freep) char *rest = NULL, *trimmed = strdup(base);
        char *url = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&rest, format, ap);
        va_end(ap);
        if (r < 0) {
                rest = NULL;
                return NULL;
        }
        if (!trimmed)
                return NULL;
        ibm_trim_url(trimmed);
        return asprintf(&url, "%s%s", trimmed, rest) < 0 ? NULL : url;
}

bool ibm_id_is_valid(const char *id) {
        size_t n = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

        return n > 0 && n <= 128 && id[n] == '\0' && strspn(id, ".") != n;
}

bool ibm_url_is_valid(const char *url) {
        const char *rest = startswith(url, "https://") ?: startswith(url, "http://");

        if (isempty(rest) || strpbrk(rest, "?#@\\\"'<> "))
                return false;
        for (; *rest; rest++)
                if (*rest <= ' ' || *rest > '~')
                        return false;
        return true;
}

/* ---- requests ---- */

/* An array becomes an object's member, which is what json_parse() takes. */
static int parse_body(const char *text, size_t size, bool array, json_object **ret) {
        _cleanup_(freep) char *wrapped = NULL;
        int r;

        if (!array)
                return json_parse(text, size, ret, NULL);
        wrapped = malloc(size + sizeof("{\"items\":}"));
        if (!wrapped)
                return -ENOMEM;
        memcpy(wrapped, "{\"items\":", 9);
        memcpy(wrapped + 9, text, size);
        wrapped[9 + size] = '}';
        r = json_parse(wrapped, size + 10, ret, NULL);
        explicit_bzero(wrapped, size + 10);
        return r;
}

typedef struct Judge {
        IamUse use;                     /* first: iam_authorize() takes it */
        bool array;
} Judge;

/* A success whose body cannot be read is a passing fault of something on the way. */
static HttpVerdict judge(void *userdata, const HttpReply *reply) {
        const Judge *j = userdata;
        _cleanup_(json_object_putp) json_object *body = NULL;

        if (reply->status >= 200 && reply->status <= 299 && reply->size > 0 && parse_body(reply->body, reply->size, j->array, &body) == -EBADMSG)
                return HTTP_AGAIN;
        return http_judge_by_status(NULL, reply);
}

static int add_headers(HttpRequest *h, const IbmRequest *q) {
        int r = http_add_header(h, "Accept", "application/json");

        if (r == 0 && h->body)
                r = http_add_header(h, "Content-Type", "application/json");
        if (r == 0 && q->header)
                r = http_add_header(h, q->header, q->header_value);
        return r;
}

static int perform(IbmApi *api, const PeerpodCall *call, const IbmRequest *q, const char *body, IbmReply *ret, PeerpodError *error) {
        _cleanup_(http_reply_done) HttpReply reply = {};
        Judge j = { .use.iam = api->iam, .array = q->array };
        CloudApi cloud = { .authorize = iam_authorize, .judge = judge, .userdata = &j };
        _cleanup_(http_request_done) HttpRequest h = {
                .api = &cloud,
                .method = q->method,
                .url = q->url,
                .what = q->what,
                .body = body,
                .body_size = body ? strlen(body) : 0,
                .repeatable = !streq(q->method, "POST"),
                .timeout_usec = q->timeout_usec,
        };
        int r;

        if (!q->url || add_headers(&h, q) < 0)
                return oom(error);
        r = cloud_http_perform(api->http, call, &h, &reply, &ret->sent, error);
        iam_use_done(&j.use);
        if (r < 0)
                return r;

        ret->sent = true;
        ret->status = reply.status;
        if (reply.status < 200 || reply.status > 299)
                return ibm_error(error, q->what, &reply, ret->code, sizeof(ret->code));
        if (reply.size == 0 || reply.status == 204)
                return 0;
        r = parse_body(reply.body, reply.size, q->array, &ret->body);
        if (r == -ENOMEM)
                return oom(error);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer cannot be read.", q->what);
        return 0;
}

int ibm_call(IbmApi *api, const PeerpodCall *call, const IbmRequest *q, IbmReply *ret, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *body = q->body;
        _cleanup_(freep) char *url = q->url;
        _cleanup_(erase_free_stringp) char *text = NULL;
        const char *s;

        *ret = (IbmReply) {};
        if (body) {
                s = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);
                text = s ? strdup(s) : NULL;
                if (!text)
                        return oom(error);
                explicit_bzero((char*) s, strlen(s));   /* json-c's own buffer */
        }
        /* A throttled request has not been carried out, and a crowd is throttled for longer than the client tries by itself. */
        for (unsigned round = 1;; round++) {
                int r;

                *ret = (IbmReply) {};
                r = perform(api, call, q, text, ret, error);
                if (r >= 0 || ret->status != 429 || round == THROTTLED_ROUNDS)
                        return r;
                r = peerpod_call_wait(call, -1, 0, THROTTLED_PAUSE_USEC, error);
                if (r < 0)
                        return r;
        }
}

void ibm_reply_done(IbmReply *reply) {
        json_object_putp(&reply->body);
        reply->body = NULL;
}

bool ibm_is_ambiguous(const IbmReply *reply) {
        return reply->sent && (reply->status == 0 || reply->status == 408 || reply->status >= 500 ||
                               (reply->status >= 200 && reply->status <= 299));
}

/* ---- errors ---- */

int ibm_error_parse(const char *text, size_t size, char **ret_code, char **ret_message) {
        static const char *const messages[] = { "message", "description", "errorMessage", "error" };
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *code_copy = NULL, *message_copy = NULL;
        const char *code = NULL, *message = NULL;
        json_object *errors, *from;
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        from = o;
        if (json_get_array(o, "errors", &errors, NULL) > 0 && json_object_array_length(errors) > 0)
                from = json_object_array_get_idx(errors, 0);
        if (!json_object_is_type(from, json_type_object))
                return -EBADMSG;
        if (json_get_string(from, "code", &code, NULL) <= 0)
                (void) json_get_string(from, "errorCode", &code, NULL);
        for (size_t i = 0; i < ELEMENTSOF(messages) && isempty(message); i++)
                (void) json_get_string(from, messages[i], &message, NULL);

        code_copy = code ? text_make_plain(code, MESSAGE_MAX) : NULL;
        message_copy = message ? text_make_plain(message, MESSAGE_MAX) : NULL;
        if ((code && !code_copy) || (message && !message_copy))
                return -ENOMEM;
        *ret_code = TAKE_PTR(code_copy);
        *ret_message = TAKE_PTR(message_copy);
        return 0;
}

int ibm_error(PeerpodError *error, const char *what, const HttpReply *reply, char *ret_code, size_t size) {
        static const char *const exhausted[] = { "quota", "capacity", "insufficient", "limit_exceeded" };
        _cleanup_(freep) char *code = NULL, *message = NULL;
        int r;

        (void) ibm_error_parse(reply->body, reply->size, &code, &message);
        if (size > 0)
                (void) snprintf(ret_code, size, "%s", strempty(code));
        r = http_error(error, what, reply, code, message);
        /* Not of those whose rights are insufficient. */
        if (reply->status != 400 && reply->status != 409 && reply->status != 422)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(exhausted); i++)
                if (strcasestr(strempty(code), exhausted[i]) || strcasestr(strempty(message), exhausted[i])) {
                        if (error)
                                error->kind = PEERPOD_E_EXHAUSTED;
                        return peerpod_error_to_errno(PEERPOD_E_EXHAUSTED);
                }
        return r;
}

/* ---- what answers say ---- */

bool ibm_address(const char *text, char ret[static PEERPOD_ADDRESS_SIZE]) {
        struct in6_addr six;
        struct in_addr four;

        if (inet_pton(AF_INET, text, &four) == 1 && four.s_addr != 0)
                return inet_ntop(AF_INET, &four, ret, PEERPOD_ADDRESS_SIZE) != NULL;
        if (inet_pton(AF_INET6, text, &six) == 1 && !IN6_IS_ADDR_UNSPECIFIED(&six))
                return inet_ntop(AF_INET6, &six, ret, PEERPOD_ADDRESS_SIZE) != NULL;
        return false;
}

/* ---- owner tags ---- */

void ibm_node_tag(const char *node, char ret[static IBM_TAG_SIZE]) {
        char digest[OWNER_DIGEST_SIZE];

        owner_digest(node, digest);     /* a node's name may be longer than a tag */
        (void) snprintf(ret, IBM_TAG_SIZE, OWNER_TAG_NODE ":%s", digest);
}

void ibm_sandbox_tag(const char *sandbox_id, char ret[static IBM_TAG_SIZE]) {
        (void) snprintf(ret, IBM_TAG_SIZE, OWNER_TAG_SANDBOX ":%s", sandbox_id);
}

void ibm_name_tag(const char *name, char ret[static IBM_TAG_SIZE]) {
        (void) snprintf(ret, IBM_TAG_SIZE, OWNER_TAG_NAME ":%s", name);
}

static const char* tag_at(json_object *tags, size_t i) {
        json_object *t = json_object_array_get_idx(tags, i);

        return json_object_is_type(t, json_type_string) ? json_object_get_string(t) : "";
}

bool ibm_has_tag(json_object *tags, const char *tag) {
        for (size_t i = 0; tags && i < json_object_array_length(tags); i++)
                if (strcasecmp(tag_at(tags, i), tag) == 0)
                        return true;
        return false;
}

void ibm_tag_value(json_object *tags, const char *key, char ret[static IBM_TAG_SIZE]) {
        size_t n = strlen(key);

        ret[0] = '\0';
        for (size_t i = 0; tags && i < json_object_array_length(tags); i++) {
                const char *t = tag_at(tags, i);

                if (strncasecmp(t, key, n) != 0 || t[n] != ':' || !ibm_id_is_valid(t + n + 1))
                        continue;
                (void) snprintf(ret, IBM_TAG_SIZE, "%s", t + n + 1);
                return;
        }
}

json_object* ibm_owner_tags(const PeerpodInstanceSpec *spec) {
        _cleanup_(json_object_putp) json_object *tags = json_object_new_array();
        char t[3][IBM_TAG_SIZE];

        ibm_node_tag(spec->node, t[0]);
        ibm_sandbox_tag(spec->sandbox_id, t[1]);
        ibm_name_tag(spec->name, t[2]);
        for (size_t i = 0; tags && i < ELEMENTSOF(t); i++) {
                json_object *s = json_object_new_string(t[i]);

                if (!s || json_object_array_add(tags, s) < 0)
                        return NULL;
        }
        return TAKE_PTR(tags);
}
