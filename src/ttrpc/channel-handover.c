/* SPDX-License-Identifier: Apache-2.0 */
/* A channel's way from one process to the next: its descriptor if it has no TLS, else its session, and the bytes in its buffers. */
#include "ttrpc/channel-internal.h"

#include <stdlib.h>
#include <sys/epoll.h>

#include "basic/util.h"

#define QUEUE_MAX (64U << 20)           /* beyond what relay and window together let grow */

static void put_queue(Handover *h, const ByteQueue *q) {
        _cleanup_(freep) uint8_t *copy = malloc(MAX(q->n_unsent, (size_t) 1));

        if (!copy) {
                handover_fail(h, -ENOMEM);
                return;
        }
        byte_queue_copy(q, copy, q->n_unsent);
        handover_put_bytes(h, copy, q->n_unsent);
}

static void put_session(Handover *h, const Session *s) {
        handover_put(h, s->server);
        handover_put(h, s->confirmed);
        handover_put(h, s->keep_sec);
        handover_put_bytes(h, s->id, sizeof(s->id));
        handover_put(h, s->acked);
        handover_put(h, s->top);
        handover_put(h, s->received);
}

bool channel_can_be_stored(const Channel *c) {
        if (c->error < 0 || !c->open)
                return false;
        return c->session ? c->session->state != SESSION_OVER : c->fd < 0 || !c->tls;
}

void channel_store(Channel *c, Handover *h) {
        assert(channel_can_be_stored(c));

        handover_put(h, c->session != NULL);
        if (c->session) {
                /* What is on its way is sent again by whoever comes next, to whom it must be. */
                channel_lose_wire(c);
                put_session(h, c->session);
        } else {
                handover_put(h, c->fd >= 0);
                if (c->fd >= 0)
                        handover_put_fd(h, c->fd);
        }
        handover_put(h, c->eof);
        handover_put_bytes(h, c->in ? c->in + c->in_start : NULL, c->in_end - c->in_start);
        put_queue(h, &c->queue);
}

static int get_session(Channel *c, Handover *h, const ChannelKeeper *keeper, void *userdata) {
        Session s = { .state = SESSION_AWAY };
        const uint8_t *id;
        size_t size;

        s.server = handover_get(h, 1);
        s.confirmed = handover_get(h, 1);
        s.keep_sec = handover_get(h, UINT32_MAX);
        id = handover_get_bytes(h, SESSION_ID_SIZE, &size);
        s.acked = s.sent = handover_get(h, UINT64_MAX);
        s.top = handover_get(h, UINT64_MAX);
        s.received = s.told = handover_get(h, UINT64_MAX);
        if (h->error < 0)
                return h->error;
        if (size != SESSION_ID_SIZE || s.top < s.acked || s.top - s.acked > SESSION_WINDOW)
                return -EBADMSG;
        memcpy(s.id, id, SESSION_ID_SIZE);
        return channel_set_session(c, &s, keeper, userdata);
}

static int get_fd(Channel *c, Handover *h) {
        int r;

        c->fd = handover_take_fd(h);
        if (c->fd < 0)
                return -EBADMSG;
        c->events = EPOLLIN;
        r = channel_add_io(c);
        return r;
}

static int get_bytes(Channel *c, Handover *h) {
        const uint8_t *p;
        size_t size;

        c->eof = handover_get(h, 1);
        p = handover_get_bytes(h, CHANNEL_IN_SIZE, &size);
        if (h->error == 0 && size > 0) {
                c->in = malloc(CHANNEL_IN_SIZE);
                if (!c->in)
                        return -ENOMEM;
                memcpy(c->in, p, size);
                c->in_end = size;
        }

        p = handover_get_bytes(h, QUEUE_MAX, &size);
        if (h->error < 0)
                return h->error;
        if (c->session && size < c->session->top - c->session->acked)
                return -EBADMSG;        /* what the peer may ask for is not all there */
        return byte_queue_append(&c->queue, p, size);
}

int channel_restore(sd_event *event, Handover *h, const ChannelKeeper *keeper, void *userdata, Channel **ret) {
        static const ChannelHandlers none = {};
        _cleanup_(channel_freep) Channel *c = NULL;
        int r;

        r = channel_new_away(event, &none, NULL, &c);
        if (r < 0)
                return r;
        c->paused = true;

        if (handover_get(h, 1))
                r = get_session(c, h, keeper, userdata);
        else if (handover_get(h, 1))
                r = get_fd(c, h);
        if (r >= 0)
                r = get_bytes(c, h);
        if (r >= 0)
                r = h->error;
        if (r < 0)
                return r;

        channel_update(c);
        *ret = TAKE_PTR(c);
        return 0;
}
