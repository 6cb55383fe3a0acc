/* SPDX-License-Identifier: Apache-2.0 */
/* The relay's way from one process to the next. */
#include "ttrpc/relay-internal.h"

#include <utlist.h>

#define CALLS_MAX (2U * RELAY_CALLS_MAX)

/* Connections are numbered from 1 in the order in which they are stored; 0 is none. */
static uint64_t conn_number(const Relay *r, const Conn *c) {
        uint64_t n = 1;

        for (const Conn *k = r->conns; k && k != c; k = k->next)
                n++;
        return c ? n : 0;
}

static Conn* conn_by_number(const Relay *r, uint64_t n) {
        Conn *c = r->conns;

        while (n > 1 && c) {
                c = c->next;
                n--;
        }
        return n > 0 ? c : NULL;
}

static void put_conn(Relay *r, Conn *c, Handover *h, RelayConnStorer storer) {
        channel_store(c->channel, h);
        if (storer)
                storer(c->channel, h, r->userdata);
        handover_put(h, c->discard);
        handover_put(h, c->cut);
        handover_put(h, c->eof);
        handover_put(h, c->big_size);
        handover_put_bytes(h, c->big, c->big_done);
        handover_put_bytes(h, c->held, c->held_size);
}

static void put_call(Relay *r, const Call *call, Handover *h) {
        bool own = !call->conn && call->timer;

        handover_put(h, call->id);
        handover_put(h, call->peer_id);
        handover_put(h, conn_number(r, call->conn));
        handover_put(h, call->streaming);
        handover_put(h, call->abandoned || own);
        handover_put(h, own ? 0 : call->kind);
}

static void put_holds(Relay *r, Handover *h) {
        handover_put(h, r->n_holds);
        for (Conn *c = r->conns; c; c = c->next)
                for (RelayHold *hold = c->holds; hold; hold = hold->next) {
                        handover_put(h, conn_number(r, c));
                        handover_put_bytes(h, hold->frame, TTRPC_HEADER_SIZE + hold->header.length);
                }
}

void relay_store(Relay *r, Handover *h, const char *text, uint64_t timeout_usec, RelayConnStorer storer) {
        /* Who cannot be handed over gets an end in good order instead. */
        if (r->upstream && !channel_can_be_stored(r->upstream))
                relay_lose_upstream(r, -ESHUTDOWN, text);
        for (Conn *c = r->conns, *next; c; c = next) {
                next = c->next;
                if (!c->closing && channel_can_be_stored(c->channel))
                        continue;
                conn_finish(c, text, timeout_usec);
                conn_free(c);
        }

        handover_put(h, r->next_id);
        handover_put(h, r->upstream != NULL);
        if (r->upstream)
                channel_store(r->upstream, h);

        handover_put(h, r->n_conns);
        for (Conn *c = r->conns; c; c = c->next)
                put_conn(r, c, h, storer);

        handover_put(h, r->body_left);
        handover_put(h, conn_number(r, r->body_conn));
        handover_put(h, r->whole ? r->whole_size : 0);
        handover_put_bytes(h, r->whole, r->whole ? r->whole_done : 0);

        handover_put(h, r->n_calls);
        for (size_t i = 0; i < r->n_buckets; i++)
                for (const Call *call = r->by_id[i]; call; call = call->next_by_id)
                        put_call(r, call, h);
        if (r->handlers->may_hold)
                put_holds(r, h);
}

static int get_copy(Handover *h, size_t max, size_t capacity, uint8_t **ret, size_t *ret_size) {
        const uint8_t *p = handover_get_bytes(h, max, ret_size);

        if (h->error < 0)
                return h->error;
        *ret = malloc(MAX(capacity, *ret_size + 1));
        if (!*ret)
                return -ENOMEM;
        if (*ret_size > 0)
                memcpy(*ret, p, *ret_size);
        return 0;
}

static int get_conn(Relay *r, Handover *h, const ChannelKeeper *keeper, RelayConnRestorer restorer) {
        Channel *channel;
        Conn *c;
        int k;

        k = channel_restore(r->event, h, keeper, NULL, &channel);
        if (k < 0)
                return k;
        if (restorer) {
                k = restorer(channel, h, r->userdata);
                if (k < 0) {
                        channel_free(channel);
                        return k;
                }
        }
        k = relay_add_downstream(r, channel);
        if (k < 0)
                return k;

        c = r->conns->prev;             /* the last: utlist.h */
        c->discard = handover_get(h, UINT32_MAX);
        c->cut = handover_get(h, 1);
        c->eof = handover_get(h, 1);
        c->big_size = handover_get(h, TTRPC_HEADER_SIZE + TTRPC_DATA_MAX);
        k = get_copy(h, c->big_size, c->big_size, &c->big, &c->big_done);
        if (k < 0)
                return k;
        if (c->big_size == 0) {
                free(c->big);
                c->big = NULL;
        } else if (c->big_done < TTRPC_HEADER_SIZE)
                return -EBADMSG;
        return get_copy(h, RELAY_CONNECTION_MEMORY_MAX, 0, &c->held, &c->held_size);
}

static int get_call(Relay *r, Handover *h) {
        uint32_t id = handover_get(h, UINT32_MAX), peer_id = handover_get(h, UINT32_MAX);
        Conn *c = conn_by_number(r, handover_get(h, r->n_conns));
        bool streaming = handover_get(h, 1), abandoned = handover_get(h, 1);
        unsigned kind = handover_get(h, UINT32_MAX);
        Call *call;

        if (h->error < 0)
                return h->error;
        if (id % 2 == 0 || id >= r->next_id || call_find(r, id) || (!c && !abandoned) || (c && abandoned) ||
            (c && call_find_by_peer(r, c, peer_id)))
                return -EBADMSG;

        call = call_restore(r, c, id, peer_id);
        if (!call)
                return -ENOMEM;
        call->streaming = streaming;
        call->kind = kind;
        if (r->handlers->answer_handler && kind > 0) {
                call->on_answer = r->handlers->answer_handler(kind);
                call->userdata = r->userdata;
        }
        if (abandoned)
                call_abandon(call);
        return 0;
}

static int get_answers(Relay *r, Handover *h) {
        const uint8_t *p;
        size_t size, whole_size;

        r->body_left = handover_get(h, UINT32_MAX);
        r->body_conn = conn_by_number(r, handover_get(h, r->n_conns));
        if (r->body_conn && !r->body_conn->cut)
                return -EBADMSG;

        whole_size = handover_get(h, TTRPC_HEADER_SIZE + TTRPC_DATA_MAX);
        p = handover_get_bytes(h, whole_size, &size);
        if (h->error < 0 || whole_size == 0)
                return h->error;
        if (size < TTRPC_HEADER_SIZE)
                return -EBADMSG;
        r->whole = malloc(whole_size);
        if (!r->whole)
                return -ENOMEM;
        memcpy(r->whole, p, size);
        r->whole_done = size;
        r->whole_size = whole_size;
        return 0;
}

static int get_hold(Relay *r, Handover *h) {
        Conn *c = conn_by_number(r, handover_get(h, r->n_conns));
        const uint8_t *frame;
        TtrpcHeader header;
        size_t size;

        frame = handover_get_bytes(h, TTRPC_HEADER_SIZE + TTRPC_DATA_MAX, &size);
        if (h->error < 0)
                return h->error;
        if (!c || size < TTRPC_HEADER_SIZE || ttrpc_header_parse(frame, size, &header) <= 0 || size != TTRPC_HEADER_SIZE + header.length)
                return -EBADMSG;
        return conn_request(c, frame);
}

int relay_restore(Relay *r, Handover *h, const ChannelKeeper *keeper, void *userdata, RelayConnRestorer restorer) {
        uint32_t next_id = handover_get(h, UINT32_MAX);
        Channel *upstream = NULL;
        uint64_t n;
        int k = 0;

        assert(!r->upstream && !r->conns);

        if (handover_get(h, 1))
                k = channel_restore(r->event, h, keeper, userdata, &upstream);
        if (k < 0)
                return k;
        if (upstream)
                relay_set_upstream(r, upstream);
        r->next_id = next_id;

        n = handover_get(h, HANDOVER_FDS_MAX + 64);
        for (uint64_t i = 0; i < n && k >= 0; i++)
                k = get_conn(r, h, keeper, restorer);
        if (k >= 0)
                k = get_answers(r, h);
        n = handover_get(h, CALLS_MAX);
        for (uint64_t i = 0; i < n && k >= 0; i++)
                k = get_call(r, h);
        n = k >= 0 && h->error == 0 && r->handlers->may_hold ? handover_get(h, RELAY_HOLDS_MAX) : 0;
        for (uint64_t i = 0; i < n && k >= 0; i++)
                k = get_hold(r, h);
        if (k < 0 || h->error < 0)
                return k < 0 ? k : h->error;

        for (Conn *c = r->conns; c; c = c->next)
                conn_restored(c);
        upstream_want(r);
        return 0;
}
