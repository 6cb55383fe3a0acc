/* SPDX-License-Identifier: Apache-2.0 */
/* A byte stream on sd-event, plain or TLS, with bounded reading and a queue for writing. With a session (docs/session.md) it outlives
 * its connection: it is away then, and takes what is written until there is another.
 *
 * Handlers are called from the event loop only, never from inside a channel_…() function, and may close any channel, also
 * the one that they are called for. A failed write is therefore remembered and told to on_closed() later.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/handover.h"
#include "tls/session.h"
#include "ttrpc/session.h"

typedef struct Channel Channel;

/* One read from the socket: no frame up to this size is copied on its way. The memory of an idle channel that saw only small
 * frames is what those touched. */
#define CHANNEL_IN_SIZE (128U * 1024U)

typedef struct ChannelHandlers {
        void (*on_open)(Channel *c, void *userdata);                    /* TLS handshake done; never for a plain channel */
        void (*on_input)(Channel *c, void *userdata);                   /* call channel_fill() */
        void (*on_drained)(Channel *c, void *userdata);                 /* channel_notify_drained() has come true */
        void (*on_closed)(Channel *c, int error, void *userdata);       /* both directions are dead; once; -errno */
} ChannelHandlers;

/**
 * channel_new() - take a connected, non-blocking stream socket
 * @fd:          taken, on failure too
 * @tls:         NULL for a plain channel; referenced
 * @server_name: as tls_session_new()
 * @handlers:    borrowed, outlive the channel
 *
 * A TLS channel starts its handshake from the loop; until on_open() it gives no input and must not be written to.
 */
int channel_new(sd_event *event, int fd, TlsContext *tls, const char *server_name,
                const ChannelHandlers *handlers, void *userdata, Channel **ret);

/* Hands the channel on to another owner: other handlers from now on. */
void channel_set_handlers(Channel *c, const ChannelHandlers *handlers, void *userdata);

/* Closes at once: what waits in the queue is lost, no handler is called any more. NULL is fine, returns NULL. */
Channel* channel_free(Channel *c);
DEFINE_CLEANUP(Channel*, channel_free);

/* When the peer closes both directions, unread input is of no interest: on_closed() at once, paused or not. Without this, all
 * that the peer left is read first. */
void channel_set_hangup_is_end(Channel *c);

/* Reading. After channel_pause_input() no on_input() comes until channel_resume_input(), which brings one at once if there
 * are bytes in the buffers. */
void channel_pause_input(Channel *c);
void channel_resume_input(Channel *c);

/**
 * channel_fill() - read more behind what is in the buffer, once
 *
 * Moves what is there to the buffer's start: pointers from channel_data() are invalid then. Returns the number of bytes,
 * 0 at the end of the stream, -EAGAIN, -ENOBUFS (buffer full), or another error.
 */
ssize_t channel_fill(Channel *c);
uint8_t* channel_data(Channel *c, size_t *ret_size);    /* may be changed in place */
void channel_consume(Channel *c, size_t size);

/* Reads past the (empty) buffer into memory of the caller; as channel_fill(). */
ssize_t channel_read_direct(Channel *c, uint8_t *data, size_t size);

/* Writing: sends at once what the socket takes and keeps the rest. 0, or -errno, which on_closed() will tell too. */
int channel_write(Channel *c, const void *data, size_t size);

/* The same with malloc()ed memory that is taken, on failure too: the rest is kept where it is. */
int channel_write_take(Channel *c, uint8_t *data, size_t size);

size_t channel_queued(const Channel *c);        /* bytes that wait for the socket; those that wait for an ACK are not counted */

/* on_drained() is called when no more than @mark bytes wait; once; from the loop even if it is so already. */
void channel_notify_drained(Channel *c, size_t mark);

/* Writes out what waits, for at most @timeout_usec, outside of the loop. For a daemon that ends. */
void channel_finish(Channel *c, uint64_t timeout_usec);

/* Sessions. The keeper's handlers are called from the loop, but for on_gone(), which is called by channel_free(). */
typedef struct ChannelKeeper {
        void (*on_away)(Channel *c, int error, const char *text, void *userdata);       /* the connection is lost; @text may be NULL */
        void (*on_up)(Channel *c, void *userdata);                                      /* client: the server has confirmed the session */
        void (*on_gone)(Channel *c, void *userdata);                                    /* may be NULL */
} ChannelKeeper;

/* A channel without a connection, which takes what is written until channel_attach(). */
int channel_new_away(sd_event *event, const ChannelHandlers *handlers, void *userdata, Channel **ret);
bool channel_is_away(const Channel *c);

/* Moves the connection of @from, which is open and has nothing in its buffers, to @c, which is away; @from is freed. */
void channel_attach(Channel *c, Channel *from);

/**
 * channel_start_session() - turn an open or away TLS channel without a session into a session's client end
 * @keep_sec: how long the server is to keep the session without a connection
 * @keeper:   borrowed, outlives the channel
 *
 * If it is open the greeting goes out, else channel_attach() does that. Nothing may have been sent. Returns 0, -ENOMEM, ….
 */
int channel_start_session(Channel *c, uint32_t keep_sec, const ChannelKeeper *keeper, void *userdata);

/* The server end of a new session, for an open TLS channel from which @hello has been read. */
int channel_accept_session(Channel *c, const SessionHello *hello, const ChannelKeeper *keeper, void *userdata);

/* The server end of an old one: takes the connection of @from, from which @hello has been read; @from is freed. If @c has another it is
 * closed. */
void channel_resume_session(Channel *c, Channel *from, const SessionHello *hello);

/* Another keeper; of a session that was accepted or restored. */
void channel_set_keeper(Channel *c, const ChannelKeeper *keeper, void *userdata);
void* channel_get_keeper_userdata(const Channel *c);

const Session* channel_session(const Channel *c);       /* borrowed; NULL: there is none */
void channel_lose_wire(Channel *c);                     /* of a session: closes the connection, tells nobody */
void channel_give_up(Channel *c, int error, const char *text);  /* on_closed() follows */

/* Of a server's session: what channel_free() says, after all that was written, instead of a bare goodbye. The client's channel is closed with
 * -ESHUTDOWN and @text as its channel_error(). At most SESSION_END_TEXT_MAX characters, what is not ASCII becomes '?'. */
void channel_set_last_words(Channel *c, const char *text);

/* For the next process of a service: everything but TLS, so a TLS channel without a session cannot be stored. A session loses its
 * connection. The descriptor stays the channel's. */
bool channel_can_be_stored(const Channel *c);
void channel_store(Channel *c, Handover *h);

/* The channel comes paused, without handlers. Returns 0, -EBADMSG, -ENOMEM, …. */
int channel_restore(sd_event *event, Handover *h, const ChannelKeeper *keeper, void *userdata, Channel **ret);

bool channel_is_tls(const Channel *c);
bool channel_has_alpn(const Channel *c);
int channel_get_fingerprint(const Channel *c, uint8_t ret[TLS_FINGERPRINT_SIZE]);
const char* channel_error(const Channel *c);    /* what stands behind on_closed()'s error, for people; NULL: nothing but the errno */
const char* channel_describe(const Channel *c); /* protocol and cipher suite of TLS, or "plain" */
int channel_fd(const Channel *c);               /* borrowed */
