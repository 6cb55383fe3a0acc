/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"

static void pending_cancelled(TtrpcCall *call, int reason, void *userdata) {
        pending_free(userdata);
}

int pending_add(PendingQueue *queue, TtrpcCall *call, Pending **ret) {
        Pending *p;

        if (queue->n >= PENDING_MAX)
                return -EBUSY;

        p = new(Pending);
        if (!p)
                return -ENOMEM;
        *p = (Pending) { .queue = queue, .previous = queue->last, .call = ttrpc_call_ref(call) };

        if (queue->last)
                queue->last->next = p;
        else
                queue->first = p;
        queue->last = p;
        queue->n++;

        ttrpc_call_set_cancelled_handler(call, pending_cancelled, p);
        if (ret)
                *ret = p;
        return 0;
}

Pending* pending_free(Pending *p) {
        if (!p)
                return NULL;

        if (p->previous)
                p->previous->next = p->next;
        else
                p->queue->first = p->next;
        if (p->next)
                p->next->previous = p->previous;
        else
                p->queue->last = p->previous;
        p->queue->n--;

        ttrpc_call_set_cancelled_handler(p->call, NULL, NULL);
        ttrpc_call_unref(p->call);
        free(p->data);
        free(p);
        return NULL;
}

void pending_flush(PendingQueue *queue, TtrpcCode code, const char *text) {
        while (queue->first) {
                (void) ttrpc_call_reply_status(queue->first->call, code, "%s", text);
                pending_free(queue->first);
        }
}
