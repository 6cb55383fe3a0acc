/* SPDX-License-Identifier: Apache-2.0 */
/* The vendor's own chain, without the files of a user's home (aliyun/credentials-go: credentials/providers). */
#include "alibabacloud-credentials.h"

#include <fcntl.h>

#include "alibabacloud-api.h"
#include "basic/io.h"
#include "cloud-config.h"
#include "cloud-form.h"

#define OIDC_TOKEN_MAX 65536
#define METADATA_TIMEOUT_USEC (5 * USEC_PER_SEC)
#define METADATA_REPLY_MAX 65536
#define METADATA_TOKEN_SECONDS "21600"
#define METADATA_TOKEN_HEADER "X-aliyun-ecs-metadata-token"
#define STS_VERSION "2015-04-01"
#define STS_SECONDS "3600"

static HttpVerdict judge(void *userdata, const HttpReply *reply) {
        return api_judge(reply);
}

static int make_sts_request(const Alibaba *a, Form *query, Form *body, PeerpodError *error) {
        char timestamp[sizeof("2026-01-02T03:04:05Z")], session[64];
        _cleanup_(erase_free_stringp) char *token = NULL;
        time_t now = time(NULL);
        struct tm tm;
        int r;

        r = read_full_file_at(AT_FDCWD, a->oidc_token_file, OIDC_TOKEN_MAX, &token, NULL);      /* each time: it is renewed there */
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "Failed to read the token file '%s': %s", a->oidc_token_file, strerror(-r));
        token[strcspn(token, " \t\r\n")] = '\0';

        (void) gmtime_r(&now, &tm);
        (void) strftime(timestamp, sizeof(timestamp), "%Y-%m-%dT%H:%M:%SZ", &tm);
        (void) snprintf(session, sizeof(session), "peerpod-%" PRIu64, now_usec(CLOCK_REALTIME));

        form_add(query, "Action", "AssumeRoleWithOIDC");
        form_add(query, "Format", "JSON");
        form_add(query, "Timestamp", timestamp);
        form_add(query, "Version", STS_VERSION);
        form_add(body, "DurationSeconds", STS_SECONDS);
        form_add(body, "OIDCProviderArn", a->oidc_provider_arn);
        form_add(body, "OIDCToken", token);
        form_add(body, "RoleArn", a->role_arn);
        form_add(body, "RoleSessionName", isempty(a->session_name) ? session : a->session_name);
        return form_text(query) && form_text(body) ? 0 : oom(error);
}

static int fetch_from_sts(Alibaba *a, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        static const CloudApi api = { .judge = judge };
        _cleanup_(http_request_done) HttpRequest request = {};
        _cleanup_(http_reply_done) HttpReply reply = {};
        _cleanup_(freep) char *url = NULL, *message = NULL;
        _cleanup_(form_done) Form query = {}, body = {};
        char code[ALIBABA_CODE_SIZE];
        int r;

        r = make_sts_request(a, &query, &body, error);
        if (r < 0)
                return r;
        if (asprintf(&url, "%s/?%s", a->sts_url, form_text(&query)) < 0)
                return oom(error);
        request = (HttpRequest) {
                .api = &api, .method = "POST", .url = url, .what = "AssumeRoleWithOIDC",
                .body = form_text(&body), .body_size = strlen(form_text(&body)), .repeatable = true,
        };
        if (http_add_header(&request, "Content-Type", "application/x-www-form-urlencoded") < 0 ||
            http_add_header(&request, "Accept", "application/json") < 0)
                return oom(error);
        r = cloud_http_perform(a->http, call, &request, &reply, NULL, error);
        if (r < 0)
                return r;
        if (reply.status == 200) {
                r = credentials_parse(reply.body, reply.size, "Credentials", ret);
                return r == -ENOMEM ? oom(error) : r == 0 ? 0 :
                        peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "AssumeRoleWithOIDC: The answer is not what it should be.");
        }
        if (reply.status < 500 && error_parse(reply.body, reply.size, code, &message) == 0 && !code_is(code, "Throttling"))
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "AssumeRoleWithOIDC: %s (%s, HTTP status %i)", message, code, reply.status);
        return http_error(error, "AssumeRoleWithOIDC", &reply, NULL, NULL);
}

/* @header: the token's, or that of its life time */
static int ask_metadata(Alibaba *a, const PeerpodCall *call, const char *method, const char *path, const char *header, const char *value,
                        HttpReply *ret, PeerpodError *error) {
        _cleanup_(http_request_done) HttpRequest request = {};
        _cleanup_(freep) char *url = NULL;

        if (asprintf(&url, "%s%s", a->metadata_url, path) < 0)
                return oom(error);
        request = (HttpRequest) {
                .method = method, .url = url, .what = "metadata service", .repeatable = true,
                .timeout_usec = METADATA_TIMEOUT_USEC, .reply_max = METADATA_REPLY_MAX,
                .body = streq(method, "PUT") ? "" : NULL,
        };
        if (value && http_add_header(&request, header, value) < 0)
                return oom(error);
        return cloud_http_perform(a->http, call, &request, ret, NULL, error);
}

/* An older service knows no token, and needs none. */
static int fetch_metadata_token(Alibaba *a, const PeerpodCall *call, char **ret, PeerpodError *error) {
        _cleanup_(http_reply_done) HttpReply reply = {};
        int r;

        r = ask_metadata(a, call, "PUT", "/latest/api/token", METADATA_TOKEN_HEADER "-ttl-seconds", METADATA_TOKEN_SECONDS, &reply, error);
        if (r < 0)
                return r;
        *ret = NULL;
        if (reply.status != 200)
                return reply.status < 500 ? 0 : http_error(error, "metadata service", &reply, NULL, NULL);
        *ret = strdup(reply.body);
        return *ret ? 0 : oom(error);
}

static int fetch_from_metadata(Alibaba *a, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        static const char path[] = "/latest/meta-data/ram/security-credentials/";
        _cleanup_(erase_free_stringp) char *token = NULL;
        _cleanup_(http_reply_done) HttpReply reply = {};
        _cleanup_(freep) char *role = strdup(a->ram_role), *whole = NULL, *escaped = NULL;
        int r;

        if (!role)
                return oom(error);
        r = fetch_metadata_token(a, call, &token, error);
        if (r < 0)
                return r;
        if (isempty(role)) {
                _cleanup_(http_reply_done) HttpReply name = {};

                r = ask_metadata(a, call, "GET", path, METADATA_TOKEN_HEADER, token, &name, error);
                if (r < 0)
                        return r;
                if (name.status != 200 || isempty(name.body) || strlen(name.body) > 128)
                        return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED,
                                                 "No access key is set, and this machine has no RAM role (metadata service: HTTP status %i).", name.status);
                free(role);
                role = strndup(name.body, strcspn(name.body, "\r\n"));
        }
        escaped = role ? url_escape(role) : NULL;
        if (!escaped || asprintf(&whole, "%s%s", path, escaped) < 0)
                return oom(error);
        r = ask_metadata(a, call, "GET", whole, METADATA_TOKEN_HEADER, token, &reply, error);
        if (r < 0)
                return r;
        if (reply.status == 200) {
                r = credentials_parse(reply.body, reply.size, "", ret);
                return r == -ENOMEM ? oom(error) : r == 0 ? 0 :
                        peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "The metadata service has no credentials of role '%.128s'.", role);
        }
        if (reply.status == 404)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "This machine has no RAM role '%.128s'.", role);
        return http_error(error, "metadata service", &reply, NULL, NULL);
}

int credentials_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        Alibaba *a = userdata;

        return a->source == CREDENTIALS_OIDC ? fetch_from_sts(a, call, ret, error) : fetch_from_metadata(a, call, ret, error);
}
