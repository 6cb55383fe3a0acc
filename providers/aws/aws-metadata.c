/* SPDX-License-Identifier: Apache-2.0 */
#include "aws-metadata.h"

#include <ctype.h>
#include <syslog.h>

#include "aws-credentials.h"
#include "basic/parse.h"
#include "cloud-config.h"

#define METADATA_USEC (5 * USEC_PER_SEC)        /* for one look, whatever the call's deadline: off EC2 there is nobody to answer */
#define METADATA_MAX (64U << 10)
#define TOKEN_TTL "300"
#define TOKEN_HEADER "X-aws-ec2-metadata-token"
#define TTL_HEADER "X-aws-ec2-metadata-token-ttl-seconds"

char* aws_known(Aws *a, char **field) {
        char *copy;

        (void) pthread_mutex_lock(&a->mutex);
        copy = strdup(strempty(*field));
        (void) pthread_mutex_unlock(&a->mutex);
        return copy;
}

void aws_learn(Aws *a, char **field, char *value) {
        (void) pthread_mutex_lock(&a->mutex);
        free(*field);
        *field = value;
        (void) pthread_mutex_unlock(&a->mutex);
}

/* @call with less time. What runs out then is not the call: the service is not there. */
static int ask(Aws *a, const PeerpodCall *call, HttpRequest *request, HttpReply *ret, PeerpodError *error) {
        PeerpodCall c = *call;
        int r;

        c.deadline_usec = MIN(call->deadline_usec, usec_add(peerpod_now_usec(), METADATA_USEC));
        request->timeout_usec = METADATA_USEC / 2;
        request->reply_max = METADATA_MAX;
        r = cloud_http_perform(a->http, &c, request, ret, NULL, error);
        if (r == -ETIMEDOUT && peerpod_now_usec() < call->deadline_usec)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "The instance metadata service does not answer; is this an EC2 instance?");
        return r;
}

static bool is_line(const char *s) {
        for (; *s; s++)
                if (*s < 0x21 || *s > 0x7e)
                        return false;
        return true;
}

int metadata_token_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(freep) char *url = NULL;
        HttpRequest request = { .method = "PUT", .what = "Instance metadata token", .body = "", .repeatable = true };
        HttpReply reply = {};
        Aws *a = userdata;
        int r;

        if (asprintf(&url, "%s/latest/api/token", a->environment.metadata) < 0)
                return oom(error);
        request.url = url;
        r = http_add_header(&request, TTL_HEADER, TOKEN_TTL) < 0 ? oom(error) : ask(a, call, &request, &reply, error);
        http_request_done(&request);
        if (r < 0)
                return r;

        if (reply.status == 200 && reply.size > 0 && is_line(reply.body)) {
                ret->parts[0] = TAKE_PTR(reply.body);
                ret->expires_usec = now_usec(CLOCK_REALTIME) + 300 * USEC_PER_SEC;
                reply.size = 0;
        } else if (a->environment.metadata_v1 && (reply.status == 403 || reply.status == 404 || reply.status == 405)) {
                /* A service of version 1 only: no token. */
                ret->parts[0] = strdup("");
                ret->expires_usec = now_usec(CLOCK_REALTIME) + 300 * USEC_PER_SEC;
                r = ret->parts[0] ? 0 : oom(error);
        } else
                r = http_error(error, "Instance metadata token", &reply, NULL, NULL);
        http_reply_done(&reply);
        return r;
}

typedef struct MetadataTry {
        Aws *aws;
        Token used;
} MetadataTry;

static int authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        MetadataTry *t = userdata;
        Token token = {};
        int r;

        r = token_cache_get(t->aws->metadata_token, call, fresh ? &t->used : NULL, &token, error);
        if (r < 0)
                return r;
        token_done(&t->used);
        t->used = token;
        if (isempty(token.parts[0]))
                return 0;
        return http_add_header(request, TOKEN_HEADER, token.parts[0]) < 0 ? oom(error) : 0;
}

int metadata_get(Aws *a, const PeerpodCall *call, const char *path, char **ret, PeerpodError *error) {
        _cleanup_(freep) char *url = NULL;
        MetadataTry t = { .aws = a };
        const CloudApi api = { .authorize = authorize, .userdata = &t };
        HttpRequest request = { .api = &api, .method = "GET", .what = "Instance metadata", .repeatable = true };
        HttpReply reply = {};
        int r;

        if (!a->environment.metadata)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The instance metadata service is not to be used (AWS_EC2_METADATA_DISABLED).");
        if (asprintf(&url, "%s/latest/%s", a->environment.metadata, path) < 0)
                return oom(error);
        request.url = url;
        r = ask(a, call, &request, &reply, error);
        http_request_done(&request);
        token_done(&t.used);
        if (r < 0)
                return r;

        if (reply.status == 200) {
                *ret = TAKE_PTR(reply.body);
                reply.size = 0;
                r = 1;
        } else
                r = reply.status == 404 ? 0 : http_error(error, "Instance metadata", &reply, NULL, path);
        http_reply_done(&reply);
        return r;
}

bool aws_region_is_valid(const char *s) {
        size_t n = strlen(s);

        return n > 0 && n <= 32 && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == n && s[0] != '-' && s[n - 1] != '-';
}

/* An item that must be there, blanks around it dropped and those between words made commas. */
static int get_words(Aws *a, const PeerpodCall *call, const char *path, const char *variable, char **ret, PeerpodError *error) {
        _cleanup_(freep) char *text = NULL, *out = NULL;
        PeerpodError e = { .size = sizeof(PeerpodError) };
        size_t n = 0;
        int r;

        r = metadata_get(a, call, path, &text, &e);
        if (r == -ECANCELED || r == -ETIMEDOUT)
                return peerpod_error_set(error, e.kind, "%s", e.text);
        if (r <= 0)
                return peerpod_error_set(error, r == 0 ? PEERPOD_E_FAILED_PRECONDITION : e.kind,
                                         "%s is not set, and this machine's metadata do not tell: %s", variable, r == 0 ? "no such item" : e.text);
        out = malloc(strlen(text) + 1);
        if (!out)
                return oom(error);
        for (const char *p = text; *p;) {
                size_t word = strcspn(p, " \t\r\n");

                if (word > 0) {
                        if (n > 0)
                                out[n++] = ',';
                        memcpy(out + n, p, word);
                        n += word;
                }
                p += word;
                p += strspn(p, " \t\r\n");
        }
        out[n] = '\0';
        if (n == 0 || !text_is_plain(out, 4096))
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s is not set, and what this machine's metadata say is not usable.", variable);
        *ret = TAKE_PTR(out);
        return 0;
}

static int remember(Aws *a, char **field, const char *value, PeerpodError *error) {
        char *copy = strdup(value);

        if (!copy)
                return oom(error);
        aws_learn(a, field, copy);
        return 0;
}

int aws_region(Aws *a, const PeerpodCall *call, char **ret, PeerpodError *error) {
        _cleanup_(freep) char *region = isempty(a->region) ? aws_known(a, &a->known_region) : strdup(a->region);
        int r;

        if (!region)
                return oom(error);
        if (isempty(region)) {
                free(TAKE_PTR(region));
                r = profile_region(a, &region, error);
                if (r == 0)
                        r = get_words(a, call, "meta-data/placement/region", "AWS_REGION", &region, error);
                if (r < 0)
                        return r;
                if (!aws_region_is_valid(region))
                        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "'%.64s' is no region's name.", region);
                r = remember(a, &a->known_region, region, error);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(region);
        return 0;
}

void aws_place_done(AwsPlace *p) {
        free(p->subnet);
        free(p->groups);
        free(p->key_name);
        *p = (AwsPlace) {};
}

/* Ours, "02:0a:…": a part of a path, so it is looked at. */
static int get_mac(Aws *a, const PeerpodCall *call, char **ret, PeerpodError *error) {
        int r = get_words(a, call, "meta-data/mac", "AWS_SUBNET_ID or AWS_SG_IDS", ret, error);

        if (r == 0 && (strlen(*ret) != 17 || strspn(*ret, "0123456789abcdefABCDEF:") != 17)) {
                free(TAKE_PTR(*ret));
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "This machine's metadata have no MAC address.");
        }
        return r;
}

static int learn_place(Aws *a, const PeerpodCall *call, bool subnet, bool groups, PeerpodError *error) {
        _cleanup_(freep) char *mac = NULL, *value = NULL;
        char path[128];
        int r;

        r = get_mac(a, call, &mac, error);
        if (r == 0 && subnet) {
                (void) snprintf(path, sizeof(path), "meta-data/network/interfaces/macs/%s/subnet-id", mac);
                r = get_words(a, call, path, "AWS_SUBNET_ID", &value, error);
                if (r == 0)
                        aws_learn(a, &a->known_subnet, TAKE_PTR(value));
        }
        if (r == 0 && groups) {
                (void) snprintf(path, sizeof(path), "meta-data/network/interfaces/macs/%s/security-group-ids", mac);
                r = get_words(a, call, path, "AWS_SG_IDS", &value, error);
                if (r == 0)
                        aws_learn(a, &a->known_groups, TAKE_PTR(value));
        }
        return r;
}

/* "0=my-key": the first one. Not having one is usual. */
static void learn_key_name(Aws *a, const PeerpodCall *call) {
        PeerpodError e = { .size = sizeof(PeerpodError) };
        _cleanup_(freep) char *text = NULL;

        if (metadata_get(a, call, "meta-data/public-keys", &text, &e) <= 0)
                return;
        text[strcspn(text, "\r\n")] = '\0';
        if (startswith(text, "0=") && text[2] && text_is_plain(text + 2, 255)) {
                char *copy = strdup(text + 2);

                if (copy)
                        aws_learn(a, &a->known_key, copy);
        }
}

int aws_place(Aws *a, const PeerpodCall *call, AwsPlace *ret, PeerpodError *error) {
        _cleanup_(freep) char *known_subnet = aws_known(a, &a->known_subnet), *known_groups = aws_known(a, &a->known_groups);
        _cleanup_(aws_place_done) AwsPlace p = {};
        bool subnet, groups;
        int r;

        if (!known_subnet || !known_groups)
                return oom(error);
        subnet = isempty(a->subnet) && isempty(known_subnet);
        groups = isempty(a->groups) && isempty(known_groups);
        /* With a launch template, what is not set is the template's. */
        if (!a->use_template && (subnet || groups)) {
                r = learn_place(a, call, subnet, groups, error);
                if (r < 0)
                        return r;
                if (isempty(a->key_name))
                        learn_key_name(a, call);
        }

        p.subnet = isempty(a->subnet) ? aws_known(a, &a->known_subnet) : strdup(a->subnet);
        p.groups = isempty(a->groups) ? aws_known(a, &a->known_groups) : strdup(a->groups);
        p.key_name = isempty(a->key_name) ? aws_known(a, &a->known_key) : strdup(a->key_name);
        if (!p.subnet || !p.groups || !p.key_name)
                return oom(error);
        *ret = p;
        p = (AwsPlace) {};
        return 0;
}
