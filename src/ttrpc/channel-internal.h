/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the channel share: channel.c has buffers, loop and plain wires, channel-session.c the way through a session. */
#pragma once

#include "ttrpc/channel.h"
#include "ttrpc/queue.h"

struct Channel {
        unsigned n_refs;                /* the owner's, and one while a handler runs */
        int fd;                         /* negative: away */
        bool closed;                    /* by the owner: no handler any more */
        bool open;                      /* handshake done, or there is none */
        bool paused;
        bool eof;                       /* the peer's half is closed */
        bool hangup;                    /* both halves are: the socket's source is off for good */
        bool hangup_is_end;
        bool told_closed;
        int error;                      /* -errno, sticky */
        bool drained_wanted;
        size_t drained_mark;

        const ChannelHandlers *handlers;
        void *userdata;
        TlsSession *tls;
        sd_event_source *io_source;
        sd_event_source *defer_source;  /* for what no poll will report */
        uint32_t events;                /* the mask that epoll has */

        uint8_t *in;
        size_t in_start, in_end;

        ByteQueue queue;

        Session *session;
        const ChannelKeeper *keeper;
        void *keeper_userdata;
        int wire_error;                 /* of the connection under the session, which is still to be taken down */
        bool tell_up;
        sd_event_source *ack_timer;
        bool ack_armed;
        uint8_t *ahead;                 /* DATA behind which an ACK was looked for; session->ahead bytes from ahead_start */
        size_t ahead_start, ahead_size;
        char text[256];                 /* what there is to say about error */
        char *last_words;               /* to the client */
};

void channel_defer(Channel *c);                 /* on_defer() from the loop */
void channel_update(Channel *c);                /* what is to be waited for */

/* Remembers the first error and lets the loop tell it. Returns it. */
int channel_fail(Channel *c, int error);

/* The connection has failed, which is the end of the channel if there is no session. Returns the error, or -EAGAIN. */
int channel_wire_failed(Channel *c, int error);

int channel_add_io(Channel *c);                 /* watches fd for events */

/* The way through a session. */
int channel_set_session(Channel *c, const Session *s, const ChannelKeeper *keeper, void *userdata);
int channel_session_flush(Channel *c);
ssize_t channel_session_read(Channel *c, uint8_t *data, size_t size);
bool channel_session_looks_ahead(const Channel *c);     /* the wire must be read although nobody wants input */
void channel_session_look_ahead(Channel *c);
void channel_session_look_last(Channel *c);             /* at a lost wire: for last words; DATA will come again */
void channel_session_bye(Channel *c);
void channel_session_free(Channel *c);
