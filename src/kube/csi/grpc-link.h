/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP/2 session of libnghttp2 on a stream socket in the event loop; server and client of gRPC embed it. */
#pragma once

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <systemd/sd-event.h>

#define GRPC_HEADER_LIST_MAX (16U << 10)

typedef struct GrpcLink GrpcLink;

struct GrpcLink {
        sd_event_source *io;            /* owns the socket */
        sd_event_source *stalled;       /* the peer does not read: armed while there is something to write */
        nghttp2_session *session;
        uint8_t *output;                /* allocated, what nghttp2 wanted to have sent and the socket did not take */
        size_t output_size, output_sent;
        void (*over)(GrpcLink *l, int error);
};

#define GRPC_LINK_NULL ((GrpcLink) {})

/**
 * grpc_link_init() - open a session
 * @fd:         connected stream socket, taken, on failure too
 * @callbacks:  copied; their user_data is @l
 * @n_streams:  what the peer may have open at once
 * @over:       the session is over: 0 = by both sides' will, else -errno. Called from the loop as the last thing; may free what @l is in
 *
 * Returns 0 or -errno; grpc_link_done() is fine in any case.
 */
int grpc_link_init(GrpcLink *l, sd_event *event, int fd, bool server, const nghttp2_session_callbacks *callbacks, uint32_t n_streams,
                   void (*over)(GrpcLink *l, int error));
void grpc_link_done(GrpcLink *l);

/* grpc_link_kick() - something was submitted from outside of the callbacks: have it sent from the loop */
void grpc_link_kick(GrpcLink *l);

int grpc_h2_to_errno(int error);        /* libnghttp2's numbers */
