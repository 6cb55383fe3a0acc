/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded pool of worker threads for calls that block, and the one way back from them to the event loop.
 *
 * Jobs are of two kinds, each with a queue of its own, so that creations never stand in a deletion's way. How many of a kind may run
 * at once is bounded, for the sake of the cloud and of this machine; but a job that is still running after a while waits for
 * something rather than works, and from then on another one may begin beside it. So whatever hangs, for minutes or for ever, delays
 * nobody else for longer than that, until there are as many of them as there may be threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

typedef struct Pool Pool;
typedef struct PoolJob PoolJob;

typedef enum PoolKind {
        POOL_URGENT,                    /* deletions, searches */
        POOL_SLOW,                      /* creations */
        _POOL_KIND_MAX,
} PoolKind;

typedef enum PoolJobState {
        POOL_JOB_NONE,
        POOL_JOB_QUEUED,
        POOL_JOB_BUSY,                  /* running, and counted */
        POOL_JOB_LATE,                  /* running for so long that it is not counted */
        POOL_JOB_FINISHED,
} PoolJobState;

/* Embedded in the caller's job. While the job is with the pool, the worker thread owns what work() touches. */
struct PoolJob {
        void (*work)(PoolJob *j);       /* on a worker thread */
        void (*done)(PoolJob *j);       /* from pool_dispatch(); the pool has forgotten the job, it may be freed */
        PoolKind kind;

        /* the pool's */
        PoolJob *prev, *next;
        PoolJobState state;
        uint64_t begin_usec;
};

typedef struct PoolLimits {
        size_t n_busy_max;              /* jobs of each kind that count as working */
        size_t n_threads_max;           /* more than n_busy_max, which are kept for urgent jobs */
        size_t queue_max;               /* jobs that may wait, of both kinds */
        uint64_t patience_usec;         /* after which a job does not count any more */
} PoolLimits;

/* pool_new() - threads are started when needed. Returns 0 or -errno. */
int pool_new(const PoolLimits *limits, Pool **ret);

/* pool_free() - joins the threads; all jobs must have been dispatched. Takes NULL, returns NULL. */
Pool* pool_free(Pool *p);
DEFINE_CLEANUP(Pool*, pool_free);

/* pool_get_fd() - readable when pool_dispatch() has something to do; borrowed */
int pool_get_fd(Pool *p);

/* pool_submit() - queue a job. Returns 0, -EAGAIN when the queue is full or no thread can be had. Loop thread only. */
int pool_submit(Pool *p, PoolJob *j);

/* pool_withdraw() - take a job that has not begun out of the queue: its work() will not be called, its done() will. False if it has
 * begun, or ended. Loop thread only. */
bool pool_withdraw(Pool *p, PoolJob *j);

/* pool_dispatch() - call done() of each finished job. Loop thread only. */
void pool_dispatch(Pool *p);

/* pool_n_jobs() - jobs that have been submitted and whose done() has not been called yet. Loop thread only. */
size_t pool_n_jobs(Pool *p);
