/* SPDX-License-Identifier: Apache-2.0 */
/* Many ttrpc connections onto one, frame by frame.
 *
 * Downstream are the callers, upstream is the one connection that serves them all. Frames pass without being decoded: only the
 * stream id in the header is changed, in place, in the buffer that the frame was read into. So a method nobody had heard of
 * when this was written passes too. timeout_nano is relative and passes as it is: a frame rests here no longer than it
 * takes to write it out, and the caller's own timer goes on meanwhile. Where an envelope is rewritten anyway it is brought
 * up to date.
 *
 * Requests go upstream whole, for a caller that stops in the middle of one must not hold up the others on the shared
 * connection. Answers that do not fit into the read buffer are handed on as they come: they have one reader only. Where the upstream
 * may be away for a while (.whole_answers) they go down whole, too, so that a caller can be told something else meanwhile.
 *
 * Memory and fairness: a caller whose answers pile up is not read from (RELAY_ANSWERS_SOFT), and above RELAY_ANSWERS_MAX the
 * upstream is not read from either; who holds the others up that long is dropped (RELAY_STALL_USEC). When the upstream
 * does not keep up (RELAY_UPSTREAM_HIGH), callers wait in a queue, and each is served one bufferful or one big frame in its turn.
 * One caller's share of our memory is thus at most RELAY_CONNECTION_MEMORY_MAX.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/util.h"
#include "ttrpc/channel.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"
#include "ttrpc/status.h"

typedef struct Relay Relay;
typedef struct RelayHold RelayHold;

#define RELAY_UPSTREAM_HIGH (256U * 1024U)
#define RELAY_UPSTREAM_LOW (64U * 1024U)
#define RELAY_AWAY_HIGH (8U << 20)                      /* requests that wait while the upstream is away */
#define RELAY_ANSWERS_SOFT (1U << 20)
#define RELAY_ANSWERS_MAX (8U << 20)
#define RELAY_STALL_USEC (30 * USEC_PER_SEC)
#define RELAY_LINGER_USEC (5 * USEC_PER_SEC)            /* for last answers, when a connection is ended by us */
#define RELAY_CALLS_MAX 8192U                           /* in flight upstream, abandoned ones included; more: RESOURCE_EXHAUSTED */
#define RELAY_CALLS_PER_CONNECTION_MAX 4096U
#define RELAY_HOLDS_MAX 64U                             /* requests that are kept; more: RESOURCE_EXHAUSTED */
#define RELAY_ABANDONED_MAX 256U                        /* calls that the upstream still works on for callers that are gone */
#define RELAY_CONNECTION_MEMORY_MAX                                                                                     \
        (RELAY_ANSWERS_MAX + TTRPC_DATA_MAX /* the frame that passed the mark */ + TTRPC_DATA_MAX /* a request */ +    \
         3U * CHANNEL_IN_SIZE /* its buffer, TLS's */ + RELAY_CALLS_PER_CONNECTION_MAX * 512U)

/* How a call ended: @code is a TtrpcCode or whatever number the peer sent; -ENOTCONN when the upstream was lost before the
 * answer. @payload is NULL if the answer was too big to be looked at. All borrowed. */
typedef void (*RelayAnswerHandler)(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata);

/* What a rule makes of a request. */
typedef struct RelayEdit {
        uint8_t *payload;               /* new payload, malloc()ed, taken; NULL = the old one */
        size_t size;
        TtrpcCode code;                 /* not TTRPC_OK: the request is answered with this and goes no further */
        char message[256];
        bool answered;                  /* the request is answered with .payload and goes no further */
        bool held;                      /* by relay_hold(): neither of both for now */
        unsigned kind;                  /* of call, for relay_answer_calls() and relay_restore(); 0: none */
        RelayAnswerHandler on_answer;   /* be told how it ends, also if the caller is gone by then */
        void *data;                     /* on_answer()'s userdata, in place of the relay's; only relay_free() comes before it */
} RelayEdit;

/* A method whose requests are looked at. The handler is called from the loop. */
typedef struct RelayRule {
        const char *service, *method;
        void (*handler)(const TtrpcRequest *request, RelayEdit *edit, void *userdata);
} RelayRule;

typedef struct RelayHandlers {
        void (*on_upstream_wanted)(Relay *r, void *userdata);           /* a request waits and there is none; may be NULL */
        void (*on_upstream_lost)(Relay *r, int error, const char *text, void *userdata); /* it is freed already */
        void (*on_connections_changed)(Relay *r, void *userdata);       /* one less, or one less that is silent; may be NULL */
        void (*on_upstream_failing)(Relay *r, void *userdata);          /* it is lost, its calls can still be answered; may be NULL */
        bool (*on_upstream_closing)(Relay *r, void *userdata);          /* it has closed; true: relay_lose_upstream() will follow; may be NULL */
        RelayAnswerHandler (*answer_handler)(unsigned kind);            /* of a restored call; may be NULL */
        void (*on_whole_answer)(Relay *r, void *userdata);              /* one that had to be kept until it was whole goes down; may be NULL */
        const char *upstream;           /* what to call it in texts for people; NULL: "other end" */
        bool whole_answers;             /* see above */
        bool keep_connections;          /* those of callers, when the upstream is lost; only one with half an answer is closed */
        bool cancel_abandoned;          /* close the upstream when nothing is left on it but calls of callers that are gone: that ends them */
        bool may_hold;                  /* rules use relay_hold() */
} RelayHandlers;

/* What a relay counts, in plain numbers. */
typedef enum RelayCounter {
        RELAY_CALLS,                    /* that were passed on */
        RELAY_CALLS_FAILED,             /* calls that were answered with an error, by the other end or by us */
        RELAY_BYTES_UP,                 /* of callers' frames */
        RELAY_BYTES_DOWN,               /* of frames to callers */
        RELAY_CALLS_IN_FLIGHT,          /* now; ours too */
        RELAY_CONNECTIONS,              /* now */
        _RELAY_COUNTER_MAX,
} RelayCounter;

/* Rules and handlers are borrowed and outlive the relay. Returns 0, -ENOMEM, …. */
int relay_new(sd_event *event, const RelayRule *rules, size_t n_rules, const RelayHandlers *handlers, void *userdata, Relay **ret);
Relay* relay_free(Relay *r);
DEFINE_CLEANUP(Relay*, relay_free);

/* With so many callers' connections, the one on which no call has been made for longest gives way to the next. */
void relay_set_connections_max(Relay *r, size_t n);
bool relay_has_room(const Relay *r);            /* for one more */

/* @channel: open; taken, on failure too. */
int relay_add_downstream(Relay *r, Channel *channel);
void relay_set_upstream(Relay *r, Channel *channel);
Channel* relay_get_upstream(const Relay *r);    /* borrowed; NULL: there is none */

/* The upstream's connection is lost, but not its session: who has been waiting for it may be heard again. */
void relay_set_upstream_away(Relay *r);

/* The upstream is lost, for a reason that its channel does not know: on_upstream_lost() is called from in here. */
void relay_lose_upstream(Relay *r, int error, const char *text);

/* Answers what is in flight of this kind; what the upstream answers later is dropped. */
void relay_answer_calls(Relay *r, unsigned kind, const void *payload, size_t size);

/* There will be no upstream for now: requests that wait are answered with UNAVAILABLE and this text. Their connections live. */
void relay_refuse_waiting(Relay *r, const char *text);

/**
 * relay_call() - a call of our own, beside those of the callers
 *
 * The handler is called once. Returns 0, -ENOTCONN (no upstream), -EBUSY (RELAY_CALLS_MAX), -ENOMEM.
 */
int relay_call(Relay *r, const char *service, const char *method, const void *payload, size_t size, uint64_t timeout_usec,
               RelayAnswerHandler handler, void *userdata);

/**
 * relay_hold() - keep the request that a rule's handler has been given, which may take longer than a handler may
 * @survives:   also the loss of the upstream; else the request is answered with UNAVAILABLE then
 * @on_dropped: it is over, because of that or because its caller is gone; @h is invalid then. Not called when the relay is freed
 *
 * Only from such a handler, which sets .held. Requests that come behind it do not wait. After a restart the next process's rule gets it as
 * if it had come just now. Returns NULL: no memory, or RELAY_HOLDS_MAX.
 */
RelayHold* relay_hold(Relay *r, bool survives, void (*on_dropped)(RelayHold *h, void *userdata), void *userdata);

/* The request as it came; its slices are good as long as the hold. */
void relay_hold_get(const RelayHold *h, TtrpcRequest *ret);

/* What the handler would have done at once: @edit is taken as from there, and @h is over. */
void relay_hold_done(RelayHold *h, RelayEdit *edit);

/* For a daemon that ends: answers all that is in flight with UNAVAILABLE and writes it out, for at most @timeout_usec. */
void relay_finish(Relay *r, const char *text, uint64_t timeout_usec);

/* For the next process: all that can be stored, the rest is finished as above. A storer adds what its restorer reads for one
 * connection; the restorer's failure is that of the whole. */
typedef void (*RelayConnStorer)(const Channel *channel, Handover *h, void *userdata);
typedef int (*RelayConnRestorer)(Channel *channel, Handover *h, void *userdata);

void relay_store(Relay *r, Handover *h, const char *text, uint64_t timeout_usec, RelayConnStorer storer);

/* For a new relay; @userdata is the keeper's, for the upstream's session. Returns 0, -EBADMSG, -ENOMEM, …; the relay is of no more use
 * then. */
int relay_restore(Relay *r, Handover *h, const ChannelKeeper *keeper, void *userdata, RelayConnRestorer restorer);

/* relay_set_counters() - where it counts from now on, beginning with what is there; borrowed, outlives the relay */
void relay_set_counters(Relay *r, uint64_t counters[static _RELAY_COUNTER_MAX]);

size_t relay_get_n_connections(const Relay *r);
size_t relay_get_n_calls(const Relay *r);
size_t relay_get_memory(const Relay *r);        /* bytes in queues and of half-read frames, all connections; for tests */
