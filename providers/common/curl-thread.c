/* SPDX-License-Identifier: Apache-2.0 */
/* A caller prepares an easy handle, hands it over, and waits for an eventfd. Whoever gives up says so and waits until the thread has let go
 * of the handle, which it does at once: so all that a transfer uses may live on its caller's stack. */
#include "curl-thread.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "basic/cleanup.h"
#include "basic/util.h"
#include "cloud-config.h"

/* A transfer that a caller waits for; but for the first two, under the mutex. */
typedef struct Order Order;
struct Order {
        CURL *easy;                     /* borrowed */
        int done_fd;
        CURLcode code;
        bool added, abandoned, finished;
        Order *next;
};

struct CurlThread {
        CURLM *multi;
        pthread_t thread;
        pthread_mutex_t mutex;
        Order *orders;
        bool stop;
};

/* Called with the mutex held. */
static void finish(CurlThread *c, Order *o, CURLcode code) {
        for (Order **p = &c->orders; *p; p = &(*p)->next)
                if (*p == o) {
                        *p = o->next;
                        break;
                }
        if (o->added)
                (void) curl_multi_remove_handle(c->multi, o->easy);
        o->code = code;
        o->finished = true;
        (void) eventfd_write(o->done_fd, 1);
}

static void take_orders(CurlThread *c) {
        Order *next;

        for (Order *o = c->orders; o; o = next) {
                next = o->next;
                if (o->abandoned)
                        finish(c, o, CURLE_ABORTED_BY_CALLBACK);
                else if (!o->added) {
                        if (curl_multi_add_handle(c->multi, o->easy) == CURLM_OK)
                                o->added = true;
                        else
                                finish(c, o, CURLE_OUT_OF_MEMORY);
                }
        }
}

static void take_results(CurlThread *c) {
        CURLMsg *m;
        int n;

        while ((m = curl_multi_info_read(c->multi, &n))) {
                CURLcode code = m->data.result;
                Order *o = NULL;

                if (m->msg != CURLMSG_DONE)
                        continue;
                (void) curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &o);
                finish(c, o, code);
        }
}

static void* work(void *userdata) {
        CurlThread *c = userdata;
        int running;

        for (;;) {
                bool stop;

                (void) pthread_mutex_lock(&c->mutex);
                take_orders(c);
                stop = c->stop && !c->orders;
                (void) pthread_mutex_unlock(&c->mutex);
                if (stop)
                        return NULL;

                (void) curl_multi_perform(c->multi, &running);
                (void) pthread_mutex_lock(&c->mutex);
                take_results(c);
                (void) pthread_mutex_unlock(&c->mutex);
                /* Woken for all that matters; libcurl's own times are kept whatever is said here. */
                (void) curl_multi_poll(c->multi, NULL, 0, INT_MAX, NULL);
        }
}

static int start_thread(CurlThread *c) {
        sigset_t all, old;
        int r;

        (void) sigfillset(&all);
        r = pthread_sigmask(SIG_SETMASK, &all, &old);
        if (r != 0)
                return -r;
        r = pthread_create(&c->thread, NULL, work, c);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        return -r;
}

static bool set_up(CurlThread *c, long connections_max) {
        c->multi = curl_multi_init();
        return c->multi &&
                curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, (long) CURLPIPE_MULTIPLEX) == CURLM_OK &&
                curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, connections_max) == CURLM_OK &&
                /* Of some hosts; the default follows the number of running transfers, and so closes what the next ones need. */
                curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, connections_max * 4) == CURLM_OK;
}

int curl_thread_new(unsigned connections_max, CurlThread **ret) {
        CurlThread *c;
        int r;

        c = new(CurlThread);
        if (!c)
                return -ENOMEM;
        *c = (CurlThread) { .mutex = PTHREAD_MUTEX_INITIALIZER };
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
                free(c);
                return -ENOMEM;
        }
        r = set_up(c, connections_max) ? start_thread(c) : -ENOMEM;
        if (r < 0) {
                if (c->multi)
                        (void) curl_multi_cleanup(c->multi);
                free(c);
                curl_global_cleanup();
                return r;
        }
        *ret = c;
        return 0;
}

CurlThread* curl_thread_free(CurlThread *c) {
        if (!c)
                return NULL;
        (void) pthread_mutex_lock(&c->mutex);
        assert(!c->orders);
        c->stop = true;
        (void) pthread_mutex_unlock(&c->mutex);
        (void) curl_multi_wakeup(c->multi);
        (void) pthread_join(c->thread, NULL);
        (void) curl_multi_cleanup(c->multi);
        (void) pthread_mutex_destroy(&c->mutex);
        free(c);
        curl_global_cleanup();
        return NULL;
}

/* 0: it has ended (or failed) by itself; negative: the call has, *error is set. */
static int wait_for(CurlThread *c, const PeerpodCall *call, Order *o, PeerpodError *error) {
        int r;

        (void) pthread_mutex_lock(&c->mutex);
        o->next = c->orders;
        c->orders = o;
        (void) pthread_mutex_unlock(&c->mutex);
        (void) curl_multi_wakeup(c->multi);

        r = peerpod_call_wait(call, o->done_fd, POLLIN, UINT64_MAX, error);
        (void) pthread_mutex_lock(&c->mutex);
        o->abandoned = !o->finished;
        (void) pthread_mutex_unlock(&c->mutex);
        if (o->abandoned) {
                (void) curl_multi_wakeup(c->multi);
                while (poll(&(struct pollfd) { .fd = o->done_fd, .events = POLLIN }, 1, -1) <= 0)
                        ;
                /* The thread says so under the mutex: pass by it before the descriptor is closed. */
                (void) pthread_mutex_lock(&c->mutex);
                assert(o->finished);
                (void) pthread_mutex_unlock(&c->mutex);
        }
        return r < 0 ? r : 0;
}

int curl_thread_perform(CurlThread *c, const PeerpodCall *call, CURL *easy, CURLcode *ret_code, PeerpodError *error) {
        _cleanup_(close_fdp) int done_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);
        Order o = { .easy = easy, .done_fd = done_fd };
        int r;

        if (done_fd < 0 || curl_easy_setopt(easy, CURLOPT_PRIVATE, &o) != CURLE_OK) {
                *ret_code = CURLE_OUT_OF_MEMORY;
                return oom(error);
        }
        r = wait_for(c, call, &o, error);
        *ret_code = o.code;
        return r;
}
