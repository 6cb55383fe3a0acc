/* SPDX-License-Identifier: Apache-2.0 */
/* The server's calls, and how their answers get out. */
#include "ttrpc/server-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

#include "basic/log.h"
#include "proto/proto.h"
#include "ttrpc/utf8.h"

#define DIRECT_MIN (16U << 10)          /* a payload as big as this is not copied if the socket takes it */
#define CORK_MAX (64U << 10)            /* so much gathers before it is written in between */

/* Texts of the Go server, which clients show to people (containerd/ttrpc: server.go, services.go, channel.go). */
#define TEXT_BAD_PAYLOAD "ttrpc: error unmarshalling payload: proto: cannot parse invalid wire-format data"
#define TEXT_NO_ANSWER "ttrpc: marshal called with nil"

/* Calls */

static TtrpcCall** connection_bucket(Connection *c, uint32_t stream_id) {
        return &c->calls[(stream_id >> 1) % SERVER_CALL_BUCKETS];
}

TtrpcCall* server_connection_find_call(Connection *c, uint32_t stream_id) {
        TtrpcCall *call;

        for (call = *connection_bucket(c, stream_id); call; call = call->next)
                if (call->stream_id == stream_id)
                        break;

        return call;
}

/* Takes the call out of the table and gives the table's reference back. */
void server_call_end(TtrpcCall *call) {
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
void server_call_tell_cancelled(TtrpcCall *call, int reason) {
        TtrpcCancelled cancelled = TAKE_PTR(call->cancelled);

        if (cancelled)
                cancelled(call, reason, call->cancelled_userdata);
}

size_t server_request_metadata_size(const TtrpcRequest *request) {
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

int server_call_new(Connection *c, uint32_t stream_id, const Service *service, const TtrpcMethod *method,
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
        server_connection_update_events(c);
}

/* Takes the result of writing to the socket. */
static void connection_written(Connection *c, int r) {
        if (r < 0) {
                connection_break(c, r);
                return;
        }

        c->blocked = r > 0;
        if (!c->corked)
                server_connection_update_events(c);
}

void server_connection_flush(Connection *c) {
        if (c->writer.n_bytes > 0)
                connection_written(c, ttrpc_writer_flush(&c->writer, c->fd));
}

/* After a frame was queued: write now, or leave it to the end of the batch or to EPOLLOUT. */
static void connection_queued(Connection *c) {
        if (!c->blocked && (!c->corked || c->writer.n_bytes >= CORK_MAX))
                server_connection_flush(c);
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
void server_connection_send_status(Connection *c, uint32_t stream_id, TtrpcCode code, const char *text) {
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
                server_connection_send_status(c, stream_id, code, "Out of memory for the error's text");
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

        server_connection_send_status(c, stream_id, code, text);
}

void server_connection_send_statusf(Connection *c, uint32_t stream_id, TtrpcCode code, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        connection_send_statusv(c, stream_id, code, format, ap);
        va_end(ap);
}

/* Ends an active call with the server's own answer. */
void server_call_refuse(TtrpcCall *call, TtrpcCode code, const char *text) {
        Connection *c = call->connection;
        uint32_t stream_id = call->stream_id;

        server_call_end(call);
        server_connection_send_status(c, stream_id, code, text);
        server_connection_close_if_drained(c);
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
                server_connection_send_statusf(c, call->stream_id, TTRPC_RESOURCE_EXHAUSTED, TEXT_OVERSIZE,
                                        ttrpc_response_head_size(response) + response->payload.size, TTRPC_DATA_MAX);
        else if (r < 0)
                server_connection_send_status(c, call->stream_id, TTRPC_RESOURCE_EXHAUSTED,
                                       r == -ENOBUFS ? "too many unread responses on this connection" :
                                                       "out of memory for the response");

        server_call_end(call);
        server_connection_close_if_drained(c);
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

        server_call_end(call);
        server_connection_close_if_drained(c);
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
                server_call_refuse(call, TTRPC_UNKNOWN, TEXT_NO_ANSWER);
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

void server_on_deadline(TtrpcDeadline *d, void *userdata) {
        _cleanup_(ttrpc_call_unrefp) TtrpcCall *call = ttrpc_call_ref(CONTAINER_OF(d, TtrpcCall, deadline));

        server_call_tell_cancelled(call, -ETIMEDOUT);
        if (call->connection)
                server_call_refuse(call, TTRPC_DEADLINE_EXCEEDED, TEXT_DEADLINE);
}
