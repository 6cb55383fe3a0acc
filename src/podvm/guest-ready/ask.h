/* SPDX-License-Identifier: Apache-2.0 */
/* One question to a service of the pod VM, by which it shows that it serves. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct GuestService {
        const char *name;
        const char *where;              /* path of its socket, or ADDRESS:PORT for HTTP */
        bool is_http;
        bool must_serve;                /* the answer must be SERVING; else any answer will do, also that there is no such method */
} GuestService;

#define GUEST_WHY_SIZE 160

/* guest_service_find() - by the name of its unit; NULL if there is none */
const GuestService* guest_service_find(const char *name);

/**
 * guest_service_ask() - connect, ask, wait for the answer
 * @where:   a path if it begins with '/', else ADDRESS:PORT
 * @ret_why: set on failure: what is missing, for people
 *
 * ttrpc services are asked for grpc.Health/Check (kata-containers: src/libs/protocols/protos/health.proto), which has no
 * effect; those without it say so, and that is an answer. Returns 0, -ENOTCONN, -ETIMEDOUT, -EPROTO, -ENOMEM or what connect() says.
 */
int guest_service_ask(const GuestService *service, const char *where, uint64_t timeout_usec, char ret_why[static GUEST_WHY_SIZE]);
