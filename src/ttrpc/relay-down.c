/* SPDX-License-Identifier: Apache-2.0 */
/* The relay's callers: their requests on the way up, their answers on the way down. */
#include "ttrpc/relay-internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <utlist.h>

#include "basic/log.h"

#define REPLY_TEXT_MAX 400U

static void conn_drop(Conn *c);

size_t conn_answers(const Conn *c) {
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

void conn_arm_drained(Conn *c) {
        if (c->blocking)
                channel_notify_drained(c->channel, RELAY_ANSWERS_MAX / 2);
        else if (c->held_size > 0)
                ;       /* goes out behind the unfinished frame, which arms this again; till then it would be told at once, for ever */
        else if (c->answers_paused)
                channel_notify_drained(c->channel, RELAY_ANSWERS_SOFT / 2);
        else if (c->eof || c->closing)
                channel_notify_drained(c->channel, 0);
}

void conn_set_waiting(Conn *c, bool b) {
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

        /* One whose connection is lost is given its time by whoever keeps its session. */
        if (c->blocking && !channel_is_away(c->channel) && r->n_calls - r->n_abandoned > c->n_calls) {
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

void conn_free(Conn *c) {
        Relay *r = c->relay;

        while (c->calls)
                call_abandon(c->calls);
        conn_drop_holds(c, /* all= */ true, NULL);
        if (r->body_conn == c)
                r->body_conn = NULL;
        conn_set_blocking(c, false);
        if (c->waiting)
                DL_DELETE2(r->waiters, c, prev_waiter, next_waiter);
        (void) silent_remove(&r->silent, &c->silent);
        DL_DELETE(r->conns, c);
        r->n_conns--;
        r->counters[RELAY_CONNECTIONS] = r->n_conns;
        sd_event_source_disable_unref(c->timer);
        channel_free(c->channel);
        free(c->big);
        free(c->held);
        free(c);

        if (r->handlers->on_connections_changed)
                r->handlers->on_connections_changed(r, r->userdata);
}

void conn_close(Conn *c) {
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

static void conn_sent(Conn *c) {
        /* What is held does not count here: it waits for the upstream, which must go on for that. */
        if (channel_queued(c->channel) > RELAY_ANSWERS_MAX && !c->closing) {
                conn_set_blocking(c, true);
                conn_arm_drained(c);
        }
        if (c->eof)
                conn_arm_drained(c);
}

/* A failure comes back as on_closed(). */
void conn_send(Conn *c, const uint8_t *data, size_t size) {
        (void) channel_write(c->channel, data, size);
        c->relay->counters[RELAY_BYTES_DOWN] += size;
        conn_sent(c);
}

void conn_send_take(Conn *c, uint8_t *data, size_t size) {
        (void) channel_write_take(c->channel, data, size);
        c->relay->counters[RELAY_BYTES_DOWN] += size;
        conn_sent(c);
}

/* An answer of our own. */
static void conn_send_own(Conn *c, const uint8_t *frame, size_t size) {
        uint8_t *held;

        if (!c->cut) {
                conn_send(c, frame, size);
                return;
        }

        held = realloc(c->held, c->held_size + size);
        if (!held) {
                conn_close(c);
                return;
        }
        memcpy(held + c->held_size, frame, size);
        c->held = held;
        c->held_size += size;
}

void conn_answer(Conn *c, uint32_t peer_id, const TtrpcResponse *response) {
        size_t size = ttrpc_response_size(response);
        uint8_t small[TTRPC_HEADER_SIZE + REPLY_TEXT_MAX + 64];
        _cleanup_(freep) uint8_t *big = NULL;
        uint8_t *frame = small;

        if (TTRPC_HEADER_SIZE + size > sizeof(small)) {
                frame = big = malloc(TTRPC_HEADER_SIZE + size);
                if (!big) {
                        conn_close(c);
                        return;
                }
        }
        ttrpc_header_write(&(TtrpcHeader) { .length = size, .stream_id = peer_id, .type = TTRPC_TYPE_RESPONSE }, frame);
        ttrpc_response_write(response, frame + TTRPC_HEADER_SIZE);
        conn_send_own(c, frame, TTRPC_HEADER_SIZE + size);
}

void conn_reply(Conn *c, uint32_t peer_id, int code, const char *format, ...) {
        char text[REPLY_TEXT_MAX];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        c->relay->counters[RELAY_CALLS_FAILED]++;
        conn_answer(c, peer_id, &(TtrpcResponse) { .code = code, .message = ttrpc_slice(text) });
}

static const RelayRule* find_rule(const Relay *r, const TtrpcRequest *request) {
        for (size_t i = 0; i < r->n_rules; i++)
                if (ttrpc_slice_is(request->method, r->rules[i].method) && ttrpc_slice_is(request->service, r->rules[i].service))
                        return r->rules + i;
        return NULL;
}

/* Writes the envelope anew around an edited payload; the request has waited since then, or (0) not at all. 0, or a status code with a text
 * in @edit. */
static int edited_frame(uint64_t since, TtrpcRequest *request, RelayEdit *edit, uint8_t flags, uint8_t **ret, size_t *ret_size) {
        TtrpcHeader header = { .type = TTRPC_TYPE_REQUEST, .flags = flags };
        size_t size;
        uint8_t *frame;

        request->payload = (TtrpcSlice) { edit->payload, edit->size };
        if (request->timeout_nano > 0 && since > 0) {
                uint64_t waited = (now_usec(CLOCK_MONOTONIC) - since) * NSEC_PER_USEC;

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

static void edit_not_sent(const RelayEdit *edit) {
        if (edit->data && edit->on_answer)
                edit->on_answer(-ECANCELED, (TtrpcSlice) {}, (TtrpcSlice) {}, edit->data);
}

static RelayHold* hold_find(const Conn *c, uint32_t peer_id) {
        RelayHold *h = c->holds;

        while (h && h->header.stream_id != peer_id)
                h = h->next;
        return h;
}

/* Does with a request what its rule wants. As conn_frame(). */
static int conn_apply(Conn *c, uint8_t *frame, const TtrpcHeader *h, uint64_t since, TtrpcRequest *request, RelayEdit *edit,
                      uint8_t **ret_new, size_t *ret_new_size) {
        _cleanup_(freep) uint8_t *payload = edit->payload;
        Relay *r = c->relay;
        uint8_t *out = frame;
        Call *call;

        if (edit->code == TTRPC_OK && edit->answered) {
                conn_answer(c, h->stream_id, &(TtrpcResponse) { .payload = { edit->payload, edit->size } });
                return 0;
        }
        if (edit->code == TTRPC_OK && edit->payload)
                edit->code = edited_frame(since, request, edit, h->flags, &out, ret_new_size);
        if (edit->code != TTRPC_OK) {
                edit_not_sent(edit);
                conn_reply(c, h->stream_id, edit->code, "%s", edit->message);
                return 0;
        }

        call = call_new(r, c, h->stream_id);
        if (!call) {
                if (out != frame)
                        free(out);
                edit_not_sent(edit);
                conn_reply(c, h->stream_id, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                return 0;
        }
        call->streaming = h->flags & (TTRPC_FLAG_REMOTE_OPEN|TTRPC_FLAG_REMOTE_CLOSED);
        call->kind = edit->kind;
        call->on_answer = edit->on_answer;
        call->userdata = edit->data ?: r->userdata;
        r->counters[RELAY_CALLS]++;

        write_be32(out + 4, call->id);
        if (out != frame) {
                *ret_new = out;
                return 0;
        }
        return 1;
}

static void conn_has_called(Conn *c) {
        Relay *r = c->relay;

        if (silent_remove(&r->silent, &c->silent) && r->handlers->on_connections_changed)
                r->handlers->on_connections_changed(r, r->userdata);
}

/* Judges a whole frame from a caller. 1: its id is changed, it is to go upstream as it lies there. 0: nothing to send;
 * or @ret_new is the frame to send in its place (malloc()ed). */
static int conn_frame(Conn *c, uint8_t *frame, const TtrpcHeader *h, uint8_t **ret_new, size_t *ret_new_size) {
        Relay *r = c->relay;
        TtrpcRequest request;
        RelayEdit edit = {};
        Call *call;

        r->counters[RELAY_BYTES_UP] += TTRPC_HEADER_SIZE + h->length;
        if (h->type != TTRPC_TYPE_REQUEST && h->type != TTRPC_TYPE_DATA)
                return 0;               /* as the Go server does */
        if (h->stream_id % 2 == 0) {
                conn_reply(c, h->stream_id, TTRPC_INVALID_ARGUMENT, "StreamID must be odd for client initiated streams");
                return 0;
        }

        call = call_find_by_peer(r, c, h->stream_id);

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

        if (call || hold_find(c, h->stream_id)) {
                conn_reply(c, h->stream_id, TTRPC_INVALID_ARGUMENT, "StreamID cannot be re-used and must increment");
                return 0;
        }
        conn_has_called(c);
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

                /* What cannot be read cannot be matched with the rules either, so it goes no further. */
                if (ttrpc_request_parse(frame + TTRPC_HEADER_SIZE, h->length, &request) < 0) {
                        conn_reply(c, h->stream_id, TTRPC_INVALID_ARGUMENT, "unmarshal request error: malformed");
                        return 0;
                }

                rule = find_rule(r, &request);
                if (rule) {
                        r->ruled_conn = c;
                        r->ruled_frame = frame;
                        rule->handler(&request, &edit, r->userdata);
                        r->ruled_conn = NULL;
                        if (edit.held)
                                return 0;
                }
        }

        return conn_apply(c, frame, h, c->waiting_since, &request, &edit, ret_new, ret_new_size);
}

RelayHold* relay_hold(Relay *r, bool survives, void (*on_dropped)(RelayHold *h, void *userdata), void *userdata) {
        RelayHold *h;
        TtrpcHeader header;
        int k;

        assert(r->ruled_conn && r->handlers->may_hold);
        k = ttrpc_header_parse(r->ruled_frame, TTRPC_HEADER_SIZE, &header);
        assert(k > 0);
        (void) k;

        if (r->n_holds >= RELAY_HOLDS_MAX)
                return NULL;
        h = new(RelayHold);
        if (!h)
                return NULL;
        *h = (RelayHold) {
                .conn = r->ruled_conn,
                .frame = malloc(TTRPC_HEADER_SIZE + header.length),
                .header = header,
                .since = now_usec(CLOCK_MONOTONIC),
                .survives = survives,
                .on_dropped = on_dropped,
                .userdata = userdata,
        };
        if (!h->frame) {
                free(h);
                return NULL;
        }
        memcpy(h->frame, r->ruled_frame, TTRPC_HEADER_SIZE + header.length);
        DL_APPEND(h->conn->holds, h);
        r->n_holds++;
        return h;
}

void relay_hold_get(const RelayHold *h, TtrpcRequest *ret) {
        int k = ttrpc_request_parse(h->frame + TTRPC_HEADER_SIZE, h->header.length, ret);

        assert(k >= 0);                 /* it was parsed before the rule was asked */
        (void) k;
}

static void hold_free(RelayHold *h) {
        DL_DELETE(h->conn->holds, h);
        h->conn->relay->n_holds--;
        free(h->frame);
        free(h);
}

void hold_drop(RelayHold *h) {
        void (*on_dropped)(RelayHold *h, void *userdata) = h->on_dropped;
        void *userdata = h->userdata;
        bool told = h->conn->relay->handlers->may_hold;

        if (told)
                on_dropped(h, userdata);
        hold_free(h);
}

void conn_drop_holds(Conn *c, bool all, const char *text) {
        for (RelayHold *h = c->holds, *next; h; h = next) {
                next = h->next;
                if (!all && h->survives)
                        continue;
                if (text && !c->cut)
                        conn_reply(c, h->header.stream_id, TTRPC_UNAVAILABLE, "connection to the %s lost: %s",
                                   c->relay->handlers->upstream ?: "other end", text);
                hold_drop(h);
        }
}

void relay_hold_done(RelayHold *h, RelayEdit *edit) {
        Conn *c = h->conn;
        Relay *r = c->relay;
        TtrpcRequest request;
        uint8_t *out = NULL;
        size_t size = 0;

        relay_hold_get(h, &request);
        if (edit->code == TTRPC_OK && !edit->answered && !r->upstream) {
                edit->code = TTRPC_UNAVAILABLE;
                (void) snprintf(edit->message, sizeof(edit->message), "connection to the %s lost", r->handlers->upstream ?: "other end");
        }
        if (edit->code == TTRPC_OK && !edit->answered && (c->n_calls >= RELAY_CALLS_PER_CONNECTION_MAX || r->n_calls >= RELAY_CALLS_MAX)) {
                edit->code = TTRPC_RESOURCE_EXHAUSTED;
                (void) snprintf(edit->message, sizeof(edit->message), "too many calls in flight");
        }
        if (conn_apply(c, h->frame, &h->header, h->since, &request, edit, &out, &size) > 0)
                (void) channel_write(r->upstream, h->frame, TTRPC_HEADER_SIZE + h->header.length);
        else if (out)
                (void) channel_write_take(r->upstream, out, size);
        hold_free(h);
        if (c->eof || c->closing)
                conn_arm_drained(c);
}

/* Forwards what has been read: runs of frames that lie one behind the other go out with one write. */
void conn_process(Conn *c) {
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

                if (!r->refusing && (!r->upstream || channel_queued(r->upstream) + (used - run) >= upstream_high(r))) {
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

        upstream_want(r);
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
        bool over = c->closing || (c->eof && c->n_calls == 0 && !c->cut);

        if (over && !c->holds && conn_answers(c) == 0) {
                conn_drop(c);
                return;
        }

        if (c->blocking && channel_queued(c->channel) <= RELAY_ANSWERS_MAX / 2)
                conn_set_blocking(c, false);
        if (c->answers_paused && conn_answers(c) <= RELAY_ANSWERS_SOFT / 2) {
                c->answers_paused = false;
                conn_update_input(c);
        }
        if (over && c->holds && !c->blocking && !c->answers_paused)
                return;                 /* relay_hold_done() arms it */
        if (!c->eof || (c->n_calls == 0 && !c->cut))    /* else the next answer arms it */
                conn_arm_drained(c);
}

static void conn_drop(Conn *c) {
        Relay *r = c->relay;

        conn_free(c);
        upstream_end_abandoned(r);
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

void relay_set_connections_max(Relay *r, size_t n) {
        r->n_conns_max = n;
}

bool relay_has_room(const Relay *r) {
        return r->n_conns_max == 0 || silent_has_room(&r->silent, r->n_conns, r->n_conns_max);
}

int relay_add_downstream(Relay *r, Channel *channel) {
        Conn *c;

        if (r->n_conns_max > 0 && r->n_conns >= r->n_conns_max && r->silent.oldest) {
                log_debug("Closing a connection on which no call was made, as another one comes.");
                conn_drop(CONTAINER_OF(r->silent.oldest, Conn, silent));
        }

        c = new(Conn);
        if (!c) {
                channel_free(channel);
                return -ENOMEM;
        }
        *c = (Conn) { .relay = r, .channel = channel };
        DL_APPEND(r->conns, c);
        r->n_conns++;
        silent_add(&r->silent, &c->silent);
        r->counters[RELAY_CONNECTIONS] = r->n_conns;

        channel_set_handlers(channel, &conn_handlers, c);
        channel_set_hangup_is_end(channel);
        channel_resume_input(channel);
        return 0;
}

void conn_finish(Conn *c, const char *text, uint64_t timeout_usec) {
        if (c->cut)                     /* what follows half a frame would be read as its rest */
                return;
        for (Call *call = c->calls; call; call = call->next)
                conn_reply(c, call->peer_id, TTRPC_UNAVAILABLE, "%s", text);
        for (RelayHold *h = c->holds; h; h = h->next)
                conn_reply(c, h->header.stream_id, TTRPC_UNAVAILABLE, "%s", text);
        channel_finish(c->channel, timeout_usec);
}

int conn_request(Conn *c, const uint8_t *frame) {
        Relay *r = c->relay;
        uint8_t *out = NULL;
        size_t size = 0;
        TtrpcHeader h;

        if (ttrpc_header_parse(frame, TTRPC_HEADER_SIZE, &h) <= 0 || h.type != TTRPC_TYPE_REQUEST)
                return -EBADMSG;
        if (!r->upstream) {
                conn_reply(c, h.stream_id, TTRPC_UNAVAILABLE, "connection to the %s lost", r->handlers->upstream ?: "other end");
                return 0;
        }
        if (conn_frame(c, (uint8_t*) frame, &h, &out, &size) > 0)
                (void) channel_write(r->upstream, frame, TTRPC_HEADER_SIZE + h.length);
        else if (out)
                (void) channel_write_take(r->upstream, out, size);
        return 0;
}

void conn_restored(Conn *c) {
        (void) silent_remove(&c->relay->silent, &c->silent);    /* it may have made its calls before */
        conn_update_input(c);
        if (channel_queued(c->channel) > RELAY_ANSWERS_MAX)
                conn_set_blocking(c, true);
        if (!c->eof)
                conn_set_waiting(c, true);      /* a frame that is there already brings no input */
        conn_arm_drained(c);
}
