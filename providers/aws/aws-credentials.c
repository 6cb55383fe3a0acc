/* SPDX-License-Identifier: Apache-2.0 */
#include "aws-credentials.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <syslog.h>

#include "aws-api.h"
#include "aws-metadata.h"
#include "aws-profile.h"
#include "basic/io.h"
#include "basic/json.h"
#include "cloud-config.h"

#define TOKEN_FILE_MAX (64U << 10)
#define FILE_KEPT_USEC (15 * 60 * USEC_PER_SEC)         /* files are read again: somebody may have changed them */
#define ROLE_KEPT_MAX_USEC (3600 * USEC_PER_SEC)
#define PROFILES_MAX 5                                  /* source_profile of source_profile … */

static int set_token(Token *t, const char *key_id, const char *secret, const char *session, uint64_t expires_usec, PeerpodError *error) {
        *t = (Token) {
                .parts = { strdup(strempty(key_id)), strdup(strempty(secret)), strdup(strempty(session)) },
                .expires_usec = expires_usec,
        };
        if (t->parts[0] && t->parts[1] && t->parts[2])
                return 0;
        token_done(t);
        return oom(error);
}

static uint64_t from_now(uint64_t usec) {
        return usec_add(now_usec(CLOCK_REALTIME), usec);
}

/* ---- files ---- */

static int read_token_file(const char *path, char **ret, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *text = NULL;
        size_t size = 0, begin;
        int r = read_full_file_at(AT_FDCWD, path, TOKEN_FILE_MAX, &text, &size);

        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "Token file '%s' cannot be read: %s", path, strerror(-r));
        while (size > 0 && strchr(" \t\r\n", text[size - 1]))
                text[--size] = '\0';
        begin = strspn(text, " \t\r\n");
        if (begin == size)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "Token file '%s' is empty.", path);
        *ret = strdup(text + begin);
        return *ret ? 0 : oom(error);
}

static int add_file(const char *path, const char *name, bool config, Profile *p, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *text = NULL;
        size_t size = 0;
        int r;

        if (isempty(path))
                return 0;
        r = read_full_file_at(AT_FDCWD, path, PROFILE_FILE_MAX, &text, &size);
        if (r == -ENOENT || r == -ENOTDIR)
                return 0;
        if (r == 0)
                r = profile_parse(text, size, name, config, p);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "File '%s' cannot be used: %s", path,
                                         r == -EBADMSG ? "a line is none of such a file" : strerror(-r));
        return 0;
}

static int load_profile(Aws *a, const char *name, Profile *p, PeerpodError *error) {
        int r = add_file(a->environment.credentials_file, name, false, p, error);

        return r < 0 ? r : add_file(a->environment.config_file, name, true, p, error);
}

static const char* profile_in_use(const Aws *a) {
        if (!isempty(a->profile))
                return a->profile;
        return isempty(a->environment.profile) ? "default" : a->environment.profile;
}

int profile_region(Aws *a, char **ret, PeerpodError *error) {
        _cleanup_(profile_done) Profile p = {};
        int r = load_profile(a, profile_in_use(a), &p, error);

        if (r < 0)
                return r;
        if (isempty(p.region))
                return 0;
        *ret = TAKE_PTR(p.region);
        return 1;
}

/* ---- STS ---- */

static int read_sts(const AwsReply *reply, const char *result, Token *ret, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *secret = NULL, *session = NULL;
        _cleanup_(freep) char *key_id = NULL, *expiration = NULL;
        const xmlNode *c = xml_child(reply->root, result);
        uint64_t expires = 0;

        c = c ? xml_child(c, "Credentials") : NULL;
        if (!c)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "STS answered without credentials.");
        key_id = xml_text(c, "AccessKeyId");
        secret = xml_text(c, "SecretAccessKey");
        session = xml_text(c, "SessionToken");
        expiration = xml_text(c, "Expiration");
        if (!key_id || !secret || !session || !expiration)
                return oom(error);
        if (isempty(key_id) || isempty(secret) || token_parse_time(expiration, &expires) < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "STS answered with incomplete credentials.");
        return set_token(ret, key_id, secret, session, expires, error);
}

static void add_session(Form *f, const char *session) {
        if (isempty(session))
                form_addf(f, "RoleSessionName", "peerpod-%" PRIu64, now_usec(CLOCK_REALTIME));
        else
                form_add(f, "RoleSessionName", session);
}

static int from_web_identity(Aws *a, const PeerpodCall *call, const char *role, const char *session, const char *file, Token *ret, PeerpodError *error) {
        const AwsQuery q = { .action = "AssumeRoleWithWebIdentity", .sts = true, .repeatable = true, .anonymous = true };
        _cleanup_(erase_free_stringp) char *token = NULL;
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};
        int r;

        if (isempty(role))
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "There is a web identity token file, but no role (AWS_ROLE_ARN).");
        /* Each time anew: the kubelet rotates it. */
        r = read_token_file(file, &token, error);
        if (r < 0)
                return r;
        form_add(&f, "RoleArn", role);
        add_session(&f, session);
        form_add(&f, "WebIdentityToken", token);
        r = aws_query(a, call, &q, &f, &reply, error);
        return r < 0 ? r : read_sts(&reply, "AssumeRoleWithWebIdentityResult", ret, error);
}

static int assume_role(Aws *a, const PeerpodCall *call, const Profile *p, const Token *base, Token *ret, PeerpodError *error) {
        const AwsQuery q = { .action = "AssumeRole", .sts = true, .repeatable = true, .credentials = base };
        _cleanup_(aws_reply_done) AwsReply reply = {};
        _cleanup_(form_done) Form f = {};
        int r;

        form_add(&f, "RoleArn", p->role_arn);
        add_session(&f, p->role_session);
        if (!isempty(p->external_id))
                form_add(&f, "ExternalId", p->external_id);
        if (!isempty(p->duration))
                form_add(&f, "DurationSeconds", p->duration);
        r = aws_query(a, call, &q, &f, &reply, error);
        return r < 0 ? r : read_sts(&reply, "AssumeRoleResult", ret, error);
}

/* ---- containers, instances ---- */

/* Both answer with the same JSON. */
static int read_json(const char *text, const char *who, uint64_t kept_max_usec, Token *ret, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *code = "Success", *key_id = NULL, *secret = NULL, *session = "", *expiration = NULL;
        uint64_t expires;
        int r;

        r = json_parse(text, strlen(text), &o, NULL);
        if (r == 0)
                r = json_get_string(o, "Code", &code, NULL);
        if (r >= 0)
                r = json_get_string(o, "AccessKeyId", &key_id, NULL);
        if (r >= 0)
                r = json_get_string(o, "SecretAccessKey", &secret, NULL);
        if (r >= 0)
                r = json_get_string(o, "Token", &session, NULL);
        if (r >= 0)
                r = json_get_string(o, "Expiration", &expiration, NULL);
        if (r < 0 || strcasecmp(code, "Success") != 0 || isempty(key_id) || isempty(secret))
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "%s gave no credentials.", who);
        expires = from_now(kept_max_usec);
        if (expiration) {
                uint64_t end;

                if (token_parse_time(expiration, &end) < 0)
                        return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "%s gave credentials without a proper end.", who);
                /* Expired ones that the service still gives are good for some time when it cannot renew them. */
                expires = end <= now_usec(CLOCK_REALTIME) ? from_now(5 * 60 * USEC_PER_SEC) : MIN(end, expires);
        }
        return set_token(ret, key_id, secret, session, expires, error);
}

static bool host_may_get_token(const char *url) {
        static const char *const hosts[] = { "localhost", "169.254.170.2", "169.254.170.23", "[::1]", "[fd00:ec2::23]" };
        const char *rest = startswith(url, "http://");
        size_t n;

        if (startswith(url, "https://"))
                return true;
        if (!rest)
                return false;
        n = rest[0] == '[' ? strcspn(rest, "]") + 1 : strcspn(rest, ":/?");
        for (size_t i = 0; i < ELEMENTSOF(hosts); i++)
                if (strlen(hosts[i]) == n && strncmp(rest, hosts[i], n) == 0)
                        return true;
        if (n < INET_ADDRSTRLEN) {
                char text[INET_ADDRSTRLEN];
                struct in_addr in;

                (void) snprintf(text, sizeof(text), "%.*s", (int) n, rest);
                return inet_pton(AF_INET, text, &in) == 1 && ntohl(in.s_addr) >> 24 == 127;
        }
        return false;
}

static int from_container(Aws *a, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *token = NULL;
        _cleanup_(freep) char *url = NULL;
        const AwsEnvironment *e = &a->environment;
        HttpRequest request = { .method = "GET", .what = "Container credentials", .repeatable = true, .timeout_usec = 5 * USEC_PER_SEC,
                                .reply_max = TOKEN_FILE_MAX };
        HttpReply reply = {};
        int r;

        if (!isempty(e->container_relative_uri))
                r = asprintf(&url, "http://169.254.170.2%s%s", e->container_relative_uri[0] == '/' ? "" : "/", e->container_relative_uri);
        else
                r = asprintf(&url, "%s", e->container_full_uri);
        if (r < 0)
                return oom(error);
        if (!host_may_get_token(url))
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED,
                                         "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor of this machine or its agents.");
        if (!isempty(e->container_token_file)) {
                r = read_token_file(e->container_token_file, &token, error);
                if (r < 0)
                        return r;
        } else if (!isempty(e->container_token)) {
                token = strdup(e->container_token);
                if (!token)
                        return oom(error);
        }
        request.url = url;
        if (token && http_add_header(&request, "Authorization", token) < 0)
                r = peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The container's authorization token holds characters that no header can.");
        else
                r = cloud_http_perform(a->http, call, &request, &reply, NULL, error);
        http_request_done(&request);
        if (r < 0)
                return r;
        if (reply.status == 200)
                r = read_json(reply.body, "The container's credential service", ROLE_KEPT_MAX_USEC * 12, ret, error);
        else
                r = http_error(error, "Container credentials", &reply, NULL, NULL);
        http_reply_done(&reply);
        return r;
}

static int from_instance(Aws *a, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(erase_free_stringp) char *text = NULL;
        _cleanup_(freep) char *role = NULL;
        char path[256];
        int r;

        r = metadata_get(a, call, "meta-data/iam/security-credentials/", &role, error);
        if (r > 0) {
                role[strcspn(role, "\r\n")] = '\0';
                if (isempty(role) || strlen(role) > 128 || strpbrk(role, "/?#% "))
                        r = 0;
        }
        if (r > 0) {
                (void) snprintf(path, sizeof(path), "meta-data/iam/security-credentials/%s", role);
                r = metadata_get(a, call, path, &text, error);
        }
        if (r == 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "No credentials are set, and this instance has no IAM role.");
        return r < 0 ? r : read_json(text, "The instance's role", ROLE_KEPT_MAX_USEC, ret, error);
}

static int from_environment(Aws *a, Token *ret, PeerpodError *error) {
        const AwsEnvironment *e = &a->environment;

        if (!isempty(a->key_id) && !isempty(a->secret))
                return set_token(ret, a->key_id, a->secret, a->session, UINT64_MAX, error);
        if (!isempty(e->key_id) && !isempty(e->secret))
                return set_token(ret, e->key_id, e->secret, a->session, UINT64_MAX, error);
        return 1;
}

/* ---- profiles ---- */

static int from_source(Aws *a, const PeerpodCall *call, const char *source, Token *ret, PeerpodError *error) {
        if (streq(source, "Ec2InstanceMetadata"))
                return from_instance(a, call, ret, error);
        if (streq(source, "EcsContainer"))
                return from_container(a, call, ret, error);
        if (streq(source, "Environment")) {
                int r = from_environment(a, ret, error);

                return r <= 0 ? r : peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The profile wants credentials of the environment, which has none.");
        }
        return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "Credential source '%.64s' is none.", source);
}

/* 0, 1 if the profile says nothing of credentials, or negative */
static int from_profile(Aws *a, const PeerpodCall *call, const char *name, unsigned depth, Token *ret, PeerpodError *error) {
        _cleanup_(profile_done) Profile p = {};
        _cleanup_(token_done) Token base = {};
        int r;

        if (depth >= PROFILES_MAX)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "Profile '%s': source_profile leads to no end.", name);
        r = load_profile(a, name, &p, error);
        if (r < 0)
                return r;
        if (isempty(p.role_arn)) {
                if (!isempty(p.key_id) && !isempty(p.secret))
                        return set_token(ret, p.key_id, p.secret, p.session, from_now(FILE_KEPT_USEC), error);
                if (p.unsupported)
                        return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED,
                                                 "Profile '%s' wants SSO or a program for its credentials, which are not for a service.", name);
                return 1;
        }

        if (!isempty(p.web_identity_file))
                return from_web_identity(a, call, p.role_arn, p.role_session, p.web_identity_file, ret, error);
        if (!isempty(p.credential_source))
                r = from_source(a, call, p.credential_source, &base, error);
        else if (isempty(p.source_profile) || streq(p.source_profile, name))
                r = isempty(p.key_id) || isempty(p.secret) ? 1 : set_token(&base, p.key_id, p.secret, p.session, UINT64_MAX, error);
        else
                r = from_profile(a, call, p.source_profile, depth + 1, &base, error);
        if (r > 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "Profile '%s' has a role, but nothing to assume it with.", name);
        return r < 0 ? r : assume_role(a, call, &p, &base, ret, error);
}

int credentials_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        Aws *a = userdata;
        const AwsEnvironment *e = &a->environment;
        int r;

        if (!isempty(a->key_id) && !isempty(a->secret))
                return from_environment(a, ret, error);
        if (!isempty(a->profile)) {
                r = from_profile(a, call, a->profile, 0, ret, error);
                return r <= 0 ? r : peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "There is no profile '%s' with credentials.", a->profile);
        }
        r = from_environment(a, ret, error);
        if (r <= 0)
                return r;
        if (!isempty(e->web_identity_file))
                return from_web_identity(a, call, e->role_arn, e->role_session, e->web_identity_file, ret, error);
        r = from_profile(a, call, profile_in_use(a), 0, ret, error);
        if (r <= 0)
                return r;
        if (!isempty(e->container_relative_uri) || !isempty(e->container_full_uri))
                return from_container(a, call, ret, error);
        return from_instance(a, call, ret, error);
}
