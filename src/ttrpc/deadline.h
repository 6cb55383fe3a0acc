/* SPDX-License-Identifier: Apache-2.0 */
/* Many deadlines on one timer of the event loop.
 *
 * Nearly every call has a deadline and nearly none reaches it, so a call that ends in time must cost no system call: the timer
 * is moved only towards an earlier deadline, never back. At the worst it fires once for nothing and is then set to the next. The
 * deadlines are a heap, ordered by time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

/* Embedded in what has the deadline. */
typedef struct TtrpcDeadline {
        uint64_t usec;          /* CLOCK_MONOTONIC */
        size_t index;           /* in the heap, plus one; 0 = not in it */
} TtrpcDeadline;

typedef struct TtrpcDeadlines {
        sd_event_source *timer;
        uint64_t armed_usec;    /* USEC_INFINITY = off */
        TtrpcDeadline **heap;
        size_t n, capacity;
        void (*expired)(TtrpcDeadline *d, void *userdata);
        void *userdata;
        bool *is_done;          /* set by ttrpc_deadlines_done() for the timer's callback that is running */
} TtrpcDeadlines;

/**
 * ttrpc_deadlines_init() - prepare for deadlines
 * @expired: called from the loop when the time of @d has come; @d is out of the heap then. May add and remove any, and even end
 *           the whole with ttrpc_deadlines_done() and free its memory
 *
 * The timer is made here, since it may need a descriptor, which later there might be none of. Returns 0 or what sd-event says;
 * ttrpc_deadlines_done() is fine then too.
 */
int ttrpc_deadlines_init(TtrpcDeadlines *ds, sd_event *event, void (*expired)(TtrpcDeadline *d, void *userdata), void *userdata);
void ttrpc_deadlines_done(TtrpcDeadlines *ds);

/* Returns 0, -ENOMEM. */
int ttrpc_deadlines_add(TtrpcDeadlines *ds, TtrpcDeadline *d, uint64_t usec);

/* Fine if it is not in the heap. */
void ttrpc_deadlines_remove(TtrpcDeadlines *ds, TtrpcDeadline *d);
