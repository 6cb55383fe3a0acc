/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/listeners.h"

#include <sys/epoll.h>
#include <systemd/sd-daemon.h>

#include "basic/cleanup.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"

void listeners_update(Listeners *l) {
        bool room = !l->has_room || l->has_room(l->userdata);   /* and may have paused */

        for (size_t i = 0; i < l->n_sources; i++)
                (void) sd_event_source_set_enabled(l->sources[i], room && !l->paused ? SD_EVENT_ON : SD_EVENT_OFF);
}

static int on_pause_over(sd_event_source *es, uint64_t usec, void *userdata) {
        Listeners *l = userdata;

        l->paused = false;
        listeners_update(l);
        return 0;
}

void listeners_pause(Listeners *l, uint64_t usec) {
        int r;

        if (l->paused || l->n_sources == 0)
                return;
        r = sd_event_source_set_time_relative(l->pause, usec);
        if (r >= 0)
                r = sd_event_source_set_enabled(l->pause, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer: %m");
        l->paused = r >= 0;
}

/* Or nobody is there: the next one may well be accepted at once. */
static bool concerns_connection(int error) {
        switch (error) {

        case EAGAIN:
        case EINTR:
        case ECONNABORTED:              /* and errors of the new connection, as accept(2) says of TCP */
        case ENETDOWN:
        case EPROTO:
        case ENOPROTOOPT:
        case EHOSTDOWN:
        case ENONET:
        case EHOSTUNREACH:
        case EOPNOTSUPP:
        case ENETUNREACH:
                return true;
        default:
                return false;
        }
}

static int on_listener(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        struct sockaddr_storage sa = {};
        socklen_t size = sizeof(sa);
        Listeners *l = userdata;
        int client = accept4(fd, (struct sockaddr*) &sa, &size, SOCK_CLOEXEC|SOCK_NONBLOCK);

        if (client >= 0) {
                l->in_trouble = false;
                l->accepted(client, (const struct sockaddr*) &sa, size, l->userdata);
        } else if (concerns_connection(errno))
                return 0;
        else {                          /* EMFILE, ENFILE, ENOMEM, …: nothing that an instant repetition could cure */
                if (!l->in_trouble)
                        log_warning_errno(errno, "Failed to accept a connection, trying again until it works: %m");
                l->in_trouble = true;
                listeners_pause(l, LISTENERS_PAUSE_USEC);
        }
        listeners_update(l);
        return 0;
}

/* Made before it is needed, as a timer may take a descriptor: it is for when there are none left. */
static int make_pause(Listeners *l) {
        int r;

        if (l->pause)
                return 0;
        r = sd_event_add_time(l->event, &l->pause, CLOCK_MONOTONIC, USEC_INFINITY, 0, on_pause_over, l);
        return r < 0 ? r : sd_event_source_set_enabled(l->pause, SD_EVENT_OFF);
}

int listeners_add(Listeners *l, int fd) {
        _cleanup_(close_fdp) int owned = fd;
        _cleanup_(sd_event_source_disable_unrefp) sd_event_source *source = NULL;
        int r;

        if (l->n_sources == LISTENERS_MAX)
                return -E2BIG;
        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;
        r = make_pause(l);
        if (r < 0)
                return r;
        r = sd_event_add_io(l->event, &source, fd, EPOLLIN, on_listener, l);
        if (r < 0)
                return r;
        r = sd_event_source_set_io_fd_own(source, true);
        if (r < 0)
                return r;

        (void) TAKE_FD(owned);
        l->sources[l->n_sources++] = TAKE_PTR(source);
        listeners_update(l);
        return 0;
}

int listeners_add_passed(Listeners *l) {
        int n, r;

        n = sd_listen_fds(/* unset_environment= */ true);
        if (n < 0)
                return log_error_errno(n, "Failed to take systemd's sockets: %m");
        if (n == 0)
                return log_error_errno(ENOTCONN, "There is no socket from systemd; by hand, use --listen.");

        for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + n; fd++) {
                if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, /* listening= */ true) <= 0)
                        return log_error_errno(EINVAL, "Descriptor %i from systemd is no listening stream socket.", fd);
                r = listeners_add(l, fd);
                if (r < 0)
                        return log_error_errno(r, "Failed to listen: %m");
        }
        return 0;
}

void listeners_done(Listeners *l) {
        while (l->n_sources > 0)
                sd_event_source_disable_unref(l->sources[--l->n_sources]);
        l->pause = sd_event_source_disable_unref(l->pause);
}
