/* SPDX-License-Identifier: Apache-2.0 */
/* The callers' requests: judged by the rules, edited or held for somebody else, and made calls. */
#include "ttrpc/relay-internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <utlist.h>

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

int conn_frame(Conn *c, uint8_t *frame, const TtrpcHeader *h, uint8_t **ret_new, size_t *ret_new_size) {
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
