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
#include "ttrpc/server-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "basic/io.h"
#include "basic/log.h"

/* Texts of the Go server, which clients show to people (containerd/ttrpc: server.go, services.go, channel.go). */
#define TEXT_EVEN_ID "StreamID must be odd for client initiated streams"
#define TEXT_USED_ID "StreamID cannot be re-used and must increment"
#define TEXT_NO_STREAM "StreamID is no longer active"
#define TEXT_BAD_REQUEST "unmarshal request error: proto: cannot parse invalid wire-format data"

static void connection_close(Connection *c);

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

        r = server_call_new(c, stream_id, service, method, request, metadata_size, &call);
        if (r < 0) {
                server_connection_send_status(c, stream_id, TTRPC_RESOURCE_EXHAUSTED, "out of memory for the call");
                return;
        }

        if (silent_remove(&c->server->silent, &c->silent))
                listeners_update(&c->server->listeners);

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
        if (server_connection_find_call(c, id)) {
                server_connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_USED_ID);
                return;
        }

        if (ttrpc_request_parse(frame->data, frame->header.length, &request) < 0) {
                server_connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_BAD_REQUEST);
                return;
        }

        service = server_find_service(c->server, request.service);
        if (!service) {
                server_connection_send_statusf(c, id, TTRPC_UNIMPLEMENTED, "service %.*s",
                                        (int) request.service.size, (const char*) request.service.data);
                return;
        }

        method = service_find_method(service, request.method);
        if (!method) {
                server_connection_send_statusf(c, id, TTRPC_UNIMPLEMENTED, "method %.*s",
                                        (int) request.method.size, (const char*) request.method.data);
                return;
        }

        metadata_size = server_request_metadata_size(&request);
        if (request.timeout_nano < 0)
                server_connection_send_status(c, id, TTRPC_DEADLINE_EXCEEDED, TEXT_DEADLINE);
        else if (c->server->draining)
                server_connection_send_status(c, id, TTRPC_UNAVAILABLE, "server is shutting down");
        else if (c->n_calls >= c->limits.n_calls_max)
                server_connection_send_statusf(c, id, TTRPC_RESOURCE_EXHAUSTED, "more than %u calls in flight on this connection",
                                        c->limits.n_calls_max);
        else if (metadata_size > TTRPC_METADATA_MAX)
                server_connection_send_statusf(c, id, TTRPC_RESOURCE_EXHAUSTED, "metadata of %zu bytes exceed the maximum of %u",
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

        call = server_connection_find_call(c, id);
        if (!call) {
                server_connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_NO_STREAM);
                return;
        }

        ttrpc_call_ref(call);
        if (frame->header.flags & TTRPC_FLAG_NO_DATA)
                return;

        /* The answer that ends the stream is given away here, so the call ends too. */
        server_call_refuse(call, TTRPC_INVALID_ARGUMENT, "received data on a unary stream");
        server_call_tell_cancelled(call, -EPROTO);
}

static void connection_handle_frame(Connection *c, const TtrpcFrame *frame) {
        uint32_t id = frame->header.stream_id;

        if (frame->oversize)
                server_connection_send_statusf(c, id, TTRPC_RESOURCE_EXHAUSTED, TEXT_OVERSIZE,
                                        (size_t) frame->header.length, TTRPC_DATA_MAX);
        else if (id % 2 == 0)
                server_connection_send_status(c, id, TTRPC_INVALID_ARGUMENT, TEXT_EVEN_ID);
        else if (frame->header.type == TTRPC_TYPE_REQUEST)
                connection_handle_request(c, frame);
        else if (frame->header.type == TTRPC_TYPE_DATA)
                connection_handle_data(c, frame);
        /* Other types are passed over for the sake of later versions, as in the Go server. */
}

/* Connections */

static void server_check_drained(TtrpcServer *s) {
        if (s->drain_done && s->n_connections == 0)
                (void) sd_event_source_set_enabled(s->drain_done, SD_EVENT_ONESHOT);
}

void server_connection_update_events(Connection *c) {
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
        for (size_t i = 0; i < SERVER_CALL_BUCKETS; i++)
                while (c->calls[i]) {
                        TtrpcCall *call = ttrpc_call_ref(c->calls[i]);

                        server_call_end(call);
                        server_call_tell_cancelled(call, -ECANCELED);
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

        listeners_update(&s->listeners);
        server_check_drained(s);
}

/* While draining, a connection without calls and unwritten answers is closed; that runs nobody's code. */
void server_connection_close_if_drained(Connection *c) {
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

        server_connection_flush(c);
        if (c->broken || c->writer.n_bytes == 0 || connection_begin_linger(c) < 0)
                connection_close(c);
        else
                server_connection_update_events(c);
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
                        server_connection_flush(c);
                if (c->broken || r <= 0)
                        break;
                if (c->writer.n_bytes >= c->limits.output_high)
                        break;
        }

        c->held = c->writer.n_bytes >= c->limits.output_high;
        server_connection_update_events(c);
        return r < 0 ? r : 0;
}

/* Returns 0, or why the connection is to be closed; -ENOTCONN at the end of the stream. */
static int connection_read(Connection *c) {
        ssize_t n;

        /* Handlers' late answers may have filled the queue meanwhile. */
        if (c->writer.n_bytes >= c->limits.output_high) {
                c->held = true;
                server_connection_update_events(c);
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
                server_connection_flush(c);

        if (c->held && revents & EPOLLRDHUP && connection_begin_linger(c) >= 0)
                server_connection_update_events(c);

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
                server_connection_close_if_drained(c);
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
        listeners_update(&s->listeners);
        return 0;
}

/* Listening */

static bool server_has_room(void *userdata) {
        TtrpcServer *s = userdata;

        return silent_has_room(&s->silent, s->n_connections, s->limits.n_connections_max);
}

static void on_accepted(int fd, const struct sockaddr *sa, socklen_t size, void *userdata) {
        TtrpcServer *s = userdata;
        int r = ttrpc_server_add_connection_fd(s, fd);

        if (r < 0 && r != -EPERM) {
                log_debug_errno(r, "Failed to serve a ttrpc connection, accepting again later: %m");
                listeners_pause(&s->listeners, LISTENERS_PAUSE_USEC);
        }
}

int ttrpc_server_add_listen_fd(TtrpcServer *s, int fd) {
        if (s->draining) {
                close_fd(fd);
                return -ESHUTDOWN;
        }
        return listeners_add(&s->listeners, fd);
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
                .listeners = { .event = event, .accepted = on_accepted, .has_room = server_has_room, .userdata = s },
                .limits = TTRPC_SERVER_LIMITS_DEFAULT,
        };

        r = ttrpc_deadlines_init(&s->deadlines, event, server_on_deadline, s);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(s);
        return 0;
}

TtrpcServer* ttrpc_server_free(TtrpcServer *s) {
        if (!s)
                return NULL;

        listeners_done(&s->listeners);
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
        listeners_update(&s->listeners);
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
        listeners_done(&s->listeners);
        for (Connection *c = s->connections, *next; c; c = next) {
                next = c->next;
                server_connection_close_if_drained(c);
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
