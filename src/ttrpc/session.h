/* SPDX-License-Identifier: Apache-2.0 */
/* The resumable session's numbers and records: what was sent, what arrived, what must be sent again. No I/O, no memory of its own;
 * the channel moves the bytes. The protocol is told in docs/session.md. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SESSION_ALPN "peerpod-session/1"
#define SESSION_ID_SIZE 32U
#define SESSION_WINDOW (4U << 20)               /* bytes sent and not acknowledged */
#define SESSION_ACK_BYTES (256U << 10)          /* received and not acknowledged: an ACK goes out of its own */
#define SESSION_ACK_USEC (200 * USEC_PER_MSEC)  /* … or after this time */
#define SESSION_DATA_MAX 65535U                 /* in a record; what we send fits into one of TLS's, with an ACK before it */
#define SESSION_HEADER_SIZE 4U
#define SESSION_HELLO_SIZE (SESSION_HEADER_SIZE + 8U + SESSION_ID_SIZE + 8U)
#define SESSION_WELCOME_SIZE (SESSION_HEADER_SIZE + 12U)
#define SESSION_ACK_SIZE (SESSION_HEADER_SIZE + 8U)
#define SESSION_BYE_SIZE SESSION_HEADER_SIZE
#define SESSION_END_TEXT_MAX 240U
#define SESSION_END_SIZE_MAX (SESSION_HEADER_SIZE + SESSION_END_TEXT_MAX)
#define SESSION_SEND_MAX (16384U - SESSION_ACK_SIZE - SESSION_HEADER_SIZE)
#define SESSION_CONTROL_MAX SESSION_END_SIZE_MAX

typedef enum SessionType {
        SESSION_HELLO = 1,
        SESSION_WELCOME = 2,
        SESSION_DATA = 3,
        SESSION_ACK = 4,
        SESSION_BYE = 5,
        SESSION_END = 6,                /* the pod VM ends; from the server */
} SessionType;

typedef enum SessionStatus {
        SESSION_NEW = 0,
        SESSION_RESUMED = 1,
        SESSION_UNKNOWN = 2,
        _SESSION_STATUS_MAX,
} SessionStatus;

typedef struct SessionHello {
        bool fresh;                     /* make it if it is unknown */
        uint32_t keep_sec;              /* how long the server shall keep it without a connection */
        uint8_t id[SESSION_ID_SIZE];
        uint64_t received;
} SessionHello;

typedef struct SessionRecord {
        SessionType type;
        uint32_t length;                /* of the body */
        SessionHello hello;
        SessionStatus status;           /* WELCOME */
        uint64_t received;              /* WELCOME, ACK */
        const char *text;               /* END: .length printable ASCII characters, without a NUL; borrowed */
} SessionRecord;

/**
 * session_record_parse() - read a record's header, and its body unless that is DATA
 *
 * Returns the bytes used (of DATA: those of the header), 0 = not enough yet, -EBADMSG = no such record. Without state: what may
 * come when is judged by session_…().
 */
int session_record_parse(const uint8_t *data, size_t size, SessionRecord *ret);

/* Writes HELLO, WELCOME, ACK, BYE, END, or the header of DATA; at most SESSION_CONTROL_MAX bytes. Returns their number. */
size_t session_record_write(const SessionRecord *record, uint8_t *p);

typedef enum SessionState {
        SESSION_AWAY,           /* no connection */
        SESSION_GREETING,       /* client: HELLO is out */
        SESSION_UP,
        SESSION_OVER,           /* nothing will be resumed */
        _SESSION_STATE_MAX,
} SessionState;

typedef struct Session {
        bool server;
        SessionState state;
        bool confirmed;                 /* client: there was a WELCOME */
        uint32_t keep_sec;
        uint8_t id[SESSION_ID_SIZE];

        /* Offsets in our stream: acked <= sent <= top, top - acked <= SESSION_WINDOW. */
        uint64_t acked;                 /* the peer has what is before */
        uint64_t sent;                  /* what comes next */
        uint64_t top;                   /* the highest that was ever sent */
        uint32_t promised;              /* of a DATA record whose header is out, still to be sent */

        /* Offsets in the peer's. */
        uint64_t received;
        uint64_t told;                  /* what the peer was told last */
        uint32_t ahead;                 /* read behind that, but not taken over yet: not acknowledged, forgotten with the connection */
        bool ack_wanted;                /* the time is over */

        /* The record that is coming in. */
        uint8_t head[SESSION_CONTROL_MAX];
        size_t head_size;
        uint32_t data_left;             /* of a DATA record */
} Session;

const char* session_state_to_string(SessionState s);

/* @id: SESSION_ID_SIZE random bytes */
void session_init_client(Session *s, const uint8_t *id, uint32_t keep_sec);
void session_init_server(Session *s, const SessionHello *hello);

bool session_has_id(const Session *s, const uint8_t *id);       /* in the same time for any @id */

void session_set_over(Session *s);

/* The connection is gone: what is half done on it is forgotten, what is not acknowledged must be sent again. */
void session_set_away(Session *s);

/* A connection, on the client. Writes HELLO to @p (SESSION_HELLO_SIZE). */
size_t session_greet(Session *s, uint8_t *p);

/**
 * session_welcome() - a connection whose HELLO for this session has been read, on the server
 * @p:           WELCOME goes there (SESSION_WELCOME_SIZE)
 * @ret_release: so many more bytes of the queue are with the peer
 *
 * Returns the size of WELCOME, or -EPROTO: the peer claims what cannot be, and the session is over.
 */
int session_welcome(Session *s, const SessionHello *hello, bool resumed, uint8_t *p, size_t *ret_release);

/* How many bytes of our stream may go out now. */
size_t session_room(const Session *s);
bool session_owes_ack(const Session *s);        /* and it shall go out without DATA, too */

/* Writes what goes in front of @size bytes of our stream (0: an ACK alone) to @p; at most SESSION_ACK_SIZE + SESSION_HEADER_SIZE.
 * session_sent() when it is out with them; otherwise nothing has happened. */
size_t session_begin(const Session *s, size_t size, uint8_t *p);
void session_sent(Session *s, size_t size);

/* The same in steps, for big ones that need not be copied behind their header: what session_begin() wrote is out; then some of the bytes
 * are. Nothing else may go out until all are. */
void session_promise(Session *s, size_t size);
void session_sent_promised(Session *s, size_t size);

/* What came of control bytes. */
typedef struct SessionEvent {
        size_t release;         /* so many more bytes of the queue, sent on this connection or not, are with the peer */
        bool may_send;          /* the window, or the session, has opened */
        bool over;              /* BYE, END, or WELCOME(unknown) */
        const char *end;        /* END: its text, good until the session is touched again; NULL: none */
        size_t end_size;
} SessionEvent;

/* Reading: as long as data_left is 0, session_wants() more bytes go to head + head_size and are told to session_control(); then
 * data_left bytes are the stream's and are told to session_data(). */
size_t session_wants(const Session *s);
int session_control(Session *s, size_t size, SessionEvent *ret);        /* 0 or -EPROTO: close the connection, the session is over */
void session_data(Session *s, size_t size);

/* The same for bytes that nobody wants yet, and then when they are wanted. */
void session_data_ahead(Session *s, size_t size);
void session_take_ahead(Session *s, size_t size);
