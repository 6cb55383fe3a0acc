/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the relay share: relay-call.c has the calls in flight, relay-down.c the callers' connections,
 * relay-request.c their requests, relay.c the upstream and the relay as a whole. */
#pragma once

#include "ttrpc/relay.h"
#include "ttrpc/silent.h"

typedef struct Call Call;
typedef struct Conn Conn;

struct Call {
        Relay *relay;                   /* borrowed */
        uint32_t id;                    /* upstream */
        uint32_t peer_id;               /* downstream */
        Conn *conn;                     /* borrowed; NULL: a call of our own, or its caller is gone */
        bool streaming;                 /* Data frames may follow */
        bool abandoned;
        unsigned kind;
        RelayAnswerHandler on_answer;
        void *userdata;
        sd_event_source *timer;
        Call *next_by_id, *next_by_peer;
        Call *prev, *next;              /* of the same conn */
};

/* A request that waits for somebody else: not a call yet, as ids must go out in their order. */
struct RelayHold {
        Conn *conn;                     /* borrowed */
        uint8_t *frame;                 /* a copy */
        TtrpcHeader header;
        uint64_t since;
        bool survives;
        void (*on_dropped)(RelayHold *h, void *userdata);
        void *userdata;
        RelayHold *prev, *next;         /* of the same conn */
};

struct Conn {
        Relay *relay;                   /* borrowed */
        Channel *channel;
        Call *calls;
        size_t n_calls;
        RelayHold *holds;

        uint8_t *big;                   /* a request frame that does not fit into the channel's buffer */
        size_t big_size, big_done;
        size_t discard;                 /* bytes of an oversize request still to be skipped */
        uint64_t waiting_since;         /* the first frame in the buffer waits for the upstream; 0 = no */

        bool waiting;                   /* in relay.waiters */
        bool answers_paused;            /* above RELAY_ANSWERS_SOFT */
        bool blocking;                  /* above RELAY_ANSWERS_MAX: keeps the upstream from being read */
        bool cut;                       /* the last thing in its queue is an unfinished frame */
        bool eof;                       /* it sends nothing more, but may read */
        bool closing;                   /* by us, when its queue is out */
        bool input_off;                 /* what the channel was told last */
        uint8_t *held;                  /* our own answers, to be sent behind the unfinished frame */
        size_t held_size;
        sd_event_source *timer;         /* blocking or closing for too long */

        SilentPeer silent;
        Conn *prev, *next;              /* relay.conns */
        Conn *prev_waiter, *next_waiter;
};

struct Relay {
        sd_event *event;
        const RelayRule *rules;
        size_t n_rules;
        const RelayHandlers *handlers;
        void *userdata;

        Channel *upstream;
        uint32_t next_id;
        bool upstream_wanted;
        bool upstream_closing;          /* it has closed, and its owner has not yet given it up */
        const char *refusing;           /* there is no upstream and requests are answered with this; borrowed */

        size_t body_left;               /* bytes of an answer that is handed on in pieces */
        Conn *body_conn;                /* … to this one; NULL: to nobody */

        uint8_t *whole;                 /* an answer that is handed on when it is there */
        size_t whole_size, whole_done;

        Call **by_id, **by_peer;
        size_t n_buckets, n_calls, n_abandoned;
        Call *spare_calls;
        size_t n_spare_calls;

        Conn *conns, *waiters;
        size_t n_conns, n_blocking;
        size_t n_conns_max;             /* 0: no limit */
        SilentPeers silent;

        size_t n_holds;
        Conn *ruled_conn;               /* while a rule's handler runs */
        const uint8_t *ruled_frame;

        uint64_t *counters;             /* borrowed, or: */
        uint64_t own_counters[_RELAY_COUNTER_MAX];
};

/* Calls: one table by our id, one by connection and its id. */
Call* call_find(const Relay *r, uint32_t id);
Call* call_find_by_peer(const Relay *r, const Conn *c, uint32_t peer_id);

/* Takes the next id. The caller queues the frame before anything else can be queued: the Go server behind the forwarder
 * refuses ids that do not grow (containerd/ttrpc: server.go). NULL when memory is short. */
Call* call_new(Relay *r, Conn *c, uint32_t peer_id);
Call* call_restore(Relay *r, Conn *c, uint32_t id, uint32_t peer_id);   /* with an id that was given out before */
void call_free(Call *call);

/* The caller is gone or has broken the stream's rules; the upstream goes on. Its answer will be dropped. */
void call_abandon(Call *call);

/* Downstream connections. */
size_t conn_answers(const Conn *c);             /* bytes that wait for its reader */
void conn_arm_drained(Conn *c);                 /* asks for the next turn of the tide that matters */
void conn_set_waiting(Conn *c, bool b);
void conn_process(Conn *c);                     /* forwards what has been read */
void conn_send(Conn *c, const uint8_t *data, size_t size);
void conn_send_take(Conn *c, uint8_t *data, size_t size);       /* malloc()ed, taken */
void conn_reply(Conn *c, uint32_t peer_id, int code, const char *format, ...) PRINTF(4, 5);
void conn_answer(Conn *c, uint32_t peer_id, const TtrpcResponse *response);
void conn_close(Conn *c);                       /* in good order: it is freed from the loop, not from here */
void conn_free(Conn *c);
void conn_finish(Conn *c, const char *text, uint64_t timeout_usec);     /* answers what is in flight, writes all out */
void conn_restored(Conn *c);

/* Requests. */

/* Judges a whole frame from a caller. 1: its id is changed, it is to go upstream as it lies there. 0: nothing to send;
 * or @ret_new is the frame to send in its place (malloc()ed). */
int conn_frame(Conn *c, uint8_t *frame, const TtrpcHeader *h, uint8_t **ret_new, size_t *ret_new_size);
void hold_drop(RelayHold *h);                   /* its owner is told */
void conn_drop_holds(Conn *c, bool all, const char *text);      /* @all: also those that survive; @text: answered with it */
int conn_request(Conn *c, const uint8_t *frame);        /* of a hold that was stored: as if it had come */

/* The upstream, as the connections see it. */
size_t upstream_high(const Relay *r);
bool upstream_has_room(const Relay *r);
void upstream_want(Relay *r);
void upstream_end_abandoned(Relay *r);
