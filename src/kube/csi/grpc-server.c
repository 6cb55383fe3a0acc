/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/grpc-server.h"

#include <stdio.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "basic/listeners.h"
#include "basic/log.h"
#include "basic/util.h"
#include "kube/csi/grpc-link.h"
#include "ttrpc/deadline.h"

#define RECEIVE_USEC (30 * USEC_PER_SEC)
#define PATH_SIZE_MAX 256U

typedef struct Connection Connection;

typedef enum CallState {
        CALL_RECEIVING,
        CALL_HANDED_OUT,
        CALL_ANSWERED,
} CallState;

struct GrpcCall {
        TAILQ_ENTRY(GrpcCall) calls;
        Connection *connection;                 /* borrowed */
        TtrpcDeadline deadline;
        int32_t stream_id;
        CallState state;
        void *userdata;

        char *path;
        bool post, trailers, grpc;              /* :method POST; te: trailers; a content-type of gRPC */
        bool complete;                          /* the client has sent all of it */
        uint64_t timeout_usec;                  /* USEC_INFINITY: none; 0: ill-formed */
        uint64_t deadline_usec;
        GrpcBody body;

        uint8_t *reply;                         /* prefix and message */
        size_t reply_size, reply_sent;
        TtrpcCode code;                         /* of a refusal while the message still comes, else OK */
        const char *refusal;                    /* static */
};

struct Connection {
        TAILQ_ENTRY(Connection) connections;    /* the one that was used last is the last */
        GrpcLink link;
        GrpcServer *server;                     /* borrowed */
        TAILQ_HEAD(, GrpcCall) calls;
        bool closing;                           /* being freed */
};

struct GrpcServer {
        sd_event *event;
        GrpcServerSpec spec;
        void *userdata;
        Listeners listeners;
        nghttp2_session_callbacks *callbacks;
        TtrpcDeadlines deadlines;
        TAILQ_HEAD(, Connection) connections;
        unsigned n_connections, n_calls;
        size_t input, output;                   /* bytes of calls' messages, and of their answers */
};

/* ---- calls ---- */

static GrpcCall* call_free(GrpcCall *call) {
        GrpcServer *s;

        if (!call)
                return NULL;

        s = call->connection->server;
        ttrpc_deadlines_remove(&s->deadlines, &call->deadline);
        TAILQ_REMOVE(&call->connection->calls, call, calls);
        if (call->state == CALL_HANDED_OUT)
                s->n_calls--;
        s->input -= call->body.capacity;
        grpc_body_done(&call->body);
        s->output -= call->reply_size;
        (void) erase_free(call->reply, call->reply_size);
        free(call->path);
        free(call);
        return NULL;
}

static void call_forget(GrpcCall *call) {
        GrpcServer *s = call->connection->server;

        if (call->state == CALL_HANDED_OUT)
                s->spec.on_cancelled(call, s->userdata);
        (void) call_free(call);
}

static int call_new(Connection *c, int32_t stream_id) {
        GrpcServer *s = c->server;
        GrpcCall *call;
        int r;

        call = new(GrpcCall);
        if (!call)
                return -ENOMEM;
        *call = (GrpcCall) { .connection = c, .stream_id = stream_id, .timeout_usec = USEC_INFINITY, .deadline_usec = USEC_INFINITY };
        TAILQ_INSERT_TAIL(&c->calls, call, calls);

        r = ttrpc_deadlines_add(&s->deadlines, &call->deadline, usec_add(now_usec(CLOCK_MONOTONIC), s->spec.receive_usec));
        if (r >= 0)
                r = grpc_h2_to_errno(nghttp2_session_set_stream_user_data(c->link.session, stream_id, call));
        if (r < 0)
                (void) call_free(call);
        return r;
}

/* ---- answers ---- */

static ssize_t on_read_reply(nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t size, uint32_t *flags,
                             nghttp2_data_source *source, void *userdata) {
        const nghttp2_nv trailers[] = {
                { (uint8_t*) "grpc-status", (uint8_t*) "0", 11, 1, NGHTTP2_NV_FLAG_NONE },
                { (uint8_t*) "grpc-message", (uint8_t*) "", 12, 0, NGHTTP2_NV_FLAG_NONE },
        };
        GrpcCall *call = source->ptr;
        size_t n = MIN(size, call->reply_size - call->reply_sent);

        memcpy(buffer, call->reply + call->reply_sent, n);
        call->reply_sent += n;
        if (call->reply_sent == call->reply_size) {
                *flags |= NGHTTP2_DATA_FLAG_EOF|NGHTTP2_DATA_FLAG_NO_END_STREAM;
                if (nghttp2_submit_trailer(session, stream_id, trailers, ELEMENTSOF(trailers)) < 0)
                        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }

        return (ssize_t) n;
}

static nghttp2_nv header(const char *name, const char *value) {
        return (nghttp2_nv) { (uint8_t*) name, (uint8_t*) value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE };
}

static int submit_status(GrpcCall *call, unsigned http_status, TtrpcCode code, const char *text, const char *details) {
        _cleanup_(freep) char *encoded = grpc_text_encode(strempty(text));
        char status[4], number[12];
        nghttp2_nv headers[5];
        size_t n = 0;

        if (!encoded)
                return -ENOMEM;
        (void) snprintf(status, sizeof(status), "%u", http_status % 1000);
        (void) snprintf(number, sizeof(number), "%i", (int) code);
        headers[n++] = header(":status", status);
        headers[n++] = header("content-type", "application/grpc");
        headers[n++] = header("grpc-status", number);
        headers[n++] = header("grpc-message", encoded);
        if (details)
                headers[n++] = header("grpc-status-details-bin", details);
        return grpc_h2_to_errno(nghttp2_submit_response(call->connection->link.session, call->stream_id, headers, n, NULL));
}

static int submit_message(GrpcCall *call, const void *data, size_t size) {
        const nghttp2_nv headers[] = { header(":status", "200"), header("content-type", "application/grpc") };
        const nghttp2_data_provider provider = { .source.ptr = call, .read_callback = on_read_reply };

        call->reply = malloc(GRPC_PREFIX_SIZE + size);
        if (!call->reply)
                return -ENOMEM;
        call->reply[0] = 0;
        write_be32(call->reply + 1, (uint32_t) size);
        if (size > 0)
                memcpy(call->reply + GRPC_PREFIX_SIZE, data, size);
        call->reply_size = GRPC_PREFIX_SIZE + size;
        call->connection->server->output += call->reply_size;
        return grpc_h2_to_errno(nghttp2_submit_response(call->connection->link.session, call->stream_id, headers, ELEMENTSOF(headers),
                                                        &provider));
}

/* From here on only the stream's end is waited for, which call_free() follows. It comes when the client has taken the answer, for which it has
 * as much time as for a message of its own. */
static void call_answer(GrpcCall *call, unsigned http_status, TtrpcCode code, const char *text, const char *details, const void *data,
                        size_t size) {
        nghttp2_session *session = call->connection->link.session;
        GrpcServer *s = call->connection->server;
        int r;

        if (call->state == CALL_HANDED_OUT)
                s->n_calls--;
        call->state = CALL_ANSWERED;
        ttrpc_deadlines_remove(&s->deadlines, &call->deadline);

        r = ttrpc_deadlines_add(&s->deadlines, &call->deadline, usec_add(now_usec(CLOCK_MONOTONIC), s->spec.receive_usec));
        if (r >= 0)
                r = code == TTRPC_OK ? submit_message(call, data, size) : submit_status(call, http_status, code, text, details);
        s->input -= call->body.capacity;
        grpc_body_done(&call->body);            /* @data may be from there */
        if (r < 0)
                (void) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_INTERNAL_ERROR);
        grpc_link_kick(&call->connection->link);
}

/* Small ones are bounded by the number of streams. */
static bool has_room(GrpcServer *s, size_t size) {
        return size <= GRPC_SMALL_MAX || size <= GRPC_OUTPUT_MAX - MIN(s->output, GRPC_OUTPUT_MAX);
}

void grpc_call_reply(GrpcCall *call, TtrpcCode code, const char *text, const char *details, const void *data, size_t size) {
        assert(call->state == CALL_HANDED_OUT);

        if (code == TTRPC_OK && size > GRPC_MESSAGE_MAX)
                call_answer(call, 200, TTRPC_RESOURCE_EXHAUSTED, "The answer is larger than 4 MiB.", NULL, NULL, 0);
        else if (code == TTRPC_OK && !has_room(call->connection->server, size))
                call_answer(call, 200, TTRPC_RESOURCE_EXHAUSTED, "Too many answers are not taken.", NULL, NULL, 0);
        else
                call_answer(call, 200, code, text, details, data, size);
}

/* ---- requests ---- */

/* A refusal waits until the request is there: a client that still writes may not read. */
static void call_refuse(GrpcCall *call, TtrpcCode code, const char *text) {
        if (call->code != TTRPC_OK)
                return;
        call->code = code;
        call->refusal = text;
        call->connection->server->input -= call->body.capacity;
        grpc_body_done(&call->body);
}

static void call_check(GrpcCall *call) {
        TtrpcDeadlines *deadlines = &call->connection->server->deadlines;

        if (call->deadline_usec < call->deadline.usec) {
                ttrpc_deadlines_remove(deadlines, &call->deadline);
                if (ttrpc_deadlines_add(deadlines, &call->deadline, call->deadline_usec) < 0)
                        call_refuse(call, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.");
        }

        if (!call->path)
                call_refuse(call, TTRPC_INTERNAL, "The request has no :path.");
        else if (call->timeout_usec == 0)
                call_refuse(call, TTRPC_INTERNAL, "The header grpc-timeout is ill-formed.");
        else if (!call->trailers)
                call_refuse(call, TTRPC_INTERNAL, "Missing 'te: trailers' header.");
}

static void call_complete(GrpcCall *call) {
        GrpcServer *s = call->connection->server;

        if (call->code == TTRPC_OK && !grpc_body_is_complete(&call->body))
                call_refuse(call, TTRPC_INTERNAL, "The request ends before its message does.");
        if (call->code != TTRPC_OK) {
                call_answer(call, 200, call->code, call->refusal, NULL, NULL, 0);
                return;
        }

        if (call->deadline.usec != call->deadline_usec)         /* what runs is the time to receive it */
                ttrpc_deadlines_remove(&s->deadlines, &call->deadline);
        if (call->deadline_usec != USEC_INFINITY && call->deadline.index == 0 &&
            ttrpc_deadlines_add(&s->deadlines, &call->deadline, call->deadline_usec) < 0) {
                call_answer(call, 200, TTRPC_RESOURCE_EXHAUSTED, "Out of memory.", NULL, NULL, 0);
                return;
        }
        call->state = CALL_HANDED_OUT;
        s->n_calls++;
        s->spec.on_call(call, s->userdata);
}

static bool equals(const uint8_t *data, size_t size, const char *s) {
        return size == strlen(s) && memcmp(data, s, size) == 0;
}

static int call_header(GrpcCall *call, const uint8_t *name, size_t name_size, const uint8_t *value, size_t size) {
        if (equals(name, name_size, ":method"))
                call->post = equals(value, size, "POST");
        else if (equals(name, name_size, ":path")) {
                if (call->path || size < 2 || value[0] != '/' || size > PATH_SIZE_MAX || memchr(value, 0, size))
                        return -EBADMSG;
                call->path = strndup((const char*) value, size);
                if (!call->path)
                        return -ENOMEM;
        } else if (equals(name, name_size, "te"))
                call->trailers = equals(value, size, "trailers");
        else if (equals(name, name_size, "content-type"))
                call->grpc = grpc_content_type_is_valid((const char*) value, size);
        else if (equals(name, name_size, "grpc-timeout")) {
                if (grpc_timeout_parse((const char*) value, size, &call->timeout_usec) < 0)
                        call->timeout_usec = 0;
                else {
                        call->timeout_usec = MAX(call->timeout_usec, UINT64_C(1));
                        call->deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), call->timeout_usec);
                }
        } else if (equals(name, name_size, "connection"))       /* RFC 9113, section 8.2.2 */
                return -EBADMSG;

        return 0;
}

/* ---- libnghttp2's callbacks ---- */

static GrpcCall* find_call(nghttp2_session *session, int32_t stream_id) {
        return nghttp2_session_get_stream_user_data(session, stream_id);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *userdata) {
        Connection *c = CONTAINER_OF((GrpcLink*) userdata, Connection, link);

        if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
                return 0;
        return call_new(c, frame->hd.stream_id) < 0 ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size, const uint8_t *value,
                     size_t size, uint8_t flags, void *userdata) {
        GrpcCall *call = find_call(session, frame->hd.stream_id);

        if (!call || frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
                return 0;                       /* trailers of a request mean nothing */
        return call_header(call, name, name_size, value, size) < 0 ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size, void *userdata) {
        GrpcCall *call = find_call(session, stream_id);
        GrpcServer *s;
        size_t before;
        int r;

        if (!call || call->state != CALL_RECEIVING || call->code != TTRPC_OK)
                return 0;
        s = call->connection->server;

        before = call->body.capacity;
        r = size > GRPC_INPUT_MAX - MIN(s->input, GRPC_INPUT_MAX) ? -ENOMEM : grpc_body_feed(&call->body, data, size);
        s->input += call->body.capacity - before;
        if (r == -EMSGSIZE)
                call_refuse(call, TTRPC_RESOURCE_EXHAUSTED, "The message is larger than 4 MiB.");
        else if (r == -EOPNOTSUPP)
                call_refuse(call, TTRPC_UNIMPLEMENTED, "Compressed messages are not supported.");
        else if (r == -ENOMEM)
                call_refuse(call, TTRPC_RESOURCE_EXHAUSTED, "Too much is being received.");
        else if (r < 0)
                call_refuse(call, TTRPC_INTERNAL, "The body is no single message of gRPC.");
        return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *userdata) {
        GrpcCall *call = find_call(session, frame->hd.stream_id);

        if (!call || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
                return 0;

        call->complete = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
        if (call->state != CALL_RECEIVING)
                return 0;

        TAILQ_REMOVE(&call->connection->server->connections, call->connection, connections);
        TAILQ_INSERT_TAIL(&call->connection->server->connections, call->connection, connections);
        if (frame->hd.type == NGHTTP2_HEADERS) {
                /* grpc-go answers these two by HTTP, too (grpc-go: internal/transport/http2_server.go). */
                if (!call->post) {
                        call_answer(call, 405, TTRPC_INTERNAL, "The method of a call is POST.", NULL, NULL, 0);
                        return 0;
                }
                if (!call->grpc) {
                        call_answer(call, 415, TTRPC_INVALID_ARGUMENT, "The content-type of a call is application/grpc.", NULL, NULL, 0);
                        return 0;
                }
                call_check(call);
        }
        if (call->complete)
                call_complete(call);
        return 0;
}

/* Whoever is answered before he has sent everything is told that the rest does not matter any more (RFC 9113, section 8.1). */
static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *userdata) {
        GrpcCall *call = find_call(session, frame->hd.stream_id);

        if (call && !call->complete && frame->hd.type == NGHTTP2_HEADERS && frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
                (void) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_NO_ERROR);
        return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *userdata) {
        GrpcCall *call = find_call(session, stream_id);

        if (call)
                call_forget(call);
        return 0;
}

/* ---- connections ---- */

static void connection_free(Connection *c) {
        GrpcServer *s = c->server;
        GrpcCall *call;

        if (c->closing)
                return;
        c->closing = true;
        while ((call = TAILQ_FIRST(&c->calls)))
                call_forget(call);
        TAILQ_REMOVE(&s->connections, c, connections);
        s->n_connections--;
        grpc_link_done(&c->link);
        free(c);
}

/* Its streams alone would not do: a client that reads nothing at all is not even told of their end. */
static void close_unread(Connection *c) {
        struct ucred peer = {};
        socklen_t size = sizeof(peer);

        (void) getsockopt(sd_event_source_get_io_fd(c->link.io), SOL_SOCKET, SO_PEERCRED, &peer, &size);
        log_warning("Closing the connection of process %i, which does not take an answer.", (int) peer.pid);
        connection_free(c);
}

static void on_expired(TtrpcDeadline *d, void *userdata) {
        GrpcCall *call = CONTAINER_OF(d, GrpcCall, deadline);
        GrpcServer *s = userdata;

        if (call->state == CALL_ANSWERED) {
                close_unread(call->connection);
                return;
        }
        if (call->state == CALL_HANDED_OUT)
                s->spec.on_cancelled(call, s->userdata);
        call_answer(call, 200, TTRPC_DEADLINE_EXCEEDED, "The call's time is over.", NULL, NULL, 0);
}

static void on_over(GrpcLink *l, int error) {
        if (error < 0 && error != -ECONNRESET)
                log_debug_errno(error, "A connection has failed: %m");
        connection_free(CONTAINER_OF(l, Connection, link));
}

/* One more than may be: whoever has nothing under way and has had nothing for the longest time makes room. */
static bool make_room(GrpcServer *s) {
        Connection *c;

        if (s->n_connections < GRPC_CONNECTIONS_MAX)
                return true;
        TAILQ_FOREACH(c, &s->connections, connections)
                if (TAILQ_EMPTY(&c->calls)) {
                        connection_free(c);
                        return true;
                }
        return false;
}

static int connection_new(GrpcServer *s, int fd) {
        _cleanup_(close_fdp) int owned = fd;
        Connection *c;
        int r;

        if (!make_room(s))
                return -EUSERS;
        c = new(Connection);
        if (!c)
                return -ENOMEM;
        *c = (Connection) { .server = s };
        TAILQ_INIT(&c->calls);
        r = grpc_link_init(&c->link, s->event, TAKE_FD(owned), /* server= */ true, s->callbacks, GRPC_STREAMS_MAX, on_over);
        if (r < 0) {
                grpc_link_done(&c->link);
                free(c);
                return r;
        }

        TAILQ_INSERT_TAIL(&s->connections, c, connections);
        s->n_connections++;
        return 0;
}

static void on_accepted(int fd, const struct sockaddr *sa, socklen_t size, void *userdata) {
        int r = connection_new(userdata, fd);

        if (r < 0)
                log_debug_errno(r, "Refused a connection: %m");
}

static int make_callbacks(nghttp2_session_callbacks **ret) {
        int r;

        r = nghttp2_session_callbacks_new(ret);
        if (r < 0)
                return grpc_h2_to_errno(r);
        nghttp2_session_callbacks_set_on_begin_headers_callback(*ret, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(*ret, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(*ret, on_data);
        nghttp2_session_callbacks_set_on_frame_recv_callback(*ret, on_frame);
        nghttp2_session_callbacks_set_on_frame_send_callback(*ret, on_frame_sent);
        nghttp2_session_callbacks_set_on_stream_close_callback(*ret, on_stream_close);
        return 0;
}

int grpc_server_new(sd_event *event, int fd, const GrpcServerSpec *spec, void *userdata, GrpcServer **ret) {
        _cleanup_(close_fdp) int owned = fd;
        _cleanup_(grpc_server_freep) GrpcServer *s = NULL;
        int r;

        s = new(GrpcServer);
        if (!s)
                return -ENOMEM;
        *s = (GrpcServer) {
                .event = sd_event_ref(event),
                .spec = *spec,
                .userdata = userdata,
                .listeners = { .event = event, .accepted = on_accepted, .userdata = s },
        };
        if (s->spec.receive_usec == 0)
                s->spec.receive_usec = RECEIVE_USEC;
        TAILQ_INIT(&s->connections);

        r = ttrpc_deadlines_init(&s->deadlines, event, on_expired, s);
        if (r < 0)
                return r;
        r = make_callbacks(&s->callbacks);
        if (r < 0)
                return r;
        r = listeners_add(&s->listeners, TAKE_FD(owned));
        if (r < 0)
                return r;

        *ret = TAKE_PTR(s);
        return 0;
}

static void nobody_is_told(GrpcCall *call, void *userdata) {
}

GrpcServer* grpc_server_free(GrpcServer *s) {
        Connection *c;

        if (!s)
                return NULL;

        s->spec.on_cancelled = nobody_is_told;
        while ((c = TAILQ_FIRST(&s->connections)))
                connection_free(c);
        listeners_done(&s->listeners);
        ttrpc_deadlines_done(&s->deadlines);
        nghttp2_session_callbacks_del(s->callbacks);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}

unsigned grpc_server_n_calls(const GrpcServer *s) {
        return s->n_calls;
}

const char* grpc_call_path(const GrpcCall *call) {
        return call->path;
}

const uint8_t* grpc_call_message(const GrpcCall *call, size_t *ret_size) {
        *ret_size = call->body.size;
        return call->body.data;
}

uint64_t grpc_call_deadline(const GrpcCall *call) {
        return call->deadline_usec;
}

void grpc_call_set_userdata(GrpcCall *call, void *userdata) {
        call->userdata = userdata;
}

void* grpc_call_userdata(const GrpcCall *call) {
        return call->userdata;
}
