/* SPDX-License-Identifier: Apache-2.0 */
/* Access tokens: of a service account's key (googleapis/google-auth-library-python: google/oauth2/_client.py, jwt_grant), of an external account
 * (google/auth/external_account.py; RFC 8693), or of the machine's metadata server. One for all APIs. */
#include "gcp.h"

#include <fcntl.h>
#include <json-c/json.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "cloud-form.h"
#include "cloud-sign.h"

#define SCOPE "https://www.googleapis.com/auth/cloud-platform"
#define KEY_SIZE_MAX (64U << 10)
#define SKEW_SEC 10                     /* our clock may be ahead of theirs */
#define EARLY_USEC (300 * USEC_PER_SEC)

static int refuse_answer(PeerpodError *error, const char *what) {
        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer is no token.", what);
}

/* {"access_token", "expires_in"} or, of an impersonation, {"accessToken", "expireTime"} */
static int read_token(const char *what, const HttpReply *reply, Token *ret, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *token, *expires;
        uint64_t seconds = 0;

        if (json_parse(reply->body, reply->size, &o, NULL) < 0)
                return refuse_answer(error, what);
        token = json_path_string(o, "access_token", NULL) ?: json_path_string(o, "accessToken", NULL);
        expires = json_path_string(o, "expireTime", NULL);
        if (isempty(token) || strpbrk(token, "\r\n"))
                return refuse_answer(error, what);
        if (expires ? token_parse_time(expires, &ret->expires_usec) < 0 : json_get_u64(o, "expires_in", 86400, &seconds, NULL) <= 0)
                return refuse_answer(error, what);
        if (!expires)
                ret->expires_usec = now_usec(CLOCK_REALTIME) + seconds * USEC_PER_SEC;
        ret->parts[0] = strdup(token);
        return ret->parts[0] ? 0 : oom(error);
}

static int fail(const char *what, const HttpReply *reply, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *e = NULL;
        const char *code = NULL, *message = NULL;
        int r;

        if (json_parse(reply->body, reply->size, &o, NULL) >= 0) {
                if (json_get_object(o, "error", &e, NULL) > 0)
                        message = json_path_string(e, "message", NULL);
                else {
                        code = json_path_string(o, "error", NULL);
                        message = json_path_string(o, "error_description", NULL);
                }
        }
        r = http_error(error, what, reply, code, message);
        if (reply->status == 400 || reply->status == 404) {     /* invalid_grant; no such service account */
                error->kind = PEERPOD_E_UNAUTHENTICATED;
                r = peerpod_error_to_errno(PEERPOD_E_UNAUTHENTICATED);
        }
        return r;
}

static int ask(Gcp *g, const PeerpodCall *call, HttpRequest *request, Token *ret, PeerpodError *error) {
        HttpReply reply = {};
        int r;

        request->repeatable = true;
        request->timeout_usec = 30 * USEC_PER_SEC;
        r = cloud_http_perform(g->http, call, request, &reply, NULL, error);
        if (r < 0)
                return r;
        r = reply.status / 100 == 2 ? read_token(request->what, &reply, ret, error) : fail(request->what, &reply, error);
        http_reply_done(&reply);
        return r;
}

static int ask_form(Gcp *g, const PeerpodCall *call, const char *what, const char *url, const Form *form, Token *ret, PeerpodError *error) {
        const char *text = form_text(form);
        HttpRequest request = { .method = "POST", .url = url, .what = what, .body = text, .body_size = text ? strlen(text) : 0 };
        int r;

        if (!text || http_add_header(&request, "Content-Type", "application/x-www-form-urlencoded") < 0)
                return oom(error);
        r = ask(g, call, &request, ret, error);
        http_request_done(&request);
        return r;
}

static int fetch_by_key(Gcp *g, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        const char *uri = json_path_string(g->key, "token_uri", NULL) ?: "https://oauth2.googleapis.com/token";
        _cleanup_(json_object_putp) json_object *claims = json_object_new_object();
        uint64_t now = now_usec(CLOCK_REALTIME) / USEC_PER_SEC - SKEW_SEC;
        _cleanup_(erase_free_stringp) char *jwt = NULL;
        _cleanup_(form_done) Form form = {};
        int r;

        if (!claims || json_set_string(claims, "iss", json_path_string(g->key, "client_email", NULL)) < 0 || json_set_string(claims, "scope", SCOPE) < 0 ||
            json_set_string(claims, "aud", uri) < 0 || json_set_u64(claims, "iat", now) < 0 || json_set_u64(claims, "exp", now + 3600) < 0)
                return oom(error);
        r = jwt_rs256(json_path_string(g->key, "private_key", NULL), json_path_string(g->key, "private_key_id", NULL),
                      json_object_to_json_string_ext(claims, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE), &jwt);
        if (r == -ENOMEM)
                return oom(error);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The service account's private key is no RSA key.");
        form_add(&form, "grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
        form_add(&form, "assertion", jwt);
        return ask_form(g, call, "Token of the service account", uri, &form, ret, error);
}

/* The subject's token: a file that is written anew from time to time, or a service. */
static int read_subject(Gcp *g, const PeerpodCall *call, json_object *source, char **ret, PeerpodError *error) {
        json_object *format = NULL, *headers = NULL;
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *file = json_path_string(source, "file", NULL), *url = json_path_string(source, "url", NULL), *field = NULL, *token;
        char *text = NULL;
        size_t size;
        int r;

        if (file) {
                r = read_full_file_at(AT_FDCWD, file, KEY_SIZE_MAX, &text, &size);
                if (r < 0)
                        return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The subject's token '%s' cannot be read: %s", file, strerror(-r));
        } else if (url) {
                HttpRequest request = { .method = "GET", .url = url, .what = "Token of the subject", .repeatable = true };
                HttpReply reply = {};

                r = 0;
                if (json_get_object(source, "headers", &headers, NULL) > 0) {
                        json_object_object_foreach(headers, name, value) {
                                if (r == 0)
                                        r = http_add_header(&request, name, json_object_get_string(value));
                        }
                }
                r = r < 0 ? oom(error) : cloud_http_perform(g->http, call, &request, &reply, NULL, error);
                http_request_done(&request);
                if (r < 0)
                        return r;
                if (reply.status / 100 != 2) {
                        r = http_error(error, "Token of the subject", &reply, NULL, NULL);
                        http_reply_done(&reply);
                        return r;
                }
                size = reply.size;
                text = TAKE_PTR(reply.body);
                http_reply_done(&reply);
        } else
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The external account's credential_source has neither 'file' nor 'url'.");

        if (json_get_object(source, "format", &format, NULL) > 0 && streq_ptr(json_path_string(format, "type", NULL), "json"))
                field = json_path_string(format, "subject_token_field_name", NULL);
        if (!field) {
                text[strcspn(text, "\r\n")] = '\0';
                *ret = text;
                return 0;
        }
        r = json_parse(text, size, &o, NULL);
        erase_free(text, size);
        token = r < 0 ? NULL : json_path_string(o, field, NULL);
        if (!token)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The subject's token has no field '%s'.", field);
        *ret = strdup(token);
        return *ret ? 0 : oom(error);
}

static int impersonate(Gcp *g, const PeerpodCall *call, const char *url, Token *token, PeerpodError *error) {
        static const char body[] = "{\"scope\":[\"" SCOPE "\"],\"lifetime\":\"3600s\"}";
        HttpRequest request = { .method = "POST", .url = url, .what = "Token of the impersonated account", .body = body, .body_size = sizeof(body) - 1 };
        _cleanup_(erase_free_stringp) char *bearer = NULL;
        Token fresh = {};
        int r;

        if (asprintf(&bearer, "Bearer %s", token->parts[0]) < 0 || http_add_header(&request, "Authorization", bearer) < 0 ||
            http_add_header(&request, "Content-Type", "application/json") < 0) {
                http_request_done(&request);
                return oom(error);
        }
        r = ask(g, call, &request, &fresh, error);
        http_request_done(&request);
        if (r < 0) {
                token_done(&fresh);
                return r;
        }
        token_done(token);
        *token = fresh;
        return 0;
}

static int fetch_by_exchange(Gcp *g, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        const char *url = json_path_string(g->key, "token_url", NULL) ?: "https://sts.googleapis.com/v1/token", *account = json_path_string(g->key, "service_account_impersonation_url", NULL);
        _cleanup_(erase_free_stringp) char *subject = NULL;
        _cleanup_(form_done) Form form = {};
        json_object *source = NULL;
        int r;

        (void) json_get_object(g->key, "credential_source", &source, NULL);
        r = read_subject(g, call, source, &subject, error);
        if (r < 0)
                return r;
        form_add(&form, "grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
        form_add(&form, "audience", json_path_string(g->key, "audience", NULL));
        form_add(&form, "scope", SCOPE);
        form_add(&form, "requested_token_type", "urn:ietf:params:oauth:token-type:access_token");
        form_add(&form, "subject_token", subject);
        form_add(&form, "subject_token_type", json_path_string(g->key, "subject_token_type", NULL));
        r = ask_form(g, call, "Token of the external account", url, &form, ret, error);
        return r < 0 || !account ? r : impersonate(g, call, account, ret, error);
}

static int fetch_from_metadata(Gcp *g, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        HttpRequest request = { .method = "GET", .what = "Token of the machine's service account", .repeatable = true, .timeout_usec = 10 * USEC_PER_SEC };
        _cleanup_(freep) char *url = NULL, *flavor = NULL;
        HttpReply reply = {};
        int r;

        if (asprintf(&url, "http://%s/computeMetadata/v1/instance/service-accounts/default/token", g->metadata_host) < 0 ||
            http_add_header(&request, "Metadata-Flavor", "Google") < 0)
                return oom(error);
        request.url = url;
        r = cloud_http_perform(g->http, call, &request, &reply, NULL, error);
        http_request_done(&request);
        if (r < 0)
                return r;
        if (reply.status / 100 != 2)
                r = fail(request.what, &reply, error);
        else if (http_reply_header(&reply, "Metadata-Flavor", &flavor) <= 0 || !streq(flavor, "Google"))
                r = peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "'%s' is not Google's metadata server.", g->metadata_host);
        else
                r = read_token(request.what, &reply, ret, error);
        http_reply_done(&reply);
        return r;
}

static int fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        Gcp *g = userdata;
        int r = !g->key ? fetch_from_metadata(g, call, ret, error) :
                streq_ptr(json_path_string(g->key, "type", NULL), "service_account") ? fetch_by_key(g, call, ret, error) : fetch_by_exchange(g, call, ret, error);

        if (r < 0)
                token_done(ret);
        return r;
}

int credentials_authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *value = NULL;
        Authorizer *a = userdata;
        Token token = {};
        int r;

        r = token_cache_get(a->gcp->tokens, call, fresh ? &a->used : NULL, &token, error);
        if (r < 0)
                return r;
        token_done(&a->used);
        a->used = token;
        return asprintf(&value, "Bearer %s", token.parts[0]) < 0 || http_add_header(request, "Authorization", value) < 0 ? oom(error) : 0;
}

static int check_key(json_object *key, const char *origin, PeerpodError *error) {
        static const char *const account[] = { "client_email", "private_key", NULL }, *const external[] = { "audience", "subject_token_type", NULL };
        const char *type = json_path_string(key, "type", NULL);
        json_object *source;
        bool is_external = streq_ptr(type, "external_account");

        if (!is_external && !streq_ptr(type, "service_account"))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s: type '%.64s' is neither 'service_account' nor 'external_account'.", origin, strempty(type));
        for (const char *const *k = is_external ? external : account; *k; k++)
                if (isempty(json_path_string(key, *k, NULL)))
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s has no '%s'.", origin, *k);
        if (is_external && json_get_object(key, "credential_source", &source, NULL) <= 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s has no 'credential_source'.", origin);
        return 0;
}

int credentials_open(Gcp *g, const char *key_text, const char *key_file, PeerpodError *error) {
        const char *origin = isempty(key_text) ? "The file of GOOGLE_APPLICATION_CREDENTIALS" : "GCP_CREDENTIALS";
        char *text = NULL;
        size_t size = 0;
        int r;

        if (token_cache_new(fetch, g, EARLY_USEC, &g->tokens) < 0)
                return oom(error);
        if (isempty(key_text) && isempty(key_file))
                return 0;
        if (isempty(key_text)) {
                r = read_full_file_at(AT_FDCWD, key_file, KEY_SIZE_MAX, &text, &size);
                if (r < 0)
                        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s, '%s', cannot be read: %s", origin, key_file, strerror(-r));
        }
        r = json_parse(text ?: key_text, text ? size : strlen(key_text), &g->key, NULL);
        erase_free(text, size);
        if (r == -ENOMEM)
                return oom(error);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s is no JSON object.", origin);
        return check_key(g->key, origin, error);
}
