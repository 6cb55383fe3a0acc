/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics over HTTP: libmicrohttpd, turned by the daemon's own loop.
 *
 * What strangers can make us keep is bounded: HTTP_CONNECTIONS_MAX connections with HTTP_MEMORY_MAX bytes each, none for longer than
 * the time that was set, whatever it does. More of them wait in the sockets' backlogs. */
#pragma once

#include <systemd/sd-event.h>

#include "basic/cleanup.h"

#define HTTP_CONNECTIONS_MAX 32U
#define HTTP_MEMORY_MAX (16U << 10)             /* request line and headers; more is answered with 413, 414 or 431 */
#define HTTP_IDLE_SEC 10U

typedef struct HttpServer HttpServer;

/**
 * http_server_new() - serve GET and HEAD of /metrics
 * @proxies_dir:     see collector_new()
 * @connection_usec: how long a connection may last, all its requests together
 * @cache_usec:      how old an answer may be
 */
int http_server_new(sd_event *event, const char *proxies_dir, uint64_t connection_usec, uint64_t cache_usec, HttpServer **ret);
HttpServer* http_server_free(HttpServer *s);
DEFINE_CLEANUP(HttpServer*, http_server_free);

/* http_server_listen() - @fd: a listening stream socket; taken, on failure too */
int http_server_listen(HttpServer *s, int fd);

/* http_server_idle_usec() - how long nobody has been connected, 0 if somebody is */
uint64_t http_server_idle_usec(const HttpServer *s);
