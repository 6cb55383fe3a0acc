/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/kube-curl.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include "basic/hash.h"
#include "basic/log.h"
#include "basic/util.h"

/* To the server: more than all that any of our programs have under way, so that what hangs keeps out neither watches nor leases. With HTTP/2, what may
 * be repeated shares one; the rest has one for each request. */
#define CONNECTIONS_MAX 256L

/* One of libcurl's sockets. libcurl may close it and open another one of the same number before we hear of it, and epoll then has forgotten it: so
 * the source watches a duplicate, which is ours. */
typedef struct Socket {
        UT_hash_handle hh;
        curl_socket_t fd;
        int duplicate;
        sd_event_source *source;
} Socket;

typedef struct Entry {
        UT_hash_handle hh;
        CURL *easy;
        KubeCurlDone done;
        void *userdata;
} Entry;

struct KubeCurl {
        unsigned n_refs;
        sd_event *event;
        CURLM *multi;
        sd_event_source *timer;
        Socket *sockets;
        Entry *entries;
};

static void drop_socket(KubeCurl *c, Socket *s) {
        HASH_DEL(c->sockets, s);
        sd_event_source_disable_unref(s->source);
        (void) close_fd(s->duplicate);
        free(s);
}

/* Says what has ended. Callbacks may do anything, even let go of the last reference but the caller's. */
static void reap(KubeCurl *c) {
        CURLMsg *m;
        int n;

        while ((m = curl_multi_info_read(c->multi, &n))) {
                CURL *easy = m->easy_handle;
                CURLcode code = m->data.result;
                KubeCurlDone done;
                void *userdata;
                Entry *e;

                if (m->msg != CURLMSG_DONE)
                        continue;
                HASH_FIND_PTR(c->entries, &easy, e);
                if (!e)
                        continue;
                done = e->done;
                userdata = e->userdata;
                kube_curl_remove(c, easy);
                done(easy, code, userdata);
        }
}

static void act(KubeCurl *c, curl_socket_t fd, int events) {
        _cleanup_(kube_curl_unrefp) KubeCurl *keep = kube_curl_ref(c);
        int running;

        if (curl_multi_socket_action(c->multi, fd, events, &running) != CURLM_OK)
                log_debug("libcurl refuses an event of a socket, ignoring.");
        reap(keep);
}

static int on_io(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        KubeCurl *c = userdata;
        curl_socket_t own = CURL_SOCKET_BAD;
        int events = (revents & (EPOLLIN|EPOLLHUP|EPOLLERR) ? CURL_CSELECT_IN : 0) | (revents & (EPOLLOUT|EPOLLERR) ? CURL_CSELECT_OUT : 0);

        for (Socket *s = c->sockets; s; s = s->hh.next)
                if (s->source == es)
                        own = s->fd;
        if (own != CURL_SOCKET_BAD)
                act(c, own, events);
        return 0;
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        act(userdata, CURL_SOCKET_TIMEOUT, 0);
        return 0;
}

static Socket* add_socket(KubeCurl *c, curl_socket_t fd, uint32_t events) {
        Socket *s = new0(Socket, 1);

        if (!s)
                return NULL;
        s->fd = fd;
        s->duplicate = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (s->duplicate < 0 || sd_event_add_io(c->event, &s->source, s->duplicate, events, on_io, c) < 0) {
                (void) close_fd(s->duplicate);
                free(s);
                return NULL;
        }
        HASH_ADD_INT(c->sockets, fd, s);
        if (!hash_added(s)) {
                sd_event_source_disable_unref(s->source);
                (void) close_fd(s->duplicate);
                free(s);
                return NULL;
        }
        return s;
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *userdata, void *socketp) {
        KubeCurl *c = userdata;
        Socket *s = socketp;
        uint32_t events = (what & CURL_POLL_IN ? (uint32_t) EPOLLIN : 0) | (what & CURL_POLL_OUT ? (uint32_t) EPOLLOUT : 0);

        if (what == CURL_POLL_REMOVE) {
                if (s)
                        drop_socket(c, s);
                return 0;
        }
        if (s)
                return sd_event_source_set_io_events(s->source, events) < 0 ? -1 : 0;
        s = add_socket(c, fd, events);
        return s && curl_multi_assign(c->multi, fd, s) == CURLM_OK ? 0 : -1;
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *userdata) {
        KubeCurl *c = userdata;

        if (timeout_ms < 0)
                return sd_event_source_set_enabled(c->timer, SD_EVENT_OFF) < 0 ? -1 : 0;
        if (sd_event_source_set_time(c->timer, usec_add(now_usec(CLOCK_MONOTONIC), (uint64_t) timeout_ms * USEC_PER_MSEC)) < 0)
                return -1;
        return sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT) < 0 ? -1 : 0;
}

int kube_curl_new(sd_event *event, KubeCurl **ret) {
        _cleanup_(kube_curl_unrefp) KubeCurl *c = new0(KubeCurl, 1);
        int r;

        if (!c)
                return -ENOMEM;
        c->n_refs = 1;
        c->event = sd_event_ref(event);
        c->multi = curl_multi_init();
        if (!c->multi)
                return -ENOMEM;
        r = sd_event_add_time(event, &c->timer, CLOCK_MONOTONIC, UINT64_MAX, 1, on_timer, c);
        if (r < 0)
                return r;
        if (curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket) != CURLM_OK || curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c) != CURLM_OK ||
            curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer) != CURLM_OK || curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c) != CURLM_OK ||
            curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, CONNECTIONS_MAX) != CURLM_OK)
                return -ENOMEM;
        *ret = TAKE_PTR(c);
        return 0;
}

KubeCurl* kube_curl_ref(KubeCurl *c) {
        c->n_refs++;
        return c;
}

KubeCurl* kube_curl_unref(KubeCurl *c) {
        if (!c || --c->n_refs > 0)
                return NULL;
        assert(!c->entries);
        /* Closes the connections, which calls on_curl_socket(). */
        if (c->multi)
                (void) curl_multi_cleanup(c->multi);
        for (Socket *s = c->sockets, *after; s; s = after) {
                after = s->hh.next;
                drop_socket(c, s);
        }
        sd_event_source_disable_unref(c->timer);
        sd_event_unref(c->event);
        free(c);
        return NULL;
}

int kube_curl_add(KubeCurl *c, CURL *easy, KubeCurlDone done, void *userdata) {
        Entry *e = new0(Entry, 1);

        if (!e)
                return -ENOMEM;
        e->easy = easy;
        e->done = done;
        e->userdata = userdata;
        HASH_ADD_PTR(c->entries, easy, e);
        if (!hash_added(e)) {
                free(e);
                return -ENOMEM;
        }
        if (curl_multi_add_handle(c->multi, easy) != CURLM_OK) {
                HASH_DEL(c->entries, e);
                free(e);
                return -ENOMEM;
        }
        (void) kube_curl_ref(c);
        return 0;
}

void kube_curl_remove(KubeCurl *c, CURL *easy) {
        Entry *e;

        HASH_FIND_PTR(c->entries, &easy, e);
        if (!e)
                return;
        HASH_DEL(c->entries, e);
        free(e);
        (void) curl_multi_remove_handle(c->multi, easy);
        kube_curl_unref(c);
}
