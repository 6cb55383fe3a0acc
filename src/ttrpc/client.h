/* SPDX-License-Identifier: Apache-2.0 */
/* A ttrpc client on sd-event: any number of calls on one connection. Loop thread only.
 *
 * A handler is called exactly once for each call that was begun, from the loop and never from inside ttrpc_client_call(),
 * unless its slot is freed before. When the connection is lost, all calls fail with -ENOTCONN and UNAVAILABLE; the client is then of no
 * more use but to be freed. There is no message for "cancel" in ttrpc: a call that is given up goes on at the peer, and what
 * it answers is dropped; only closing the connection stops it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/util.h"
#include "ttrpc/envelope.h"
#include "ttrpc/status.h"

typedef struct ProtobufCMessage ProtobufCMessage;
typedef struct ProtobufCMessageDescriptor ProtobufCMessageDescriptor;
typedef struct TtrpcClient TtrpcClient;
typedef struct TtrpcSlot TtrpcSlot;

typedef struct TtrpcReply {
        /* 0 = OK; -EREMOTEIO = the peer answered with a status; else what happened here: -ETIMEDOUT, -ENOTCONN (connection
         * lost), -EBADMSG (answer unreadable), -EPROTO (Data frame on a unary stream), -EMSGSIZE (answer too big) */
        int error;
        int32_t code;                   /* TtrpcCode that goes with it; from the peer it may be any number */
        const char *message;            /* text that goes with it, the peer's or ours; never NULL */
        const uint8_t *payload;         /* the serialized message if OK */
        size_t size;
} TtrpcReply;

/* All in @reply is borrowed and valid until the handler returns. May free slots and begin calls; may free the client. */
typedef void (*TtrpcReplyHandler)(TtrpcClient *client, const TtrpcReply *reply, void *userdata);

#define TTRPC_CLIENT_CALLS_MAX 4096             /* in flight on one connection: -EBUSY */
#define TTRPC_CLIENT_OUTPUT_MAX (32U << 20)     /* bytes waiting to be written: -ENOBUFS */

/**
 * ttrpc_client_new() - a client on a connected stream socket
 * @event: referenced; NULL makes a loop of the client's own, for ttrpc_client_call_sync() in programs without one
 * @fd:    taken, on failure too; made non-blocking
 *
 * Returns 0, -ENOMEM, or what fcntl and epoll say.
 */
int ttrpc_client_new(sd_event *event, int fd, TtrpcClient **ret);

/* The same, connecting to a UNIX socket first; "@name" is abstract. Returns what socket() and connect() say too, -ENAMETOOLONG. */
int ttrpc_client_new_unix(sd_event *event, const char *path, TtrpcClient **ret);

/* Closes the connection. Calls in flight end without their handlers being called. NULL is fine, returns NULL. */
TtrpcClient* ttrpc_client_free(TtrpcClient *c);
DEFINE_CLEANUP(TtrpcClient*, ttrpc_client_free);

/**
 * ttrpc_client_set_closed_handler() - be told once when the connection is lost
 *
 * Called from the loop after the handlers of all calls; @error says why: -ENOTCONN the peer closed, -EBADMSG it does not
 * speak ttrpc, else an errno of the socket. May free the client.
 */
void ttrpc_client_set_closed_handler(TtrpcClient *c, void (*handler)(TtrpcClient *c, int error, void *userdata), void *userdata);

/**
 * ttrpc_client_call() - begin a unary call
 * @payload:      serialized message, borrowed; copied only if the socket does not take it now
 * @timeout_usec: relative, sent to the peer and kept here; 0 or USEC_INFINITY = none
 * @metadata:     array ended by a NULL key, or NULL
 * @handler:      gets the answer
 * @ret_slot:     NULL: the call ends by itself. Else ttrpc_slot_free() gives the call up, and must be called in any case.
 *
 * Returns 0; -EMSGSIZE (more than TTRPC_DATA_MAX; the connection lives), -EBUSY, -ENOBUFS, -ENOTCONN (connection lost), -EOVERFLOW
 * (2^30 calls: make a new connection), -ENOMEM. The handler is not called then.
 */
int ttrpc_client_call(TtrpcClient *c, const char *service, const char *method, const void *payload, size_t size,
                      uint64_t timeout_usec, const TtrpcMetadata *metadata,
                      TtrpcReplyHandler handler, void *userdata, TtrpcSlot **ret_slot);

/* The same, packing the message where it goes out from. */
int ttrpc_client_call_message(TtrpcClient *c, const char *service, const char *method, const ProtobufCMessage *message,
                              uint64_t timeout_usec, const TtrpcMetadata *metadata,
                              TtrpcReplyHandler handler, void *userdata, TtrpcSlot **ret_slot);

/* Gives the call up if it is not over; its handler is not called any more. NULL is fine, returns NULL. */
TtrpcSlot* ttrpc_slot_free(TtrpcSlot *slot);
DEFINE_CLEANUP(TtrpcSlot*, ttrpc_slot_free);

/* The answer of a call that was waited for: as TtrpcReply, with memory of its own. */
typedef struct TtrpcResult {
        int error;
        int32_t code;
        char *message;
        uint8_t *payload;
        size_t size;
} TtrpcResult;

#define TTRPC_RESULT_NULL ((TtrpcResult) {})
void ttrpc_result_done(TtrpcResult *r);

/**
 * ttrpc_client_call_sync() - make a call and run the client's loop until it is answered
 * @ret: with a reason also when the call failed; ttrpc_result_done()
 *
 * For command-line tools and tests: other sources of the same loop are dispatched meanwhile. Not from a callback of that loop.
 * Returns ret->error, or why the call could not be begun or waited for (ret->code and ret->message say so too).
 */
int ttrpc_client_call_sync(TtrpcClient *c, const char *service, const char *method, const void *payload, size_t size,
                           uint64_t timeout_usec, const TtrpcMetadata *metadata, TtrpcResult *ret);

/**
 * ttrpc_client_call_message_sync() - the same with messages
 * @type:        of the answer; may be NULL, then @ret_message is not touched
 * @ret_message: to be freed with …__free_unpacked(…, NULL) or proto_freep(); set only if 0 is returned
 * @ret:         may be NULL
 */
int ttrpc_client_call_message_sync(TtrpcClient *c, const char *service, const char *method, const ProtobufCMessage *message,
                                   uint64_t timeout_usec, const TtrpcMetadata *metadata,
                                   const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret_message, TtrpcResult *ret);

/* Is the connection still good? */
bool ttrpc_client_is_connected(const TtrpcClient *c);
unsigned ttrpc_client_get_n_calls(const TtrpcClient *c);
