/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/bus-private.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/log.h"
#include "basic/util.h"

#define LINKS_MAX 64
#define ACCEPT_PAUSE_USEC USEC_PER_SEC


struct BusServer {
        sd_event *event;
        sd_event_source *accept_source, *resume_source;
        int listen_fd;
        uid_t user;
        BusServerSetup setup;
        void *userdata;
        sd_bus *links[LINKS_MAX];
};

static void drop_link(BusServer *s, size_t i) {
        s->links[i] = sd_bus_close_unref(s->links[i]);
        /* A full table switched accepting off. */
        if (s->accept_source && !s->resume_source)
                (void) sd_event_source_set_enabled(s->accept_source, SD_EVENT_ON);
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        BusServer *s = userdata;
        sd_bus *bus = sd_bus_message_get_bus(m);

        for (size_t i = 0; i < LINKS_MAX; i++)
                if (s->links[i] == bus)
                        drop_link(s, i);
        return 1;
}

static int on_resume(sd_event_source *es, uint64_t usec, void *userdata) {
        BusServer *s = userdata;

        s->resume_source = sd_event_source_disable_unref(s->resume_source);
        (void) sd_event_source_set_enabled(s->accept_source, SD_EVENT_ON);
        return 0;
}

static void pause_accepting(BusServer *s) {
        (void) sd_event_source_set_enabled(s->accept_source, SD_EVENT_OFF);
        if (sd_event_add_time_relative(s->event, &s->resume_source, CLOCK_MONOTONIC, ACCEPT_PAUSE_USEC, 0, on_resume, s) < 0)
                (void) sd_event_source_set_enabled(s->accept_source, SD_EVENT_ON);
}

static int add_link(BusServer *s, int *fd, sd_bus **slot) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        sd_id128_t id;
        int r;

        r = sd_id128_randomize(&id);
        if (r < 0)
                return r;
        r = sd_bus_new(&bus);
        if (r < 0)
                return r;
        r = sd_bus_set_fd(bus, *fd, *fd);
        if (r < 0)
                return r;
        *fd = -EBADF;           /* the bus closes it now */
        r = sd_bus_set_server(bus, true, id);
        if (r < 0)
                return r;
        r = sd_bus_negotiate_fds(bus, true);
        if (r < 0)
                return r;
        /* The peer was checked when it was accepted; sd-bus's own check wants a broker's or the same user's credentials. */
        r = sd_bus_set_trusted(bus, true);
        if (r < 0)
                return r;
        r = sd_bus_start(bus);
        if (r < 0)
                return r;
        r = sd_bus_match_signal(bus, NULL, NULL, "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local", "Disconnected",
                                on_disconnected, s);
        if (r < 0)
                return r;
        r = s->setup(bus, s->userdata);
        if (r < 0)
                return r;
        r = sd_bus_attach_event(bus, s->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return r;

        *slot = TAKE_PTR(bus);
        return 0;
}

static int on_accept(sd_event_source *es, int listen_fd, uint32_t revents, void *userdata) {
        BusServer *s = userdata;
        _cleanup_(close_fdp) int fd = -EBADF;
        struct ucred cred;
        socklen_t size = sizeof(cred);
        size_t i;
        int r;

        for (i = 0; i < LINKS_MAX && s->links[i]; i++)
                ;
        if (i == LINKS_MAX) {
                (void) sd_event_source_set_enabled(es, SD_EVENT_OFF);
                return 0;
        }

        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC|SOCK_NONBLOCK);
        if (fd < 0) {
                if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                        log_warning_errno(errno, "Failed to accept a connection, pausing: %m");
                        pause_accepting(s);
                }
                return 0;
        }

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0) {
                log_warning_errno(errno, "Failed to read the credentials of a peer, closing: %m");
                return 0;
        }
        if (cred.uid != 0 && cred.uid != geteuid() && cred.uid != s->user) {
                log_warning("Refusing connection of process %i, user %u is not allowed.", cred.pid, cred.uid);
                return 0;
        }

        r = add_link(s, &fd, s->links + i);
        if (r < 0)
                log_warning_errno(r, "Failed to set up the link to process %i, closing: %m", cred.pid);
        return 0;
}

int bus_server_new(sd_event *event, int listen_fd, uid_t user, BusServerSetup setup, void *userdata, BusServer **ret) {
        _cleanup_(bus_server_freep) BusServer *s = new(BusServer);
        int r;

        if (!s)
                return -ENOMEM;
        *s = (BusServer) {
                .event = sd_event_ref(event),
                .listen_fd = -EBADF,
                .user = user,
                .setup = setup,
                .userdata = userdata,
        };

        r = fcntl(listen_fd, F_GETFL);
        if (r < 0 || fcntl(listen_fd, F_SETFL, r | O_NONBLOCK) < 0)
                return -errno;
        r = sd_event_add_io(event, &s->accept_source, listen_fd, EPOLLIN, on_accept, s);
        if (r < 0)
                return r;

        s->listen_fd = listen_fd;
        *ret = TAKE_PTR(s);
        return 0;
}

BusServer* bus_server_free(BusServer *s) {
        if (!s)
                return NULL;

        s->accept_source = sd_event_source_disable_unref(s->accept_source);
        s->resume_source = sd_event_source_disable_unref(s->resume_source);
        for (size_t i = 0; i < LINKS_MAX; i++)
                sd_bus_flush_close_unref(s->links[i]);
        close_fd(s->listen_fd);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}

int bus_private_connect(sd_event *event, const char *path, sd_bus **ret) {
        _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int r;

        if (strlen(path) >= sizeof(sa.sun_path))
                return -ENAMETOOLONG;
        memcpy(sa.sun_path, path, strlen(path) + 1);

        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr*) &sa, sizeof(sa)) < 0)
                return -errno;

        r = sd_bus_new(&bus);
        if (r < 0)
                return r;
        r = sd_bus_set_fd(bus, fd, fd);
        if (r < 0)
                return r;
        fd = -EBADF;
        r = sd_bus_negotiate_fds(bus, true);
        if (r < 0)
                return r;
        r = sd_bus_set_connected_signal(bus, true);
        if (r < 0)
                return r;
        r = sd_bus_start(bus);
        if (r < 0)
                return r;
        r = sd_bus_attach_event(bus, event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(bus);
        return 0;
}
