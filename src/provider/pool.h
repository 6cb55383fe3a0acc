/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded pool of worker threads for calls that block, and the one way back from them to the event loop. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/cleanup.h"

typedef struct Pool Pool;
typedef struct PoolJob PoolJob;

/* Embedded in the caller's job. While the job is with the pool, the worker thread owns what work() touches. */
struct PoolJob {
        void (*work)(PoolJob *j);       /* on a worker thread */
        void (*done)(PoolJob *j);       /* from pool_dispatch(); the pool has forgotten the job, it may be freed */
        bool slow;                      /* may take minutes: such jobs never occupy the last worker, and wait behind others */
        PoolJob *next;                  /* the pool's */
};

/* pool_new() - @n_workers threads at most, started when needed; @queue_max jobs may wait. Returns 0 or -errno. */
int pool_new(size_t n_workers, size_t queue_max, Pool **ret);

/* pool_free() - joins the threads; all jobs must have been dispatched. Takes NULL, returns NULL. */
Pool* pool_free(Pool *p);
DEFINE_CLEANUP(Pool*, pool_free);

/* pool_get_fd() - readable when pool_dispatch() has something to do; borrowed */
int pool_get_fd(Pool *p);

/* pool_submit() - queue a job. Returns 0, -EAGAIN when the queue is full or no thread can be had. Loop thread only. */
int pool_submit(Pool *p, PoolJob *j);

/* pool_dispatch() - call done() of each finished job. Loop thread only. */
void pool_dispatch(Pool *p);

/* pool_n_jobs() - jobs that have been submitted and whose done() has not been called yet. Loop thread only. */
size_t pool_n_jobs(Pool *p);
