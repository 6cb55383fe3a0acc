/* SPDX-License-Identifier: Apache-2.0 */
#include "azure-credentials.h"

#include <fcntl.h>
#include <json-c/json.h>

#include "azure-api.h"
#include "basic/io.h"
#include "basic/parse.h"
#include "cloud-form.h"

#define ASSERTION_SIZE_MAX (64 * 1024)
#define REPLY_SIZE_MAX (256 * 1024)
#define TOKEN_LIFE_MAX_SEC (7 * 24 * 3600)
#define TRY_USEC (20 * USEC_PER_SEC)
#define ASSERTION_TYPE "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

typedef enum Way {
        BY_SECRET,
        BY_ASSERTION,
        BY_MACHINE,
} Way;

static Way choose_way(const Azure *a) {
        if (*azure_text(a, OPTION_CLIENT_SECRET))
                return BY_SECRET;
        return *azure_text(a, OPTION_TOKEN_FILE) ? BY_ASSERTION : BY_MACHINE;
}

int azure_credentials_check(const Azure *a, PeerpodError *error) {
        const char *way = choose_way(a) == BY_SECRET ? "AZURE_CLIENT_SECRET" : "AZURE_FEDERATED_TOKEN_FILE";

        if (choose_way(a) == BY_MACHINE)
                return 0;
        if (!*azure_text(a, OPTION_CLIENT_ID))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s needs AZURE_CLIENT_ID, which is empty.", way);
        if (!*azure_text(a, OPTION_TENANT_ID))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s needs AZURE_TENANT_ID, which is empty.", way);
        return 0;
}

HttpVerdict azure_token_judge(void *userdata, const HttpReply *reply) {
        /* 404 and 410: the metadata service is being updated (Azure: "How to use managed identities to acquire an access token", retry
         * guidance). A 401 says that the secret is wrong; there are no others to try. */
        if (reply->status == 404 || reply->status == 410)
                return HTTP_AGAIN;
        if (reply->status == 200) {
                _cleanup_(json_object_putp) json_object *body = NULL;

                return json_parse(reply->body, reply->size, &body, NULL) < 0 ? HTTP_AGAIN : HTTP_DONE;
        }
        return reply->status == 401 ? HTTP_DONE : http_judge_by_status(userdata, reply);
}

static int read_assertion(const Azure *a, char **ret, PeerpodError *error) {
        const char *path = azure_text(a, OPTION_TOKEN_FILE);
        _cleanup_(close_fdp) int fd = -EBADF;
        char *text = NULL;
        size_t n;
        int r;

        /* The kubelet's projected files are symbolic links, so not by read_full_file_at(). */
        fd = open(path, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NONBLOCK);
        r = fd < 0 ? -errno : read_full_fd(fd, ASSERTION_SIZE_MAX, &text, NULL);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The federated token in '%s' (AZURE_FEDERATED_TOKEN_FILE) is unreadable: %s",
                                         path, strerror(-r));
        n = strlen(text);
        while (n > 0 && strchr(" \t\r\n", text[n - 1]))
                text[--n] = '\0';
        if (n == 0) {
                free(text);
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The file '%s' (AZURE_FEDERATED_TOKEN_FILE) is empty.", path);
        }
        *ret = text;
        return 0;
}

static int fill_form(const Azure *a, Form *f, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *assertion = NULL;
        int r;

        form_add(f, "grant_type", "client_credentials");
        form_add(f, "client_id", azure_text(a, OPTION_CLIENT_ID));
        form_addf(f, "scope", "%s/.default", azure_text(a, OPTION_ENDPOINT));
        if (choose_way(a) == BY_SECRET)
                form_add(f, "client_secret", azure_text(a, OPTION_CLIENT_SECRET));
        else {
                r = read_assertion(a, &assertion, error);
                if (r < 0)
                        return r;
                form_add(f, "client_assertion_type", ASSERTION_TYPE);
                form_add(f, "client_assertion", assertion);
        }
        return form_text(f) ? 0 : oom(error);
}

/* A number, or a string of digits, as the metadata service has it. */
static bool get_seconds(json_object *o, const char *key, uint64_t *ret) {
        const char *s = json_path_string(o, key, "");

        if (*s)
                return parse_u64(s, ret) == 0;
        return json_get_u64(o, key, UINT64_MAX, ret, NULL) > 0;
}

static int fail_by_reply(const char *what, const HttpReply *reply, json_object *body, PeerpodError *error) {
        const char *code = json_path_string(body, "error", ""), *line = json_path_string(body, "error_description", "");
        _cleanup_(freep) char *plain_code = text_make_plain(code, 64), *first = strndup(line, strcspn(line, "\r\n"));
        int r;

        if (!plain_code || !first)
                return oom(error);
        r = http_error(error, what, reply, *plain_code ? plain_code : NULL, *first ? first : NULL);
        /* invalid_client, invalid_grant, unauthorized_client come with 400, too. */
        if (reply->status == 400 && error) {
                error->kind = PEERPOD_E_UNAUTHENTICATED;
                r = peerpod_error_to_errno(error->kind);
        }
        return r;
}

static int take_token(const char *what, const HttpReply *reply, Token *ret, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *body = NULL;
        uint64_t seconds = 0;
        const char *token;

        (void) json_parse(reply->body, reply->size, &body, NULL);
        if (reply->status != 200)
                return fail_by_reply(what, reply, body, error);
        token = json_path_string(body, "access_token", "");
        if (!*token || !get_seconds(body, "expires_in", &seconds))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: The reply holds no token.", what);

        *ret = (Token) { .expires_usec = now_usec(CLOCK_REALTIME) + MIN(seconds, (uint64_t) TOKEN_LIFE_MAX_SEC) * USEC_PER_SEC };
        ret->parts[0] = strdup(token);
        return ret->parts[0] ? 0 : oom(error);
}

static int ask_for_token(Azure *a, const PeerpodCall *call, HttpRequest *q, Token *ret, PeerpodError *error) {
        HttpReply reply = {};
        int r;

        q->api = &a->token_api;
        q->repeatable = true;
        q->timeout_usec = TRY_USEC;
        q->reply_max = REPLY_SIZE_MAX;
        r = cloud_http_perform(a->http, call, q, &reply, NULL, error);
        if (r < 0)
                return r;
        r = take_token(q->what, &reply, ret, error);
        http_reply_done(&reply);
        return r;
}

static int ask_authority(Azure *a, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(form_done) Form f = {};
        _cleanup_(freep) char *url = NULL;
        HttpRequest q = { .method = "POST", .what = "Getting an access token" };
        int r;

        r = azure_credentials_check(a, error);
        if (r == 0)
                r = fill_form(a, &f, error);
        if (r < 0)
                return r;
        if (asprintf(&url, "%s/%s/oauth2/v2.0/token", azure_text(a, OPTION_AUTHORITY), azure_text(a, OPTION_TENANT_ID)) < 0)
                return oom(error);
        q.url = url;
        q.body = form_text(&f);
        q.body_size = strlen(q.body);
        r = http_add_header(&q, "Content-Type", "application/x-www-form-urlencoded") < 0 ? oom(error) : ask_for_token(a, call, &q, ret, error);
        http_request_done(&q);
        return r;
}

static int ask_machine(Azure *a, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(form_done) Form f = {};
        _cleanup_(freep) char *url = NULL;
        HttpRequest q = { .what = "Getting an access token of the managed identity", .method = "GET" };
        int r;

        form_add(&f, "api-version", "2018-02-01");
        form_addf(&f, "resource", "%s/", azure_text(a, OPTION_ENDPOINT));
        form_add(&f, "client_id", *azure_text(a, OPTION_CLIENT_ID) ? azure_text(a, OPTION_CLIENT_ID) : NULL);
        if (!form_text(&f) || asprintf(&url, "%s/metadata/identity/oauth2/token?%s", azure_text(a, OPTION_IDENTITY_HOST), form_text(&f)) < 0)
                return oom(error);
        q.url = url;
        r = http_add_header(&q, "Metadata", "true") < 0 ? oom(error) : ask_for_token(a, call, &q, ret, error);
        http_request_done(&q);
        return r;
}

int azure_token_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        Azure *a = userdata;

        return choose_way(a) == BY_MACHINE ? ask_machine(a, call, ret, error) : ask_authority(a, call, ret, error);
}
