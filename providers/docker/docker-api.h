/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the engine, in a version of its API that both sides speak. */
#pragma once

#include "docker-provider.h"

typedef enum DockerAgain {
        DOCKER_ASK = 1 << 0,            /* nothing changes: asked again after each passing fault, a 500 included */
        DOCKER_REPEATABLE = 1 << 1,     /* doing it twice is doing it once: asked again when no answer came */
} DockerAgain;

typedef struct DockerRequest {
        const char *method;
        const char *path;               /* "/containers/…": what stands behind the version, query included */
        const char *what;               /* "create container": for people */
        unsigned again;                 /* DockerAgain */
        const void *body;
        size_t body_size;
        const char *content_type;
        const char *registry_auth;      /* secret, or NULL */
        uint64_t timeout_usec;          /* 0: 60 s */
        int (*on_body)(void *userdata, const void *data, size_t size);
        void *userdata;
} DockerRequest;

/**
 * docker_request() - ask the engine
 * @ret: freed by http_reply_done(); untouched on failure
 *
 * A reply of any status is success; docker_fail() makes an error of it. *ret_sent as of cloud_http_perform(); may be NULL. Learns the API's
 * version first, and anew when the engine has become another one.
 */
int docker_request(Docker *d, const PeerpodCall *call, const DockerRequest *request, HttpReply *ret, bool *ret_sent, PeerpodError *error);

/**
 * docker_get() - a GET of something that may not be there
 * @path: taken and freed; NULL stands for "no memory", as docker_path() returns it
 *
 * Returns 1 with *ret set, 0 if the engine says 404, or a negative errno with *error set.
 */
int docker_get(Docker *d, const PeerpodCall *call, const char *what, char *path, HttpReply *ret, PeerpodError *error);

/* docker_engine() - what the engine is; asked for once */
int docker_engine(Docker *d, const PeerpodCall *call, DockerEngine *ret, PeerpodError *error);

/* docker_fail() - the error of a reply, with what the engine says in it. @not_found: what 404 means here, or PEERPOD_E_NONE for itself. */
int docker_fail(PeerpodError *error, const char *what, const HttpReply *reply, PeerpodErrorKind not_found);

/* docker_bad_reply() - the error of a reply that is none */
int docker_bad_reply(PeerpodError *error, const char *what, int r);

/* docker_path() - a path by format; newly allocated, NULL when memory is short */
__attribute__((format(printf, 1, 2))) char* docker_path(const char *format, ...);
