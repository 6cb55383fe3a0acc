/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/link.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/un.h>

#include "basic/log.h"

struct Link {
        sd_event *event;
        LinkSettings settings;
        char *server_name;
        const LinkHandlers *handlers;
        void *userdata;

        LinkState state;
        size_t next_address;
        uint64_t deadline;              /* CLOCK_MONOTONIC */
        uint64_t pause_usec;            /* the next one */
        int fd;                         /* LINK_CONNECTING */
        Channel *channel;               /* LINK_HANDSHAKING */
        sd_event_source *io_source, *timer;
        char text[400];                 /* why the last try failed */
        char address[128];
};

static const char *const state_names[_LINK_STATE_MAX] = {
        [LINK_IDLE] = "idle",
        [LINK_CONNECTING] = "connecting",
        [LINK_HANDSHAKING] = "handshaking",
        [LINK_PAUSING] = "pausing",
        [LINK_UP] = "up",
};

static const uint32_t allowed[_LINK_STATE_MAX] = {
        [LINK_IDLE] = BIT(LINK_CONNECTING),
        [LINK_CONNECTING] = BIT(LINK_HANDSHAKING) | BIT(LINK_UP) | BIT(LINK_CONNECTING) | BIT(LINK_PAUSING) | BIT(LINK_IDLE),
        [LINK_HANDSHAKING] = BIT(LINK_UP) | BIT(LINK_CONNECTING) | BIT(LINK_PAUSING) | BIT(LINK_IDLE),
        [LINK_PAUSING] = BIT(LINK_CONNECTING) | BIT(LINK_IDLE),
        [LINK_UP] = BIT(LINK_CONNECTING) | BIT(LINK_IDLE),
};

const char* link_state_to_string(LinkState s) {
        assert(s < _LINK_STATE_MAX);
        return state_names[s];
}

/* The one place where the state changes; what the old one held goes. */
static void link_set_state(Link *l, LinkState to) {
        assert(l->state == to || allowed[l->state] & BIT(to));

        l->io_source = sd_event_source_disable_unref(l->io_source);
        l->timer = sd_event_source_disable_unref(l->timer);
        if (to != LINK_HANDSHAKING) {
                l->channel = channel_free(l->channel);
                l->fd = close_fd(l->fd);
        }
        if (l->state != to)
                log_debug("Link: %s to %s.", link_state_to_string(l->state), link_state_to_string(to));
        l->state = to;
}

static void link_try(Link *l);

static void link_give_up(Link *l) {
        char text[sizeof(l->text)];

        memcpy(text, l->text, sizeof(text));
        link_set_state(l, LINK_IDLE);
        l->handlers->on_failed(l, text[0] ? text : "no time left", l->userdata);
}

static int on_pause_over(sd_event_source *source, uint64_t usec, void *userdata) {
        Link *l = userdata;

        if (now_usec(CLOCK_MONOTONIC) >= l->deadline)
                link_give_up(l);
        else
                link_try(l);
        return 0;
}

/* One address did not work: the next one, at once, or all of them again after a pause. */
static void link_next(Link *l) {
        uint64_t now = now_usec(CLOCK_MONOTONIC), pause = l->pause_usec;

        log_debug("Link: %s", l->text);
        if (now >= l->deadline) {
                link_give_up(l);
                return;
        }

        l->handlers->on_trouble(l, l->text, l->userdata);
        if (l->state == LINK_IDLE)      /* the user has stopped it */
                return;

        l->next_address = (l->next_address + 1) % l->settings.n_addresses;
        if (l->next_address != 0) {
                link_try(l);
                return;
        }

        l->pause_usec = MAX(pause, MIN(2 * pause, l->settings.pause_max_usec));
        link_set_state(l, LINK_PAUSING);
        if (sd_event_add_time_relative(l->event, &l->timer, CLOCK_MONOTONIC, MIN(pause, l->deadline - now), 0, on_pause_over, l) < 0)
                link_give_up(l);
}

static void link_failed(Link *l, const char *what, int error) {
        if (what)
                (void) snprintf(l->text, sizeof(l->text), "%s: %s", l->address, what);
        else
                (void) snprintf(l->text, sizeof(l->text), "%s: %s", l->address, strerrordesc_np(abs(error)) ?: "error");
        link_next(l);
}

static int on_try_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        Link *l = userdata;

        link_failed(l, l->state == LINK_HANDSHAKING ? "TLS handshake: no answer" : "no answer", 0);
        return 0;
}

static int link_set_timer(Link *l, uint64_t usec) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        l->timer = sd_event_source_disable_unref(l->timer);
        return sd_event_add_time_relative(l->event, &l->timer, CLOCK_MONOTONIC, MIN(usec, l->deadline > now ? l->deadline - now : 1),
                                          0, on_try_timeout, l);
}

static void link_is_up(Link *l) {
        Channel *channel = TAKE_PTR(l->channel);

        l->next_address = 0;
        l->pause_usec = l->settings.pause_usec ?: LINK_PAUSE_USEC;
        l->text[0] = '\0';
        link_set_state(l, LINK_UP);
        channel_pause_input(channel);
        l->handlers->on_up(l, channel, l->address, l->userdata);
}

static void on_channel_open(Channel *c, void *userdata) {
        link_is_up(userdata);
}

static void on_channel_closed(Channel *c, int error, void *userdata) {
        link_failed(userdata, channel_error(c), error);
}

static void on_channel_other(Channel *c, void *userdata) {
}

static const ChannelHandlers channel_handlers = {
        .on_open = on_channel_open,
        .on_input = on_channel_other,
        .on_drained = on_channel_other,
        .on_closed = on_channel_closed,
};

static void link_connected(Link *l) {
        int r;

        r = channel_new(l->event, TAKE_FD(l->fd), l->settings.tls, l->server_name, &channel_handlers, l, &l->channel);
        if (r < 0) {
                link_failed(l, NULL, r);
                return;
        }

        if (!l->settings.tls) {
                link_is_up(l);
                return;
        }

        link_set_state(l, LINK_HANDSHAKING);
        r = link_set_timer(l, LINK_HANDSHAKE_USEC);
        if (r < 0)
                link_failed(l, NULL, r);
}

static int on_connected(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Link *l = userdata;
        int error = 0;

        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t) { sizeof(error) }) < 0)
                error = errno;
        if (error != 0) {
                link_failed(l, NULL, error);
                return 0;
        }

        l->io_source = sd_event_source_disable_unref(l->io_source);
        link_connected(l);
        return 0;
}

static socklen_t address_size(const struct sockaddr_storage *a) {
        if (a->ss_family == AF_INET)
                return sizeof(struct sockaddr_in);
        if (a->ss_family == AF_INET6)
                return sizeof(struct sockaddr_in6);

        const struct sockaddr_un *u = (const struct sockaddr_un*) a;
        /* An abstract name is as long as it is said to be. */
        return offsetof(struct sockaddr_un, sun_path) + (u->sun_path[0] ? strlen(u->sun_path) : strlen(u->sun_path + 1)) + 1;
}

static void describe_address(Link *l, const struct sockaddr_storage *a) {
        char buffer[INET6_ADDRSTRLEN] = "?";

        if (a->ss_family == AF_INET) {
                const struct sockaddr_in *in = (const struct sockaddr_in*) a;

                (void) inet_ntop(AF_INET, &in->sin_addr, buffer, sizeof(buffer));
                (void) snprintf(l->address, sizeof(l->address), "%s:%u", buffer, ntohs(in->sin_port));
        } else if (a->ss_family == AF_INET6) {
                const struct sockaddr_in6 *in6 = (const struct sockaddr_in6*) a;

                (void) inet_ntop(AF_INET6, &in6->sin6_addr, buffer, sizeof(buffer));
                (void) snprintf(l->address, sizeof(l->address), "[%s]:%u", buffer, ntohs(in6->sin6_port));
        } else
                (void) snprintf(l->address, sizeof(l->address), "%.100s", ((const struct sockaddr_un*) a)->sun_path);
}

void socket_set_tcp_options(int fd) {
        static const struct { int level, name, value; } options[] = {
                { IPPROTO_TCP, TCP_NODELAY, 1 },
                { SOL_SOCKET, SO_KEEPALIVE, 1 },
                { IPPROTO_TCP, TCP_KEEPIDLE, 10 },
                { IPPROTO_TCP, TCP_KEEPINTVL, 5 },
                { IPPROTO_TCP, TCP_KEEPCNT, 3 },
                { IPPROTO_TCP, TCP_USER_TIMEOUT, 20 * 1000 },
        };

        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                if (setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int)) < 0)
                        log_debug_errno(errno, "Socket option %i: %m, ignoring", options[i].name);
}

static void link_try(Link *l) {
        const struct sockaddr_storage *a = l->settings.addresses + l->next_address;
        int r;

        link_set_state(l, LINK_CONNECTING);
        describe_address(l, a);

        l->fd = socket(a->ss_family, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        if (l->fd < 0) {
                link_failed(l, NULL, errno);
                return;
        }
        if (a->ss_family != AF_UNIX)
                socket_set_tcp_options(l->fd);

        if (connect(l->fd, (const struct sockaddr*) a, address_size(a)) >= 0) {
                link_connected(l);
                return;
        }
        if (errno != EINPROGRESS) {     /* EAGAIN too: a UNIX socket whose backlog is full */
                link_failed(l, NULL, errno);
                return;
        }

        r = sd_event_add_io(l->event, &l->io_source, l->fd, EPOLLOUT, on_connected, l);
        if (r >= 0)
                r = link_set_timer(l, LINK_CONNECT_USEC);
        if (r < 0)
                link_failed(l, NULL, r);
}

static int on_start(sd_event_source *source, uint64_t usec, void *userdata) {
        link_try(userdata);
        return 0;
}

int link_start(Link *l, uint64_t timeout_usec) {
        assert(l->state == LINK_IDLE || l->state == LINK_UP);

        l->deadline = usec_add(now_usec(CLOCK_MONOTONIC), timeout_usec);
        l->next_address = 0;
        l->text[0] = '\0';
        link_set_state(l, LINK_CONNECTING);

        /* Not before the loop runs: handlers are never called from in here. */
        return sd_event_add_time_relative(l->event, &l->timer, CLOCK_MONOTONIC, 0, 0, on_start, l);
}

void link_stop(Link *l) {
        link_set_state(l, LINK_IDLE);
}

LinkState link_get_state(const Link *l) {
        return l->state;
}

int link_new(sd_event *event, const LinkSettings *settings, const LinkHandlers *handlers, void *userdata, Link **ret) {
        _cleanup_(link_freep) Link *l = new(Link);

        assert(settings->n_addresses > 0);
        if (!l)
                return -ENOMEM;
        *l = (Link) { .event = sd_event_ref(event), .settings = *settings, .handlers = handlers, .userdata = userdata, .fd = -EBADF };

        if (l->settings.tls)
                tls_context_ref(l->settings.tls);
        if (settings->server_name) {
                l->server_name = strdup(settings->server_name);
                if (!l->server_name)
                        return -ENOMEM;
        }

        *ret = TAKE_PTR(l);
        return 0;
}

Link* link_free(Link *l) {
        if (!l)
                return NULL;

        sd_event_source_disable_unref(l->io_source);
        sd_event_source_disable_unref(l->timer);
        channel_free(l->channel);
        close_fd(l->fd);
        tls_context_unref(l->settings.tls);
        free(l->server_name);
        sd_event_unref(l->event);
        free(l);
        return NULL;
}

int link_add_ip(LinkSettings *s, const char *address, uint16_t port) {
        struct sockaddr_storage *a = s->addresses + s->n_addresses;
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
        struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };

        if (s->n_addresses == LINK_ADDRESSES_MAX)
                return -E2BIG;
        if (inet_pton(AF_INET, address, &in.sin_addr) == 1)
                memcpy(a, &in, sizeof(in));
        else if (inet_pton(AF_INET6, address, &in6.sin6_addr) == 1)
                memcpy(a, &in6, sizeof(in6));
        else
                return -EINVAL;
        s->n_addresses++;
        return 0;
}

int link_add_unix(LinkSettings *s, const char *path) {
        struct sockaddr_un un = { .sun_family = AF_UNIX };

        if (s->n_addresses == LINK_ADDRESSES_MAX)
                return -E2BIG;
        if (isempty(path) || streq(path, "@"))
                return -EINVAL;
        if (strlen(path) >= sizeof(un.sun_path))
                return -ENAMETOOLONG;
        memcpy(un.sun_path, path, strlen(path));
        if (path[0] == '@')
                un.sun_path[0] = '\0';
        memcpy(s->addresses + s->n_addresses, &un, sizeof(un));
        s->n_addresses++;
        return 0;
}
