/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the server share: server-call.c has the calls and their answers, server.c the connections and the server as a whole. */
#pragma once

#include "basic/listeners.h"
#include "ttrpc/deadline.h"
#include "ttrpc/frame.h"
#include "ttrpc/reader.h"
#include "ttrpc/server.h"
#include "ttrpc/silent.h"
#include "ttrpc/writer.h"

#define SERVER_CALL_BUCKETS 64

/* Texts of the Go server, which clients show to people (containerd/ttrpc: server.go, services.go, channel.go). */
#define TEXT_OVERSIZE "message length %zu exceed maximum message size of %u"
#define TEXT_DEADLINE "context deadline exceeded"

typedef struct Connection Connection;

typedef struct Service {
        struct Service *next;
        const TtrpcMethod *methods;     /* borrowed */
        void *userdata;                 /* borrowed */
        char name[];
} Service;

struct TtrpcServer {
        sd_event *event;
        Service *services;
        Listeners listeners;
        uid_t *uids;
        size_t n_uids;
        TtrpcServerLimits limits;
        TtrpcDeadlines deadlines;
        Connection *connections;
        unsigned n_connections;
        SilentPeers silent;             /* of these */
        unsigned n_calls;

        bool draining;
        sd_event_source *drain_timer;
        sd_event_source *drain_done;
        void (*drained)(TtrpcServer *s, void *userdata);
        void *drained_userdata;
};

struct Connection {
        TtrpcServer *server;            /* borrowed */
        Connection *next, *previous;
        int fd;
        sd_event_source *source;
        sd_event_source *linger;
        uint32_t events;                /* what the source waits for */
        TtrpcReader reader;
        TtrpcWriter writer;
        TtrpcServerLimits limits;
        TtrpcCall *calls[SERVER_CALL_BUCKETS];
        unsigned n_calls;
        struct ucred cred;
        bool has_cred;
        bool corked;                    /* frames are being taken: answers gather */
        bool blocked;                   /* the socket takes no more; EPOLLOUT will tell */
        bool held;                      /* too much is queued: no more frames are taken */
        bool ended;                     /* the peer sends no more: what is queued goes out, then we close */
        bool broken;                    /* writing failed: nothing is written any more */
        SilentPeer silent;
};

struct TtrpcCall {
        unsigned n_ref;
        Connection *connection;         /* NULL once the call is over */
        TtrpcCall *next;                /* in its bucket */
        uint32_t stream_id;
        bool answered;                  /* by the user */
        TtrpcDeadline deadline;
        uint64_t deadline_usec;
        TtrpcCancelled cancelled;
        void *cancelled_userdata;
        struct ucred cred;
        bool has_cred;
        const char *service, *method;   /* in data[] */
        size_t metadata_size;
        const char *metadata;           /* in data[]: key, NUL, value, NUL, and so on; keys in lower case */
        char data[];
};

/* Calls and their answers: server-call.c. */
TtrpcCall* server_connection_find_call(Connection *c, uint32_t stream_id);
int server_call_new(Connection *c, uint32_t stream_id, const Service *service, const TtrpcMethod *method, const TtrpcRequest *request,
                    size_t metadata_size, TtrpcCall **ret);
size_t server_request_metadata_size(const TtrpcRequest *request);
void server_call_end(TtrpcCall *call);                          /* out of the table, which drops its reference */
void server_call_tell_cancelled(TtrpcCall *call, int reason);   /* runs users' code */
void server_call_refuse(TtrpcCall *call, TtrpcCode code, const char *text);
void server_on_deadline(TtrpcDeadline *d, void *userdata);
void server_connection_flush(Connection *c);
void server_connection_send_status(Connection *c, uint32_t stream_id, TtrpcCode code, const char *text);
void server_connection_send_statusf(Connection *c, uint32_t stream_id, TtrpcCode code, const char *format, ...) PRINTF(4, 5);

/* Connections: server.c. */
void server_connection_close_if_drained(Connection *c);         /* while draining; that runs nobody's code */
void server_connection_update_events(Connection *c);
