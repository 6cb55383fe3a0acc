/* SPDX-License-Identifier: Apache-2.0 */
/* The webhook over HTTPS: libmicrohttpd and GnuTLS, turned by the daemon's own loop.
 *
 * A certificate belongs to one daemon of libmicrohttpd for as long as that lives. So a new certificate gets a new daemon, to which all new
 * connections go, while the old one answers what comes over its connections, each for the last time, and ends with the last of them.
 *
 * What strangers can make us keep is bounded, as anybody who reaches the port may ask: SERVER_CONNECTIONS_MAX connections, of which the
 * one that has been silent for longest goes when another one comes; SERVER_BODIES_MAX bytes of reviews that are not complete yet; and
 * deadlines for a handshake, for headers and for a body. */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/listeners.h"
#include "tls/cert.h"

#define SERVER_CONNECTIONS_MAX 256U
#define SERVER_MEMORY_MAX (32U << 10)           /* of a connection: request line and headers, and a piece of the body */
#define SERVER_BODIES_MAX ((size_t) 64 << 20)

typedef struct Server Server;
typedef struct WebhookSettings WebhookSettings;

/**
 * server_new() - serve /mutate-v1-pod, and /healthz and /readyz
 * @settings: borrowed; .min_version and .cipher_suites have been checked
 *
 * Without server_set_certificate(), nobody is served. Returns 0 or -errno.
 */
int server_new(sd_event *event, const WebhookSettings *settings, Server **ret);
Server* server_free(Server *s);
DEFINE_CLEANUP(Server*, server_free);

/* server_set_certificate() - from now on, for new connections; @pair is copied. On failure the old one stays. */
int server_set_certificate(Server *s, const CertPair *pair);

/* server_listeners() - borrowed, for adding to them */
Listeners* server_listeners(Server *s);
