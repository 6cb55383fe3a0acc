/* SPDX-License-Identifier: Apache-2.0 */
/* A request is in one of three places: waiting for a connection, on a connection, or failed and waiting for the loop to say so, as a handler is
 * never called from within grpc_client_call(). A connection that ends for whatever reason ends with all that is on it. */
#include "kube/csi/grpc-client.h"

#include <stdio.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/log.h"
#include "basic/util.h"
#include "kube/csi/grpc-link.h"
#include "ttrpc/deadline.h"

#define PAUSE_USEC (50 * USEC_PER_MSEC)
#define PAUSE_MAX_USEC USEC_PER_SEC

typedef struct Connection Connection;

TAILQ_HEAD(RequestList, GrpcRequest);

struct GrpcRequest {
        TAILQ_ENTRY(GrpcRequest) requests;
        GrpcClient *client;                     /* borrowed */
        Connection *connection;                 /* borrowed; NULL: waits for one */
        TtrpcDeadline deadline;
        uint64_t deadline_usec, connect_by_usec;
        GrpcReplyHandler handler;
        void *userdata;
        int32_t stream_id;

        char *path;
        uint8_t *message;                       /* with its prefix */
        size_t size, sent;

        unsigned http_status;
        bool grpc, has_code;
        TtrpcCode code;
        char *text, *details;
        GrpcBody body;
        int body_error;
};

struct Connection {
        TAILQ_ENTRY(Connection) connections;
        GrpcLink link;
        GrpcClient *client;                     /* borrowed */
        struct RequestList requests;
        bool draining;                          /* takes no new requests */
};

struct GrpcClient {
        sd_event *event;
        char *path;
        struct sockaddr_un address;
        nghttp2_session_callbacks *callbacks;
        TtrpcDeadlines deadlines;
        sd_event_source *connect;               /* timer: try to connect, or again */
        int connect_error;                      /* of the last try */
        uint64_t pause_usec;
        TAILQ_HEAD(, Connection) connections;
        struct RequestList waiting;
        unsigned n_requests;
};

/* ---- requests ---- */

static void request_free(GrpcRequest *q) {
        GrpcClient *c = q->client;

        ttrpc_deadlines_remove(&c->deadlines, &q->deadline);
        TAILQ_REMOVE(q->connection ? &q->connection->requests : &c->waiting, q, requests);
        if (q->connection && q->stream_id > 0)
                (void) nghttp2_session_set_stream_user_data(q->connection->link.session, q->stream_id, NULL);
        c->n_requests--;
        (void) erase_free(q->message, q->size);
        grpc_body_done(&q->body);
        free(q->path);
        free(q->text);
        free(q->details);
        free(q);
}

/* The handler may do anything, so the request is out of all lists first. */
static void request_end(GrpcRequest *q, TtrpcCode code, const char *text) {
        GrpcReplyHandler handler = q->handler;
        void *userdata = q->userdata;
        GrpcBody body = q->body;
        _cleanup_(freep) char *copy = strdup(text), *details = q->details;
        GrpcReply reply = { .code = code, .text = strempty(copy), .details = details };

        if (code == TTRPC_OK) {
                reply.data = body.data;
                reply.size = body.size;
        }
        q->body = GRPC_BODY_NULL;
        q->details = NULL;
        request_free(q);
        handler(&reply, userdata);
        grpc_body_done(&body);
}

static void request_fail(GrpcRequest *q, TtrpcCode code, const char *what, int error) {
        char text[256];

        (void) snprintf(text, sizeof(text), "Driver at '%s': %s%s%s", q->client->path, what, error < 0 ? ": " : "", error < 0 ? strerror(-error) : "");
        request_end(q, code, text);
}

GrpcRequest* grpc_request_cancel(GrpcRequest *q) {
        Connection *connection;
        int32_t stream_id;

        if (!q)
                return NULL;

        connection = q->connection;
        stream_id = q->stream_id;
        request_free(q);
        if (connection && stream_id > 0) {
                (void) nghttp2_submit_rst_stream(connection->link.session, NGHTTP2_FLAG_NONE, stream_id, NGHTTP2_CANCEL);
                grpc_link_kick(&connection->link);
        }
        return NULL;
}

static void on_expired(TtrpcDeadline *d, void *userdata) {
        GrpcRequest *q = CONTAINER_OF(d, GrpcRequest, deadline);
        GrpcClient *c = userdata;
        Connection *connection = q->connection;
        int32_t stream_id = q->stream_id;

        if (!connection && now_usec(CLOCK_MONOTONIC) < q->deadline_usec) {
                request_fail(q, TTRPC_UNAVAILABLE, "connect", c->connect_error);
                return;
        }
        if (connection && stream_id > 0) {
                (void) nghttp2_submit_rst_stream(connection->link.session, NGHTTP2_FLAG_NONE, stream_id, NGHTTP2_CANCEL);
                grpc_link_kick(&connection->link);
        }
        request_fail(q, TTRPC_DEADLINE_EXCEEDED, "no answer in time", 0);
}

/* ---- one request on a connection ---- */

static ssize_t on_read_message(nghttp2_session *session, int32_t stream_id, uint8_t *buffer, size_t size, uint32_t *flags,
                               nghttp2_data_source *source, void *userdata) {
        GrpcRequest *q = nghttp2_session_get_stream_user_data(session, stream_id);
        size_t n;

        if (!q)                                 /* cancelled */
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        n = MIN(size, q->size - q->sent);
        memcpy(buffer, q->message + q->sent, n);
        q->sent += n;
        if (q->sent == q->size)
                *flags |= NGHTTP2_DATA_FLAG_EOF;
        return (ssize_t) n;
}

static nghttp2_nv header(const char *name, const char *value) {
        return (nghttp2_nv) { (uint8_t*) name, (uint8_t*) value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE };
}

static int request_submit(GrpcRequest *q, Connection *connection) {
        const nghttp2_data_provider provider = { .read_callback = on_read_message };
        char timeout[GRPC_TIMEOUT_SIZE];
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        nghttp2_nv headers[8] = {
                header(":method", "POST"), header(":scheme", "http"), header(":path", q->path), header(":authority", "localhost"),
                header("content-type", "application/grpc"), header("te", "trailers"), header("user-agent", "peerpod/" PEERPOD_VERSION),
        };
        size_t n = 7;
        int32_t id;

        if (q->deadline_usec != USEC_INFINITY) {
                grpc_timeout_format(q->deadline_usec > now ? q->deadline_usec - now : 1, timeout);
                headers[n++] = header("grpc-timeout", timeout);
        }
        id = nghttp2_submit_request(connection->link.session, NULL, headers, n, &provider, q);
        if (id < 0)
                return grpc_h2_to_errno(id);

        TAILQ_REMOVE(&q->client->waiting, q, requests);
        q->connection = connection;
        q->stream_id = id;
        TAILQ_INSERT_TAIL(&connection->requests, q, requests);
        ttrpc_deadlines_remove(&q->client->deadlines, &q->deadline);
        if (q->deadline_usec != USEC_INFINITY && ttrpc_deadlines_add(&q->client->deadlines, &q->deadline, q->deadline_usec) < 0)
                log_warning("Out of memory for the deadline of a call; the driver keeps it.");
        return 0;
}

/* What the stream ended with becomes the call's result. */
static void request_conclude(GrpcRequest *q, uint32_t error_code) {
        if (q->has_code && q->code != TTRPC_OK) {
                _cleanup_(freep) char *text = TAKE_PTR(q->text);

                request_end(q, q->code, strempty(text));
        } else if (error_code != NGHTTP2_NO_ERROR)
                request_fail(q, grpc_code_from_h2(error_code), nghttp2_http2_strerror(error_code), 0);
        else if (q->http_status != 200)
                request_fail(q, grpc_code_from_http(q->http_status), "it is no gRPC server", 0);
        else if (!q->has_code)
                request_fail(q, TTRPC_INTERNAL, "the answer has no grpc-status", 0);
        else if (q->body_error < 0)
                request_fail(q, q->body_error == -EMSGSIZE || q->body_error == -ENOMEM ? TTRPC_RESOURCE_EXHAUSTED : TTRPC_INTERNAL,
                             "the answer cannot be read", q->body_error);
        else if (!q->grpc || !grpc_body_is_complete(&q->body))
                request_fail(q, TTRPC_INTERNAL, "the answer is incomplete", 0);
        else
                request_end(q, TTRPC_OK, "");
}

/* ---- libnghttp2's callbacks ---- */

static bool equals(const uint8_t *data, size_t size, const char *s) {
        return size == strlen(s) && memcmp(data, s, size) == 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size, const uint8_t *value,
                     size_t size, uint8_t flags, void *userdata) {
        GrpcRequest *q = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        const char *text = (const char*) value;

        if (!q || frame->hd.type != NGHTTP2_HEADERS)
                return 0;

        if (equals(name, name_size, ":status"))
                q->http_status = size == 3 ? (unsigned) ((value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0')) : 0;
        else if (equals(name, name_size, "content-type"))
                q->grpc = grpc_content_type_is_valid(text, size);
        else if (equals(name, name_size, "grpc-status"))
                q->has_code = grpc_code_parse(text, size, &q->code) >= 0;
        else if (equals(name, name_size, "grpc-message") && !q->text)
                q->text = grpc_text_decode(text, size);
        else if (equals(name, name_size, "grpc-status-details-bin") && !q->details && size <= GRPC_DETAILS_MAX)
                q->details = strndup(text, size);
        return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size, void *userdata) {
        GrpcRequest *q = nghttp2_session_get_stream_user_data(session, stream_id);

        if (q && q->body_error == 0) {
                q->body_error = grpc_body_feed(&q->body, data, size);
                if (q->body_error < 0)          /* no use in the rest of it */
                        (void) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream_id, NGHTTP2_CANCEL);
        }
        return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *userdata) {
        Connection *connection = CONTAINER_OF((GrpcLink*) userdata, Connection, link);

        if (frame->hd.type == NGHTTP2_GOAWAY)
                connection->draining = true;
        return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *userdata) {
        GrpcRequest *q = nghttp2_session_get_stream_user_data(session, stream_id);

        if (!q)
                return 0;
        if (q->body_error < 0) {
                q->has_code = true;
                q->code = TTRPC_OK;
                q->http_status = 200;
                error_code = NGHTTP2_NO_ERROR;
        }
        request_conclude(q, error_code);
        return 0;
}

/* ---- connections ---- */

static void connection_end(Connection *connection, int error) {
        GrpcClient *c = connection->client;
        GrpcRequest *q;

        TAILQ_REMOVE(&c->connections, connection, connections);
        connection->draining = true;
        while ((q = TAILQ_FIRST(&connection->requests)))
                request_fail(q, TTRPC_UNAVAILABLE, "the connection was lost", error);
        grpc_link_done(&connection->link);
        free(connection);
}

static void on_over(GrpcLink *l, int error) {
        connection_end(CONTAINER_OF(l, Connection, link), error);
}

static int connection_new(GrpcClient *c, Connection **ret) {
        _cleanup_(close_fdp) int fd = -EBADF;
        Connection *connection;
        int r;

        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        /* A UNIX socket is connected at once, or not at all (unix(7)). */
        if (connect(fd, (const struct sockaddr*) &c->address, sizeof(c->address)) < 0)
                return -errno;

        connection = new(Connection);
        if (!connection)
                return -ENOMEM;
        *connection = (Connection) { .client = c };
        TAILQ_INIT(&connection->requests);
        r = grpc_link_init(&connection->link, c->event, TAKE_FD(fd), /* server= */ false, c->callbacks, /* n_streams= */ 0, on_over);
        if (r < 0) {
                grpc_link_done(&connection->link);
                free(connection);
                return r;
        }

        TAILQ_INSERT_HEAD(&c->connections, connection, connections);
        *ret = connection;
        return 0;
}

static int connection_get(GrpcClient *c, Connection **ret) {
        Connection *connection;

        TAILQ_FOREACH(connection, &c->connections, connections)
                if (!connection->draining && nghttp2_session_check_request_allowed(connection->link.session)) {
                        *ret = connection;
                        return 0;
                }

        return connection_new(c, ret);
}

static int arm_connect(GrpcClient *c, uint64_t pause_usec) {
        int r;

        r = sd_event_source_set_time_relative(c->connect, pause_usec);
        return r < 0 ? r : sd_event_source_set_enabled(c->connect, SD_EVENT_ONESHOT);
}

/* Everything that waits goes out, or all of it waits on. */
static int on_connect(sd_event_source *es, uint64_t usec, void *userdata) {
        GrpcClient *c = userdata;
        Connection *connection = NULL;
        GrpcRequest *q;
        int r = 0;

        while ((q = TAILQ_FIRST(&c->waiting))) {
                r = connection_get(c, &connection);
                if (r >= 0)
                        r = request_submit(q, connection);
                if (r == -ESHUTDOWN) {          /* its stream ids are used up */
                        connection->draining = true;
                        continue;
                }
                if (r < 0)
                        break;
                grpc_link_kick(&connection->link);
        }
        if (r >= 0) {
                c->pause_usec = PAUSE_USEC;
                return 0;
        }

        c->connect_error = r;
        r = arm_connect(c, c->pause_usec);
        if (r < 0)
                log_warning_errno(r, "Failed to set a timer: %m");
        c->pause_usec = MIN(c->pause_usec * 2, PAUSE_MAX_USEC);
        return 0;
}

int grpc_client_call(GrpcClient *c, const char *path, const void *data, size_t size, uint64_t deadline_usec, GrpcReplyHandler handler,
                     void *userdata, GrpcRequest **ret) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        GrpcRequest *q;
        int r;

        if (size > GRPC_MESSAGE_MAX)
                return -EMSGSIZE;
        if (c->n_requests >= GRPC_REQUESTS_MAX)
                return -EBUSY;

        q = new(GrpcRequest);
        if (!q)
                return -ENOMEM;
        *q = (GrpcRequest) {
                .client = c, .handler = handler, .userdata = userdata, .deadline_usec = deadline_usec,
                .connect_by_usec = MIN(deadline_usec, usec_add(now, GRPC_CONNECT_USEC)),
                .path = strdup(path), .message = malloc(GRPC_PREFIX_SIZE + size), .size = GRPC_PREFIX_SIZE + size,
        };
        TAILQ_INSERT_TAIL(&c->waiting, q, requests);
        c->n_requests++;

        r = q->path && q->message ? ttrpc_deadlines_add(&c->deadlines, &q->deadline, q->connect_by_usec) : -ENOMEM;
        /* While the socket is not there its timer runs already. */
        if (r >= 0 && TAILQ_FIRST(&c->waiting) == q)
                r = arm_connect(c, 0);
        if (r < 0) {
                request_free(q);
                return r;
        }

        q->message[0] = 0;
        write_be32(q->message + 1, (uint32_t) size);
        if (size > 0)
                memcpy(q->message + GRPC_PREFIX_SIZE, data, size);
        if (ret)
                *ret = q;
        return 0;
}

/* ---- the client ---- */

static int make_callbacks(nghttp2_session_callbacks **ret) {
        int r;

        r = nghttp2_session_callbacks_new(ret);
        if (r < 0)
                return grpc_h2_to_errno(r);
        nghttp2_session_callbacks_set_on_header_callback(*ret, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(*ret, on_data);
        nghttp2_session_callbacks_set_on_frame_recv_callback(*ret, on_frame);
        nghttp2_session_callbacks_set_on_stream_close_callback(*ret, on_stream_close);
        return 0;
}

int grpc_client_new(sd_event *event, const char *path, GrpcClient **ret) {
        _cleanup_(grpc_client_freep) GrpcClient *c = NULL;
        int r;

        c = new(GrpcClient);
        if (!c)
                return -ENOMEM;
        *c = (GrpcClient) { .event = sd_event_ref(event), .path = strdup(path), .address.sun_family = AF_UNIX, .pause_usec = PAUSE_USEC };
        TAILQ_INIT(&c->connections);
        TAILQ_INIT(&c->waiting);
        if (!c->path)
                return -ENOMEM;
        if (strlen(path) >= sizeof(c->address.sun_path))
                return -ENAMETOOLONG;
        memcpy(c->address.sun_path, path, strlen(path));

        r = ttrpc_deadlines_init(&c->deadlines, event, on_expired, c);
        if (r < 0)
                return r;
        r = make_callbacks(&c->callbacks);
        if (r < 0)
                return r;
        r = sd_event_add_time_relative(event, &c->connect, CLOCK_MONOTONIC, 0, /* accuracy= */ 1, on_connect, c);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(c->connect, SD_EVENT_OFF);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

GrpcClient* grpc_client_free(GrpcClient *c) {
        Connection *connection;
        GrpcRequest *q;

        if (!c)
                return NULL;

        while ((q = TAILQ_FIRST(&c->waiting)))
                request_free(q);
        while ((connection = TAILQ_FIRST(&c->connections))) {
                while ((q = TAILQ_FIRST(&connection->requests)))
                        request_free(q);
                TAILQ_REMOVE(&c->connections, connection, connections);
                grpc_link_done(&connection->link);
                free(connection);
        }
        sd_event_source_disable_unref(c->connect);
        ttrpc_deadlines_done(&c->deadlines);
        nghttp2_session_callbacks_del(c->callbacks);
        sd_event_unref(c->event);
        free(c->path);
        free(c);
        return NULL;
}

const char* grpc_client_path(const GrpcClient *c) {
        return c->path;
}
