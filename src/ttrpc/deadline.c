/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/deadline.h"

#include <stdlib.h>

#include "basic/util.h"

#define ACCURACY_USEC USEC_PER_MSEC     /* sd-event's default of 250 ms is too coarse for short deadlines */

void ttrpc_deadlines_done(TtrpcDeadlines *ds) {
        if (ds->is_done)
                *ds->is_done = true;

        ds->timer = sd_event_source_disable_unref(ds->timer);
        free(ds->heap);
        ds->heap = NULL;
        ds->n = ds->capacity = 0;
}

static void heap_put(TtrpcDeadlines *ds, size_t i, TtrpcDeadline *d) {
        ds->heap[i] = d;
        d->index = i + 1;
}

static void heap_move_up(TtrpcDeadlines *ds, size_t i) {
        TtrpcDeadline *d = ds->heap[i];

        for (size_t parent; i > 0 && ds->heap[parent = (i - 1) / 2]->usec > d->usec; i = parent)
                heap_put(ds, i, ds->heap[parent]);
        heap_put(ds, i, d);
}

static void heap_move_down(TtrpcDeadlines *ds, size_t i) {
        TtrpcDeadline *d = ds->heap[i];

        for (size_t child; (child = 2 * i + 1) < ds->n; i = child) {
                if (child + 1 < ds->n && ds->heap[child + 1]->usec < ds->heap[child]->usec)
                        child++;
                if (ds->heap[child]->usec >= d->usec)
                        break;
                heap_put(ds, i, ds->heap[child]);
        }
        heap_put(ds, i, d);
}

static void deadlines_arm(TtrpcDeadlines *ds, uint64_t usec) {
        if (usec >= ds->armed_usec)
                return;

        /* Neither can fail for a timer that exists. */
        (void) sd_event_source_set_time(ds->timer, usec);
        (void) sd_event_source_set_enabled(ds->timer, SD_EVENT_ONESHOT);
        ds->armed_usec = usec;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        TtrpcDeadlines *ds = userdata;
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        bool is_done = false;

        ds->armed_usec = USEC_INFINITY; /* one shot */
        ds->is_done = &is_done;

        while (ds->n > 0 && ds->heap[0]->usec <= now) {
                TtrpcDeadline *d = ds->heap[0];

                ttrpc_deadlines_remove(ds, d);
                ds->expired(d, ds->userdata);
                if (is_done)
                        return 0;
        }

        ds->is_done = NULL;
        if (ds->n > 0)
                deadlines_arm(ds, ds->heap[0]->usec);
        return 0;
}

int ttrpc_deadlines_init(TtrpcDeadlines *ds, sd_event *event, void (*expired)(TtrpcDeadline *d, void *userdata), void *userdata) {
        int r;

        *ds = (TtrpcDeadlines) {
                .armed_usec = USEC_INFINITY,
                .expired = expired,
                .userdata = userdata,
        };

        r = sd_event_add_time(event, &ds->timer, CLOCK_MONOTONIC, USEC_INFINITY, ACCURACY_USEC, on_timer, ds);
        if (r < 0)
                return r;
        (void) sd_event_source_set_description(ds->timer, "ttrpc-deadline");
        return sd_event_source_set_enabled(ds->timer, SD_EVENT_OFF);
}

int ttrpc_deadlines_add(TtrpcDeadlines *ds, TtrpcDeadline *d, uint64_t usec) {
        assert(d->index == 0);

        if (ds->n == ds->capacity) {
                size_t capacity = MAX(2 * ds->capacity, (size_t) 16);
                TtrpcDeadline **heap;

                heap = reallocarray(ds->heap, capacity, sizeof(TtrpcDeadline*));
                if (!heap)
                        return -ENOMEM;
                ds->heap = heap;
                ds->capacity = capacity;
        }

        deadlines_arm(ds, usec);
        d->usec = usec;
        ds->heap[ds->n] = d;
        heap_move_up(ds, ds->n++);
        return 0;
}

void ttrpc_deadlines_remove(TtrpcDeadlines *ds, TtrpcDeadline *d) {
        size_t i = d->index;
        TtrpcDeadline *last;

        if (i == 0)
                return;

        d->index = 0;
        last = ds->heap[--ds->n];
        if (last == d)
                return;

        i--;
        heap_put(ds, i, last);
        if (i > 0 && ds->heap[(i - 1) / 2]->usec > last->usec)
                heap_move_up(ds, i);
        else
                heap_move_down(ds, i);
}
