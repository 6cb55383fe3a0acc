/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of ttrpc.
 *
 * A call is a TtrpcSlot in the client's table, by stream id, until slot_complete() takes it out and calls its handler. Handlers
 * may do anything, also free the client, so whoever calls one holds the client with client_pin() and looks again afterwards.
 * Handlers run only from the loop: when writing fails inside ttrpc_client_call() the socket is shut down, the loop reads what
 * the peer had still answered, and finds the end.
 */
#include "ttrpc/client.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/io.h"
#include "basic/log.h"
#include "proto/proto.h"
#include "ttrpc/deadline.h"
#include "ttrpc/frame.h"
#include "ttrpc/reader.h"
#include "ttrpc/writer.h"

#define N_BUCKETS 128
#define DIRECT_MIN (16U << 10)          /* a payload as big as this is not copied if the socket takes it */
#define TAIL_MAX 512                    /* … unless this is not enough for what stands behind it */
#define STREAM_ID_MAX INT32_MAX

struct TtrpcSlot {
        TtrpcClient *client;            /* borrowed; NULL once the call is over */
        TtrpcSlot *next;                /* in its bucket */
        uint32_t stream_id;
        bool floating;                  /* nobody else has it: freed with the end of the call */
        TtrpcDeadline deadline;
        TtrpcReplyHandler handler;
        void *userdata;
};

struct TtrpcClient {
        sd_event *event;
        sd_event_source *source;
        int fd;                         /* -EBADF once the connection is lost */
        uint32_t events;
        TtrpcReader reader;
        TtrpcWriter writer;
        TtrpcDeadlines deadlines;
        TtrpcSlot *slots[N_BUCKETS];
        unsigned n_slots;
        uint32_t next_id;
        unsigned n_pins;
        bool freed;                     /* while pinned */
        bool corked;                    /* answers are being handled: new calls gather */
        bool blocked;                   /* the socket takes no more; EPOLLOUT will tell */
        bool broken;                    /* writing failed */
        void (*closed)(TtrpcClient *c, int error, void *userdata);
        void *closed_userdata;
};

static void client_pin(TtrpcClient *c) {
        c->n_pins++;
}

static void client_close(TtrpcClient *c) {
        c->source = sd_event_source_disable_unref(c->source);
        c->fd = close_fd(c->fd);
        c->blocked = false;
        ttrpc_writer_done(&c->writer);
}

static void client_destroy(TtrpcClient *c) {
        ttrpc_reader_done(&c->reader);
        sd_event_unref(c->event);
        free(c);
}

/* Returns whether the client is still there. */
static bool client_unpin(TtrpcClient *c) {
        bool freed = c->freed;

        c->n_pins--;
        if (freed && c->n_pins == 0)
                client_destroy(c);
        return !freed;
}

static TtrpcSlot** client_bucket(TtrpcClient *c, uint32_t stream_id) {
        return &c->slots[(stream_id >> 1) % N_BUCKETS];
}

static TtrpcSlot* client_find_slot(TtrpcClient *c, uint32_t stream_id) {
        TtrpcSlot *slot;

        for (slot = *client_bucket(c, stream_id); slot; slot = slot->next)
                if (slot->stream_id == stream_id)
                        break;

        return slot;
}

static void slot_unlink(TtrpcSlot *slot) {
        TtrpcClient *c = slot->client;
        TtrpcSlot **p;

        for (p = client_bucket(c, slot->stream_id); *p != slot; p = &(*p)->next)
                ;
        *p = slot->next;
        c->n_slots--;
        ttrpc_deadlines_remove(&c->deadlines, &slot->deadline);
        slot->client = NULL;
}

/* Ends the call. The client must be pinned. */
static void slot_complete(TtrpcSlot *slot, const TtrpcReply *reply) {
        TtrpcClient *c = slot->client;
        TtrpcReplyHandler handler = slot->handler;
        void *userdata = slot->userdata;

        slot_unlink(slot);
        if (slot->floating)
                free(slot);
        handler(c, reply, userdata);    /* may free the slot */
}

static void slot_fail(TtrpcSlot *slot, int error, TtrpcCode code, const char *message) {
        slot_complete(slot, &(TtrpcReply) { .error = error, .code = code, .message = message });
}

TtrpcSlot* ttrpc_slot_free(TtrpcSlot *slot) {
        if (!slot)
                return NULL;

        if (slot->client)
                slot_unlink(slot);
        free(slot);
        return NULL;
}

static void client_forget_slots(TtrpcClient *c) {
        for (size_t i = 0; i < N_BUCKETS; i++)
                for (TtrpcSlot *slot; (slot = c->slots[i]);) {
                        slot_unlink(slot);
                        if (slot->floating)
                                free(slot);
                }
}

/* The connection is over: every call fails. */
static void client_lost(TtrpcClient *c, int error) {
        _cleanup_(freep) char *allocated = NULL;
        const char *text = "ttrpc: closed";

        client_close(c);

        if (error == -EBADMSG)
                text = "ttrpc: closed: the peer does not speak ttrpc";
        else if (error != -ENOTCONN && asprintf(&allocated, "ttrpc: closed: %s", strerror(-error)) >= 0)
                text = allocated;

        client_pin(c);
        for (size_t i = 0; i < N_BUCKETS && !c->freed; i++)
                while (c->slots[i])
                        slot_fail(c->slots[i], -ENOTCONN, TTRPC_UNAVAILABLE, text);
        if (!c->freed && c->closed)
                c->closed(c, error, c->closed_userdata);
        (void) client_unpin(c);
}

static void on_deadline(TtrpcDeadline *d, void *userdata) {
        TtrpcClient *c = userdata;

        client_pin(c);
        slot_fail(CONTAINER_OF(d, TtrpcSlot, deadline), -ETIMEDOUT, TTRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
        (void) client_unpin(c);
}

static void client_update_events(TtrpcClient *c) {
        uint32_t events = EPOLLIN | (c->blocked ? EPOLLOUT : 0);

        if (events != c->events && sd_event_source_set_io_events(c->source, events) >= 0)
                c->events = events;
}

/* Takes the result of writing to the socket. On failure the loop will find the end of the stream; see the top. */
static void client_written(TtrpcClient *c, int r) {
        if (r < 0) {
                log_debug_errno(r, "Failed to write to ttrpc server, giving the connection up: %m");
                c->broken = true;
                ttrpc_writer_done(&c->writer);
                (void) shutdown(c->fd, SHUT_RDWR);
        }

        c->blocked = r > 0;
        client_update_events(c);
}

static void client_flush(TtrpcClient *c) {
        if (c->writer.n_bytes > 0)
                client_written(c, ttrpc_writer_flush(&c->writer, c->fd));
}

static void client_handle_response(TtrpcSlot *slot, const TtrpcFrame *frame) {
        _cleanup_(freep) char *message = NULL;
        TtrpcResponse response;

        if (ttrpc_response_parse(frame->data, frame->header.length, &response) < 0) {
                slot_fail(slot, -EBADMSG, TTRPC_INTERNAL, "ttrpc: unmarshal response error");
                return;
        }

        if (response.message.size > 0)
                message = strndup((const char*) response.message.data, response.message.size);

        /* A peer may send a payload beside an error; nobody may take it for an answer. */
        bool ok = response.code == TTRPC_OK;

        slot_complete(slot, &(TtrpcReply) {
                .error = ok ? 0 : -EREMOTEIO,
                .code = response.code,
                .message = strempty(message),   /* without memory for it the code must do */
                .payload = ok ? response.payload.data : NULL,
                .size = ok ? response.payload.size : 0,
        });
}

static void client_handle_frame(TtrpcClient *c, const TtrpcFrame *frame) {
        TtrpcSlot *slot;

        slot = client_find_slot(c, frame->header.stream_id);
        if (!slot)
                return;         /* the late answer of a call that was given up */

        if (frame->oversize) {
                char text[96];

                (void) snprintf(text, sizeof(text), "message length %u exceed maximum message size of %u",
                                frame->header.length, TTRPC_DATA_MAX);
                slot_fail(slot, -EMSGSIZE, TTRPC_RESOURCE_EXHAUSTED, text);
        } else if (frame->header.type != TTRPC_TYPE_RESPONSE)
                slot_fail(slot, -EPROTO, TTRPC_INTERNAL, "ttrpc: unexpected message received on a unary stream");
        else
                client_handle_response(slot, frame);
}

/* Returns 0, or why the connection is lost. The client must be pinned. */
static int client_read(TtrpcClient *c) {
        TtrpcFrame frame;
        ssize_t n;
        int r = 0;

        n = ttrpc_reader_receive(&c->reader, c->fd, NULL);
        if (n == -EAGAIN)
                return 0;
        if (n <= 0)
                return n < 0 && n != -ECONNRESET ? (int) n : -ENOTCONN;

        c->corked = true;
        while (!c->freed && (r = ttrpc_reader_next(&c->reader, &frame)) > 0)
                client_handle_frame(c, &frame);
        c->corked = false;
        return MIN(r, 0);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        TtrpcClient *c = userdata;
        int r = 0;

        client_pin(c);
        if (c->blocked && revents & (EPOLLOUT|EPOLLHUP|EPOLLERR))
                client_flush(c);
        if (revents & (EPOLLIN|EPOLLHUP|EPOLLERR))
                r = client_read(c);
        if (!client_unpin(c))
                return 0;

        if (r < 0)
                client_lost(c, r);
        else if (!c->blocked)
                client_flush(c);
        return 0;
}

int ttrpc_client_new(sd_event *event, int fd_taken, TtrpcClient **ret) {
        _cleanup_(close_fdp) int fd = fd_taken;
        _cleanup_(ttrpc_client_freep) TtrpcClient *c = NULL;
        int r;

        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;

        c = new(TtrpcClient);
        if (!c)
                return -ENOMEM;
        *c = (TtrpcClient) {
                .fd = TAKE_FD(fd),
                .events = EPOLLIN,
                .next_id = 1,
        };

        if (event)
                c->event = sd_event_ref(event);
        else {
                r = sd_event_new(&c->event);
                if (r < 0)
                        return r;
        }

        r = ttrpc_deadlines_init(&c->deadlines, c->event, on_deadline, c);
        if (r < 0)
                return r;

        r = sd_event_add_io(c->event, &c->source, c->fd, c->events, on_io, c);
        if (r < 0)
                return r;
        (void) sd_event_source_set_description(c->source, "ttrpc-client");

        *ret = TAKE_PTR(c);
        return 0;
}

int ttrpc_client_new_unix(sd_event *event, const char *path, TtrpcClient **ret) {
        union {
                struct sockaddr sa;
                struct sockaddr_un un;
        } address = { .un.sun_family = AF_UNIX };
        _cleanup_(close_fdp) int fd = -EBADF;
        size_t n = strlen(path);

        if (n == 0)
                return -EINVAL;
        if (n >= sizeof(address.un.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.un.sun_path, path, n);
        if (path[0] == '@')
                address.un.sun_path[0] = 0;
        else
                n++;            /* with the NUL */

        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, &address.sa, offsetof(struct sockaddr_un, sun_path) + n) < 0)
                return -errno;

        return ttrpc_client_new(event, TAKE_FD(fd), ret);
}

TtrpcClient* ttrpc_client_free(TtrpcClient *c) {
        if (!c || c->freed)
                return NULL;

        client_close(c);
        client_forget_slots(c);
        ttrpc_deadlines_done(&c->deadlines);
        c->freed = true;
        if (c->n_pins == 0)
                client_destroy(c);      /* else the pinned callback still looks at the reader's buffer */
        return NULL;
}

void ttrpc_client_set_closed_handler(TtrpcClient *c, void (*handler)(TtrpcClient *c, int error, void *userdata), void *userdata) {
        c->closed = handler;
        c->closed_userdata = userdata;
}

/* The id is taken and the frame queued in one step: the Go server refuses ids that do not grow (containerd/ttrpc: server.go). */
static int client_queue_request(TtrpcClient *c, const TtrpcRequest *request, const ProtobufCMessage *message) {
        size_t head_size = ttrpc_request_head_size(request), tail_size = ttrpc_request_tail_size(request);
        size_t size = head_size + request->payload.size + tail_size;
        uint8_t *p, tail[TAIL_MAX];
        bool direct;
        int r;

        if (size > TTRPC_DATA_MAX)
                return -EMSGSIZE;
        if (c->writer.n_bytes + size > TTRPC_CLIENT_OUTPUT_MAX)
                return -ENOBUFS;

        direct = !message && !c->blocked && request->payload.size >= DIRECT_MIN && tail_size <= sizeof(tail);

        r = ttrpc_writer_reserve(&c->writer, TTRPC_HEADER_SIZE + (direct ? head_size : size), &p);
        if (r < 0)
                return r;

        p = ttrpc_header_write(&(TtrpcHeader) { .length = size, .stream_id = c->next_id, .type = TTRPC_TYPE_REQUEST }, p);
        c->next_id += 2;
        p = ttrpc_request_write_head(request, p);
        if (direct) {
                struct iovec iov[] = {
                        { .iov_base = (void*) request->payload.data, .iov_len = request->payload.size },
                        { .iov_base = tail, .iov_len = tail_size },
                };

                (void) ttrpc_request_write_tail(request, tail);
                ttrpc_writer_commit(&c->writer, TTRPC_HEADER_SIZE + head_size);
                client_written(c, ttrpc_writer_send(&c->writer, c->fd, iov, ELEMENTSOF(iov)));
                return 0;
        }

        if (message) {
                size_t n = protobuf_c_message_pack(message, p);

                assert(n == request->payload.size);
                p += n;
        } else if (request->payload.size > 0)
                p = mempcpy(p, request->payload.data, request->payload.size);
        (void) ttrpc_request_write_tail(request, p);
        ttrpc_writer_commit(&c->writer, TTRPC_HEADER_SIZE + size);

        if (!c->corked && !c->blocked)
                client_flush(c);
        return 0;
}

static int client_call(TtrpcClient *c, const char *service, const char *method, TtrpcSlice payload, const ProtobufCMessage *message,
                       uint64_t timeout_usec, const TtrpcMetadata *metadata,
                       TtrpcReplyHandler handler, void *userdata, TtrpcSlot **ret_slot) {
        TtrpcRequest request = {
                .service = ttrpc_slice(service),
                .method = ttrpc_slice(method),
                .payload = payload,
                .metadata = metadata,
        };
        TtrpcSlot *slot, **bucket;
        int r;

        if (c->fd < 0 || c->broken)
                return -ENOTCONN;
        if (c->next_id > STREAM_ID_MAX)
                return -EOVERFLOW;
        if (c->n_slots >= TTRPC_CLIENT_CALLS_MAX)
                return -EBUSY;

        slot = new(TtrpcSlot);
        if (!slot)
                return -ENOMEM;
        *slot = (TtrpcSlot) {
                .client = c,
                .stream_id = c->next_id,
                .floating = !ret_slot,
                .handler = handler,
                .userdata = userdata,
        };
        bucket = client_bucket(c, slot->stream_id);
        slot->next = *bucket;
        *bucket = slot;
        c->n_slots++;

        if (timeout_usec > 0 && timeout_usec != USEC_INFINITY) {
                uint64_t now;

                if (sd_event_now(c->event, CLOCK_MONOTONIC, &now) < 0)
                        now = now_usec(CLOCK_MONOTONIC);
                request.timeout_nano = MIN(timeout_usec, (uint64_t) INT64_MAX / NSEC_PER_USEC) * NSEC_PER_USEC;
                r = ttrpc_deadlines_add(&c->deadlines, &slot->deadline, usec_add(now, timeout_usec));
                if (r < 0)
                        goto fail;
        }

        r = client_queue_request(c, &request, message);
        if (r < 0)
                goto fail;

        if (ret_slot)
                *ret_slot = slot;
        return 0;

fail:
        ttrpc_slot_free(slot);
        return r;
}

int ttrpc_client_call(TtrpcClient *c, const char *service, const char *method, const void *payload, size_t size,
                      uint64_t timeout_usec, const TtrpcMetadata *metadata,
                      TtrpcReplyHandler handler, void *userdata, TtrpcSlot **ret_slot) {
        return client_call(c, service, method, (TtrpcSlice) { .data = payload, .size = size }, NULL,
                           timeout_usec, metadata, handler, userdata, ret_slot);
}

int ttrpc_client_call_message(TtrpcClient *c, const char *service, const char *method, const ProtobufCMessage *message,
                              uint64_t timeout_usec, const TtrpcMetadata *metadata,
                              TtrpcReplyHandler handler, void *userdata, TtrpcSlot **ret_slot) {
        /* .data is never looked at: the message is packed in its place. */
        return client_call(c, service, method, (TtrpcSlice) { .size = protobuf_c_message_get_packed_size(message) }, message,
                           timeout_usec, metadata, handler, userdata, ret_slot);
}

bool ttrpc_client_is_connected(const TtrpcClient *c) {
        return c->fd >= 0 && !c->broken;
}

unsigned ttrpc_client_get_n_calls(const TtrpcClient *c) {
        return c->n_slots;
}

/* Waiting for the answer */

void ttrpc_result_done(TtrpcResult *r) {
        free(r->message);
        free(r->payload);
        *r = TTRPC_RESULT_NULL;
}

typedef struct Waiter {
        bool done;
        TtrpcResult result;
} Waiter;

static void on_sync_reply(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Waiter *w = userdata;
        TtrpcResult *result = &w->result;

        w->done = true;
        result->error = reply->error;
        result->code = reply->code;
        result->message = strdup(reply->message);
        if (reply->error != 0)
                return;

        result->payload = malloc(reply->size ?: 1);
        if (!result->payload) {
                result->error = -ENOMEM;
                result->code = TTRPC_RESOURCE_EXHAUSTED;
                return;
        }
        if (reply->size > 0)
                memcpy(result->payload, reply->payload, reply->size);
        result->size = reply->size;
}

static int client_call_sync(TtrpcClient *c, const char *service, const char *method, TtrpcSlice payload, const ProtobufCMessage *message,
                            uint64_t timeout_usec, const TtrpcMetadata *metadata, TtrpcResult *ret) {
        _cleanup_(ttrpc_slot_freep) TtrpcSlot *slot = NULL;
        Waiter waiter = { .result = TTRPC_RESULT_NULL };
        int r;

        r = client_call(c, service, method, payload, message, timeout_usec, metadata, on_sync_reply, &waiter, &slot);
        while (r >= 0 && !waiter.done)
                r = sd_event_run(c->event, UINT64_MAX);

        if (!waiter.done) {
                waiter.result.error = r;
                waiter.result.code = ttrpc_code_from_errno(r);
                waiter.result.message = strdup(strerror(-r));
        }

        *ret = waiter.result;
        return ret->error;
}

int ttrpc_client_call_sync(TtrpcClient *c, const char *service, const char *method, const void *payload, size_t size,
                           uint64_t timeout_usec, const TtrpcMetadata *metadata, TtrpcResult *ret) {
        return client_call_sync(c, service, method, (TtrpcSlice) { .data = payload, .size = size }, NULL, timeout_usec, metadata, ret);
}

int ttrpc_client_call_message_sync(TtrpcClient *c, const char *service, const char *method, const ProtobufCMessage *message,
                                   uint64_t timeout_usec, const TtrpcMetadata *metadata,
                                   const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret_message, TtrpcResult *ret) {
        _cleanup_(ttrpc_result_done) TtrpcResult result = TTRPC_RESULT_NULL;
        int r;

        r = client_call_sync(c, service, method, (TtrpcSlice) { .size = protobuf_c_message_get_packed_size(message) }, message,
                             timeout_usec, metadata, &result);
        if (r >= 0 && type) {
                r = proto_unpack(type, result.payload, result.size, ret_message);
                if (r < 0) {
                        result.error = r;
                        result.code = r == -EBADMSG ? TTRPC_INTERNAL : TTRPC_RESOURCE_EXHAUSTED;
                        free(result.message);
                        result.message = strdup(r == -EBADMSG ? "ttrpc: error unmarshalling payload" :
                                                                "ttrpc: payload too big in memory");
                }
        }

        if (ret) {
                *ret = result;
                result = TTRPC_RESULT_NULL;
        }
        return r;
}
