/* SPDX-License-Identifier: Apache-2.0 */
/* The relay's callers: what they send on the way up, their answers on the way down. */
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

void conn_restored(Conn *c) {
        (void) silent_remove(&c->relay->silent, &c->silent);    /* it may have made its calls before */
        conn_update_input(c);
        if (channel_queued(c->channel) > RELAY_ANSWERS_MAX)
                conn_set_blocking(c, true);
        if (!c->eof)
                conn_set_waiting(c, true);      /* a frame that is there already brings no input */
        conn_arm_drained(c);
}
