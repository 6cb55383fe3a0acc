/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/pool.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "basic/util.h"

typedef struct Queue {
        PoolJob *first, *last;
} Queue;

struct Pool {
        size_t n_workers_max, queue_max;
        size_t n_jobs;                  /* loop thread's */
        int done_fd;

        pthread_mutex_t mutex;          /* guards all below */
        pthread_cond_t wake;
        Queue urgent, slow, finished;
        size_t n_queued, n_running_slow, n_idle, n_threads;
        bool stopping;
        pthread_t threads[];
};

static void queue_put(Queue *q, PoolJob *j) {
        j->next = NULL;
        if (q->last)
                q->last->next = j;
        else
                q->first = j;
        q->last = j;
}

static PoolJob* queue_take(Queue *q) {
        PoolJob *j = q->first;

        if (j) {
                q->first = j->next;
                if (!q->first)
                        q->last = NULL;
                j->next = NULL;
        }
        return j;
}

/* One worker is kept from slow jobs: creates that wait for their VMs must not hold up the deletes that would end them. */
static size_t slow_max(const Pool *p) {
        return p->n_workers_max > 1 ? p->n_workers_max - 1 : 1;
}

static PoolJob* take_job(Pool *p) {
        PoolJob *j = queue_take(&p->urgent);

        if (!j && p->n_running_slow < slow_max(p)) {
                j = queue_take(&p->slow);
                if (j)
                        p->n_running_slow++;
        }
        if (j)
                p->n_queued--;
        return j;
}

static void* worker(void *userdata) {
        Pool *p = userdata;

        (void) pthread_mutex_lock(&p->mutex);
        for (;;) {
                PoolJob *j = take_job(p);
                bool slow;

                if (!j) {
                        if (p->stopping)
                                break;
                        p->n_idle++;
                        (void) pthread_cond_wait(&p->wake, &p->mutex);
                        p->n_idle--;
                        continue;
                }

                slow = j->slow;
                (void) pthread_mutex_unlock(&p->mutex);
                j->work(j);
                (void) pthread_mutex_lock(&p->mutex);

                if (slow)
                        p->n_running_slow--;
                queue_put(&p->finished, j);
                (void) eventfd_write(p->done_fd, 1);
        }
        (void) pthread_mutex_unlock(&p->mutex);
        return NULL;
}

int pool_new(size_t n_workers, size_t queue_max, Pool **ret) {
        _cleanup_(freep) Pool *p = NULL;
        int r;

        assert(n_workers > 0);

        p = calloc(1, sizeof(Pool) + n_workers * sizeof(pthread_t));
        if (!p)
                return -ENOMEM;
        p->n_workers_max = n_workers;
        p->queue_max = queue_max;

        p->done_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);
        if (p->done_fd < 0)
                return -errno;
        r = pthread_mutex_init(&p->mutex, NULL);
        if (r != 0) {
                close_fd(p->done_fd);
                return -r;
        }
        r = pthread_cond_init(&p->wake, NULL);
        if (r != 0) {
                (void) pthread_mutex_destroy(&p->mutex);
                close_fd(p->done_fd);
                return -r;
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
        return 0;
}

int pool_submit(Pool *p, PoolJob *j) {
        int r = 0;

        (void) pthread_mutex_lock(&p->mutex);
        if (p->n_queued >= p->queue_max)
                r = -EAGAIN;
        else {
                /* Jobs that already wait have an idle worker's name on them. */
                if (p->n_queued >= p->n_idle && p->n_threads < p->n_workers_max && start_thread(p) < 0 && p->n_threads == 0)
                        r = -EAGAIN;
                else {
                        queue_put(j->slow ? &p->slow : &p->urgent, j);
                        p->n_queued++;
                        (void) pthread_cond_broadcast(&p->wake);
                }
        }
        (void) pthread_mutex_unlock(&p->mutex);

        if (r == 0)
                p->n_jobs++;
        return r;
}

void pool_dispatch(Pool *p) {
        Queue finished;
        eventfd_t n;

        (void) eventfd_read(p->done_fd, &n);

        (void) pthread_mutex_lock(&p->mutex);
        finished = p->finished;
        p->finished = (Queue) {};
        (void) pthread_mutex_unlock(&p->mutex);

        for (PoolJob *j; (j = queue_take(&finished));) {
                p->n_jobs--;
                j->done(j);
        }
}

size_t pool_n_jobs(Pool *p) {
        return p->n_jobs;
}
