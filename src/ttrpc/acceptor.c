/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/acceptor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <utlist.h>

#include "basic/io.h"
#include "basic/log.h"
#include "ttrpc/link.h"

#define REFUSAL_LOG_USEC (10 * USEC_PER_SEC)    /* one line in this time: anybody can cause them */

typedef struct Pending Pending;
struct Pending {
        Acceptor *acceptor;             /* borrowed */
        Channel *channel;
        sd_event_source *timer;
        char peer[INET6_ADDRSTRLEN + 10];
        Pending *prev, *next;
};

struct Acceptor {
        sd_event *event;
        int fd;
        TlsContext *tls;
        AcceptorHandler handler;
        void *userdata;
        bool enabled, resting;
        sd_event_source *io_source, *timer;
        Pending *pending;
        size_t n_pending;
        uint64_t last_refusal_usec;
        unsigned n_refusals_unsaid;
};

static void acceptor_update(Acceptor *a) {
        bool on = a->enabled && !a->resting;

        (void) sd_event_source_set_enabled(a->io_source, on ? SD_EVENT_ON : SD_EVENT_OFF);
}

static void pending_free(Pending *p) {
        Acceptor *a = p->acceptor;

        DL_DELETE(a->pending, p);
        a->n_pending--;
        sd_event_source_disable_unref(p->timer);
        channel_free(p->channel);
        free(p);
}

static void log_refusal(Acceptor *a, const char *peer, const char *why) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        if (a->last_refusal_usec > 0 && now - a->last_refusal_usec < REFUSAL_LOG_USEC) {
                a->n_refusals_unsaid++;
                return;
        }
        if (a->n_refusals_unsaid > 0)
                log_warning("Refused a connection from %s: %s (and %u others before).", peer, why, a->n_refusals_unsaid);
        else
                log_warning("Refused a connection from %s: %s.", peer, why);
        a->last_refusal_usec = now;
        a->n_refusals_unsaid = 0;
}

static void on_pending_open(Channel *c, void *userdata) {
        Pending *p = userdata;
        Acceptor *a = p->acceptor;
        char peer[sizeof(p->peer)];
        Channel *channel = TAKE_PTR(p->channel);

        memcpy(peer, p->peer, sizeof(peer));
        pending_free(p);
        channel_pause_input(channel);
        a->handler(a, channel, peer, a->userdata);
}

static void on_pending_closed(Channel *c, int error, void *userdata) {
        Pending *p = userdata;

        log_refusal(p->acceptor, p->peer, channel_error(c) ?: strerrordesc_np(-error));
        pending_free(p);
}

static void on_pending_other(Channel *c, void *userdata) {
}

static const ChannelHandlers pending_handlers = {
        .on_open = on_pending_open,
        .on_input = on_pending_other,
        .on_drained = on_pending_other,
        .on_closed = on_pending_closed,
};

static int on_pending_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        Pending *p = userdata;

        log_refusal(p->acceptor, p->peer, "TLS handshake not finished in time");
        pending_free(p);
        return 0;
}

static int accept_tls(Acceptor *a, int fd, const char *peer) {
        Pending *p;
        int r;

        /* Strangers who say nothing must not keep out who has the certificate: the oldest gives way. */
        if (a->n_pending >= ACCEPTOR_HANDSHAKES_MAX) {
                log_refusal(a, a->pending->peer, "TLS handshake not finished when others came");
                pending_free(a->pending);
        }

        p = new(Pending);
        if (!p) {
                close_fd(fd);
                return -ENOMEM;
        }
        *p = (Pending) { .acceptor = a };
        (void) snprintf(p->peer, sizeof(p->peer), "%s", peer);
        DL_APPEND(a->pending, p);
        a->n_pending++;

        r = channel_new(a->event, fd, a->tls, NULL, &pending_handlers, p, &p->channel);
        if (r >= 0)
                r = sd_event_add_time_relative(a->event, &p->timer, CLOCK_MONOTONIC, ACCEPTOR_HANDSHAKE_USEC, 0, on_pending_timeout, p);
        if (r < 0)
                pending_free(p);
        return r;
}

static int accept_plain(Acceptor *a, int fd, const char *peer) {
        static const ChannelHandlers none = {
                .on_input = on_pending_other,
                .on_drained = on_pending_other,
        };
        Channel *c;
        int r;

        r = channel_new(a->event, fd, NULL, NULL, &none, NULL, &c);
        if (r < 0)
                return r;
        channel_pause_input(c);
        a->handler(a, c, peer, a->userdata);
        return 0;
}

static void describe_peer(const struct sockaddr_storage *sa, char *buffer, size_t size) {
        char address[INET6_ADDRSTRLEN] = "?";

        if (sa->ss_family == AF_INET) {
                const struct sockaddr_in *in = (const struct sockaddr_in*) sa;

                (void) snprintf(buffer, size, "%s:%u", inet_ntop(AF_INET, &in->sin_addr, address, sizeof(address)) ?: "?",
                                ntohs(in->sin_port));
        } else if (sa->ss_family == AF_INET6) {
                const struct sockaddr_in6 *in6 = (const struct sockaddr_in6*) sa;

                (void) snprintf(buffer, size, "[%s]:%u", inet_ntop(AF_INET6, &in6->sin6_addr, address, sizeof(address)) ?: "?",
                                ntohs(in6->sin6_port));
        } else
                (void) snprintf(buffer, size, "a local client");
}

static int on_rest_over(sd_event_source *source, uint64_t usec, void *userdata) {
        Acceptor *a = userdata;

        a->resting = false;
        acceptor_update(a);
        return 0;
}

/* Neither busy nor off for good when there is nothing left to make a connection of. */
static void acceptor_rest(Acceptor *a, int error) {
        log_debug_errno(error, "Cannot accept a connection, pausing: %m");
        if (sd_event_source_set_time_relative(a->timer, ACCEPTOR_PAUSE_USEC) < 0 ||
            sd_event_source_set_enabled(a->timer, SD_EVENT_ONESHOT) < 0)
                return;
        a->resting = true;
        acceptor_update(a);
}

static int on_connection(sd_event_source *source, int listen_fd, uint32_t revents, void *userdata) {
        Acceptor *a = userdata;
        struct sockaddr_storage sa = {};
        char peer[INET6_ADDRSTRLEN + 10];
        int fd, r;

        fd = accept4(listen_fd, (struct sockaddr*) &sa, &(socklen_t) { sizeof(sa) }, SOCK_CLOEXEC|SOCK_NONBLOCK);
        if (fd < 0) {
                if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                        acceptor_rest(a, errno);
                return 0;               /* others belong to the connection that did not come about: accept(2) */
        }
        describe_peer(&sa, peer, sizeof(peer));

        if (sa.ss_family == AF_INET || sa.ss_family == AF_INET6)
                socket_set_tcp_options(fd);
        else {
                struct ucred cred;

                if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &(socklen_t) { sizeof(cred) }) < 0 ||
                    (cred.uid != 0 && cred.uid != geteuid())) {
                        log_refusal(a, peer, "it runs as another user");
                        close_fd(fd);
                        return 0;
                }
        }

        r = a->tls ? accept_tls(a, fd, peer) : accept_plain(a, fd, peer);
        if (r < 0)
                acceptor_rest(a, r);
        return 0;
}

int acceptor_new(sd_event *event, int fd, TlsContext *tls, AcceptorHandler handler, void *userdata, Acceptor **ret) {
        _cleanup_(acceptor_freep) Acceptor *a = new(Acceptor);
        int r;

        if (!a) {
                close_fd(fd);
                return -ENOMEM;
        }
        *a = (Acceptor) { .event = sd_event_ref(event), .fd = fd, .tls = tls ? tls_context_ref(tls) : NULL,
                          .handler = handler, .userdata = userdata };

        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;
        r = sd_event_add_io(event, &a->io_source, fd, EPOLLIN, on_connection, a);
        if (r < 0)
                return r;

        /* Made now, as a timer may need a descriptor: it is for when there are none left. */
        r = sd_event_add_time(event, &a->timer, CLOCK_MONOTONIC, USEC_INFINITY, 0, on_rest_over, a);
        if (r >= 0)
                r = sd_event_source_set_enabled(a->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        acceptor_update(a);

        *ret = TAKE_PTR(a);
        return 0;
}

Acceptor* acceptor_free(Acceptor *a) {
        if (!a)
                return NULL;

        for (Pending *p = a->pending, *next; p; p = next) {
                next = p->next;
                sd_event_source_disable_unref(p->timer);
                channel_free(p->channel);
                free(p);
        }
        sd_event_source_disable_unref(a->io_source);
        sd_event_source_disable_unref(a->timer);
        close_fd(a->fd);
        tls_context_unref(a->tls);
        sd_event_unref(a->event);
        free(a);
        return NULL;
}

void acceptor_set_enabled(Acceptor *a, bool b) {
        if (a->enabled == b)
                return;
        a->enabled = b;
        acceptor_update(a);
}
