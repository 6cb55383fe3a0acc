/* SPDX-License-Identifier: Apache-2.0 */
/* A gRPC server for unary calls on the event loop: a path and the bytes of a message come in, a status and the bytes of a message go out. What
 * the bytes mean is the handler's business.
 *
 * What a peer can make us keep is bounded: connections, calls of each, bytes of a message and of all that arrive at once, the time that a
 * message may take to arrive, bytes of the answers that are not taken, and the time that each has to be taken. Loop thread only. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "kube/csi/grpc-wire.h"

typedef struct GrpcCall GrpcCall;
typedef struct GrpcServer GrpcServer;

#define GRPC_CONNECTIONS_MAX 32U                /* with one more, the one that has been idle for the longest time is ended */
#define GRPC_STREAMS_MAX 64U                    /* of one connection */
#define GRPC_INPUT_MAX (32U << 20)              /* bytes of all messages that are not complete, or not answered yet */
#define GRPC_OUTPUT_MAX (32U << 20)             /* bytes of all answers that are not taken yet; with more, only small ones are given */
#define GRPC_SMALL_MAX (4U << 10)

typedef struct GrpcServerSpec {
        /* A call has come, complete. Answers it by grpc_call_reply(), now or later. */
        void (*on_call)(GrpcCall *call, void *userdata);
        /* Nobody waits for the answer of a call that was handed out: the client has gone or given up, or the time is over. The call is gone
         * when this returns. */
        void (*on_cancelled)(GrpcCall *call, void *userdata);
        /* From a call's first byte to its last; and again for its answer to be taken, or the connection is closed. 0: 30 s */
        uint64_t receive_usec;
} GrpcServerSpec;

/* grpc_server_new() - serve connections of @fd, a listening stream socket, which is taken, on failure too. Returns 0 or -errno. */
int grpc_server_new(sd_event *event, int fd, const GrpcServerSpec *spec, void *userdata, GrpcServer **ret);
GrpcServer* grpc_server_free(GrpcServer *s);    /* without on_cancelled */
DEFINE_CLEANUP(GrpcServer*, grpc_server_free);

unsigned grpc_server_n_calls(const GrpcServer *s);      /* that wait for an answer of ours */

/* All borrowed, until the answer. */
const char* grpc_call_path(const GrpcCall *call);       /* "/csi.v1.Identity/Probe" */
const uint8_t* grpc_call_message(const GrpcCall *call, size_t *ret_size);
uint64_t grpc_call_deadline(const GrpcCall *call);      /* CLOCK_MONOTONIC µs, or USEC_INFINITY */
void grpc_call_set_userdata(GrpcCall *call, void *userdata);
void* grpc_call_userdata(const GrpcCall *call);

/**
 * grpc_call_reply() - answer, and end, a call
 * @text:    for people, with a code that is not OK; may be NULL
 * @details: header grpc-status-details-bin as another server sent it, or NULL
 * @data:    the message, with OK only; copied
 */
void grpc_call_reply(GrpcCall *call, TtrpcCode code, const char *text, const char *details, const void *data, size_t size);
