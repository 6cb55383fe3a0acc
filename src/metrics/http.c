/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics/http.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "basic/io.h"
#include "basic/log.h"

#define SOCKETS_MAX 16U
#define ACCEPT_PAUSE_USEC (100 * USEC_PER_MSEC)

typedef struct Client Client;
typedef struct Request Request;

/* One connection, for as long as libmicrohttpd has it. */
struct Client {
        HttpServer *server;             /* borrowed */
        sd_event_source *deadline;
};

/* A request whose answer is being gathered: its connection is suspended meanwhile. */
struct Request {
        TAILQ_ENTRY(Request) waiting;
        struct MHD_Connection *connection;      /* borrowed */
        ExpositionFormat format;
        bool waits, done;
};

struct HttpServer {
        sd_event *event;
        uint64_t connection_usec;
        HttpPages pages;
        struct MHD_Daemon *daemon;
        sd_event_source *io;            /* libmicrohttpd's epoll descriptor */
        sd_event_source *timer;         /* when it wants to run for other reasons */
        sd_event_source *accept_again;
        sd_event_source *listeners[SOCKETS_MAX];
        size_t n_listeners;
        unsigned n_clients;
        uint64_t last_usec;             /* CLOCK_MONOTONIC when the last client left */
        TAILQ_HEAD(, Request) waiting;
        struct MHD_Response *responses[_EXPOSITION_FORMAT_MAX];         /* the last ones, for all who had waited; NULL: there is none */
};

static void run_daemon(HttpServer *s);
static void update_listeners(HttpServer *s);

/* ---- answers ---- */

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status, const char *text, const char *allow) {
        struct MHD_Response *response;
        enum MHD_Result r = MHD_YES;

        response = MHD_create_response_from_buffer(strlen(text), (void*) text, MHD_RESPMEM_PERSISTENT);
        if (!response)
                return MHD_NO;
        r &= MHD_add_response_header(response, "Content-Type", "text/plain; charset=utf-8");
        if (allow)
                r &= MHD_add_response_header(response, "Allow", allow);
        if (r == MHD_YES)
                r = MHD_queue_response(connection, status, response);
        MHD_destroy_response(response);
        return r;
}

static int make_response(Exposition *e, ExpositionFormat format, struct MHD_Response **ret) {
        struct MHD_Response *response;
        char *text = NULL;
        size_t size;
        int r;

        r = exposition_render(e, format, &text, &size);
        if (r < 0)
                return r;
        response = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
        if (!response) {
                free(text);
                return -ENOMEM;
        }
        if (MHD_add_response_header(response, "Content-Type", exposition_content_type(format)) != MHD_YES ||
            MHD_add_response_header(response, "Vary", "Accept") != MHD_YES) {
                MHD_destroy_response(response);
                return -ENOMEM;
        }

        *ret = response;
        return 0;
}

static void drop_responses(HttpServer *s) {
        for (size_t i = 0; i < ELEMENTSOF(s->responses); i++) {
                if (s->responses[i])
                        MHD_destroy_response(s->responses[i]);  /* what is being sent is referenced */
                s->responses[i] = NULL;
        }
}

static void let_go(HttpServer *s, Request *q) {
        TAILQ_REMOVE(&s->waiting, q, waiting);
        q->waits = false;
        q->done = true;
        MHD_resume_connection(q->connection);
}

/* All who wait share one text for each format. */
void http_server_gathered(HttpServer *s, Exposition *e) {
        Request *q;

        drop_responses(s);
        while ((q = TAILQ_FIRST(&s->waiting))) {
                if (e && !s->responses[q->format])
                        (void) make_response(e, q->format, s->responses + q->format);
                let_go(s, q);
        }
        run_daemon(s);
}

static enum MHD_Result answer_metrics(HttpServer *s, Request *q) {
        if (!q->done) {
                q->format = exposition_negotiate(MHD_lookup_connection_value(q->connection, MHD_HEADER_KIND, "Accept"));
                q->waits = true;
                TAILQ_INSERT_TAIL(&s->waiting, q, waiting);
                MHD_suspend_connection(q->connection);
                s->pages.gather(s->pages.userdata);
                return MHD_YES;
        }
        if (!s->responses[q->format])
                return answer_text(q->connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "Out of memory.\n", NULL);

        return MHD_queue_response(q->connection, MHD_HTTP_OK, s->responses[q->format]);
}

static enum MHD_Result answer_page(HttpServer *s, struct MHD_Connection *connection, const char *path) {
        const char *text = "";
        unsigned status = s->pages.page ? s->pages.page(path, &text, s->pages.userdata) : 0;

        if (status == 0)
                return answer_text(connection, MHD_HTTP_NOT_FOUND, s->pages.gather ? "There is /metrics here.\n" : "There is no such page.\n", NULL);
        return answer_text(connection, status, text, NULL);
}

/* Called once when the headers are there, and then until a response is queued. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
                                  const char *upload, size_t *upload_size, void **context) {
        HttpServer *s = cls;
        Request *q = *context;

        if (!q) {
                q = new(Request);
                if (!q)
                        return MHD_NO;
                *q = (Request) { .connection = connection };
                *context = q;
                if (!streq(method, "GET") && !streq(method, "HEAD"))
                        return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD.\n", "GET, HEAD");
                if (!s->pages.gather || !streq(url, "/metrics"))
                        return answer_page(s, connection, url);
                return MHD_YES;
        }
        if (*upload_size > 0)           /* a body that nobody asked for: not worth an answer */
                return MHD_NO;

        return answer_metrics(s, q);
}

static void on_request_over(void *cls, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode code) {
        HttpServer *s = cls;
        Request *q = *context;

        if (!q)
                return;
        if (q->waits)
                TAILQ_REMOVE(&s->waiting, q, waiting);
        free(q);
        *context = NULL;
}

/* ---- connections ---- */

static int connection_fd(struct MHD_Connection *connection) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

        return info ? info->connect_fd : -EBADF;
}

/* libmicrohttpd sees the end and closes it; the descriptor is its own. */
static int on_deadline(sd_event_source *es, uint64_t usec, void *userdata) {
        struct MHD_Connection *connection = userdata;

        (void) shutdown(connection_fd(connection), SHUT_RDWR);
        return 0;
}

static void on_client(void *cls, struct MHD_Connection *connection, void **context, enum MHD_ConnectionNotificationCode code) {
        HttpServer *s = cls;
        Client *c = *context;
        int r;

        if (code == MHD_CONNECTION_NOTIFY_STARTED) {
                s->n_clients++;
                c = new(Client);
                if (c) {
                        *c = (Client) { .server = s };
                        r = sd_event_add_time_relative(s->event, &c->deadline, CLOCK_MONOTONIC, s->connection_usec, 0, on_deadline,
                                                       connection);
                } else
                        r = -ENOMEM;
                if (r < 0) {
                        log_error_errno(r, "Failed to set a deadline for a connection, ending it: %m");
                        (void) shutdown(connection_fd(connection), SHUT_RDWR);
                }
                *context = c;
                return;
        }

        s->n_clients--;
        s->last_usec = now_usec(CLOCK_MONOTONIC);
        if (c) {
                sd_event_source_disable_unref(c->deadline);
                free(c);
                *context = NULL;
        }
        update_listeners(s);
}

static int on_accept_again(sd_event_source *es, uint64_t usec, void *userdata) {
        HttpServer *s = userdata;

        s->accept_again = sd_event_source_disable_unref(s->accept_again);
        update_listeners(s);
        return 0;
}

/* Accepting pauses while as many are connected as may be, and a while when descriptors are short. */
static void update_listeners(HttpServer *s) {
        int enabled = s->n_clients < HTTP_CONNECTIONS_MAX && !s->accept_again ? SD_EVENT_ON : SD_EVENT_OFF;

        for (size_t i = 0; i < s->n_listeners; i++)
                (void) sd_event_source_set_enabled(s->listeners[i], enabled);
}

static int on_listener(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        struct sockaddr_storage sa = {};
        socklen_t size = sizeof(sa);
        HttpServer *s = userdata;
        int client, r;

        client = accept4(fd, (struct sockaddr*) &sa, &size, SOCK_CLOEXEC|SOCK_NONBLOCK);
        if (client < 0) {
                if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
                        return 0;
                log_warning_errno(errno, "Failed to accept a connection, pausing: %m");
                r = sd_event_add_time_relative(s->event, &s->accept_again, CLOCK_MONOTONIC, ACCEPT_PAUSE_USEC, 0, on_accept_again, s);
                if (r < 0)
                        log_error_errno(r, "Failed to set a timer: %m");
                update_listeners(s);
                return 0;
        }

        /* Takes the descriptor, on failure too. */
        if (MHD_add_connection(s->daemon, client, (struct sockaddr*) &sa, size) != MHD_YES)
                log_debug("A connection was refused.");
        update_listeners(s);
        run_daemon(s);
        return 0;
}

int http_server_listen(HttpServer *s, int fd) {
        _cleanup_(close_fdp) int owned = fd;
        int r;

        if (s->n_listeners == SOCKETS_MAX)
                return -E2BIG;
        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;
        r = sd_event_add_io(s->event, s->listeners + s->n_listeners, fd, EPOLLIN, on_listener, s);
        if (r < 0)
                return r;
        r = sd_event_source_set_io_fd_own(s->listeners[s->n_listeners], true);
        if (r < 0) {
                s->listeners[s->n_listeners] = sd_event_source_disable_unref(s->listeners[s->n_listeners]);
                return r;
        }

        (void) TAKE_FD(owned);
        s->n_listeners++;
        return 0;
}

/* ---- libmicrohttpd in the loop ---- */

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        run_daemon(userdata);
        return 0;
}

static void run_daemon(HttpServer *s) {
        MHD_UNSIGNED_LONG_LONG msec;
        int r;

        (void) MHD_run(s->daemon);

        if (MHD_get_timeout(s->daemon, &msec) != MHD_YES) {
                (void) sd_event_source_set_enabled(s->timer, SD_EVENT_OFF);
                return;
        }
        r = sd_event_source_set_time_relative(s->timer, msec * USEC_PER_MSEC);
        if (r >= 0)
                r = sd_event_source_set_enabled(s->timer, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer: %m");
}

static int on_io(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        run_daemon(userdata);
        return 0;
}

static PRINTF(2, 0) void on_log(void *cls, const char *format, va_list ap) {
        if (LOG_DEBUG > log_get_max_level())
                return;
        (void) log_internalv(/* context= */ NULL, LOG_DEBUG, /* message_id= */ NULL, 0, __FILE__, __LINE__, __func__, format, ap);
}

int http_server_new(sd_event *event, const HttpPages *pages, uint64_t connection_usec, HttpServer **ret) {
        _cleanup_(http_server_freep) HttpServer *s = NULL;
        const union MHD_DaemonInfo *info;
        int r;

        s = new(HttpServer);
        if (!s)
                return -ENOMEM;
        *s = (HttpServer) { .event = sd_event_ref(event), .pages = *pages, .connection_usec = connection_usec, .last_usec = now_usec(CLOCK_MONOTONIC) };
        TAILQ_INIT(&s->waiting);

        s->daemon = MHD_start_daemon(MHD_USE_EPOLL|MHD_USE_NO_LISTEN_SOCKET|MHD_USE_ERROR_LOG|MHD_ALLOW_SUSPEND_RESUME,
                                     /* port= */ 0, NULL, NULL, on_request, s,
                                     MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                                     MHD_OPTION_CONNECTION_LIMIT, HTTP_CONNECTIONS_MAX,
                                     MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) HTTP_MEMORY_MAX,
                                     MHD_OPTION_CONNECTION_TIMEOUT, HTTP_IDLE_SEC,
                                     MHD_OPTION_NOTIFY_COMPLETED, on_request_over, s,
                                     MHD_OPTION_NOTIFY_CONNECTION, on_client, s,
                                     MHD_OPTION_END);
        if (!s->daemon)
                return -ENOMEM;
        info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
        if (!info)
                return -EOPNOTSUPP;
        r = sd_event_add_io(event, &s->io, info->epoll_fd, EPOLLIN, on_io, s);
        if (r < 0)
                return r;
        r = sd_event_add_time_relative(event, &s->timer, CLOCK_MONOTONIC, 0, 1, on_timer, s);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(s);
        return 0;
}

HttpServer* http_server_free(HttpServer *s) {
        Request *q;

        if (!s)
                return NULL;

        /* libmicrohttpd wants no suspended connection when it ends. */
        while ((q = TAILQ_FIRST(&s->waiting)))
                let_go(s, q);
        sd_event_source_disable_unref(s->accept_again);
        for (size_t i = 0; i < s->n_listeners; i++)
                sd_event_source_disable_unref(s->listeners[i]);
        s->n_listeners = 0;
        sd_event_source_disable_unref(s->io);
        sd_event_source_disable_unref(s->timer);
        if (s->daemon)
                MHD_stop_daemon(s->daemon);
        drop_responses(s);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}

uint64_t http_server_idle_usec(const HttpServer *s) {
        return s->n_clients > 0 ? 0 : now_usec(CLOCK_MONOTONIC) - s->last_usec;
}
