/* SPDX-License-Identifier: Apache-2.0 */
/* A ttrpc server on sd-event: sockets in, calls to handlers, answers out. Loop thread only.
 *
 * Every call is answered exactly once, or its peer is gone. A handler answers before it returns, or takes a reference with
 * ttrpc_call_ref() and answers later:
 *
 *         static int method_start(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
 *                 … r = ttrpc_call_unpack(call, &hypervisor__start_vmrequest__descriptor, payload, size, &message);
 *                 if (r < 0)
 *                         return r;                                 already answered
 *                 … return ttrpc_call_reply_status(call, TTRPC_NOT_FOUND, "no sandbox '%s'", id);
 *         or
 *                 ttrpc_call_set_cancelled_handler(call, start_cancelled, s);
 *                 s->call = ttrpc_call_ref(call);
 *                 return 0;
 *
 * A call that nobody answers cannot get lost: a negative return of the handler becomes a status, and when the last reference
 * is dropped without an answer the server gives one itself. An answer to a call that is over (peer gone, deadline passed) is
 * dropped silently, so a handler need not track what the peer does.
 *
 * Limits protect the process from any peer: connections, calls in flight, bytes waiting to be written. What waits for a slow
 * peer stops that peer's reading only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "basic/util.h"
#include "ttrpc/envelope.h"
#include "ttrpc/status.h"

typedef struct ProtobufCMessage ProtobufCMessage;
typedef struct ProtobufCMessageDescriptor ProtobufCMessageDescriptor;
typedef struct TtrpcServer TtrpcServer;
typedef struct TtrpcCall TtrpcCall;

/* A handler: @payload is borrowed and valid until it returns. Negative = answer with ttrpc_code_from_errno() and the errno's
 * text, unless the call is answered already. */
typedef int (*TtrpcHandler)(TtrpcCall *call, const void *payload, size_t size, void *userdata);

/* Called once if the call ends before it is answered. @reason: -ECANCELED the peer is gone or the server is freed,
 * -ETIMEDOUT the deadline has passed, -EPROTO the peer broke the stream's rules. With -ETIMEDOUT it may still answer here;
 * if it does not, the server answers DEADLINE_EXCEEDED. Drop the reference here or whenever the work is really over. */
typedef void (*TtrpcCancelled)(TtrpcCall *call, int reason, void *userdata);

typedef struct TtrpcMethod {
        const char *name;               /* "CreateVM"; NULL ends the table */
        TtrpcHandler handler;
} TtrpcMethod;

typedef struct TtrpcServerLimits {
        unsigned n_connections_max;     /* with one more, the oldest that has made no call is closed; all have: it waits in the backlog */
        unsigned n_calls_max;           /* in flight on one connection; more are answered RESOURCE_EXHAUSTED */
        size_t output_high;             /* bytes waiting for one peer at which no more is read from it */
        size_t output_max;              /* … and at which answers are replaced by RESOURCE_EXHAUSTED */
        uint64_t linger_usec;           /* for answers in the queue when the peer has closed its side */
} TtrpcServerLimits;

#define TTRPC_SERVER_LIMITS_DEFAULT ((TtrpcServerLimits) {      \
                .n_connections_max = 256,                       \
                .n_calls_max = 1024,                            \
                .output_high = 1U << 20,                        \
                .output_max = 32U << 20,                        \
                .linger_usec = 5 * USEC_PER_SEC,                \
        })

#define TTRPC_METADATA_MAX (16U << 10)                  /* bytes of one call's metadata; more is RESOURCE_EXHAUSTED */
#define TTRPC_STATUS_TEXT_MAX (64U << 10)               /* bytes of a status text; more is cut off */

/**
 * ttrpc_server_new() - a server without services and sockets
 * @event: referenced
 *
 * Returns 0, -ENOMEM.
 */
int ttrpc_server_new(sd_event *event, TtrpcServer **ret);

/**
 * ttrpc_server_free() - close everything at once
 *
 * Calls in flight are cancelled (-ECANCELED); references to them stay valid and answer into the void. Must not be called from
 * a handler or a cancelled callback. NULL is fine, returns NULL.
 */
TtrpcServer* ttrpc_server_free(TtrpcServer *s);
DEFINE_CLEANUP(TtrpcServer*, ttrpc_server_free);

/**
 * ttrpc_server_add_service() - serve the methods of one service
 * @name:     full name, "hypervisor.Hypervisor"; copied
 * @methods:  table ended by a NULL name; borrowed, outlives the server
 * @userdata: for the handlers
 *
 * Returns 0, -EEXIST, -ENOMEM.
 */
int ttrpc_server_add_service(TtrpcServer *s, const char *name, const TtrpcMethod *methods, void *userdata);

/* For connections made from now on. */
void ttrpc_server_set_limits(TtrpcServer *s, const TtrpcServerLimits *limits);

/**
 * ttrpc_server_allow_uid() - admit only peers with this user id, or one of those named in other calls
 *
 * Without any, everybody who could connect is admitted: file permissions decide. With one, sockets that are not AF_UNIX are
 * refused. Returns 0, -ENOMEM.
 */
int ttrpc_server_allow_uid(TtrpcServer *s, uid_t uid);

/**
 * ttrpc_server_add_listen_fd() - accept connections from a listening stream socket
 * @fd: taken, on failure too; made non-blocking
 *
 * Returns 0, -E2BIG (LISTENERS_MAX), or what fcntl and epoll say.
 */
int ttrpc_server_add_listen_fd(TtrpcServer *s, int fd);

/**
 * ttrpc_server_add_connection_fd() - serve a connected stream socket
 * @fd: taken, on failure too; made non-blocking
 *
 * Not counted against n_connections_max for admission. Returns 0, -EPERM (user id), -ESHUTDOWN (draining), -ENOMEM, ….
 */
int ttrpc_server_add_connection_fd(TtrpcServer *s, int fd);

/**
 * ttrpc_server_drain() - end in good order
 * @timeout_usec: relative; what is not answered by then is cut off
 * @done:         called once from the loop when no connection is left, not before this function has returned
 *
 * Closes the listening sockets and idle connections at once; the others close when their last call is answered and written.
 * New calls are answered UNAVAILABLE. Returns 0, -EALREADY, -ENOMEM.
 */
int ttrpc_server_drain(TtrpcServer *s, uint64_t timeout_usec, void (*done)(TtrpcServer *s, void *userdata), void *userdata);

unsigned ttrpc_server_get_n_connections(const TtrpcServer *s);
unsigned ttrpc_server_get_n_calls(const TtrpcServer *s);

TtrpcCall* ttrpc_call_ref(TtrpcCall *call);
/* Without an answer so far, dropping the last reference answers UNKNOWN "ttrpc: marshal called with nil", as the Go server does
 * for a handler that returns nothing. NULL is fine, returns NULL. */
TtrpcCall* ttrpc_call_unref(TtrpcCall *call);
DEFINE_CLEANUP(TtrpcCall*, ttrpc_call_unref);

/**
 * ttrpc_call_reply() - answer OK with a serialized message
 * @payload: borrowed; copied only if the socket does not take it now
 *
 * Returns 0 when the answer is on its way or nobody waits for it any more. -EALREADY: it was answered by us before, an error of
 * the handler. -EMSGSIZE, -ENOBUFS (output_max), -ENOMEM: the peer got RESOURCE_EXHAUSTED instead, if that was possible.
 */
int ttrpc_call_reply(TtrpcCall *call, const void *payload, size_t size);

/* The same, packing the message where it goes out from. */
int ttrpc_call_reply_message(TtrpcCall *call, const ProtobufCMessage *message);

/**
 * ttrpc_call_reply_status() - answer with an error
 * @code:   not TTRPC_OK
 * @format: text for the person who reads the caller's log; no secrets. Bytes that are not UTF-8 become '?'.
 */
int ttrpc_call_reply_status(TtrpcCall *call, TtrpcCode code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/**
 * ttrpc_call_unpack() - the request's message, or an answer that says why not
 * @ret: to be freed with the type's …__free_unpacked(…, NULL) or proto_freep()
 *
 * Memory is bounded whatever the bytes say (proto/proto.h). Returns 0; negative = the call is answered: INTERNAL "ttrpc: error
 * unmarshalling payload: …" or RESOURCE_EXHAUSTED; return the value from the handler.
 */
int ttrpc_call_unpack(TtrpcCall *call, const ProtobufCMessageDescriptor *type, const void *payload, size_t size,
                      ProtobufCMessage **ret);

/* Replaces what was set before; @handler NULL for none. If the call is over already it is not called. */
void ttrpc_call_set_cancelled_handler(TtrpcCall *call, TtrpcCancelled handler, void *userdata);

/* Is somebody still waiting for an answer? */
bool ttrpc_call_is_active(const TtrpcCall *call);

const char* ttrpc_call_get_service(const TtrpcCall *call);
const char* ttrpc_call_get_method(const TtrpcCall *call);

/* On CLOCK_MONOTONIC; USEC_INFINITY = none. */
uint64_t ttrpc_call_get_deadline_usec(const TtrpcCall *call);

/* The first value of a key, in any case of letters; NULL if there is none. Lives as long as the call. */
const char* ttrpc_call_get_metadata(const TtrpcCall *call, const char *key);

/* SO_PEERCRED of the connection, from when it was made. Returns 0, -ENODATA if the socket has none. */
int ttrpc_call_get_peer_cred(const TtrpcCall *call, struct ucred *ret);
