/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/daemon.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "basic/log.h"
#include "basic/parse.h"
#include "basic/strv.h"

int daemon_event_new(sd_event **ret) {
        return daemon_event_new_with(/* on_signal= */ NULL, NULL, ret);
}

int daemon_event_new_with(sd_event_signal_handler_t on_signal, void *userdata, sd_event **ret) {
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        int r;

        if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
                return -errno;

        r = sd_event_default(&event);
        if (r < 0)
                return r;

        /* SD_EVENT_SIGNAL_PROCMASK blocks the signal for us; a NULL handler exits the loop. */
        r = sd_event_add_signal(event, NULL, SIGTERM|SD_EVENT_SIGNAL_PROCMASK, on_signal, userdata);
        if (r < 0)
                return r;
        r = sd_event_add_signal(event, NULL, SIGINT|SD_EVENT_SIGNAL_PROCMASK, on_signal, userdata);
        if (r < 0)
                return r;
        r = sd_event_set_watchdog(event, true);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(event);
        return 0;
}

int daemon_loop(sd_event *event) {
        int r = sd_event_loop(event);

        (void) sd_notify(/* unset_environment= */ false, "STOPPING=1");
        return r < 0 ? log_error_errno(r, "Event loop has failed: %m") : r;
}

/* $LISTEN_FDS is read once; a taken name becomes "". Returns the number or -errno. */
static int passed_fds(char ***ret_names) {
        static char **names = NULL;
        static int n = -1;

        if (n < 0)
                n = sd_listen_fds_with_names(/* unset_environment= */ true, &names);
        *ret_names = names;
        return n;
}

int daemon_take_socket(const char *name) {
        char **names;
        int n = passed_fds(&names);

        for (int i = 0; i < n; i++) {
                int fd = SD_LISTEN_FDS_START + i;
                bool match = streq(names[i], name) || (n == 1 && streq(names[i], "unknown"));

                if (!match)
                        continue;
                if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, /* listening= */ true) <= 0)
                        return -EINVAL;
                names[i][0] = '\0';
                return fd;
        }

        return n < 0 ? n : -ENOENT;
}

int daemon_take_fd(const char *name) {
        char **names;
        int n = passed_fds(&names);

        for (int i = 0; i < n; i++)
                if (streq(names[i], name)) {
                        names[i][0] = '\0';
                        return SD_LISTEN_FDS_START + i;
                }

        return n < 0 ? n : -ENOENT;
}

int daemon_listen_unix(const char *path) {
        _cleanup_(close_fdp) int fd = -EBADF;
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        struct stat st;
        mode_t old;
        int r;

        if (strlen(path) >= sizeof(sa.sun_path))
                return -ENAMETOOLONG;
        memcpy(sa.sun_path, path, strlen(path) + 1);

        if (lstat(path, &st) >= 0) {
                if (!S_ISSOCK(st.st_mode))
                        return -EEXIST;
                if (unlink(path) < 0)
                        return -errno;
        }

        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        old = umask(0177);
        r = bind(fd, (const struct sockaddr*) &sa, sizeof(sa)) < 0 ? -errno : 0;
        (void) umask(old);
        if (r < 0)
                return r;
        if (listen(fd, SOMAXCONN) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int split_address(const char *text, char **ret_host, uint16_t *ret_port) {
        const char *colon = strrchr(text, ':');
        size_t n = colon ? (size_t) (colon - text) : 0;
        char *host;

        if (!colon || (!streq(colon, ":0") && parse_port(colon + 1, ret_port) < 0))
                return -EINVAL;
        if (streq(colon, ":0"))
                *ret_port = 0;
        if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
                text++;
                n -= 2;
        } else if (memchr(text, ':', n))
                return -EINVAL;
        host = strndup(text, n);
        if (!host)
                return -ENOMEM;
        *ret_host = host;
        return 0;
}

static int listen_at(const struct sockaddr *sa, socklen_t size) {
        _cleanup_(close_fdp) int fd = socket(sa->sa_family, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        int on = 1, off = 0;

        if (fd < 0)
                return -errno;
        (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (sa->sa_family == AF_INET6)
                (void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        if (bind(fd, sa, size) < 0 || listen(fd, SOMAXCONN) < 0)
                return -errno;
        return TAKE_FD(fd);
}

/* Without a host: all addresses, also where there is no IPv6. */
static int listen_any(uint16_t port) {
        const struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htobe16(port), .sin6_addr = IN6ADDR_ANY_INIT };
        const struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htobe16(port) };
        int fd = listen_at((const struct sockaddr*) &six, sizeof(six));

        return fd == -EAFNOSUPPORT || fd == -EADDRNOTAVAIL ? listen_at((const struct sockaddr*) &four, sizeof(four)) : fd;
}

static int listen_host(const char *host, uint16_t port) {
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST|AI_NUMERICSERV };
        struct addrinfo *list;
        char service[8];
        int fd;

        (void) snprintf(service, sizeof(service), "%u", (unsigned) port);
        if (getaddrinfo(streq(host, "localhost") ? "127.0.0.1" : host, service, &hints, &list) != 0)
                return -EINVAL;
        fd = listen_at(list->ai_addr, list->ai_addrlen);
        freeaddrinfo(list);
        return fd;
}

int daemon_listen_tcp(const char *address) {
        _cleanup_(freep) char *host = NULL;
        uint16_t port;
        int r;

        r = split_address(address, &host, &port);
        if (r < 0)
                return r;
        return isempty(host) ? listen_any(port) : listen_host(host, port);
}

void daemon_refuse_callers(void) {
        char **names;
        int n = passed_fds(&names);

        for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + n; fd++) {
                if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, /* listening= */ true) <= 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
                        continue;
                for (unsigned i = 0; i < SOMAXCONN; i++) {      /* no more were waiting when we began */
                        int caller = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

                        if (caller < 0)
                                break;
                        close_fd(caller);
                }
        }
}

int daemon_print_version(const char *name) {
        printf("%s %s\n", name, PEERPOD_VERSION);
        return 0;
}
