/* SPDX-License-Identifier: Apache-2.0 */
#include "docker-api.h"

#include <stdarg.h>

#include "basic/io.h"
#include "basic/util.h"
#include "cloud-config.h"

#define REPLY_MAX (UINT64_C(32) << 20)          /* a list of some ten thousand containers */

/* The engine's 500 to an order is mostly its last word (a runtime that cannot start the container); to a question it is worth another try. */
static HttpVerdict judge_order(void *userdata, const HttpReply *reply) {
        return reply->status == 500 ? HTTP_DONE : http_judge_by_status(userdata, reply);
}

static const CloudApi question, order = { .judge = judge_order };

char* docker_path(const char *format, ...) {
        char *path = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&path, format, ap);
        va_end(ap);
        return n < 0 ? NULL : path;
}

int docker_bad_reply(PeerpodError *error, const char *what, int r) {
        return r == -ENOMEM ? oom(error) :
                peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: The engine's answer is not understood.", what);
}

int docker_fail(PeerpodError *error, const char *what, const HttpReply *reply, PeerpodErrorKind not_found) {
        _cleanup_(freep) char *message = NULL;

        (void) docker_parse_message(reply->body, reply->size, &message);
        if (reply->status == 404 && not_found != PEERPOD_E_NONE)
                return peerpod_error_set(error, not_found, "%s: %s (HTTP 404)", what, message ?: "not found");
        return http_error(error, what, reply, NULL, message);
}

static int perform(Docker *d, const PeerpodCall *call, const char *url, const DockerRequest *request, HttpReply *ret, bool *ret_sent,
                   PeerpodError *error) {
        HttpRequest h = {
                .api = request->again & DOCKER_ASK ? &question : &order,
                .method = request->method,
                .url = url,
                .what = request->what,
                .body = request->body,
                .body_size = request->body_size,
                .repeatable = request->again != 0,
                .timeout_usec = request->timeout_usec,
                .reply_max = REPLY_MAX,
                .on_body = request->on_body,
                .userdata = request->userdata,
        };
        int r = 0;

        if (request->content_type)
                r = http_add_header(&h, "Content-Type", request->content_type);
        if (r == 0 && request->registry_auth)
                r = http_add_header(&h, "X-Registry-Auth", request->registry_auth);
        r = r < 0 ? oom(error) : cloud_http_perform(d->http, call, &h, ret, ret_sent, error);
        http_request_done(&h);
        return r;
}

/* Without a version in the path the engine answers in its own newest. */
static int ask(Docker *d, const PeerpodCall *call, const char *path, const char *what, HttpReply *ret, PeerpodError *error) {
        const DockerRequest request = { .method = "GET", .path = path, .what = what, .again = DOCKER_ASK };
        _cleanup_(freep) char *url = docker_path("%s%s", d->base, path);
        int r;

        if (!url)
                return oom(error);
        r = perform(d, call, url, &request, ret, NULL, error);
        if (r < 0)
                return r;
        if (ret->status != 200) {
                r = docker_fail(error, what, ret, PEERPOD_E_NONE);
                http_reply_done(ret);
        }
        return r;
}

static int learn(Docker *d, const PeerpodCall *call, DockerEngine *ret, PeerpodError *error) {
        _cleanup_(http_reply_done) HttpReply version = {}, info = {};
        DockerEngine e = {};
        int r;

        r = ask(d, call, "/version", "look at the engine's version", &version, error);
        if (r < 0)
                return r;
        r = docker_parse_version(version.body, version.size, d->api_version, &e);
        if (r < 0)
                return docker_bad_reply(error, "look at the engine's version", r);
        if (e.maximum < DOCKER_VERSION_LOWEST)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The engine speaks API %u.%u at most; 1.41 (Docker 20.10) is needed.",
                                         e.maximum / 1000, e.maximum % 1000);
        e.version = MAX(e.version, (uint32_t) DOCKER_VERSION_LOWEST);

        r = ask(d, call, "/info", "look at the engine's machine", &info, error);
        if (r < 0)
                return r;
        r = docker_parse_info(info.body, info.size, &e);
        if (r < 0)
                return docker_bad_reply(error, "look at the engine's machine", r);
        *ret = e;
        return 0;
}

int docker_engine(Docker *d, const PeerpodCall *call, DockerEngine *ret, PeerpodError *error) {
        int r;

        (void) pthread_mutex_lock(&d->mutex);
        *ret = d->engine;
        (void) pthread_mutex_unlock(&d->mutex);
        if (ret->version != 0)
                return 0;

        /* More than one thread may ask at once; they learn the same. */
        r = learn(d, call, ret, error);
        if (r < 0)
                return r;
        (void) pthread_mutex_lock(&d->mutex);
        d->engine = *ret;
        (void) pthread_mutex_unlock(&d->mutex);
        return 0;
}

/* "client version 1.44 is too new. Maximum supported API version is 1.41" (moby/moby: api/server/middleware/version.go): the engine has
 * become another one since it was asked. */
static bool is_version_refused(const HttpReply *reply) {
        _cleanup_(freep) char *message = NULL;

        return reply->status == 400 && docker_parse_message(reply->body, reply->size, &message) > 0 && startswith(message, "client version ");
}

int docker_request(Docker *d, const PeerpodCall *call, const DockerRequest *request, HttpReply *ret, bool *ret_sent, PeerpodError *error) {
        if (ret_sent)
                *ret_sent = false;
        for (unsigned tries = 0;; tries++) {
                _cleanup_(freep) char *url = NULL;
                HttpReply reply = {};
                DockerEngine e;
                int r;

                r = docker_engine(d, call, &e, error);
                if (r < 0)
                        return r;
                url = docker_path("%s/v%u.%u%s", d->base, e.version / 1000, e.version % 1000, request->path);
                if (!url)
                        return oom(error);
                r = perform(d, call, url, request, &reply, ret_sent, error);
                if (r < 0)
                        return r;
                if (tries > 0 || !is_version_refused(&reply)) {
                        *ret = reply;
                        return 0;
                }

                http_reply_done(&reply);
                (void) pthread_mutex_lock(&d->mutex);
                d->engine = (DockerEngine) {};
                (void) pthread_mutex_unlock(&d->mutex);
        }
}

int docker_get(Docker *d, const PeerpodCall *call, const char *what, char *path, HttpReply *ret, PeerpodError *error) {
        const DockerRequest request = { .method = "GET", .path = path, .what = what, .again = DOCKER_ASK };
        _cleanup_(freep) char *taken = path;
        _cleanup_(http_reply_done) HttpReply reply = {};
        int r;

        if (!path)
                return oom(error);
        r = docker_request(d, call, &request, &reply, NULL, error);
        if (r < 0)
                return r;
        if (reply.status == 404)
                return 0;
        if (reply.status != 200)
                return docker_fail(error, what, &reply, PEERPOD_E_NONE);
        *ret = reply;
        reply = (HttpReply) {};
        return 1;
}
