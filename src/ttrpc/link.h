/* SPDX-License-Identifier: Apache-2.0 */
/* The way to the one upstream: addresses tried in turn, TLS, pauses and time-outs, until there is an open channel. */
#pragma once

#include <stdint.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/util.h"
#include "ttrpc/channel.h"

typedef struct Link Link;

#define LINK_ADDRESSES_MAX 16U
#define LINK_CONNECT_USEC (2 * USEC_PER_SEC)            /* a lost SYN costs no more than this */
#define LINK_HANDSHAKE_USEC (15 * USEC_PER_SEC)         /* a VM that is booting may be slow */
#define LINK_PAUSE_USEC (500 * USEC_PER_MSEC)           /* after all addresses have failed */

typedef enum LinkState {
        LINK_IDLE,              /* nothing is wanted */
        LINK_CONNECTING,        /* socket */
        LINK_HANDSHAKING,       /* TLS */
        LINK_PAUSING,           /* before the next round */
        LINK_UP,                /* the channel is with its user */
        _LINK_STATE_MAX,
} LinkState;

const char* link_state_to_string(LinkState s);

typedef struct LinkSettings {
        struct sockaddr_storage addresses[LINK_ADDRESSES_MAX];
        size_t n_addresses;
        TlsContext *tls;                /* referenced; NULL: plain */
        const char *server_name;        /* copied */
        uint64_t pause_usec;            /* 0: LINK_PAUSE_USEC */
        uint64_t pause_max_usec;        /* it doubles up to this; 0: it stays the same */
} LinkSettings;

typedef struct LinkHandlers {
        void (*on_up)(Link *l, Channel *channel, const char *address, void *userdata);  /* the channel is taken; its input is paused */
        void (*on_trouble)(Link *l, const char *text, void *userdata);                  /* a try failed, the next one follows */
        void (*on_failed)(Link *l, const char *text, void *userdata);                   /* time is over: LINK_IDLE; text of the last try */
} LinkHandlers;

int link_new(sd_event *event, const LinkSettings *settings, const LinkHandlers *handlers, void *userdata, Link **ret);
Link* link_free(Link *l);
DEFINE_CLEANUP(Link*, link_free);

/* LINK_IDLE or LINK_UP (its channel is lost) → trying, for @timeout_usec in all. Returns 0, or -errno if that cannot even begin. */
int link_start(Link *l, uint64_t timeout_usec);
void link_stop(Link *l);        /* → LINK_IDLE */
LinkState link_get_state(const Link *l);

/* "10.0.0.1" or "fd00::1" with a port; "/path" or "@abstract" of a UNIX socket. Returns 0, -EINVAL, -ENAMETOOLONG. */
int link_add_ip(LinkSettings *s, const char *address, uint16_t port);
int link_add_unix(LinkSettings *s, const char *path);

/* What every TCP socket of ours gets: no delay, and a dead peer is noticed in 20 seconds, well before the 30 that Kata gives
 * Health.Check. */
void socket_set_tcp_options(int fd);
