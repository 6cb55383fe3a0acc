/* SPDX-License-Identifier: Apache-2.0 */
#include "ibm-iam.h"

#include <fcntl.h>
#include <pthread.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-form.h"
#include "ibm-api.h"

#define TOKEN_TIMEOUT_USEC (UINT64_C(30) * 1000000)
#define TOKEN_EARLY_USEC (UINT64_C(300) * 1000000)
#define TOKEN_REPLY_MAX (64 * 1024)
#define TOKEN_LIFE_MAX UINT64_C(86400)
#define CR_TOKEN_MAX (64 * 1024)
#define METADATA_VERSION "2022-03-01"

struct Iam {
        CloudHttp *http;                /* borrowed */
        char *endpoint, *api_key, *profile_id, *cr_token_file, *metadata;
        TokenCache *cache;
        pthread_mutex_t mutex;          /* of account */
        char *account;
};

int iam_token_parse(const char *text, size_t size, uint64_t now_usec, Token *ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *token;
        uint64_t life;
        int r;

        r = json_parse(text, size, &o, NULL);
        if (r < 0)
                return r;
        if (json_get_string(o, "access_token", &token, NULL) <= 0 || json_get_u64(o, "expires_in", UINT32_MAX, &life, NULL) <= 0)
                return -EBADMSG;
        if (isempty(token))
                return -EBADMSG;
        for (const char *p = token; *p; p++)            /* it becomes a header */
                if (*p <= ' ' || *p > '~')
                        return -EBADMSG;

        *ret = (Token) { .parts = { strdup(token) }, .expires_usec = now_usec + MIN(life, TOKEN_LIFE_MAX) * 1000000 };
        return ret->parts[0] ? 0 : -ENOMEM;
}

static uint64_t realtime_usec(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_REALTIME, &ts);
        return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

static int perform(Iam *iam, const PeerpodCall *call, HttpRequest *q, Token *ret, PeerpodError *error) {
        _cleanup_(http_reply_done) HttpReply reply = {};
        uint64_t asked = realtime_usec();
        int r;

        q->repeatable = true;
        q->timeout_usec = TOKEN_TIMEOUT_USEC;
        q->reply_max = TOKEN_REPLY_MAX;
        r = cloud_http_perform(iam->http, call, q, &reply, NULL, error);
        if (r < 0)
                return r;
        if (reply.status < 200 || reply.status > 299) {
                r = ibm_error(error, q->what, &reply, NULL, 0);
                /* IAM says 400 to a key that it does not know (BXNIM0415E). */
                if (error && reply.status == 400)
                        error->kind = PEERPOD_E_UNAUTHENTICATED;
                return reply.status == 400 ? peerpod_error_to_errno(PEERPOD_E_UNAUTHENTICATED) : r;
        }
        r = iam_token_parse(reply.body, reply.size, asked, ret);
        if (r == -ENOMEM)
                return oom(error);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer holds no token.", q->what);
        return 0;
}

static int exchange(Iam *iam, const PeerpodCall *call, Form *form, Token *ret, PeerpodError *error) {
        _cleanup_(http_request_done) HttpRequest q = { .method = "POST", .what = "IAM token" };
        _cleanup_(freep) char *url = NULL;
        int r;

        if (asprintf(&url, "%s/identity/token", iam->endpoint) < 0 || !form_text(form))
                return oom(error);
        q.url = url;
        q.body = form_text(form);
        q.body_size = strlen(q.body);
        r = http_add_header(&q, "Content-Type", "application/x-www-form-urlencoded");
        if (r == 0)
                r = http_add_header(&q, "Accept", "application/json");
        return r < 0 ? oom(error) : perform(iam, call, &q, ret, error);
}

static int fetch_by_key(Iam *iam, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(form_done) Form form = {};

        form_add(&form, "grant_type", "urn:ibm:params:oauth:grant-type:apikey");
        form_add(&form, "apikey", iam->api_key);
        form_add(&form, "response_type", "cloud_iam");
        return exchange(iam, call, &form, ret, error);
}

static int fetch_by_cr_token(Iam *iam, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(form_done) Form form = {};
        _cleanup_(erase_free_stringp) char *token = NULL;
        size_t size;
        int r;

        r = read_full_file_at(AT_FDCWD, iam->cr_token_file, CR_TOKEN_MAX, &token, &size);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "Failed to read the compute resource token '%s': %s",
                                         iam->cr_token_file, strerror(-r));
        token[strcspn(token, "\r\n")] = '\0';
        form_add(&form, "grant_type", "urn:ibm:params:oauth:grant-type:cr-token");
        form_add(&form, "cr_token", token);
        form_add(&form, "profile_id", iam->profile_id);
        return exchange(iam, call, &form, ret, error);
}

static int metadata_request(Iam *iam, const PeerpodCall *call, const char *method, const char *path, const char *bearer, json_object *body,
                            Token *ret, PeerpodError *error) {
        _cleanup_(http_request_done) HttpRequest q = { .method = method, .what = "Instance identity" };
        _cleanup_(erase_free_stringp) char *header = NULL;
        _cleanup_(freep) char *url = NULL;
        int r;

        if (asprintf(&url, "%s/instance_identity/v1/%s?version=" METADATA_VERSION, iam->metadata, path) < 0)
                return oom(error);
        q.url = url;
        q.body = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN);
        if (!q.body)
                return oom(error);
        q.body_size = strlen(q.body);
        r = http_add_header(&q, "Metadata-Flavor", "ibm");
        if (r == 0)
                r = http_add_header(&q, "Content-Type", "application/json");
        if (r == 0 && bearer) {
                if (asprintf(&header, "Bearer %s", bearer) < 0)
                        return oom(error);
                r = http_add_header(&q, "Authorization", header);
        }
        return r < 0 ? oom(error) : perform(iam, call, &q, ret, error);
}

static int fetch_by_instance(Iam *iam, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *life = json_object_new_object(), *body = json_object_new_object();
        json_object *profile = json_object_new_object();
        _cleanup_(token_done) Token identity = {};
        int r;

        if (!life || !body || json_set_u64(life, "expires_in", 300) < 0 || json_set(body, "trusted_profile", profile) < 0 ||
            json_set_string(profile, "id", iam->profile_id) < 0)
                return oom(error);
        r = metadata_request(iam, call, "PUT", "token", NULL, life, &identity, error);
        if (r < 0)
                return r;
        return metadata_request(iam, call, "POST", "iam_token", identity.parts[0], body, ret, error);
}

static int fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        Iam *iam = userdata;

        if (!isempty(iam->api_key))
                return fetch_by_key(iam, call, ret, error);
        if (access(iam->cr_token_file, F_OK) == 0)
                return fetch_by_cr_token(iam, call, ret, error);
        return fetch_by_instance(iam, call, ret, error);
}

int iam_new(const IamConfig *config, CloudHttp *http, Iam **ret, PeerpodError *error) {
        _cleanup_(iam_freep) Iam *iam = NULL;
        size_t n;

        iam = new(Iam);
        if (!iam)
                return oom(error);
        *iam = (Iam) { .http = http };
        (void) pthread_mutex_init(&iam->mutex, NULL);
        iam->endpoint = strdup(isempty(config->endpoint) ? IAM_ENDPOINT : config->endpoint);
        iam->api_key = strdup(config->api_key);
        iam->profile_id = strdup(config->profile_id);
        iam->cr_token_file = strdup(config->cr_token_file);
        iam->metadata = strdup(config->metadata);
        if (!iam->endpoint || !iam->api_key || !iam->profile_id || !iam->cr_token_file || !iam->metadata ||
            token_cache_new(fetch, iam, TOKEN_EARLY_USEC, &iam->cache) < 0)
                return oom(error);

        ibm_trim_url(iam->endpoint);
        n = strlen(iam->endpoint);
        if (n > strlen("/identity/token") && streq(iam->endpoint + n - strlen("/identity/token"), "/identity/token"))
                iam->endpoint[n - strlen("/identity/token")] = '\0';
        *ret = TAKE_PTR(iam);
        return 0;
}

Iam* iam_free(Iam *iam) {
        if (!iam)
                return NULL;
        token_cache_free(iam->cache);
        (void) pthread_mutex_destroy(&iam->mutex);
        erase_free_stringp(&iam->api_key);
        free(iam->endpoint);
        free(iam->profile_id);
        free(iam->cr_token_file);
        free(iam->metadata);
        free(iam->account);
        free(iam);
        return NULL;
}

int iam_authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        IamUse *use = userdata;
        _cleanup_(erase_free_stringp) char *value = NULL;
        Token token = {};
        int r;

        r = token_cache_get(use->iam->cache, call, fresh ? &use->token : NULL, &token, error);
        if (r < 0)
                return r;
        token_done(&use->token);
        use->token = token;
        if (asprintf(&value, "Bearer %s", token.parts[0]) < 0) {
                value = NULL;
                return oom(error);
        }
        return http_add_header(request, "Authorization", value) < 0 ? oom(error) : 0;
}

void iam_use_done(IamUse *use) {
        token_done(&use->token);
}

int iam_account(Iam *iam, const PeerpodCall *call, const char **ret, PeerpodError *error) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        IbmApi api = { .http = iam->http, .iam = iam };
        const char *account;
        char *copy;
        int r;

        (void) pthread_mutex_lock(&iam->mutex);
        *ret = iam->account;
        (void) pthread_mutex_unlock(&iam->mutex);
        if (*ret)
                return 0;

        r = ibm_call(&api, call, &(IbmRequest) {
                .method = "GET",
                .what = "API key details",
                .url = ibm_url(iam->endpoint, "/v1/apikeys/details"),
                .header = "IAM-ApiKey",
                .header_value = iam->api_key,
        }, &reply, error);
        if (r < 0)
                return r;
        if (json_get_string(reply.body, "account_id", &account, NULL) <= 0 || !ibm_id_is_valid(account))
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "API key details: the answer names no account.");
        copy = strdup(account);
        if (!copy)
                return oom(error);

        (void) pthread_mutex_lock(&iam->mutex);
        if (iam->account)
                free(copy);
        else
                iam->account = copy;
        *ret = iam->account;
        (void) pthread_mutex_unlock(&iam->mutex);
        return 0;
}
