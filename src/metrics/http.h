/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics, and other short pages, over HTTP: libmicrohttpd, turned by the daemon's own loop.
 *
 * What strangers can make us keep is bounded: HTTP_CONNECTIONS_MAX connections with HTTP_MEMORY_MAX bytes each, none for longer than
 * the time that was set, whatever it does. More of them wait in the sockets' backlogs. */
#pragma once

#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/listeners.h"
#include "metrics/exposition.h"

#define HTTP_CONNECTIONS_MAX 32U
#define HTTP_MEMORY_MAX (16U << 10)             /* request line and headers; more is answered with 413, 414 or 431 */
#define HTTP_IDLE_SEC 10U

typedef struct HttpServer HttpServer;

typedef struct HttpPages {
        /* Somebody wants /metrics: gather what it tells, and call http_server_gathered() later, from the loop. Called again before that for each
         * other one who asks. NULL: there are no metrics here. */
        void (*gather)(void *userdata);
        /* A page of a few words: returns its HTTP status, or 0 if there is no such page. NULL: there are none. */
        unsigned (*page)(const char *path, const char **ret_text, void *userdata);
        void *userdata;
} HttpPages;

/**
 * http_server_new() - serve GET and HEAD
 * @pages:           copied
 * @connection_usec: how long a connection may last, all its requests together
 */
int http_server_new(sd_event *event, const HttpPages *pages, uint64_t connection_usec, HttpServer **ret);
HttpServer* http_server_free(HttpServer *s);
DEFINE_CLEANUP(HttpServer*, http_server_free);

/* http_server_listeners() - borrowed, for adding to them */
Listeners* http_server_listeners(HttpServer *s);

/* http_server_gathered() - for all who wait for /metrics. @e is borrowed; NULL: there is no memory. */
void http_server_gathered(HttpServer *s, Exposition *e);

/* http_server_idle_usec() - how long nobody has been connected, 0 if somebody is */
uint64_t http_server_idle_usec(const HttpServer *s);
