/* SPDX-License-Identifier: Apache-2.0 */
/* A listening socket whose connections are handed out when they are open: TLS handshake done, peer known. */
#pragma once

#include <stdbool.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/util.h"
#include "ttrpc/channel.h"

typedef struct Acceptor Acceptor;

#define ACCEPTOR_HANDSHAKES_MAX 16U                     /* at once; with one more, the oldest is ended */
#define ACCEPTOR_HANDSHAKE_USEC (15 * USEC_PER_SEC)
#define ACCEPTOR_PAUSE_USEC (250 * USEC_PER_MSEC)       /* when no descriptor or memory is left */

/* @channel is taken by the handler; its input is paused. @peer is a text for people. */
typedef void (*AcceptorHandler)(Acceptor *a, Channel *channel, const char *peer, void *userdata);

/**
 * acceptor_new() - starts switched off
 * @fd:  listening stream socket, taken, on failure too
 * @tls: NULL for plain connections; referenced
 *
 * On an AF_UNIX socket only root and our own user are let in.
 */
int acceptor_new(sd_event *event, int fd, TlsContext *tls, AcceptorHandler handler, void *userdata, Acceptor **ret);
Acceptor* acceptor_free(Acceptor *a);
DEFINE_CLEANUP(Acceptor*, acceptor_free);

/* While off, new connections wait in the socket's backlog. */
void acceptor_set_enabled(Acceptor *a, bool b);
