/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics/http.h"

#include <sys/queue.h>

#include "basic/log.h"
#include "http/http-daemon.h"

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
        HttpDaemon daemon;
        Listeners listeners;
        unsigned n_clients;
        uint64_t last_usec;             /* CLOCK_MONOTONIC when the last client left */
        TAILQ_HEAD(, Request) waiting;
        struct MHD_Response *responses[_EXPOSITION_FORMAT_MAX];         /* the last ones, for all who had waited; NULL: there is none */
};

/* ---- answers ---- */

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
        http_daemon_run(&s->daemon);
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
                return http_answer_text(q->connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "Out of memory.\n", /* allow= */ NULL, /* last= */ false);

        return MHD_queue_response(q->connection, MHD_HTTP_OK, s->responses[q->format]);
}

static enum MHD_Result answer_page(HttpServer *s, struct MHD_Connection *connection, const char *path) {
        const char *text = "";
        unsigned status = s->pages.page ? s->pages.page(path, &text, s->pages.userdata) : 0;

        if (status == 0)
                return http_answer_text(connection, MHD_HTTP_NOT_FOUND, s->pages.gather ? "There is /metrics here.\n" : "There is no such page.\n",
                                        /* allow= */ NULL, /* last= */ false);
        return http_answer_text(connection, status, text, /* allow= */ NULL, /* last= */ false);
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
                        return http_answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD.\n", "GET, HEAD", /* last= */ false);
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

static int on_deadline(sd_event_source *es, uint64_t usec, void *userdata) {
        http_end_connection(userdata);
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
                        http_end_connection(connection);
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
        listeners_update(&s->listeners);
}

static bool has_room(void *userdata) {
        HttpServer *s = userdata;

        return s->n_clients < HTTP_CONNECTIONS_MAX;
}

static void on_accepted(int fd, const struct sockaddr *sa, socklen_t size, void *userdata) {
        HttpServer *s = userdata;

        http_daemon_add(&s->daemon, fd, sa, size);
}

Listeners* http_server_listeners(HttpServer *s) {
        return &s->listeners;
}

int http_server_new(sd_event *event, const HttpPages *pages, uint64_t connection_usec, HttpServer **ret) {
        _cleanup_(http_server_freep) HttpServer *s = NULL;
        int r;

        s = new(HttpServer);
        if (!s)
                return -ENOMEM;
        *s = (HttpServer) {
                .event = sd_event_ref(event),
                .connection_usec = connection_usec,
                .pages = *pages,
                .listeners = { .event = event, .accepted = on_accepted, .has_room = has_room, .userdata = s },
                .last_usec = now_usec(CLOCK_MONOTONIC),
        };
        TAILQ_INIT(&s->waiting);

        const struct MHD_OptionItem options[] = {
                { MHD_OPTION_CONNECTION_TIMEOUT, HTTP_IDLE_SEC, NULL },
                { MHD_OPTION_END, 0, NULL },
        };
        r = http_daemon_init(&s->daemon, event, &(HttpDaemonSpec) {
                .flags = MHD_ALLOW_SUSPEND_RESUME,
                .connections_max = HTTP_CONNECTIONS_MAX,
                .memory_max = HTTP_MEMORY_MAX,
                .options = options,
                .on_request = on_request,
                .on_request_over = on_request_over,
                .on_connection = on_client,
                .userdata = s,
        });
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
        listeners_done(&s->listeners);
        http_daemon_done(&s->daemon);
        drop_responses(s);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}

uint64_t http_server_idle_usec(const HttpServer *s) {
        return s->n_clients > 0 ? 0 : now_usec(CLOCK_MONOTONIC) - s->last_usec;
}
