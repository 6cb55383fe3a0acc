/* SPDX-License-Identifier: Apache-2.0 */
/* A gRPC client for unary calls on the event loop: all calls share one connection to a UNIX socket, made when the first one needs it, and again
 * when it was lost or the server wants it ended.
 *
 * A socket that is not there, or full, is tried again with growing pauses; calls wait for it, but not for longer than GRPC_CONNECT_USEC and
 * their own deadlines. A call that was sent is never sent twice. Loop thread only. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "kube/csi/grpc-wire.h"

typedef struct GrpcClient GrpcClient;
typedef struct GrpcRequest GrpcRequest;

#define GRPC_REQUESTS_MAX 1024U
#define GRPC_CONNECT_USEC (3 * UINT64_C(1000000))
#define GRPC_DETAILS_MAX 4096U          /* grpc-status-details-bin; a longer one is dropped */

typedef struct GrpcReply {
        TtrpcCode code;
        const char *text;               /* never NULL */
        const char *details;            /* or NULL */
        const uint8_t *data;            /* with OK only */
        size_t size;
} GrpcReply;

/* All in @reply is borrowed; the request is gone when this returns. May begin and cancel others. */
typedef void (*GrpcReplyHandler)(const GrpcReply *reply, void *userdata);

/* grpc_client_new() - connects to nothing yet; @path is copied. Returns 0, -ENAMETOOLONG, -ENOMEM, or what sd-event says. */
int grpc_client_new(sd_event *event, const char *path, GrpcClient **ret);
GrpcClient* grpc_client_free(GrpcClient *c);    /* cancels all requests */
DEFINE_CLEANUP(GrpcClient*, grpc_client_free);

const char* grpc_client_path(const GrpcClient *c);

/**
 * grpc_client_call() - begin a call
 * @path:          "/csi.v1.Node/NodeStageVolume"; copied
 * @data:          the message, copied
 * @deadline_usec: CLOCK_MONOTONIC; USEC_INFINITY: none. The server is told what is left of it.
 * @handler:       called exactly once, from the loop and never from in here, unless the request is cancelled before
 * @ret:           for grpc_request_cancel(); may be NULL
 *
 * Returns 0, -EMSGSIZE, -EBUSY (GRPC_REQUESTS_MAX), -ENOMEM.
 */
int grpc_client_call(GrpcClient *c, const char *path, const void *data, size_t size, uint64_t deadline_usec, GrpcReplyHandler handler,
                     void *userdata, GrpcRequest **ret);

/* grpc_request_cancel() - the server is told; the handler is not called. Takes NULL, returns NULL. */
GrpcRequest* grpc_request_cancel(GrpcRequest *q);
