/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/pool.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <utlist.h>

#include "basic/util.h"

typedef struct Lane {
        PoolJob *queued;
        PoolJob *busy;                  /* oldest first */
        size_t n_queued, n_busy, n_running;
} Lane;

struct Pool {
        PoolLimits limits;
        size_t n_jobs;                  /* loop thread's */
        int done_fd;

        pthread_mutex_t mutex;          /* guards all below */
        pthread_cond_t wake;
        Lane lanes[_POOL_KIND_MAX];
        PoolJob *finished;
        size_t n_idle, n_threads;       /* a thread that was just started is idle, too */
        bool stopping;
        pthread_t threads[];
};

static size_t n_queued(const Pool *p) {
        size_t n = 0;

        for (PoolKind k = 0; k < _POOL_KIND_MAX; k++)
                n += p->lanes[k].n_queued;
        return n;
}

static size_t n_running_max(const Pool *p, PoolKind kind) {
        return kind == POOL_URGENT ? p->limits.n_threads_max : p->limits.n_threads_max - p->limits.n_busy_max;
}

/* How many of those that wait could begin now. */
static size_t n_ready(const Pool *p, PoolKind kind) {
        const Lane *lane = p->lanes + kind;
        size_t running_max = n_running_max(p, kind), room;

        if (lane->n_busy >= p->limits.n_busy_max || lane->n_running >= running_max)
                return 0;

        room = MIN(p->limits.n_busy_max - lane->n_busy, running_max - lane->n_running);
        return MIN(room, lane->n_queued);
}

static void stop_counting(Lane *lane, PoolJob *j) {
        DL_DELETE(lane->busy, j);
        lane->n_busy--;
}

static void lose_patience(Pool *p, Lane *lane, uint64_t now) {
        for (PoolJob *j; (j = lane->busy) && now >= usec_add(j->begin_usec, p->limits.patience_usec);) {
                stop_counting(lane, j);
                j->state = POOL_JOB_LATE;
        }
}

static PoolJob* take_job(Pool *p) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        for (PoolKind k = 0; k < _POOL_KIND_MAX; k++) {
                Lane *lane = p->lanes + k;
                PoolJob *j = lane->queued;

                lose_patience(p, lane, now);
                if (n_ready(p, k) == 0)
                        continue;

                DL_DELETE(lane->queued, j);
                lane->n_queued--;
                j->state = POOL_JOB_BUSY;
                j->begin_usec = now;
                DL_APPEND(lane->busy, j);
                lane->n_busy++;
                lane->n_running++;
                return j;
        }

        return NULL;
}

static void finish_job(Pool *p, PoolJob *j) {
        j->state = POOL_JOB_FINISHED;
        DL_APPEND(p->finished, j);
        (void) eventfd_write(p->done_fd, 1);
}

/* Until there may be something to do: somebody calls, or a job that holds up others is late. */
static void wait_idle(Pool *p) {
        uint64_t until = USEC_INFINITY;

        for (PoolKind k = 0; k < _POOL_KIND_MAX; k++) {
                const Lane *lane = p->lanes + k;
                uint64_t late = lane->busy ? usec_add(lane->busy->begin_usec, p->limits.patience_usec) : USEC_INFINITY;

                if (lane->queued)
                        until = MIN(until, late);
        }

        if (until == USEC_INFINITY)
                (void) pthread_cond_wait(&p->wake, &p->mutex);
        else {
                struct timespec ts = {
                        .tv_sec = (time_t) (until / USEC_PER_SEC),
                        .tv_nsec = (long) (until % USEC_PER_SEC * NSEC_PER_USEC),
                };

                (void) pthread_cond_timedwait(&p->wake, &p->mutex, &ts);
        }
}

static void* worker(void *userdata);

/* Signals belong to the loop's thread: a worker, and what it starts, begins with all of them blocked. */
static int start_thread(Pool *p) {
        sigset_t all, old;
        int r;

        (void) sigfillset(&all);
        r = pthread_sigmask(SIG_SETMASK, &all, &old);
        if (r != 0)
                return -r;
        r = pthread_create(p->threads + p->n_threads, NULL, worker, p);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (r != 0)
                return -r;
        p->n_threads++;
        p->n_idle++;
        return 0;
}

/* Sees to it that there is a thread for each job that may begin, and one that waits for when the others may. */
static void call_worker(Pool *p) {
        size_t n = 0;

        if (n_queued(p) == 0)
                return;
        for (PoolKind k = 0; k < _POOL_KIND_MAX; k++)
                n += n_ready(p, k);
        if (p->n_idle < MAX(n, (size_t) 1) && p->n_threads < p->limits.n_threads_max)
                (void) start_thread(p);
        (void) pthread_cond_signal(&p->wake);
}

static void* worker(void *userdata) {
        Pool *p = userdata;

        (void) pthread_mutex_lock(&p->mutex);
        p->n_idle--;
        for (;;) {
                PoolJob *j = take_job(p);
                Lane *lane;

                if (!j) {
                        if (p->stopping)
                                break;
                        p->n_idle++;
                        wait_idle(p);
                        p->n_idle--;
                        continue;
                }
                call_worker(p);

                (void) pthread_mutex_unlock(&p->mutex);
                j->work(j);
                (void) pthread_mutex_lock(&p->mutex);

                lane = p->lanes + j->kind;
                lane->n_running--;
                if (j->state == POOL_JOB_BUSY)
                        stop_counting(lane, j);
                finish_job(p, j);
        }
        (void) pthread_mutex_unlock(&p->mutex);
        return NULL;
}

/* The clock of deadlines. */
static int init_condition(pthread_cond_t *c) {
        pthread_condattr_t attributes;
        int r;

        r = pthread_condattr_init(&attributes);
        if (r != 0)
                return -r;
        r = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        if (r == 0)
                r = pthread_cond_init(c, &attributes);
        (void) pthread_condattr_destroy(&attributes);
        return -r;
}

int pool_new(const PoolLimits *limits, Pool **ret) {
        _cleanup_(freep) Pool *p = NULL;
        int r;

        assert(limits->n_busy_max > 0);
        assert(limits->n_threads_max > limits->n_busy_max);

        p = calloc(1, sizeof(Pool) + limits->n_threads_max * sizeof(pthread_t));
        if (!p)
                return -ENOMEM;
        p->limits = *limits;

        p->done_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);
        if (p->done_fd < 0)
                return -errno;
        r = pthread_mutex_init(&p->mutex, NULL);
        if (r != 0) {
                close_fd(p->done_fd);
                return -r;
        }
        r = init_condition(&p->wake);
        if (r < 0) {
                (void) pthread_mutex_destroy(&p->mutex);
                close_fd(p->done_fd);
                return r;
        }

        *ret = TAKE_PTR(p);
        return 0;
}

Pool* pool_free(Pool *p) {
        if (!p)
                return NULL;

        assert(p->n_jobs == 0);

        (void) pthread_mutex_lock(&p->mutex);
        p->stopping = true;
        (void) pthread_cond_broadcast(&p->wake);
        (void) pthread_mutex_unlock(&p->mutex);
        for (size_t i = 0; i < p->n_threads; i++)
                (void) pthread_join(p->threads[i], NULL);

        (void) pthread_cond_destroy(&p->wake);
        (void) pthread_mutex_destroy(&p->mutex);
        close_fd(p->done_fd);
        free(p);
        return NULL;
}

int pool_get_fd(Pool *p) {
        return p->done_fd;
}

int pool_submit(Pool *p, PoolJob *j) {
        Lane *lane = p->lanes + j->kind;
        int r = 0;

        assert(j->kind >= 0 && j->kind < _POOL_KIND_MAX);

        (void) pthread_mutex_lock(&p->mutex);
        if (n_queued(p) >= p->limits.queue_max)
                r = -EAGAIN;
        else {
                j->state = POOL_JOB_QUEUED;
                DL_APPEND(lane->queued, j);
                lane->n_queued++;
                call_worker(p);
                if (p->n_threads == 0) {
                        DL_DELETE(lane->queued, j);
                        lane->n_queued--;
                        r = -EAGAIN;
                }
        }
        (void) pthread_mutex_unlock(&p->mutex);

        if (r == 0)
                p->n_jobs++;
        return r;
}

bool pool_withdraw(Pool *p, PoolJob *j) {
        Lane *lane = p->lanes + j->kind;
        bool withdrawn;

        (void) pthread_mutex_lock(&p->mutex);
        withdrawn = j->state == POOL_JOB_QUEUED;
        if (withdrawn) {
                DL_DELETE(lane->queued, j);
                lane->n_queued--;
                finish_job(p, j);
        }
        (void) pthread_mutex_unlock(&p->mutex);

        return withdrawn;
}

void pool_dispatch(Pool *p) {
        PoolJob *finished, *j, *next;
        eventfd_t n;

        (void) eventfd_read(p->done_fd, &n);

        (void) pthread_mutex_lock(&p->mutex);
        finished = p->finished;
        p->finished = NULL;
        (void) pthread_mutex_unlock(&p->mutex);

        DL_FOREACH_SAFE(finished, j, next) {
                p->n_jobs--;
                j->done(j);
        }
}

size_t pool_n_jobs(Pool *p) {
        return p->n_jobs;
}
