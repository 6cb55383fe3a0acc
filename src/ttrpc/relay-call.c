/* SPDX-License-Identifier: Apache-2.0 */
/* The calls in flight upstream: one table by our id, one by connection and its id. */
#include "ttrpc/relay-internal.h"

#include <utlist.h>

#define N_SPARE_CALLS_MAX 64U

static size_t bucket_by_id(const Relay *r, uint32_t id) {
        return (id >> 1) & (r->n_buckets - 1);
}

static size_t bucket_by_peer(const Relay *r, const Conn *c, uint32_t peer_id) {
        return ((peer_id >> 1) ^ ((uintptr_t) c >> 6) * UINT32_C(2654435761)) & (r->n_buckets - 1);
}

Call* call_find(const Relay *r, uint32_t id) {
        Call *call = r->by_id[bucket_by_id(r, id)];

        while (call && call->id != id)
                call = call->next_by_id;
        return call;
}

Call* call_find_by_peer(const Relay *r, const Conn *c, uint32_t peer_id) {
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

void call_free(Call *call) {
        Relay *r = call->relay;

        if (call->conn)
                unlink_from_peer(call);
        for (Call **p = &r->by_id[bucket_by_id(r, call->id)]; *p; p = &(*p)->next_by_id)
                if (*p == call) {
                        *p = call->next_by_id;
                        break;
                }
        r->n_calls--;
        r->counters[RELAY_CALLS_IN_FLIGHT] = r->n_calls;
        if (call->abandoned)
                r->n_abandoned--;
        call->timer = sd_event_source_disable_unref(call->timer);

        if (r->n_spare_calls < N_SPARE_CALLS_MAX) {
                LL_PREPEND(r->spare_calls, call);
                r->n_spare_calls++;
        } else
                free(call);
}

Call* call_new(Relay *r, Conn *c, uint32_t peer_id) {
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
        r->counters[RELAY_CALLS_IN_FLIGHT] = r->n_calls;
        if (c) {
                DL_APPEND(c->calls, call);
                c->n_calls++;
        }
        return call;
}

void call_abandon(Call *call) {
        if (call->conn)
                unlink_from_peer(call);
        if (!call->abandoned) {
                call->abandoned = true;
                call->relay->n_abandoned++;
        }
}
