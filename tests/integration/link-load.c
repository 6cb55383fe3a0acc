/* SPDX-License-Identifier: Apache-2.0 */
#include "link-load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <utlist.h>

#include "basic/util.h"
#include "ttrpc/client.h"

#define N_CONNECTIONS 4
#define N_POLLS 4
#define CHECK_USEC (200 * USEC_PER_MSEC)

typedef struct Flow Flow;

/* One call after the other. */
struct Flow {
        Load *load;
        TtrpcClient *client;
        bool up;                        /* Sum, else Stream */
        uint32_t size_min, size_max;
        uint32_t seed, size;
        bool busy;
};

struct Load {
        sd_event *event;
        TtrpcClient *clients[N_CONNECTIONS];
        Flow flows[16];
        size_t n_flows, n_busy;
        sd_event_source *check_timer;
        size_t next_check;
        bool stopping;
        uint32_t seed;
        uint8_t *scratch;
        LoadCounts counts;
};

static void failed(Load *l, const TtrpcReply *reply) {
        l->counts.n_failed++;
        l->counts.last_error = reply->error;
        l->counts.last_code = reply->code;
        (void) snprintf(l->counts.last_message, sizeof(l->counts.last_message), "%s", strempty(reply->message));
}

static void flow_next(Flow *f);

static void on_flow_reply(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Flow *f = userdata;
        Load *l = f->load;

        f->busy = false;
        l->n_busy--;
        l->counts.n_calls++;
        rig_stream(f->seed, l->scratch, f->size);
        if (reply->error < 0)
                failed(l, reply);
        else if (f->up ? reply->size != 8 || read_be64(reply->payload) != rig_sum(l->scratch, f->size)
                 : reply->size != f->size || (f->size > 0 && memcmp(reply->payload, l->scratch, f->size) != 0))
                l->counts.n_wrong++;
        else
                l->counts.n_bytes += f->size;
        if (!l->stopping)
                flow_next(f);
}

static void flow_next(Flow *f) {
        Load *l = f->load;
        uint8_t request[8];
        int r;

        f->seed = l->seed++;
        f->size = f->size_min + f->seed * 2654435761U % (f->size_max - f->size_min + 1);
        if (f->up) {
                rig_stream(f->seed, l->scratch, f->size);
                r = ttrpc_client_call(f->client, "grpc.AgentService", "Sum", l->scratch, f->size, 0, NULL, on_flow_reply, f, NULL);
        } else {
                write_be32(request, f->seed);
                write_be32(request + 4, f->size);
                r = ttrpc_client_call(f->client, "grpc.AgentService", "Stream", request, sizeof(request), 0, NULL, on_flow_reply, f, NULL);
        }
        if (r < 0) {
                l->counts.n_failed++;
                l->counts.last_error = r;
                return;
        }
        f->busy = true;
        l->n_busy++;
}

static void on_check_reply(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Load *l = userdata;

        l->n_busy--;
        if (reply->error < 0)
                failed(l, reply);
        else if (reply->size != 2 || memcmp(reply->payload, "\x08\x01", 2) != 0)
                l->counts.n_wrong++;
        else
                l->counts.n_checks++;
}

/* With the 30 seconds that Kata gives it. */
static int on_check_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Load *l = userdata;
        int r;

        if (l->stopping)
                return 0;
        r = ttrpc_client_call(l->clients[l->next_check++ % N_CONNECTIONS], "grpc.Health", "Check", NULL, 0, 30 * USEC_PER_SEC, NULL,
                              on_check_reply, l, NULL);
        if (r < 0) {
                l->counts.n_failed++;
                l->counts.last_error = r;
        } else
                l->n_busy++;
        (void) sd_event_source_set_time_relative(source, CHECK_USEC);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static void on_poll_reply(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        ((Load*) userdata)->counts.n_polls_ended++;
}

static void add_flow(Load *l, size_t connection, bool up, uint32_t size_min, uint32_t size_max) {
        Flow *f = l->flows + l->n_flows++;

        assert(l->n_flows <= ELEMENTSOF(l->flows));
        *f = (Flow) { .load = l, .client = l->clients[connection], .up = up, .size_min = size_min, .size_max = size_max };
        flow_next(f);
}

Load* load_start(sd_event *event, const Rig *rig) {
        Load *l = new(Load);
        int r;

        assert(l);
        *l = (Load) { .event = sd_event_ref(event), .seed = 1, .scratch = malloc(4 << 20) };
        assert(l->scratch);
        for (size_t i = 0; i < N_CONNECTIONS; i++) {
                r = ttrpc_client_new_unix(event, rig->proxy_socket, &l->clients[i]);
                assert(r >= 0);
                for (size_t k = 0; k < N_POLLS; k++) {
                        r = ttrpc_client_call(l->clients[i], "grpc.AgentService", "WaitProcess", NULL, 0, 0, NULL, on_poll_reply, l, NULL);
                        assert(r >= 0);
                }
        }
        for (size_t i = 0; i < N_CONNECTIONS; i++)
                add_flow(l, i, i % 2, 0, 200);
        add_flow(l, 0, false, 1 << 20, 1 << 20);
        add_flow(l, 1, false, 1 << 20, 1 << 20);
        add_flow(l, 1, true, 0, 1 << 20);
        add_flow(l, 2, true, 100000, 200000);
        add_flow(l, 2, false, 3 << 20, (3 << 20) + 500000);
        add_flow(l, 3, true, 0, 70000);
        add_flow(l, 3, false, 0, 200000);

        r = sd_event_add_time_relative(event, &l->check_timer, CLOCK_MONOTONIC, 0, 0, on_check_timer, l);
        assert(r >= 0);
        return l;
}

const LoadCounts* load_counts(const Load *l) {
        return &l->counts;
}

static bool turn_until(Load *l, bool (*done)(const Load *l, uint64_t n), uint64_t n, uint64_t timeout_usec) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + timeout_usec;

        while (!done(l, n)) {
                uint64_t now = now_usec(CLOCK_MONOTONIC);

                if (now >= end)
                        return false;
                if (sd_event_run(l->event, MIN(end - now, 100 * USEC_PER_MSEC)) < 0)
                        return false;
        }
        return true;
}

static bool have_calls(const Load *l, uint64_t n) {
        return l->counts.n_calls >= n || l->counts.n_failed > 0;
}

bool load_wait_calls(Load *l, uint64_t n, uint64_t timeout_usec) {
        return turn_until(l, have_calls, l->counts.n_calls + n, timeout_usec) && l->counts.n_failed == 0;
}

static bool never(const Load *l, uint64_t n) {
        return false;
}

void load_run(Load *l, uint64_t usec) {
        (void) turn_until(l, never, 0, usec);
}

static bool is_idle(const Load *l, uint64_t n) {
        return l->n_busy == 0;
}

bool load_drain(Load *l, uint64_t timeout_usec) {
        l->stopping = true;
        return turn_until(l, is_idle, 0, timeout_usec);
}

Load* load_free(Load *l) {
        sd_event_source_disable_unref(l->check_timer);
        for (size_t i = 0; i < N_CONNECTIONS; i++)
                ttrpc_client_free(l->clients[i]);
        free(l->scratch);
        sd_event_unref(l->event);
        free(l);
        return NULL;
}

/* The middle. */

typedef struct Pair Pair;
typedef struct Way {
        Pair *pair;
        int from, to;
        sd_event_source *in, *out;
        uint8_t data[65536];
        size_t start, end;
} Way;

struct Pair {
        Middle *middle;
        int fds[2];
        Way ways[2];
        Pair *prev, *next;
};

struct Middle {
        sd_event *event;
        int listen_fd;
        uint16_t port;
        sd_event_source *source;
        Pair *pairs;
        bool armed;
        uint64_t left, n_cuts;
};

static void pair_free(Pair *p, bool reset) {
        for (size_t i = 0; i < 2; i++) {
                sd_event_source_disable_unref(p->ways[i].in);
                sd_event_source_disable_unref(p->ways[i].out);
                if (reset)
                        (void) setsockopt(p->fds[i], SOL_SOCKET, SO_LINGER, &(struct linger) { .l_onoff = 1 }, sizeof(struct linger));
                close_fd(p->fds[i]);
        }
        DL_DELETE(p->middle->pairs, p);
        free(p);
}

/* True: the connections are gone. */
static bool way_push(Way *w) {
        Middle *m = w->pair->middle;

        while (w->start < w->end) {
                size_t n = w->end - w->start;
                ssize_t k;

                if (m->armed)
                        n = MIN(n, m->left);
                k = n > 0 ? send(w->to, w->data + w->start, n, MSG_DONTWAIT|MSG_NOSIGNAL) : 0;
                if (k < 0) {
                        if (errno == EAGAIN)
                                break;
                        pair_free(w->pair, false);
                        return true;
                }
                w->start += k;
                if (m->armed) {
                        m->left -= k;
                        if (m->left == 0) {
                                m->armed = false;
                                m->n_cuts++;
                                while (m->pairs)
                                        pair_free(m->pairs, true);
                                return true;
                        }
                }
        }
        (void) sd_event_source_set_enabled(w->in, w->start == w->end ? SD_EVENT_ON : SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(w->out, w->start == w->end ? SD_EVENT_OFF : SD_EVENT_ON);
        return false;
}

static int on_way_in(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Way *w = userdata;
        ssize_t n = recv(fd, w->data, sizeof(w->data), MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN)
                return 0;
        if (n <= 0) {
                pair_free(w->pair, n < 0);
                return 0;
        }
        w->start = 0;
        w->end = n;
        (void) way_push(w);
        return 0;
}

static int on_way_out(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        (void) way_push(userdata);
        return 0;
}

static int on_middle(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        Middle *m = userdata;
        Pair *p = new(Pair);
        int r;

        assert(p);
        *p = (Pair) { .middle = m, .fds = { accept4(fd, NULL, NULL, SOCK_CLOEXEC|SOCK_NONBLOCK),
                                            socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0) } };
        in.sin_port = htons(m->port);
        DL_APPEND(m->pairs, p);
        if (p->fds[0] < 0 || connect(p->fds[1], (struct sockaddr*) &in, sizeof(in)) < 0) {
                pair_free(p, true);
                return 0;
        }
        for (size_t i = 0; i < 2; i++) {
                Way *w = p->ways + i;

                (void) setsockopt(p->fds[i], IPPROTO_TCP, TCP_NODELAY, &(int) { 1 }, sizeof(int));
                w->pair = p;
                w->from = p->fds[i];
                w->to = p->fds[1 - i];
                r = sd_event_add_io(m->event, &w->in, w->from, EPOLLIN, on_way_in, w);
                assert(r >= 0);
        }
        for (size_t i = 0; i < 2; i++) {
                Way *w = p->ways + i;
                int copy = fcntl(w->to, F_DUPFD_CLOEXEC, 3);

                r = sd_event_add_io(m->event, &w->out, copy, EPOLLOUT, on_way_out, w);
                assert(r >= 0 && copy >= 0);
                (void) sd_event_source_set_io_fd_own(w->out, true);
                (void) sd_event_source_set_enabled(w->out, SD_EVENT_OFF);
        }
        return 0;
}

Middle* middle_new(sd_event *event, uint16_t port, uint16_t *ret_port) {
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof(in);
        Middle *m = new(Middle);
        int r;

        assert(m);
        *m = (Middle) { .event = sd_event_ref(event), .port = port, .listen_fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0) };
        r = bind(m->listen_fd, (struct sockaddr*) &in, sizeof(in)) < 0 || listen(m->listen_fd, 16) < 0 ||
                getsockname(m->listen_fd, (struct sockaddr*) &in, &size) < 0;
        assert(r == 0);
        r = sd_event_add_io(event, &m->source, m->listen_fd, EPOLLIN, on_middle, m);
        assert(r >= 0);
        *ret_port = ntohs(in.sin_port);
        return m;
}

Middle* middle_free(Middle *m) {
        while (m->pairs)
                pair_free(m->pairs, false);
        sd_event_source_disable_unref(m->source);
        close_fd(m->listen_fd);
        sd_event_unref(m->event);
        free(m);
        return NULL;
}

void middle_cut_after(Middle *m, uint64_t n_bytes) {
        m->armed = true;
        m->left = n_bytes;
}

bool middle_is_armed(const Middle *m) {
        return m->armed;
}

uint64_t middle_get_n_cuts(const Middle *m) {
        return m->n_cuts;
}
