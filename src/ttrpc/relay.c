/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/relay.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <utlist.h>

#include "basic/log.h"

#define N_BUCKETS_MIN 64U
#define N_SPARE_CALLS_MAX 64U
#define REPLY_TEXT_MAX 400U
/* Then the connection is replaced: ids must grow (containerd/ttrpc: server.go). Looked at after each answer, between two of which no
 * more than RELAY_CALLS_MAX ids can be given out. */
#define ID_LAST (UINT32_MAX - 2 * RELAY_CALLS_MAX - 1)

typedef struct Call Call;
typedef struct Conn Conn;

struct Call {
        Relay *relay;                   /* borrowed */
        uint32_t id;                    /* upstream */
        uint32_t peer_id;               /* downstream */
        Conn *conn;                     /* borrowed; NULL: a call of our own, or its caller is gone */
        bool streaming;                 /* Data frames may follow */
        bool abandoned;
        RelayAnswerHandler on_answer;
        void *userdata;
        sd_event_source *timer;
        Call *next_by_id, *next_by_peer;
        Call *prev, *next;              /* of the same conn */
};

struct Conn {
        Relay *relay;                   /* borrowed */
        Channel *channel;
        Call *calls;
        size_t n_calls;

        uint8_t *big;                   /* a request frame that does not fit into the channel's buffer */
        size_t big_size, big_done;
        size_t discard;                 /* bytes of an oversize request still to be skipped */
        uint64_t waiting_since;         /* the first frame in the buffer waits for the upstream; 0 = no */

        bool waiting;                   /* in relay.waiters */
        bool answers_paused;            /* above RELAY_ANSWERS_SOFT */
        bool blocking;                  /* above RELAY_ANSWERS_MAX: keeps the upstream from being read */
        bool cut;                       /* the last thing in its queue is an unfinished frame */
        bool eof;                       /* it sends nothing more, but may read */
        bool closing;                   /* by us, when its queue is out */
        bool input_off;                 /* what the channel was told last */
        uint8_t *held;                  /* our own answers, to be sent behind the unfinished frame */
        size_t held_size;
        sd_event_source *timer;         /* blocking or closing for too long */

        Conn *prev, *next;              /* relay.conns */
        Conn *prev_waiter, *next_waiter;
};

struct Relay {
        sd_event *event;
        const RelayRule *rules;
        size_t n_rules;
        const RelayHandlers *handlers;
        void *userdata;

        Channel *upstream;
        uint32_t next_id;
        bool upstream_wanted;
        const char *refusing;           /* there is no upstream and requests are answered with this; borrowed */

        size_t body_left;               /* bytes of an answer that is handed on in pieces */
        Conn *body_conn;                /* … to this one; NULL: to nobody */

        Call **by_id, **by_peer;
        size_t n_buckets, n_calls, n_abandoned;
        Call *spare_calls;
        size_t n_spare_calls;

        Conn *conns, *waiters;
        size_t n_conns, n_blocking;
};

static void conn_process(Conn *c);
static void conn_free(Conn *c);
static void conn_drop(Conn *c);

/* Calls: one table by our id, one by connection and its id. */

static size_t bucket_by_id(const Relay *r, uint32_t id) {
        return (id >> 1) & (r->n_buckets - 1);
}

static size_t bucket_by_peer(const Relay *r, const Conn *c, uint32_t peer_id) {
        return ((peer_id >> 1) ^ ((uintptr_t) c >> 6) * UINT32_C(2654435761)) & (r->n_buckets - 1);
}

static Call* find_by_id(const Relay *r, uint32_t id) {
        Call *call = r->by_id[bucket_by_id(r, id)];

        while (call && call->id != id)
                call = call->next_by_id;
        return call;
}

static Call* find_by_peer(const Relay *r, const Conn *c, uint32_t peer_id) {
        Call *call = r->by_peer[bucket_by_peer(r, c, peer_id)];

        while (call && (call->conn != c || call->peer_id != peer_id))
                call = call->next_by_peer;
        return call;
}

static void link_call(Relay *r, Call *call) {
        Call **p = &r->by_id[bucket_by_id(r, call->id)];

        call->next_by_id = *p;
        *p = call;
        if (call->conn) {
                p = &r->by_peer[bucket_by_peer(r, call->conn, call->peer_id)];
                call->next_by_peer = *p;
                *p = call;
        }
}

static int grow_buckets(Relay *r) {
        size_t n = r->n_buckets * 2, old_n = r->n_buckets;
        _cleanup_(freep) Call **old = r->by_id;
        Call **by_id = new0(Call*, n), **by_peer = new0(Call*, n);

        if (!by_id || !by_peer) {
                free(by_id);
                free(by_peer);
                old = NULL;
                return -ENOMEM;
        }

        free(r->by_peer);
        r->by_id = by_id;
        r->by_peer = by_peer;
        r->n_buckets = n;
        for (size_t i = 0; i < old_n; i++)
                for (Call *call = old[i], *next; call; call = next) {
                        next = call->next_by_id;
                        link_call(r, call);
                }
        return 0;
}

static void unlink_from_peer(Call *call) {
        Relay *r = call->relay;
        Conn *c = call->conn;

        for (Call **p = &r->by_peer[bucket_by_peer(r, c, call->peer_id)]; *p; p = &(*p)->next_by_peer)
                if (*p == call) {
                        *p = call->next_by_peer;
                        break;
                }
        DL_DELETE(c->calls, call);
        c->n_calls--;
        call->conn = NULL;
}

static void call_free(Call *call) {
        Relay *r = call->relay;

        if (call->conn)
                unlink_from_peer(call);
        for (Call **p = &r->by_id[bucket_by_id(r, call->id)]; *p; p = &(*p)->next_by_id)
                if (*p == call) {
                        *p = call->next_by_id;
                        break;
                }
        r->n_calls--;
        if (call->abandoned)
                r->n_abandoned--;
        call->timer = sd_event_source_disable_unref(call->timer);

        if (r->n_spare_calls < N_SPARE_CALLS_MAX) {
                LL_PREPEND(r->spare_calls, call);
                r->n_spare_calls++;
        } else
                free(call);
}

/* Takes the next id. The caller queues the frame before anything else can be queued: the Go server behind the forwarder
 * refuses ids that do not grow (containerd/ttrpc: server.go). */
static Call* call_new(Relay *r, Conn *c, uint32_t peer_id) {
        Call *call;

        if (r->n_calls >= r->n_buckets && grow_buckets(r) < 0)
                return NULL;

        call = r->spare_calls;
        if (call) {
                LL_DELETE(r->spare_calls, call);
                r->n_spare_calls--;
        } else {
                call = new(Call);
                if (!call)
                        return NULL;
        }

        *call = (Call) { .relay = r, .id = r->next_id, .conn = c, .peer_id = peer_id };
        r->next_id += 2;
        link_call(r, call);
        r->n_calls++;
        if (c) {
                DL_APPEND(c->calls, call);
                c->n_calls++;
        }
        return call;
}

/* The caller is gone or has broken the stream's rules; the upstream goes on. Its answer will be dropped. */
static void call_abandon(Call *call) {
        if (call->conn)
                unlink_from_peer(call);
        if (!call->abandoned) {
                call->abandoned = true;
                call->relay->n_abandoned++;
        }
}

/* Downstream connections. */

static size_t conn_answers(const Conn *c) {
        return channel_queued(c->channel) + c->held_size;
}

static void conn_update_input(Conn *c) {
        bool off = c->waiting || c->answers_paused || c->eof || c->closing;

        if (off == c->input_off)
                return;
        c->input_off = off;
        if (off)
                channel_pause_input(c->channel);
        else
                channel_resume_input(c->channel);
}

/* Asks for the next turn of the tide that matters. */
static void conn_arm_drained(Conn *c) {
        if (c->blocking)
                channel_notify_drained(c->channel, RELAY_ANSWERS_MAX / 2);
        else if (c->answers_paused)
                channel_notify_drained(c->channel, RELAY_ANSWERS_SOFT / 2);
        else if (c->eof || c->closing)
                channel_notify_drained(c->channel, 0);
}

static void conn_set_waiting(Conn *c, bool b) {
        Relay *r = c->relay;

        if (c->waiting == b)
                return;
        c->waiting = b;
        if (b) {
                DL_APPEND2(r->waiters, c, prev_waiter, next_waiter);
                if (c->waiting_since == 0)
                        c->waiting_since = now_usec(CLOCK_MONOTONIC);
                if (r->upstream)
                        channel_notify_drained(r->upstream, RELAY_UPSTREAM_LOW);
        } else
                DL_DELETE2(r->waiters, c, prev_waiter, next_waiter);
        conn_update_input(c);
}

static void conn_set_blocking(Conn *c, bool b);

static int on_conn_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Conn *c = userdata;
        Relay *r = c->relay;

        if (c->closing) {
                conn_drop(c);
                return 0;
        }

        if (c->blocking && r->n_calls - r->n_abandoned > c->n_calls) {
                log_warning("A client does not read its answers and holds up the others, closing its connection.");
                conn_drop(c);
                return 0;
        }

        /* Nobody else waits, so it may take its time. */
        (void) sd_event_source_set_time_relative(source, RELAY_STALL_USEC);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static void conn_set_timer(Conn *c, uint64_t usec) {
        c->timer = sd_event_source_disable_unref(c->timer);
        if (usec != USEC_INFINITY &&
            sd_event_add_time_relative(c->relay->event, &c->timer, CLOCK_MONOTONIC, usec, 0, on_conn_timer, c) < 0)
                log_debug("No timer for a connection, going on without.");
}

static void conn_set_blocking(Conn *c, bool b) {
        Relay *r = c->relay;

        if (c->blocking == b)
                return;
        c->blocking = b;
        if (b)
                r->n_blocking++;
        else
                r->n_blocking--;
        conn_set_timer(c, b ? RELAY_STALL_USEC : USEC_INFINITY);

        if (!r->upstream)
                return;
        if (r->n_blocking == 1 && b)
                channel_pause_input(r->upstream);
        else if (r->n_blocking == 0)
                channel_resume_input(r->upstream);
}

static void conn_free(Conn *c) {
        Relay *r = c->relay;

        while (c->calls)
                call_abandon(c->calls);
        if (r->body_conn == c)
                r->body_conn = NULL;
        conn_set_blocking(c, false);
        if (c->waiting)
                DL_DELETE2(r->waiters, c, prev_waiter, next_waiter);
        DL_DELETE(r->conns, c);
        r->n_conns--;
        sd_event_source_disable_unref(c->timer);
        channel_free(c->channel);
        free(c->big);
        free(c->held);
        free(c);

        if (r->handlers->on_connection_closed)
                r->handlers->on_connection_closed(r, r->userdata);
}

/* Ends a connection in good order. It is freed from the loop, not from here. */
static void conn_close(Conn *c) {
        if (c->closing)
                return;
        c->closing = true;
        conn_set_blocking(c, false);
        if (c->waiting)
                conn_set_waiting(c, false);
        conn_update_input(c);
        conn_set_timer(c, c->cut ? 0 : RELAY_LINGER_USEC);      /* what follows half a frame would be read as its rest */
        conn_arm_drained(c);
}

static void conn_send(Conn *c, const uint8_t *data, size_t size) {
        (void) channel_write(c->channel, data, size);           /* a failure comes back as on_closed() */
        if (conn_answers(c) > RELAY_ANSWERS_MAX && !c->closing) {
                conn_set_blocking(c, true);
                conn_arm_drained(c);
        }
        if (c->eof)
                conn_arm_drained(c);
}

static void conn_reply(Conn *c, uint32_t peer_id, int code, const char *format, ...) PRINTF(4, 5);
static void conn_reply(Conn *c, uint32_t peer_id, int code, const char *format, ...) {
        uint8_t frame[TTRPC_HEADER_SIZE + REPLY_TEXT_MAX + 64];
        char text[REPLY_TEXT_MAX];
        TtrpcResponse response = { .code = code };
        size_t size;
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);

        response.message = ttrpc_slice(text);
        size = ttrpc_response_size(&response);
        assert(TTRPC_HEADER_SIZE + size <= sizeof(frame));
        ttrpc_header_write(&(TtrpcHeader) { .length = size, .stream_id = peer_id, .type = TTRPC_TYPE_RESPONSE }, frame);
        ttrpc_response_write(&response, frame + TTRPC_HEADER_SIZE);
        size += TTRPC_HEADER_SIZE;

        if (c->cut) {
                uint8_t *held = realloc(c->held, c->held_size + size);

                if (!held) {
                        conn_close(c);
                        return;
                }
                memcpy(held + c->held_size, frame, size);
                c->held = held;
                c->held_size += size;
                return;
        }

        conn_send(c, frame, size);
}

static const RelayRule* find_rule(const Relay *r, const TtrpcRequest *request) {
        for (size_t i = 0; i < r->n_rules; i++)
                if (ttrpc_slice_is(request->method, r->rules[i].method) && ttrpc_slice_is(request->service, r->rules[i].service))
                        return r->rules + i;
        return NULL;
}

static bool upstream_has_room(const Relay *r) {
        return r->upstream && channel_queued(r->upstream) < RELAY_UPSTREAM_HIGH;
}

/* Writes the envelope anew around an edited payload. 0, or a status code with a text in @edit. */
static int edited_frame(Conn *c, TtrpcRequest *request, RelayEdit *edit, uint8_t flags, uint8_t **ret, size_t *ret_size) {
        TtrpcHeader header = { .type = TTRPC_TYPE_REQUEST, .flags = flags };
        size_t size;
        uint8_t *frame;

        request->payload = (TtrpcSlice) { edit->payload, edit->size };
        if (request->timeout_nano > 0 && c->waiting_since > 0) {
                uint64_t waited = (now_usec(CLOCK_MONOTONIC) - c->waiting_since) * NSEC_PER_USEC;

                if (waited >= (uint64_t) request->timeout_nano) {
                        (void) snprintf(edit->message, sizeof(edit->message), "timeout");
                        return TTRPC_DEADLINE_EXCEEDED;
                }
                request->timeout_nano -= waited;
        }

        size = ttrpc_request_size(request);
        if (size > TTRPC_DATA_MAX) {
                (void) snprintf(edit->message, sizeof(edit->message), "message length %zu exceed maximum message size of %" PRIu32,
                                size, TTRPC_DATA_MAX);
                return TTRPC_RESOURCE_EXHAUSTED;
        }

        frame = malloc(TTRPC_HEADER_SIZE + size);
        if (!frame) {
                (void) snprintf(edit->message, sizeof(edit->message), "out of memory");
                return TTRPC_RESOURCE_EXHAUSTED;
        }
        header.length = size;
        ttrpc_header_write(&header, frame);
        ttrpc_request_write(request, frame + TTRPC_HEADER_SIZE);
        *ret = frame;
        *ret_size = TTRPC_HEADER_SIZE + size;
        return 0;
}

/* Judges a whole frame from a caller. 1: its id is changed, it is to go upstream as it lies there. 0: nothing to send;
 * or @ret_new is the frame to send in its place (malloc()ed). */
static int conn_frame(Conn *c, uint8_t *frame, const TtrpcHeader *h, uint8_t **ret_new, size_t *ret_new_size) {
        Relay *r = c->relay;
        uint8_t *out = frame;
        RelayEdit edit = {};
        Call *call;

        if (h->type != TTRPC_TYPE_REQUEST && h->type != TTRPC_TYPE_DATA)
                return 0;               /* as the Go server does */
        if (h->stream_id % 2 == 0) {
                conn_reply(c, h->stream_id, TTRPC_INVALID_ARGUMENT, "StreamID must be odd for client initiated streams");
                return 0;
        }

        call = find_by_peer(r, c, h->stream_id);

        if (h->type == TTRPC_TYPE_DATA) {
                /* Data on a unary call would kill a Go server (containerd/ttrpc: server.go): it never gets there. */
                if (!call || !call->streaming) {
                        if (call)
                                call_abandon(call);
                        conn_reply(c, h->stream_id, TTRPC_INVALID_ARGUMENT, "StreamID is no longer active");
                        return 0;
                }
                write_be32(frame + 4, call->id);
                return 1;
        }

        if (call) {
                conn_reply(c, h->stream_id, TTRPC_INVALID_ARGUMENT, "StreamID cannot be re-used and must increment");
                return 0;
        }
        if (r->refusing) {
                conn_reply(c, h->stream_id, TTRPC_UNAVAILABLE, "%s", r->refusing);
                return 0;
        }
        if (c->n_calls >= RELAY_CALLS_PER_CONNECTION_MAX || r->n_calls >= RELAY_CALLS_MAX) {
                conn_reply(c, h->stream_id, TTRPC_RESOURCE_EXHAUSTED, "too many calls in flight");
                return 0;
        }

        if (r->n_rules > 0) {
                const RelayRule *rule;
                TtrpcRequest request;
                size_t size = 0;

                /* What cannot be read cannot be matched with the rules either, so it goes no further. */
                if (ttrpc_request_parse(frame + TTRPC_HEADER_SIZE, h->length, &request) < 0) {
                        conn_reply(c, h->stream_id, TTRPC_INVALID_ARGUMENT, "unmarshal request error: malformed");
                        return 0;
                }

                rule = find_rule(r, &request);
                if (rule) {
                        rule->handler(&request, &edit, r->userdata);
                        if (edit.code == TTRPC_OK && edit.payload) {
                                edit.code = edited_frame(c, &request, &edit, h->flags, &out, &size);
                                *ret_new_size = size;
                        }
                        free(edit.payload);
                        if (edit.code != TTRPC_OK) {
                                conn_reply(c, h->stream_id, edit.code, "%s", edit.message);
                                return 0;
                        }
                }
        }

        call = call_new(r, c, h->stream_id);
        if (!call) {
                if (out != frame)
                        free(out);
                conn_reply(c, h->stream_id, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                return 0;
        }
        call->streaming = h->flags & (TTRPC_FLAG_REMOTE_OPEN|TTRPC_FLAG_REMOTE_CLOSED);
        call->on_answer = edit.on_answer;
        call->userdata = r->userdata;

        write_be32(out + 4, call->id);
        if (out != frame) {
                *ret_new = out;
                return 0;
        }
        return 1;
}

static void want_upstream(Relay *r) {
        if (r->waiters && !r->upstream && !r->upstream_wanted && r->handlers->on_upstream_wanted) {
                r->upstream_wanted = true;
                r->handlers->on_upstream_wanted(r, r->userdata);
        }
}

/* Forwards what has been read: runs of frames that lie one behind the other go out with one write. */
static void conn_process(Conn *c) {
        Relay *r = c->relay;
        size_t used = 0, run = 0, size;         /* [run, used) is ready to go out */
        uint8_t *data = channel_data(c->channel, &size);
        TtrpcHeader h;

        /* channel_write() below touches other channels' buffers only, so @data stays where it is. */
#define FLUSH()                                                                                         \
        do {                                                                                            \
                if (used > run)                                                                         \
                        (void) channel_write(r->upstream, data + run, used - run);                      \
                run = used;                                                                             \
        } while (false)

        while (!c->closing) {
                uint8_t *replaced = NULL;
                size_t replaced_size = 0;
                int k;

                if (conn_answers(c) > RELAY_ANSWERS_SOFT) {
                        c->answers_paused = true;
                        conn_update_input(c);
                        conn_arm_drained(c);
                        break;
                }

                if (c->discard > 0) {
                        size_t n = MIN(c->discard, size - used);

                        FLUSH();
                        c->discard -= n;
                        used = run = used + n;
                        if (c->discard > 0)
                                break;
                }

                if (c->big) {
                        if (c->big_done < c->big_size)
                                break;
                } else {
                        k = ttrpc_header_parse(data + used, size - used, &h);
                        if (k < 0) {
                                log_debug("A client does not speak ttrpc, closing its connection.");
                                FLUSH();
                                conn_close(c);
                                break;
                        }
                        if (k == 0)
                                break;

                        if (h.length > TTRPC_DATA_MAX) {
                                FLUSH();
                                conn_reply(c, h.stream_id, TTRPC_RESOURCE_EXHAUSTED,
                                           "message length %" PRIu32 " exceed maximum message size of %" PRIu32, h.length, TTRPC_DATA_MAX);
                                c->discard = h.length;
                                used = run = used + TTRPC_HEADER_SIZE;
                                continue;
                        }

                        if (size - used < TTRPC_HEADER_SIZE + h.length) {
                                if (TTRPC_HEADER_SIZE + h.length <= CHANNEL_IN_SIZE)
                                        break;

                                FLUSH();
                                c->big = malloc(TTRPC_HEADER_SIZE + h.length);  /* pages come with the bytes */
                                if (!c->big) {
                                        conn_reply(c, h.stream_id, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                                        c->discard = h.length;
                                        used = run = used + TTRPC_HEADER_SIZE;
                                        continue;
                                }
                                c->big_size = TTRPC_HEADER_SIZE + h.length;
                                c->big_done = size - used;
                                memcpy(c->big, data + used, c->big_done);
                                used = run = size;
                                break;
                        }
                }

                if (!r->refusing && (!r->upstream || channel_queued(r->upstream) + (used - run) >= RELAY_UPSTREAM_HIGH)) {
                        FLUSH();
                        if (!upstream_has_room(r)) {
                                conn_set_waiting(c, true);
                                break;
                        }
                }

                if (c->big) {
                        uint8_t *big = c->big;

                        FLUSH();
                        k = ttrpc_header_parse(big, c->big_size, &h);
                        assert(k > 0);
                        k = conn_frame(c, big, &h, &replaced, &replaced_size);
                        if (k > 0)
                                (void) channel_write_take(r->upstream, big, c->big_size);
                        else
                                free(big);
                        c->big = NULL;
                        c->big_size = c->big_done = 0;
                } else {
                        k = conn_frame(c, data + used, &h, &replaced, &replaced_size);
                        if (k == 0)
                                FLUSH();
                        used += TTRPC_HEADER_SIZE + h.length;
                        if (k == 0)
                                run = used;
                }

                if (replaced)
                        (void) channel_write_take(r->upstream, replaced, replaced_size);
                c->waiting_since = 0;
        }

        FLUSH();
#undef FLUSH
        if (used > 0)
                channel_consume(c->channel, used);

        want_upstream(r);
}

static void on_conn_input(Channel *channel, void *userdata) {
        Conn *c = userdata;
        ssize_t n;

        if (c->big && c->big_done < c->big_size) {
                n = channel_read_direct(channel, c->big + c->big_done, c->big_size - c->big_done);
                if (n > 0)
                        c->big_done += n;
        } else
                n = channel_fill(channel);
        if (n < 0 && n != -EAGAIN && n != -ENOBUFS)
                return;                 /* on_conn_closed() follows */

        conn_process(c);

        if (n == 0 && !c->waiting && !c->answers_paused) {
                /* It has closed its half, after requests whose answers it may still wait for. */
                c->eof = true;
                conn_update_input(c);
                conn_arm_drained(c);
        }
}

static void on_conn_drained(Channel *channel, void *userdata) {
        Conn *c = userdata;

        if (c->closing || (c->eof && c->n_calls == 0 && !c->cut)) {
                if (conn_answers(c) == 0) {
                        conn_drop(c);
                        return;
                }
        }

        if (c->blocking && conn_answers(c) <= RELAY_ANSWERS_MAX / 2)
                conn_set_blocking(c, false);
        if (c->answers_paused && conn_answers(c) <= RELAY_ANSWERS_SOFT / 2) {
                c->answers_paused = false;
                conn_update_input(c);
        }
        if (!c->eof || (c->n_calls == 0 && !c->cut))    /* else the next answer arms it */
                conn_arm_drained(c);
}

static void on_conn_closed(Channel *channel, int error, void *userdata) {
        log_debug_errno(error, "A client's connection is over: %m");
        conn_drop(userdata);
}

static const ChannelHandlers conn_handlers = {
        .on_input = on_conn_input,
        .on_drained = on_conn_drained,
        .on_closed = on_conn_closed,
};

int relay_add_downstream(Relay *r, Channel *channel) {
        Conn *c = new(Conn);

        if (!c) {
                channel_free(channel);
                return -ENOMEM;
        }
        *c = (Conn) { .relay = r, .channel = channel };
        DL_APPEND(r->conns, c);
        r->n_conns++;

        channel_set_handlers(channel, &conn_handlers, c);
        channel_set_hangup_is_end(channel);
        channel_resume_input(channel);
        return 0;
}

/* Upstream. */

static const char* upstream_name(const Relay *r) {
        return r->handlers->upstream ?: "other end";
}

/* The upstream is gone with all calls on it. Those who wait for it without a call there stay, and get the next one. */
static void upstream_lost(Relay *r, int error, const char *text) {
        r->body_left = 0;
        r->body_conn = NULL;

        for (size_t i = 0; i < r->n_buckets; i++)
                while (r->by_id[i]) {
                        Call *call = r->by_id[i];
                        RelayAnswerHandler on_answer = call->on_answer;
                        void *userdata = call->userdata;

                        call_free(call);
                        if (on_answer)
                                on_answer(-ENOTCONN, ttrpc_slice(text), (TtrpcSlice) {}, userdata);
                }

        r->handlers->on_upstream_lost(r, error, text, r->userdata);
        want_upstream(r);
}

/* Long polls of callers that are gone stay open at the other end: only closing the connection ends them. That is done as
 * soon as nobody else has a call or half an answer on it. */
static void end_abandoned_calls(Relay *r) {
        if (!r->upstream || r->n_abandoned < RELAY_ABANDONED_MAX || r->n_abandoned != r->n_calls || r->body_conn)
                return;
        r->upstream = channel_free(r->upstream);
        upstream_lost(r, -ESTALE, "too many calls of clients that are gone");
}

static void conn_drop(Conn *c) {
        Relay *r = c->relay;

        conn_free(c);
        end_abandoned_calls(r);
}

static void upstream_failed(Relay *r, int error, const char *text) {
        _cleanup_(channel_freep) Channel *upstream = TAKE_PTR(r->upstream);

        for (Conn *c = r->conns; c; c = c->next) {
                while (c->calls) {
                        Call *call = c->calls;

                        if (!c->cut)
                                conn_reply(c, call->peer_id, TTRPC_UNAVAILABLE, "connection to the %s lost: %s", upstream_name(r),
                                           text);
                        call_abandon(call);
                }
                conn_close(c);
        }
        upstream_lost(r, error, text);
}

static void upstream_closed(Relay *r, int error, const char *reason) {
        char text[256];

        if (!reason && (error == -ECONNRESET || error == -EPIPE))
                (void) snprintf(text, sizeof(text), "closed by the %s", upstream_name(r));
        else
                (void) snprintf(text, sizeof(text), "%s", reason ?: strerrordesc_np(-error) ?: "error");
        upstream_failed(r, error, text);
}

static void on_upstream_closed(Channel *channel, int error, void *userdata) {
        upstream_closed(userdata, error, channel_error(channel));
}

static void on_upstream_drained(Channel *channel, void *userdata) {
        Relay *r = userdata;

        /* Each in its turn: whoever has more than one turn's worth is put at the end again. */
        while (r->waiters && upstream_has_room(r)) {
                Conn *c = r->waiters;

                conn_set_waiting(c, false);
                conn_process(c);
        }
        if (r->waiters)
                channel_notify_drained(channel, RELAY_UPSTREAM_LOW);
}

static void call_answered(Call *call, const uint8_t *data, size_t size, bool whole) {
        RelayAnswerHandler on_answer = call->on_answer;
        void *userdata = call->userdata;
        TtrpcResponse response = {};

        if (on_answer && whole && ttrpc_response_parse(data, size, &response) < 0)
                response = (TtrpcResponse) { .code = TTRPC_INTERNAL, .message = ttrpc_slice("malformed response") };
        call_free(call);
        if (on_answer)
                on_answer(response.code, response.message, response.payload, userdata);
}

/* The last piece of an answer that came in pieces is with its reader: what we had to say ourselves may follow. */
static void body_done(Relay *r) {
        Conn *c = TAKE_PTR(r->body_conn);

        if (!c)
                return;
        c->cut = false;
        if (c->held_size > 0) {
                conn_send(c, c->held, c->held_size);
                free(c->held);
                c->held = NULL;
                c->held_size = 0;
        }
        if (c->eof)
                conn_arm_drained(c);
}

static void on_upstream_input(Channel *channel, void *userdata) {
        Relay *r = userdata;
        size_t used = 0, run = 0, size;         /* [run, used) goes to @to */
        uint8_t *data;
        Conn *to = NULL;
        ssize_t n;
        int bad = 0;

        n = channel_fill(channel);
        if (n < 0 && n != -EAGAIN && n != -ENOBUFS)
                return;

        data = channel_data(channel, &size);

#define FLUSH(next)                                                                     \
        do {                                                                            \
                if (to && used > run)                                                   \
                        conn_send(to, data + run, used - run);                          \
                run = used;                                                             \
                to = (next);                                                            \
        } while (false)

        while (r->n_blocking == 0) {
                TtrpcHeader h;
                size_t whole;
                Call *call;
                int k;

                if (r->body_left > 0) {
                        size_t m = MIN(r->body_left, size - used);

                        if (m == 0)
                                break;
                        FLUSH(r->body_conn);
                        used += m;
                        FLUSH(NULL);
                        r->body_left -= m;
                        if (r->body_left == 0)
                                body_done(r);
                        continue;
                }

                k = ttrpc_header_parse(data + used, size - used, &h);
                if (k < 0) {
                        bad = k;
                        break;
                }
                if (k == 0)
                        break;

                whole = TTRPC_HEADER_SIZE + h.length;
                if (size - used < whole && whole <= CHANNEL_IN_SIZE)
                        break;

                call = h.type == TTRPC_TYPE_RESPONSE || h.type == TTRPC_TYPE_DATA ? find_by_id(r, h.stream_id) : NULL;

                if (h.length > TTRPC_DATA_MAX) {
                        FLUSH(NULL);
                        if (call && call->conn)
                                conn_reply(call->conn, call->peer_id, TTRPC_RESOURCE_EXHAUSTED,
                                           "message length %" PRIu32 " exceed maximum message size of %" PRIu32, h.length, TTRPC_DATA_MAX);
                        if (call)
                                call_answered(call, NULL, 0, false);
                        used = run = used + TTRPC_HEADER_SIZE;
                        r->body_left = h.length;
                        r->body_conn = NULL;
                        continue;
                }

                if (!call || !call->conn || call->conn->closing) {
                        FLUSH(NULL);
                } else if (call->conn != to)
                        FLUSH(call->conn);
                if (to)
                        write_be32(data + used + 4, call->peer_id);

                if (size - used < whole) {      /* too big for the buffer: hand on what there is, the rest follows */
                        r->body_left = whole - (size - used);
                        r->body_conn = to;
                        if (to)
                                to->cut = true;
                        if (call && (h.type == TTRPC_TYPE_RESPONSE || h.flags & TTRPC_FLAG_REMOTE_CLOSED))
                                call_answered(call, NULL, 0, false);
                        used = size;
                        FLUSH(NULL);
                        break;
                }

                /* A server's Data with this flag ends the stream as a Response does (containerd/ttrpc: server.go). */
                if (call && (h.type == TTRPC_TYPE_RESPONSE || h.flags & TTRPC_FLAG_REMOTE_CLOSED))
                        call_answered(call, data + used + TTRPC_HEADER_SIZE, h.length, h.type == TTRPC_TYPE_RESPONSE);
                used += whole;
                if (!to)
                        run = used;
        }

        FLUSH(NULL);
#undef FLUSH
        if (used > 0)
                channel_consume(channel, used);

        if (bad < 0)
                upstream_closed(r, bad, "it does not speak ttrpc");
        else if (n == 0 && r->n_blocking == 0)
                upstream_closed(r, -ECONNRESET, /* reason= */ NULL);
        else if (r->next_id >= ID_LAST)
                upstream_failed(r, -EOVERFLOW, "stream ids used up");
        else
                end_abandoned_calls(r);
}

static const ChannelHandlers upstream_handlers = {
        .on_input = on_upstream_input,
        .on_drained = on_upstream_drained,
        .on_closed = on_upstream_closed,
};

void relay_set_upstream(Relay *r, Channel *channel) {
        assert(!r->upstream);

        r->upstream = channel;
        r->upstream_wanted = false;
        r->next_id = 1;
        channel_set_handlers(channel, &upstream_handlers, r);
        if (r->n_blocking == 0)
                channel_resume_input(channel);
        else
                channel_pause_input(channel);
        channel_notify_drained(channel, RELAY_UPSTREAM_LOW);
}

bool relay_has_upstream(const Relay *r) {
        return r->upstream;
}

void relay_refuse_waiting(Relay *r, const char *text) {
        assert(!r->upstream);

        /* Whoever comes new while this runs waits again, and asks for an upstream again. */
        r->upstream_wanted = false;
        r->refusing = text;
        while (r->waiters) {
                Conn *c = r->waiters;

                conn_set_waiting(c, false);
                conn_process(c);
        }
        r->refusing = NULL;
}

static int on_own_call_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        Call *call = userdata;
        RelayAnswerHandler on_answer = TAKE_PTR(call->on_answer);

        call->timer = sd_event_source_disable_unref(call->timer);
        call_abandon(call);
        on_answer(TTRPC_DEADLINE_EXCEEDED, ttrpc_slice("no answer in time"), (TtrpcSlice) {}, call->userdata);
        return 0;
}

int relay_call(Relay *r, const char *service, const char *method, const void *payload, size_t size, uint64_t timeout_usec,
               RelayAnswerHandler handler, void *userdata) {
        TtrpcRequest request = {
                .service = ttrpc_slice(service),
                .method = ttrpc_slice(method),
                .payload = { payload, size },
                .timeout_nano = timeout_usec * NSEC_PER_USEC,
        };
        size_t length = ttrpc_request_size(&request);
        uint8_t *frame;
        Call *call;
        int k;

        if (!r->upstream)
                return -ENOTCONN;
        if (r->n_calls >= RELAY_CALLS_MAX)
                return -EBUSY;
        if (length > TTRPC_DATA_MAX)
                return -EMSGSIZE;

        frame = malloc(TTRPC_HEADER_SIZE + length);
        if (!frame)
                return -ENOMEM;
        call = call_new(r, NULL, 0);
        if (!call) {
                free(frame);
                return -ENOMEM;
        }
        call->on_answer = handler;
        call->userdata = userdata;

        ttrpc_header_write(&(TtrpcHeader) { .length = length, .stream_id = call->id, .type = TTRPC_TYPE_REQUEST }, frame);
        ttrpc_request_write(&request, frame + TTRPC_HEADER_SIZE);
        (void) channel_write_take(r->upstream, frame, TTRPC_HEADER_SIZE + length);

        k = sd_event_add_time_relative(r->event, &call->timer, CLOCK_MONOTONIC, timeout_usec, 0, on_own_call_timeout, call);
        if (k < 0) {
                call->on_answer = NULL;
                call_abandon(call);
                return k;
        }
        return 0;
}

void relay_finish(Relay *r, const char *text, uint64_t timeout_usec) {
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), timeout_usec);

        for (Conn *c = r->conns; c; c = c->next) {
                for (Call *call = c->calls; call && !c->cut; call = call->next)
                        conn_reply(c, call->peer_id, TTRPC_UNAVAILABLE, "%s", text);
                if (!c->cut) {
                        uint64_t now = now_usec(CLOCK_MONOTONIC);

                        channel_finish(c->channel, now < end ? end - now : 0);
                }
        }
}

int relay_new(sd_event *event, const RelayRule *rules, size_t n_rules, const RelayHandlers *handlers, void *userdata, Relay **ret) {
        _cleanup_(relay_freep) Relay *r = new(Relay);

        if (!r)
                return -ENOMEM;
        *r = (Relay) {
                .event = sd_event_ref(event),
                .rules = rules,
                .n_rules = n_rules,
                .handlers = handlers,
                .userdata = userdata,
                .n_buckets = N_BUCKETS_MIN,
        };

        r->by_id = new0(Call*, r->n_buckets);
        r->by_peer = new0(Call*, r->n_buckets);
        if (!r->by_id || !r->by_peer)
                return -ENOMEM;

        *ret = TAKE_PTR(r);
        return 0;
}

Relay* relay_free(Relay *r) {
        static const RelayHandlers no_handlers = {};

        if (!r)
                return NULL;

        r->handlers = &no_handlers;
        while (r->conns)
                conn_free(r->conns);
        for (size_t i = 0; r->by_id && r->by_peer && i < r->n_buckets; i++)
                while (r->by_id[i])
                        call_free(r->by_id[i]);
        while (r->spare_calls) {
                Call *call = r->spare_calls;

                LL_DELETE(r->spare_calls, call);
                free(call);
        }
        channel_free(r->upstream);
        free(r->by_id);
        free(r->by_peer);
        sd_event_unref(r->event);
        free(r);
        return NULL;
}

size_t relay_get_n_connections(const Relay *r) {
        return r->n_conns;
}

size_t relay_get_n_calls(const Relay *r) {
        return r->n_calls;
}

size_t relay_get_memory(const Relay *r) {
        size_t sum = r->upstream ? channel_queued(r->upstream) : 0;

        for (const Conn *c = r->conns; c; c = c->next)
                sum += conn_answers(c) + (c->big ? c->big_done : 0);
        return sum;
}
