/* SPDX-License-Identifier: Apache-2.0 */
/* The server's side of ttrpc.
 *
 * Who owns what. The server owns its connections, a connection owns one reference to each call in its table. A call is *active*
 * as long as it is in the table, and leaves it by call_end(): answered, out of time, refused, or with the connection. After that
 * call->connection is NULL and every answer to it is dropped. Users' references keep the memory of a call, nothing else.
 *
 * Who may close a connection. Users' code runs inside it (handlers), and closing runs users' code (cancelled callbacks). So only
 * the loop's own callbacks close connections that have calls. Where writing fails inside a user's ttrpc_call_reply(), the socket is
 * shut down instead, and the loop finds it at its end.
 *
 * Back-pressure. While frames are taken from the reader, answers gather in the writer ("corked") and leave in one system call;
 * big ones go straight from the handler's memory. When the socket takes no more, answers queue up to output_high, then
 * no further frame is taken nor byte read until the peer has read half of it. What handlers answer later still queues, up
 * to output_max. Invariant: n_bytes <= output_max + one status per call.
 */
#include "ttrpc/server.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>
#include <sys/epoll.h>

#include "basic/io.h"
#include "basic/log.h"
#include "proto/proto.h"
#include "ttrpc/deadline.h"
#include "ttrpc/frame.h"
#include "ttrpc/reader.h"
#include "ttrpc/silent.h"
#include "ttrpc/utf8.h"
#include "ttrpc/writer.h"

#define N_BUCKETS 64
#define DIRECT_MIN (16U << 10)          /* a payload as big as this is not copied if the socket takes it */
#define CORK_MAX (64U << 10)            /* so much gathers before it is written in between */

/* Texts of the Go server, which clients show to people (containerd/ttrpc: server.go, services.go, channel.go). */
#define TEXT_EVEN_ID "StreamID must be odd for client initiated streams"
#define TEXT_USED_ID "StreamID cannot be re-used and must increment"
#define TEXT_NO_STREAM "StreamID is no longer active"
#define TEXT_OVERSIZE "message length %zu exceed maximum message size of %u"
#define TEXT_BAD_REQUEST "unmarshal request error: proto: cannot parse invalid wire-format data"
#define TEXT_BAD_PAYLOAD "ttrpc: error unmarshalling payload: proto: cannot parse invalid wire-format data"
#define TEXT_NO_ANSWER "ttrpc: marshal called with nil"
#define TEXT_DEADLINE "context deadline exceeded"

typedef struct Connection Connection;

typedef struct Service {
        struct Service *next;
        const TtrpcMethod *methods;     /* borrowed */
        void *userdata;                 /* borrowed */
        char name[];
} Service;

typedef struct Listener {
        TtrpcServer *server;            /* borrowed */
        int fd;
        sd_event_source *source;
} Listener;

struct TtrpcServer {
        sd_event *event;
        Service *services;
        Listener listeners[TTRPC_LISTEN_MAX];
        unsigned n_listeners;
        sd_event_source *accept_pause;  /* enabled while the machine has no room for another connection */
        bool accepting;
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
        TtrpcCall *calls[N_BUCKETS];
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

static void connection_close(Connection *c);
static void connection_update_events(Connection *c);
static void connection_close_if_drained(Connection *c);
static void server_update_accepting(TtrpcServer *s);

/* Calls */

static TtrpcCall** connection_bucket(Connection *c, uint32_t stream_id) {
        return &c->calls[(stream_id >> 1) % N_BUCKETS];
}

static TtrpcCall* connection_find_call(Connection *c, uint32_t stream_id) {
        TtrpcCall *call;

        for (call = *connection_bucket(c, stream_id); call; call = call->next)
                if (call->stream_id == stream_id)
                        break;

        return call;
}

/* Takes the call out of the table and gives the table's reference back. */
static void call_end(TtrpcCall *call) {
        Connection *c = call->connection;
        TtrpcCall **p;

        for (p = connection_bucket(c, call->stream_id); *p != call; p = &(*p)->next)
                ;
        *p = call->next;
        c->n_calls--;
        c->server->n_calls--;
        ttrpc_deadlines_remove(&c->server->deadlines, &call->deadline);
        call->connection = NULL;
        ttrpc_call_unref(call);
}

/* Tells the user, once, that nobody waits for the answer any more or will not for long. The caller holds a reference. */
static void call_tell_cancelled(TtrpcCall *call, int reason) {
        TtrpcCancelled cancelled = TAKE_PTR(call->cancelled);

        if (cancelled)
                cancelled(call, reason, call->cancelled_userdata);
}

static size_t request_metadata_size(const TtrpcRequest *request) {
        TtrpcSlice key, value;
        size_t size = 0;

        for (size_t offset = 0; ttrpc_request_next_metadata(request, &offset, &key, &value) > 0;)
                size += key.size + value.size + 2;

        return size;
}

static void copy_metadata(const TtrpcRequest *request, char *p) {
        TtrpcSlice key, value;

        for (size_t offset = 0; ttrpc_request_next_metadata(request, &offset, &key, &value) > 0;) {
                /* A NUL inside would shift all that comes behind it. */
                for (size_t i = 0; i < key.size; i++)
                        *p++ = key.data[i] >= 'A' && key.data[i] <= 'Z' ? key.data[i] + ('a' - 'A') : key.data[i] ?: '?';
                *p++ = 0;
                for (size_t i = 0; i < value.size; i++)
                        *p++ = value.data[i] ?: '?';
                *p++ = 0;
        }
}

static uint64_t server_now(TtrpcServer *s) {
        uint64_t usec;

        return sd_event_now(s->event, CLOCK_MONOTONIC, &usec) >= 0 ? usec : now_usec(CLOCK_MONOTONIC);
}

static int call_new(Connection *c, uint32_t stream_id, const Service *service, const TtrpcMethod *method,
                    const TtrpcRequest *request, size_t metadata_size, TtrpcCall **ret) {
        size_t service_size = strlen(service->name) + 1, method_size = strlen(method->name) + 1;
        TtrpcCall *call, **bucket;
        int r;

        call = malloc(sizeof(TtrpcCall) + service_size + method_size + metadata_size);
        if (!call)
                return -ENOMEM;
        *call = (TtrpcCall) {
                .n_ref = 1,             /* the table's */
                .connection = c,
                .stream_id = stream_id,
                .deadline_usec = USEC_INFINITY,
                .cred = c->cred,
                .has_cred = c->has_cred,
                .service = call->data,
                .method = call->data + service_size,
                .metadata = call->data + service_size + method_size,
                .metadata_size = metadata_size,
        };
        memcpy(call->data, service->name, service_size);
        memcpy(call->data + service_size, method->name, method_size);
        if (metadata_size > 0)
                copy_metadata(request, call->data + service_size + method_size);

        if (request->timeout_nano > 0) {
                uint64_t usec = ((uint64_t) request->timeout_nano + NSEC_PER_USEC - 1) / NSEC_PER_USEC;

                call->deadline_usec = usec_add(server_now(c->server), usec);
                r = ttrpc_deadlines_add(&c->server->deadlines, &call->deadline, call->deadline_usec);
                if (r < 0) {
                        free(call);
                        return r;
                }
        }

        bucket = connection_bucket(c, stream_id);
        call->next = *bucket;
        *bucket = call;
        c->n_calls++;
        c->server->n_calls++;

        *ret = call;
        return 0;
}

TtrpcCall* ttrpc_call_ref(TtrpcCall *call) {
        assert(call->n_ref > 0);
        call->n_ref++;
        return call;
}

/* Writing */

/* Nothing can be written any more. The loop finds the end of the stream and closes; see the top. */
static void connection_break(Connection *c, int error) {
        if (c->broken)
                return;

        log_debug_errno(error, "Failed to write to ttrpc peer, giving the connection up: %m");
        c->broken = true;
        c->blocked = false;
        ttrpc_writer_done(&c->writer);
        (void) shutdown(c->fd, SHUT_RDWR);
        connection_update_events(c);
}

/* Takes the result of writing to the socket. */
static void connection_written(Connection *c, int r) {
        if (r < 0) {
                connection_break(c, r);
                return;
        }

        c->blocked = r > 0;
        if (!c->corked)
                connection_update_events(c);
}

static void connection_flush(Connection *c) {
        if (c->writer.n_bytes > 0)
                connection_written(c, ttrpc_writer_flush(&c->writer, c->fd));
}

/* After a frame was queued: write now, or leave it to the end of the batch or to EPOLLOUT. */
static void connection_queued(Connection *c) {
        if (!c->blocked && (!c->corked || c->writer.n_bytes >= CORK_MAX))
                connection_flush(c);
}

/* One Response frame. With @message, it is packed where response->payload would be copied to. Returns 0, -ENOMEM with nothing
 * written, or -EMSGSIZE, -ENOBUFS. */
static int connection_send_response(Connection *c, uint32_t stream_id, const TtrpcResponse *response,
                                    const ProtobufCMessage *message) {
        size_t head_size = ttrpc_response_head_size(response), size = head_size + response->payload.size;
        uint8_t *p;
        int r;

        if (c->broken)
                return 0;
        if (size > TTRPC_DATA_MAX)
                return -EMSGSIZE;
        if (response->code == 0 && c->writer.n_bytes + size > c->limits.output_max)
                return -ENOBUFS;

        bool direct = !message && !c->blocked && response->payload.size >= DIRECT_MIN;

        r = ttrpc_writer_reserve(&c->writer, TTRPC_HEADER_SIZE + (direct ? head_size : size), &p);
        if (r < 0)
                return r;

        p = ttrpc_header_write(&(TtrpcHeader) { .length = size, .stream_id = stream_id, .type = TTRPC_TYPE_RESPONSE }, p);
        p = ttrpc_response_write_head(response, p);
        if (direct) {
                struct iovec iov = { .iov_base = (void*) response->payload.data, .iov_len = response->payload.size };

                ttrpc_writer_commit(&c->writer, TTRPC_HEADER_SIZE + head_size);
                connection_written(c, ttrpc_writer_send(&c->writer, c->fd, &iov, 1));
                return 0;
        }

        if (message) {
                size_t n = protobuf_c_message_pack(message, p);
                assert(n == response->payload.size);
        } else if (size > head_size)
                memcpy(p, response->payload.data, response->payload.size);
        ttrpc_writer_commit(&c->writer, TTRPC_HEADER_SIZE + size);
        connection_queued(c);
        return 0;
}

/* When there is not even memory for a status the peer would wait for ever, so it loses the connection. */
static void connection_send_status(Connection *c, uint32_t stream_id, TtrpcCode code, const char *text) {
        TtrpcResponse response = { .code = code, .message = ttrpc_slice(text) };
        int r;

        r = connection_send_response(c, stream_id, &response, NULL);
        if (r < 0)
                connection_break(c, r);
}

PRINTF(4, 0)
static void connection_send_statusv(Connection *c, uint32_t stream_id, TtrpcCode code, const char *format, va_list ap) {
        _cleanup_(freep) char *text = NULL;
        size_t size;

        if (vasprintf(&text, format, ap) < 0) {
                text = NULL;
                connection_send_status(c, stream_id, code, "Out of memory for the error's text");
                return;
        }

        /* A client refuses a whole Response for one byte that is not UTF-8. */
        size = strlen(text);
        if (size > TTRPC_STATUS_TEXT_MAX)
                text[size = TTRPC_STATUS_TEXT_MAX] = 0;
        for (size_t i = 0, n; i < size; i += n) {
                n = utf8_sequence((const uint8_t*) text + i, size - i);
                if (n == 0) {
                        text[i] = '?';
                        n = 1;
                }
        }

        connection_send_status(c, stream_id, code, text);
}

PRINTF(4, 5)
static void connection_send_statusf(Connection *c, uint32_t stream_id, TtrpcCode code, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        connection_send_statusv(c, stream_id, code, format, ap);
        va_end(ap);
}

/* Ends an active call with the server's own answer. */
static void call_refuse(TtrpcCall *call, TtrpcCode code, const char *text) {
        Connection *c = call->connection;
        uint32_t stream_id = call->stream_id;

        call_end(call);
        connection_send_status(c, stream_id, code, text);
        connection_close_if_drained(c);
}

/* Begins an answer of the user's. Returns the connection to write it to; NULL with *ret = 0 if nobody waits for it. */
static Connection* call_begin_answer(TtrpcCall *call, int *ret) {
        *ret = call->answered ? -EALREADY : 0;
        if (call->answered || !call->connection)
                return NULL;

        call->answered = true;
        call->cancelled = NULL;
        return call->connection;
}

static int call_answer_ok(TtrpcCall *call, const TtrpcResponse *response, const ProtobufCMessage *message) {
        Connection *c;
        int r;

        c = call_begin_answer(call, &r);
        if (!c)
                return r;

        r = connection_send_response(c, call->stream_id, response, message);
        if (r == -EMSGSIZE)
                connection_send_statusf(c, call->stream_id, TTRPC_RESOURCE_EXHAUSTED, TEXT_OVERSIZE,
                                        ttrpc_response_head_size(response) + response->payload.size, TTRPC_DATA_MAX);
        else if (r < 0)
                connection_send_status(c, call->stream_id, TTRPC_RESOURCE_EXHAUSTED,
                                       r == -ENOBUFS ? "too many unread responses on this connection" :
                                                       "out of memory for the response");

        call_end(call);
        connection_close_if_drained(c);
        return r;
}

int ttrpc_call_reply(TtrpcCall *call, const void *payload, size_t size) {
        return call_answer_ok(call, &(TtrpcResponse) { .payload = { .data = payload, .size = size } }, NULL);
}

int ttrpc_call_reply_message(TtrpcCall *call, const ProtobufCMessage *message) {
        /* .data is never looked at: the message is packed in its place. */
        TtrpcResponse response = { .payload.size = protobuf_c_message_get_packed_size(message) };

        return call_answer_ok(call, &response, message);
}

int ttrpc_call_reply_status(TtrpcCall *call, TtrpcCode code, const char *format, ...) {
        Connection *c;
        va_list ap;
        int r;

        assert(code != TTRPC_OK);

        c = call_begin_answer(call, &r);
        if (!c)
                return r;

        va_start(ap, format);
        connection_send_statusv(c, call->stream_id, code, format, ap);
        va_end(ap);

        call_end(call);
        connection_close_if_drained(c);
        return 0;
}

int ttrpc_call_unpack(TtrpcCall *call, const ProtobufCMessageDescriptor *type, const void *payload, size_t size,
                      ProtobufCMessage **ret) {
        int r;

        r = proto_unpack(type, payload, size, ret);
        if (r == -EBADMSG)
                (void) ttrpc_call_reply_status(call, TTRPC_INTERNAL, "%s", TEXT_BAD_PAYLOAD);
        else if (r < 0)
                (void) ttrpc_call_reply_status(call, TTRPC_RESOURCE_EXHAUSTED,
                                               "ttrpc: error unmarshalling payload: too big in memory");

        return r;
}

TtrpcCall* ttrpc_call_unref(TtrpcCall *call) {
        if (!call)
                return NULL;

        assert(call->n_ref > 0);
        call->n_ref--;
        if (call->n_ref == 0)
                free(call);
        else if (call->n_ref == 1 && call->connection) {
                /* Only the table's reference is left: nobody is there to answer any more. */
                call->cancelled = NULL;
                call_refuse(call, TTRPC_UNKNOWN, TEXT_NO_ANSWER);
        }

        return NULL;
}

void ttrpc_call_set_cancelled_handler(TtrpcCall *call, TtrpcCancelled handler, void *userdata) {
        if (!call->connection)
                return;

        call->cancelled = handler;
        call->cancelled_userdata = userdata;
}

bool ttrpc_call_is_active(const TtrpcCall *call) {
        return call->connection;
}

const char* ttrpc_call_get_service(const TtrpcCall *call) {
        return call->service;
}

const char* ttrpc_call_get_method(const TtrpcCall *call) {
        return call->method;
}

uint64_t ttrpc_call_get_deadline_usec(const TtrpcCall *call) {
        return call->deadline_usec;
}

const char* ttrpc_call_get_metadata(const TtrpcCall *call, const char *key) {
        for (const char *p = call->metadata, *end = p + call->metadata_size; p < end;) {
                const char *value = p + strlen(p) + 1;

                if (strcasecmp(p, key) == 0)
                        return value;
                p = value + strlen(value) + 1;
        }

        return NULL;
}

int ttrpc_call_get_peer_cred(const TtrpcCall *call, struct ucred *ret) {
        if (!call->has_cred)
                return -ENODATA;

        *ret = call->cred;
        return 0;
}

static void on_deadline(TtrpcDeadline *d, void *userdata) {
        _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = ttrpc_call_ref(CONTAINER_OF(d, TtrpcCall, deadline));

        call_tell_cancelled(call, -ETIMEDOUT);
        if (call->connection)
                call_refuse(call, TTRPC_DEADLINE_EXCEEDED, TEXT_DEADLINE);
}

/* Frames */

static const Service* server_find_service(TtrpcServer *s, TtrpcSlice name) {
        const Service *service;

        for (service = s->services; service; service = service->next)
                if (ttrpc_slice_is(name, service->name))
                        break;

        return service;
}

static const TtrpcMethod* service_find_method(const Service *service, TtrpcSlice name) {
        for (const TtrpcMethod *m = service->methods; m->name; m++)
                if (ttrpc_slice_is(name, m->name))
                        return m;

        return NULL;
}

static void connection_dispatch_call(Connection *c, uint32_t stream_id, const Service *service, const TtrpcMethod *method,
                                     const TtrpcRequest *request, size_t metadata_size) {
        _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = NULL;
        int r;

        r = call_new(c, stream_id, service, method, request, metadata_size, &call);
        if (r < 0) {
                connection_send_status(c, stream_id, TTRPC_RESOURCE_EXHAUSTED, "out of memory for the call");
                return;
        }

        if (silent_remove(&c->server->silent, &c->silent))
                server_update_accepting(c->server);

        ttrpc_call_ref(call);   /* ours, beside the table's: the handler may end the call */
        r = method->handler(call, request->payload.data, request->payload.size, service->userdata);
        if (r < 0)
                (void) ttrpc_call_reply_status(call, ttrpc_code_from_errno(r), "%s", strerror(-r));
}

static void connection_handle_request(Connection *c, const TtrpcFrame *frame) {
        uint32_t id = frame->header.stream_id;
        const TtrpcMethod *method;
        const Service *service;
        TtrpcRequest request;
        size_t metadata_size;

        /* The Go server demands ids that grow. ttrpc-rust's client takes them from a counter and queues the frames afterwards, so
         * that concurrent calls may come in any order (containerd/ttrpc-rust: src/asynchronous/client.rs). */
        if (connection_find_call(c, id)) {
                connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_USED_ID);
                return;
        }

        if (ttrpc_request_parse(frame->data, frame->header.length, &request) < 0) {
                connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_BAD_REQUEST);
                return;
        }

        service = server_find_service(c->server, request.service);
        if (!service) {
                connection_send_statusf(c, id, TTRPC_UNIMPLEMENTED, "service %.*s",
                                        (int) request.service.size, (const char*) request.service.data);
                return;
        }

        method = service_find_method(service, request.method);
        if (!method) {
                connection_send_statusf(c, id, TTRPC_UNIMPLEMENTED, "method %.*s",
                                        (int) request.method.size, (const char*) request.method.data);
                return;
        }

        metadata_size = request_metadata_size(&request);
        if (request.timeout_nano < 0)
                connection_send_status(c, id, TTRPC_DEADLINE_EXCEEDED, TEXT_DEADLINE);
        else if (c->server->draining)
                connection_send_status(c, id, TTRPC_UNAVAILABLE, "server is shutting down");
        else if (c->n_calls >= c->limits.n_calls_max)
                connection_send_statusf(c, id, TTRPC_RESOURCE_EXHAUSTED, "more than %u calls in flight on this connection",
                                        c->limits.n_calls_max);
        else if (metadata_size > TTRPC_METADATA_MAX)
                connection_send_statusf(c, id, TTRPC_RESOURCE_EXHAUSTED, "metadata of %zu bytes exceed the maximum of %u",
                                        metadata_size, TTRPC_METADATA_MAX);
        else
                connection_dispatch_call(c, id, service, method, &request, metadata_size);
}

/* All methods here are unary. Data on a unary stream is refused as by the Rust server (containerd/ttrpc-rust:
 * src/asynchronous/server.rs); the Go server dereferences nil. A frame that carries nothing, as a client that believes in a
 * stream sends to close its side, is harmless. */
static void connection_handle_data(Connection *c, const TtrpcFrame *frame) {
        _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = NULL;
        uint32_t id = frame->header.stream_id;

        call = connection_find_call(c, id);
        if (!call) {
                connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_NO_STREAM);
                return;
        }

        ttrpc_call_ref(call);
        if (frame->header.flags & TTRPC_FLAG_NO_DATA)
                return;

        /* The answer that ends the stream is given away here, so the call ends too. */
        call_refuse(call, TTRPC_INVALID_ARGUMENT, "received data on a unary stream");
        call_tell_cancelled(call, -EPROTO);
}

static void connection_handle_frame(Connection *c, const TtrpcFrame *frame) {
        uint32_t id = frame->header.stream_id;

        if (frame->oversize)
                connection_send_statusf(c, id, TTRPC_RESOURCE_EXHAUSTED, TEXT_OVERSIZE,
                                        (size_t) frame->header.length, TTRPC_DATA_MAX);
        else if (id % 2 == 0)
                connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_EVEN_ID);
        else if (frame->header.type == TTRPC_TYPE_REQUEST)
                connection_handle_request(c, frame);
        else if (frame->header.type == TTRPC_TYPE_DATA)
                connection_handle_data(c, frame);
        /* Other types are passed over for the sake of later versions, as in the Go server. */
}

/* Connections */

static void server_update_accepting(TtrpcServer *s) {
        bool accepting;

        if (s->draining)
                return;         /* the listeners are closed */

        accepting = sd_event_source_get_enabled(s->accept_pause, NULL) == 0 &&
                    silent_has_room(&s->silent, s->n_connections, s->limits.n_connections_max);
        if (accepting == s->accepting)
                return;

        s->accepting = accepting;
        for (unsigned i = 0; i < s->n_listeners; i++)
                (void) sd_event_source_set_enabled(s->listeners[i].source, accepting ? SD_EVENT_ON : SD_EVENT_OFF);
}

static void server_check_drained(TtrpcServer *s) {
        if (s->drain_done && s->n_connections == 0)
                (void) sd_event_source_set_enabled(s->drain_done, SD_EVENT_ONESHOT);
}

static void connection_update_events(Connection *c) {
        uint32_t events;

        /* Broken: the socket was shut down, which makes it readable. EPOLLHUP and EPOLLERR come without asking. */
        events = c->broken || (!c->held && !c->ended) ? EPOLLIN : 0;
        if (c->blocked)
                events |= EPOLLOUT;
        if (c->held && !c->ended && !c->linger)
                events |= EPOLLRDHUP;   /* the end of the stream is not read as long as nothing is */
        if (events == c->events)
                return;

        /* This cannot fail for a descriptor that is in the epoll set already. */
        if (sd_event_source_set_io_events(c->source, events) >= 0)
                c->events = events;
}

static void connection_free(Connection *c) {
        sd_event_source_disable_unref(c->source);
        sd_event_source_disable_unref(c->linger);
        ttrpc_reader_done(&c->reader);
        ttrpc_writer_done(&c->writer);
        close_fd(c->fd);
        free(c);
}

DEFINE_CLEANUP(Connection*, connection_free);

static void connection_cancel_calls(Connection *c) {
        c->corked = true;       /* the callbacks may answer other calls of this connection, which must not close it under us */
        for (size_t i = 0; i < N_BUCKETS; i++)
                while (c->calls[i]) {
                        TtrpcCall *call = ttrpc_call_ref(c->calls[i]);

                        call_end(call);
                        call_tell_cancelled(call, -ECANCELED);
                        ttrpc_call_unref(call);
                }
        c->corked = false;
}

/* Runs users' code: see the top. */
static void connection_close(Connection *c) {
        TtrpcServer *s = c->server;

        c->broken = true;       /* what the callbacks answer to other calls goes nowhere */
        connection_cancel_calls(c);

        if (c->previous)
                c->previous->next = c->next;
        else
                s->connections = c->next;
        if (c->next)
                c->next->previous = c->previous;
        s->n_connections--;
        (void) silent_remove(&s->silent, &c->silent);
        connection_free(c);

        server_update_accepting(s);
        server_check_drained(s);
}

/* While draining, a connection without calls and unwritten answers is closed; that runs nobody's code. */
static void connection_close_if_drained(Connection *c) {
        if (c->server->draining && !c->corked && c->n_calls == 0 && c->writer.n_bytes == 0)
                connection_close(c);
}

static int on_linger(sd_event_source *source, uint64_t usec, void *userdata) {
        Connection *c = userdata;

        log_debug("ttrpc peer does not read its last responses, closing the connection.");
        connection_close(c);
        return 0;
}

/* The peer has closed its side: what is queued for it shall not wait for ever. */
static int connection_begin_linger(Connection *c) {
        if (c->linger)
                return 0;

        return sd_event_add_time_relative(c->server->event, &c->linger, CLOCK_MONOTONIC, c->limits.linger_usec, 0, on_linger, c);
}

/* The peer sends no more. For the Go server this is the signal to cancel all of the connection's calls (containerd/ttrpc: server.go),
 * and the only one there is. Answers given before are still the peer's, if it has closed only its sending side. */
static void connection_end(Connection *c) {
        c->ended = true;
        connection_cancel_calls(c);

        connection_flush(c);
        if (c->broken || c->writer.n_bytes == 0 || connection_begin_linger(c) < 0)
                connection_close(c);
        else
                connection_update_events(c);
}

/* Takes frames until there are no more, or too much is queued. Returns -EBADMSG for what is not ttrpc. */
static int connection_take_frames(Connection *c) {
        TtrpcFrame frame;
        int r = 0;

        for (;;) {
                c->corked = true;
                while (!c->broken && c->writer.n_bytes < c->limits.output_high && (r = ttrpc_reader_next(&c->reader, &frame)) > 0)
                        connection_handle_frame(c, &frame);
                c->corked = false;

                if (!c->blocked)
                        connection_flush(c);
                if (c->broken || r <= 0)
                        break;
                if (c->writer.n_bytes >= c->limits.output_high)
                        break;
        }

        c->held = c->writer.n_bytes >= c->limits.output_high;
        connection_update_events(c);
        return r < 0 ? r : 0;
}

/* Returns 0, or why the connection is to be closed; -ENOTCONN at the end of the stream. */
static int connection_read(Connection *c) {
        ssize_t n;

        /* Handlers' late answers may have filled the queue meanwhile. */
        if (c->writer.n_bytes >= c->limits.output_high) {
                c->held = true;
                connection_update_events(c);
                return 0;
        }

        n = ttrpc_reader_receive(&c->reader, c->fd, NULL);
        if (n == -EAGAIN)
                return 0;
        if (n <= 0)
                return n < 0 && n != -ECONNRESET ? (int) n : -ENOTCONN;

        return connection_take_frames(c);
}

static int on_connection_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Connection *c = userdata;
        int r = 0;

        if (c->blocked && revents & (EPOLLOUT|EPOLLHUP|EPOLLERR))
                connection_flush(c);

        if (c->held && revents & EPOLLRDHUP && connection_begin_linger(c) >= 0)
                connection_update_events(c);

        if (!c->ended && !c->broken) {
                if (c->held && c->writer.n_bytes <= c->limits.output_high / 2)
                        r = connection_take_frames(c);
                if (r >= 0 && !c->held && !c->broken && revents & (EPOLLIN|EPOLLHUP|EPOLLERR))
                        r = connection_read(c);
        }

        if (r == -ENOTCONN)
                connection_end(c);
        else if (r < 0) {
                log_debug_errno(r, "Closing the connection of a ttrpc peer: %m");
                connection_close(c);
        } else if (c->broken || (c->ended && c->writer.n_bytes == 0))
                connection_close(c);
        else
                connection_close_if_drained(c);
        return 0;
}

static bool server_admits(TtrpcServer *s, const struct ucred *cred) {
        if (s->n_uids == 0)
                return true;
        if (!cred)
                return false;

        for (size_t i = 0; i < s->n_uids; i++)
                if (s->uids[i] == cred->uid)
                        return true;

        return false;
}

static bool fd_get_peer_cred(int fd, struct ucred *ret) {
        socklen_t size = sizeof(int);
        int domain;

        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 || domain != AF_UNIX)
                return false;

        size = sizeof(*ret);
        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret, &size) >= 0;
}

/* It has no call that could be told. */
static void server_make_room(TtrpcServer *s) {
        if (!s->silent.oldest)
                return;
        log_debug("Closing a connection on which no call was made, as another one comes.");
        connection_close(CONTAINER_OF(s->silent.oldest, Connection, silent));
}

int ttrpc_server_add_connection_fd(TtrpcServer *s, int fd_taken) {
        _cleanup_(close_fdp) int fd = fd_taken;
        _cleanup_(connection_freep) Connection *c = NULL;
        struct ucred cred;
        bool has_cred;
        int r;

        if (s->draining)
                return -ESHUTDOWN;

        has_cred = fd_get_peer_cred(fd, &cred);
        if (!server_admits(s, has_cred ? &cred : NULL))
                return log_debug_errno(EPERM, "Refusing ttrpc peer with UID %" PRIu32 ".", has_cred ? (uint32_t) cred.uid : UINT32_MAX);

        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;
        if (s->n_connections >= s->limits.n_connections_max)
                server_make_room(s);

        c = new(Connection);
        if (!c)
                return -ENOMEM;
        *c = (Connection) {
                .server = s,
                .fd = TAKE_FD(fd),
                .events = EPOLLIN,
                .limits = s->limits,
                .has_cred = has_cred,
        };
        if (has_cred)
                c->cred = cred;

        r = sd_event_add_io(s->event, &c->source, c->fd, c->events, on_connection_io, c);
        if (r < 0)
                return r;
        (void) sd_event_source_set_description(c->source, "ttrpc-connection");

        c->next = s->connections;
        if (c->next)
                c->next->previous = c;
        s->connections = TAKE_PTR(c);
        s->n_connections++;
        silent_add(&s->silent, &s->connections->silent);
        server_update_accepting(s);
        return 0;
}

/* Listening */

static int on_accept_pause_over(sd_event_source *source, uint64_t usec, void *userdata) {
        TtrpcServer *s = userdata;

        (void) sd_event_source_set_enabled(s->accept_pause, SD_EVENT_OFF);
        server_update_accepting(s);
        return 0;
}

static void server_pause_accepting(TtrpcServer *s, int error) {
        log_debug_errno(error, "Failed to accept a ttrpc connection, trying again later: %m");

        (void) sd_event_source_set_time_relative(s->accept_pause, TTRPC_ACCEPT_PAUSE_USEC);
        (void) sd_event_source_set_enabled(s->accept_pause, SD_EVENT_ONESHOT);
        server_update_accepting(s);
}

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Listener *l = userdata;
        int connection_fd, r;

        connection_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC|SOCK_NONBLOCK);
        if (connection_fd < 0) {
                switch (errno) {
                case EAGAIN:
                case EINTR:
                case ECONNABORTED:      /* and errors of the new connection, as accept(2) says of TCP */
                case ENETDOWN:
                case EPROTO:
                case ENOPROTOOPT:
                case EHOSTDOWN:
                case ENONET:
                case EHOSTUNREACH:
                case EOPNOTSUPP:
                case ENETUNREACH:
                        return 0;
                default:                /* EMFILE, ENFILE, ENOMEM, …: nothing that an instant repetition could cure */
                        server_pause_accepting(l->server, errno);
                        return 0;
                }
        }

        r = ttrpc_server_add_connection_fd(l->server, connection_fd);
        if (r < 0 && r != -EPERM)
                server_pause_accepting(l->server, r);
        return 0;
}

int ttrpc_server_add_listen_fd(TtrpcServer *s, int fd_taken) {
        _cleanup_(close_fdp) int fd = fd_taken;
        Listener *l = s->listeners + s->n_listeners;
        int r;

        if (s->draining)
                return -ESHUTDOWN;
        if (s->n_listeners >= ELEMENTSOF(s->listeners))
                return -E2BIG;

        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;

        *l = (Listener) { .server = s, .fd = fd };
        r = sd_event_add_io(s->event, &l->source, fd, EPOLLIN, on_accept, l);
        if (r < 0)
                return r;
        (void) sd_event_source_set_description(l->source, "ttrpc-listen");

        if (!s->accepting)
                (void) sd_event_source_set_enabled(l->source, SD_EVENT_OFF);
        TAKE_FD(fd);
        s->n_listeners++;
        return 0;
}

static void server_close_listeners(TtrpcServer *s) {
        while (s->n_listeners > 0) {
                Listener *l = s->listeners + --s->n_listeners;

                l->source = sd_event_source_disable_unref(l->source);
                l->fd = close_fd(l->fd);
        }
        s->accept_pause = sd_event_source_disable_unref(s->accept_pause);
}

/* The server */

int ttrpc_server_new(sd_event *event, TtrpcServer **ret) {
        _cleanup_(ttrpc_server_freep) TtrpcServer *s = NULL;
        int r;

        s = new(TtrpcServer);
        if (!s)
                return -ENOMEM;
        *s = (TtrpcServer) {
                .event = sd_event_ref(event),
                .accepting = true,
                .limits = TTRPC_SERVER_LIMITS_DEFAULT,
        };

        r = ttrpc_deadlines_init(&s->deadlines, event, on_deadline, s);
        if (r < 0)
                return r;

        /* Made now, as a timer may need a descriptor: it is for when there are none left. */
        r = sd_event_add_time(event, &s->accept_pause, CLOCK_MONOTONIC, USEC_INFINITY, 0, on_accept_pause_over, s);
        if (r < 0)
                return r;
        (void) sd_event_source_set_description(s->accept_pause, "ttrpc-accept-pause");
        r = sd_event_source_set_enabled(s->accept_pause, SD_EVENT_OFF);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(s);
        return 0;
}

TtrpcServer* ttrpc_server_free(TtrpcServer *s) {
        if (!s)
                return NULL;

        server_close_listeners(s);
        s->draining = true;     /* no new connections from the callbacks */
        s->drain_timer = sd_event_source_disable_unref(s->drain_timer);
        while (s->connections)
                connection_close(s->connections);
        sd_event_source_disable_unref(s->drain_done);
        ttrpc_deadlines_done(&s->deadlines);

        for (Service *service; (service = s->services);) {
                s->services = service->next;
                free(service);
        }
        free(s->uids);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}

int ttrpc_server_add_service(TtrpcServer *s, const char *name, const TtrpcMethod *methods, void *userdata) {
        Service *service;

        if (server_find_service(s, ttrpc_slice(name)))
                return -EEXIST;

        service = malloc(sizeof(Service) + strlen(name) + 1);
        if (!service)
                return -ENOMEM;
        *service = (Service) { .next = s->services, .methods = methods, .userdata = userdata };
        strcpy(service->name, name);
        s->services = service;
        return 0;
}

void ttrpc_server_set_limits(TtrpcServer *s, const TtrpcServerLimits *limits) {
        s->limits = *limits;
        server_update_accepting(s);
}

int ttrpc_server_allow_uid(TtrpcServer *s, uid_t uid) {
        uid_t *uids;

        uids = reallocarray(s->uids, s->n_uids + 1, sizeof(uid_t));
        if (!uids)
                return -ENOMEM;

        s->uids = uids;
        s->uids[s->n_uids++] = uid;
        return 0;
}

static int on_drain_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        TtrpcServer *s = userdata;

        log_debug("Cutting off %u ttrpc connections with %u calls.", s->n_connections, s->n_calls);
        while (s->connections)
                connection_close(s->connections);
        return 0;
}

static int on_drained(sd_event_source *source, void *userdata) {
        TtrpcServer *s = userdata;

        (void) sd_event_source_set_enabled(s->drain_timer, SD_EVENT_OFF);
        if (s->drained)
                s->drained(s, s->drained_userdata);     /* may free the server */
        return 0;
}

int ttrpc_server_drain(TtrpcServer *s, uint64_t timeout_usec, void (*done)(TtrpcServer *s, void *userdata), void *userdata) {
        int r;

        if (s->draining)
                return -EALREADY;

        r = sd_event_add_time_relative(s->event, &s->drain_timer, CLOCK_MONOTONIC, timeout_usec, 0, on_drain_timeout, s);
        if (r < 0)
                return r;
        r = sd_event_add_defer(s->event, &s->drain_done, on_drained, s);
        if (r >= 0)
                r = sd_event_source_set_enabled(s->drain_done, SD_EVENT_OFF);
        if (r < 0) {
                s->drain_timer = sd_event_source_disable_unref(s->drain_timer);
                s->drain_done = sd_event_source_disable_unref(s->drain_done);
                return r;
        }

        s->drained = done;
        s->drained_userdata = userdata;
        s->draining = true;
        server_close_listeners(s);
        for (Connection *c = s->connections, *next; c; c = next) {
                next = c->next;
                connection_close_if_drained(c);
        }
        server_check_drained(s);
        return 0;
}

unsigned ttrpc_server_get_n_connections(const TtrpcServer *s) {
        return s->n_connections;
}

unsigned ttrpc_server_get_n_calls(const TtrpcServer *s) {
        return s->n_calls;
}
