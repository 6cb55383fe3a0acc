/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/relay-internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <utlist.h>

#define N_BUCKETS_MIN 64U
/* Then the connection is replaced: ids must grow (containerd/ttrpc: server.go). Looked at after each answer, between two of which no
 * more than RELAY_CALLS_MAX ids can be given out. */
#define ID_LAST (UINT32_MAX - 2 * RELAY_CALLS_MAX - 1)

static const char* upstream_name(const Relay *r) {
        return r->handlers->upstream ?: "other end";
}

/* While it is away, requests behind those that wait may be ones that can be answered here. */
size_t upstream_high(const Relay *r) {
        return channel_is_away(r->upstream) ? RELAY_AWAY_HIGH : RELAY_UPSTREAM_HIGH;
}

bool upstream_has_room(const Relay *r) {
        return r->upstream && channel_queued(r->upstream) < upstream_high(r);
}

void upstream_want(Relay *r) {
        if (r->waiters && !r->upstream && !r->upstream_wanted && r->handlers->on_upstream_wanted) {
                r->upstream_wanted = true;
                r->handlers->on_upstream_wanted(r, r->userdata);
        }
}

/* The upstream is gone with all calls on it. Those who wait for it without a call there stay, and get the next one. */
static void upstream_lost(Relay *r, int error, const char *text) {
        r->body_left = 0;
        r->body_conn = NULL;
        free(r->whole);
        r->whole = NULL;

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
        upstream_want(r);
}

/* Long polls of callers that are gone stay open at the other end: only closing the connection ends them. That is done as
 * soon as nobody else has a call or half an answer on it. */
void upstream_end_abandoned(Relay *r) {
        size_t max = r->handlers->cancel_abandoned ? 1 : RELAY_ABANDONED_MAX;

        if (!r->upstream || r->upstream_closing || r->n_abandoned < max || r->n_abandoned != r->n_calls || r->n_holds > 0 ||
            r->body_conn || r->whole)
                return;
        r->upstream = channel_free(r->upstream);
        upstream_lost(r, -ESTALE, "only calls of clients that are gone were left");
}

static void upstream_failed(Relay *r, int error, const char *text) {
        _cleanup_(channel_freep) Channel *upstream = TAKE_PTR(r->upstream);

        r->upstream_closing = false;
        if (r->handlers->on_upstream_failing)
                r->handlers->on_upstream_failing(r, r->userdata);
        for (Conn *c = r->conns; c; c = c->next) {
                while (c->calls) {
                        Call *call = c->calls;

                        if (!c->cut)
                                conn_reply(c, call->peer_id, TTRPC_UNAVAILABLE, "connection to the %s lost: %s", upstream_name(r),
                                           text);
                        call_abandon(call);
                }
                conn_drop_holds(c, /* all= */ false, text);
                if (c->cut || !r->handlers->keep_connections)
                        conn_close(c);
        }
        upstream_lost(r, error, text);
}

void relay_lose_upstream(Relay *r, int error, const char *text) {
        assert(r->upstream);

        upstream_failed(r, error, text);
}

static void upstream_closed(Relay *r, int error, const char *reason) {
        char text[256];

        if (r->upstream_closing)
                return;
        if (r->handlers->on_upstream_closing && r->handlers->on_upstream_closing(r, r->userdata)) {
                r->upstream_closing = true;
                channel_pause_input(r->upstream);
                return;
        }

        if (!reason && (error == -ECONNRESET || error == -EPIPE))
                (void) snprintf(text, sizeof(text), "closed by the %s", upstream_name(r));
        else
                (void) snprintf(text, sizeof(text), "%s", reason ?: strerrordesc_np(-error) ?: "error");
        upstream_failed(r, error, text);
}

static void on_upstream_closed(Channel *channel, int error, void *userdata) {
        upstream_closed(userdata, error, channel_error(channel));
}

/* Each in its turn: whoever has more than one turn's worth is put at the end again. */
static void serve_waiters(Relay *r) {
        while (r->waiters && upstream_has_room(r)) {
                Conn *c = r->waiters;

                conn_set_waiting(c, false);
                conn_process(c);
        }
        if (r->waiters && r->upstream)
                channel_notify_drained(r->upstream, RELAY_UPSTREAM_LOW);
}

static void on_upstream_drained(Channel *channel, void *userdata) {
        serve_waiters(userdata);
}

void relay_set_upstream_away(Relay *r) {
        serve_waiters(r);
}

/* A look at the first two bytes, where a decoder is not worth it: servers write field 1, the status, first, and an empty one for OK
 * (containerd/ttrpc: response.proto, server.go). */
static bool is_error(const uint8_t *data, size_t size) {
        return size >= 2 && data[0] == 0x0a && data[1] != 0;
}

static void call_answered(Call *call, const uint8_t *data, size_t size, bool whole) {
        RelayAnswerHandler on_answer = call->on_answer;
        void *userdata = call->userdata;
        TtrpcResponse response = {};

        if (call->conn && whole && is_error(data, size))
                call->relay->counters[RELAY_CALLS_FAILED]++;
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
        conn_arm_drained(c);
}

/* Keeps the beginning of a frame until the rest is there. False: no memory. */
static bool whole_begin(Relay *r, const uint8_t *data, size_t done, size_t size) {
        r->whole = malloc(size);        /* pages come with the bytes */
        if (!r->whole)
                return false;
        memcpy(r->whole, data, done);
        r->whole_done = done;
        r->whole_size = size;
        return true;
}

static void whole_done(Relay *r) {
        uint8_t *frame = TAKE_PTR(r->whole);
        bool ends;
        TtrpcHeader h;
        Call *call;
        int k;

        k = ttrpc_header_parse(frame, r->whole_size, &h);
        assert(k > 0);
        if (r->handlers->on_whole_answer)
                r->handlers->on_whole_answer(r, r->userdata);
        ends = h.type == TTRPC_TYPE_RESPONSE || (h.type == TTRPC_TYPE_DATA && h.flags & TTRPC_FLAG_REMOTE_CLOSED);
        call = h.type == TTRPC_TYPE_RESPONSE || h.type == TTRPC_TYPE_DATA ? call_find(r, h.stream_id) : NULL;

        if (call && call->conn && !call->conn->closing) {
                Conn *c = call->conn;

                write_be32(frame + 4, call->peer_id);
                if (ends)
                        call_answered(call, frame + TTRPC_HEADER_SIZE, h.length, h.type == TTRPC_TYPE_RESPONSE);
                conn_send_take(c, frame, r->whole_size);
                return;
        }
        if (call && ends)
                call_answered(call, frame + TTRPC_HEADER_SIZE, h.length, h.type == TTRPC_TYPE_RESPONSE);
        free(frame);
}

static void on_upstream_input(Channel *channel, void *userdata) {
        Relay *r = userdata;
        size_t used = 0, run = 0, size;         /* [run, used) goes to @to */
        uint8_t *data;
        Conn *to = NULL;
        ssize_t n;
        int bad = 0;

        if (r->whole) {
                n = channel_read_direct(channel, r->whole + r->whole_done, r->whole_size - r->whole_done);
                if (n == 0) {
                        upstream_closed(r, -ECONNRESET, /* reason= */ NULL);
                        return;
                }
                if (n < 0)
                        return;
                r->whole_done += n;
                if (r->whole_done < r->whole_size)
                        return;
                whole_done(r);
                goto finish;
        }

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

                call = h.type == TTRPC_TYPE_RESPONSE || h.type == TTRPC_TYPE_DATA ? call_find(r, h.stream_id) : NULL;

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

                if (size - used < whole && r->handlers->whole_answers && whole_begin(r, data + used, size - used, whole)) {
                        FLUSH(NULL);
                        used = run = size;
                        break;
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

finish:
        if (bad < 0)
                upstream_closed(r, bad, "it does not speak ttrpc");
        else if (n == 0 && r->n_blocking == 0)
                upstream_closed(r, -ECONNRESET, /* reason= */ NULL);
        else if (r->next_id >= ID_LAST)
                upstream_failed(r, -EOVERFLOW, "stream ids used up");
        else
                upstream_end_abandoned(r);
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

Channel* relay_get_upstream(const Relay *r) {
        return r->upstream;
}

void relay_answer_calls(Relay *r, unsigned kind, const void *payload, size_t size) {
        for (Conn *c = r->conns; c; c = c->next)
                for (Call *call = c->calls, *next; call; call = next) {
                        next = call->next;
                        if (call->kind != kind)
                                continue;
                        conn_answer(c, call->peer_id, &(TtrpcResponse) { .payload = { payload, size } });
                        call_abandon(call);
                }
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
                uint64_t now = now_usec(CLOCK_MONOTONIC);

                conn_finish(c, text, now < end ? end - now : 0);
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
        r->counters = r->own_counters;

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
        free(r->whole);
        free(r->by_id);
        free(r->by_peer);
        sd_event_unref(r->event);
        free(r);
        return NULL;
}

void relay_set_counters(Relay *r, uint64_t counters[static _RELAY_COUNTER_MAX]) {
        r->counters = counters;
}

size_t relay_get_n_connections(const Relay *r) {
        return r->n_conns;
}

size_t relay_get_n_calls(const Relay *r) {
        return r->n_calls;
}

size_t relay_get_memory(const Relay *r) {
        size_t sum = (r->upstream ? channel_queued(r->upstream) : 0) + (r->whole ? r->whole_done : 0);

        for (const Conn *c = r->conns; c; c = c->next)
                sum += conn_answers(c) + (c->big ? c->big_done : 0);
        return sum;
}
