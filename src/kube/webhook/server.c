/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/webhook/server.h"

#include <sys/queue.h>

#include "basic/log.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "http/http-daemon.h"
#include "kube/webhook/review.h"
#include "kube/webhook/webhook.h"

#define SILENCE_USEC USEC_PER_SEC       /* before that, nobody has to go for another one: the answer may be on its way */
#define REVIEW_PATH "/mutate-v1-pod"
#define BODY_SIZE_FIRST ((size_t) 16 << 10)

typedef struct Connection Connection;
typedef struct Generation Generation;
typedef struct Request Request;

/* One certificate's daemon. */
struct Generation {
        LIST_ENTRY(Generation) generations;
        Server *server;                         /* borrowed */
        HttpDaemon daemon;
        uint64_t end_usec;                      /* of its certificate; CLOCK_REALTIME */
        unsigned n_connections;
};

struct Connection {
        TAILQ_ENTRY(Connection) connections;    /* in the order of last use */
        Generation *generation;                 /* borrowed */
        struct MHD_Connection *mhd;             /* borrowed */
        uint64_t used_usec;                     /* CLOCK_MONOTONIC */
        Request *request;                       /* borrowed; the one under way, if any */
        sd_event_source *deadline;
        bool ending;
};

struct Request {
        Server *server;                         /* borrowed */
        char *body;
        size_t size, allocated;
        unsigned refusal;                       /* code for a body that is not kept */
};

struct Server {
        sd_event *event;
        const WebhookSettings *settings;        /* borrowed */
        char *priority;
        char **allowed_suites;
        Generation *current;
        LIST_HEAD(, Generation) generations;
        sd_event_source *reap;
        Listeners listeners;
        TAILQ_HEAD(, Connection) connections;
        unsigned n_connections;
        size_t n_body_bytes;                    /* allocated for requests that are not answered yet */
};

/* ---- connections ---- */

static Connection* connection_of(struct MHD_Connection *mhd) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

        return info ? info->socket_context : NULL;
}

static void end_connection(Connection *c) {
        c->ending = true;
        http_end_connection(c->mhd);
}

static int on_deadline(sd_event_source *es, uint64_t usec, void *userdata) {
        end_connection(userdata);
        return 0;
}

static void set_deadline(Connection *c, uint64_t usec) {
        Server *s = c->generation->server;
        int r;

        if (c->deadline) {
                r = sd_event_source_set_time_relative(c->deadline, usec);
                if (r >= 0)
                        r = sd_event_source_set_enabled(c->deadline, SD_EVENT_ONESHOT);
        } else
                r = sd_event_add_time_relative(s->event, &c->deadline, CLOCK_MONOTONIC, usec, 0, on_deadline, c);
        if (r < 0) {
                log_error_errno(r, "Failed to set a deadline for a connection, ending it: %m");
                end_connection(c);
        }
}

/* Something has come, or gone: the next thing has @usec from now. */
static void connection_used(Connection *c, uint64_t usec) {
        Server *s = c->generation->server;

        TAILQ_REMOVE(&s->connections, c, connections);
        TAILQ_INSERT_TAIL(&s->connections, c, connections);
        c->used_usec = now_usec(CLOCK_MONOTONIC);
        set_deadline(c, usec);
}

static void connection_started(Generation *g, struct MHD_Connection *mhd, void **context) {
        Server *s = g->server;
        Connection *c = new(Connection);

        s->n_connections++;
        g->n_connections++;
        *context = c;
        if (!c) {
                log_oom();
                http_end_connection(mhd);
                return;
        }
        *c = (Connection) { .generation = g, .mhd = mhd, .used_usec = now_usec(CLOCK_MONOTONIC) };
        TAILQ_INSERT_TAIL(&s->connections, c, connections);
        set_deadline(c, s->settings->request_usec);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context, enum MHD_ConnectionNotificationCode code) {
        Generation *g = cls;
        Server *s = g->server;
        Connection *c = *context;

        if (code == MHD_CONNECTION_NOTIFY_STARTED) {
                connection_started(g, mhd, context);
                return;
        }

        s->n_connections--;
        g->n_connections--;
        if (c) {
                TAILQ_REMOVE(&s->connections, c, connections);
                sd_event_source_disable_unref(c->deadline);
                free(c);
                *context = NULL;
        }
        /* The daemon cannot be stopped from within one of its calls. */
        if (g != s->current && g->n_connections == 0)
                (void) sd_event_source_set_enabled(s->reap, SD_EVENT_ONESHOT);
        listeners_update(&s->listeners);
}

/* ---- requests ---- */

/* The last one of a connection of an old certificate: come back for the new one. */
static bool is_last(const Request *q, struct MHD_Connection *mhd) {
        Connection *c = connection_of(mhd);

        return !c || c->generation != q->server->current;
}

static enum MHD_Result answer_text(Request *q, struct MHD_Connection *mhd, unsigned status, const char *text, const char *allow) {
        return http_answer_text(mhd, status, text, allow, is_last(q, mhd));
}

static enum MHD_Result answer_health(Request *q, struct MHD_Connection *mhd, const char *url) {
        const Generation *g = q->server->current;

        if (streq(url, "/readyz") && g->end_usec <= now_usec(CLOCK_REALTIME))
                return answer_text(q, mhd, MHD_HTTP_INTERNAL_SERVER_ERROR, "The certificate has ended.\n", NULL);
        return answer_text(q, mhd, MHD_HTTP_OK, "ok", NULL);
}

static void drop_body(Request *q) {
        q->server->n_body_bytes -= q->allocated;
        free(q->body);
        q->body = NULL;
        q->size = q->allocated = 0;
}

static void refuse_body(Request *q, unsigned code) {
        drop_body(q);
        q->refusal = code;
}

/* Whoever began first has had the most time: so those who dribble go before those who ask. */
static bool make_room(Request *q, size_t size) {
        Server *s = q->server;
        Connection *c;

        TAILQ_FOREACH(c, &s->connections, connections) {
                if (s->n_body_bytes + size <= SERVER_BODIES_MAX)
                        return true;
                if (c->request && c->request != q && c->request->body)
                        refuse_body(c->request, MHD_HTTP_SERVICE_UNAVAILABLE);
        }
        return s->n_body_bytes + size <= SERVER_BODIES_MAX;
}

/* What is not kept is read all the same: only then is there a place for an answer. */
static void take_body(Request *q, const char *data, size_t size) {
        size_t needed = q->size + size, allocated = q->allocated ?: BODY_SIZE_FIRST;
        Server *s = q->server;
        char *p;

        if (q->refusal)
                return;
        if (needed > REVIEW_SIZE_MAX)
                return refuse_body(q, MHD_HTTP_CONTENT_TOO_LARGE);
        while (allocated < needed)
                allocated *= 2;
        if (allocated > q->allocated) {
                if (!make_room(q, allocated - q->allocated))
                        return refuse_body(q, MHD_HTTP_SERVICE_UNAVAILABLE);
                p = realloc(q->body, allocated);
                if (!p)
                        return refuse_body(q, MHD_HTTP_SERVICE_UNAVAILABLE);
                s->n_body_bytes += allocated - q->allocated;
                q->body = p;
                q->allocated = allocated;
        }
        memcpy(q->body + q->size, data, size);
        q->size = needed;
}

static bool is_json(struct MHD_Connection *mhd) {
        const char *type = MHD_lookup_connection_value(mhd, MHD_HEADER_KIND, "Content-Type");
        size_t n = strlen("application/json");

        return type && strncasecmp(type, "application/json", n) == 0 && strchr("; \t", type[n]);
}

/* Each question is answered by a review, with status 200 (kubernetes-sigs/controller-runtime: pkg/webhook/admission/http.go). */
static enum MHD_Result answer_review(Request *q, struct MHD_Connection *mhd) {
        struct MHD_Response *response;
        char *text;
        int r;

        if (q->refusal == MHD_HTTP_CONTENT_TOO_LARGE)
                r = review_refuse("", q->refusal, "the review is too large", &text);
        else if (q->refusal)
                r = review_refuse("", q->refusal, "too many reviews at once", &text);
        else if (!is_json(mhd))
                r = review_refuse("", MHD_HTTP_BAD_REQUEST, "Content-Type is not application/json", &text);
        else if (q->size == 0)
                r = review_refuse("", MHD_HTTP_BAD_REQUEST, "there is no review", &text);
        else
                r = review_answer(q->server->settings, q->body, q->size, &text);
        drop_body(q);
        if (r < 0) {
                log_error_errno(r, "Failed to answer a review: %m");
                return MHD_NO;
        }
        response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
        if (!response)
                free(text);
        return http_answer(mhd, MHD_HTTP_OK, response, "application/json", /* allow= */ NULL, is_last(q, mhd));
}

static bool is_health(const char *url) {
        return streq(url, "/healthz") || streq(url, "/readyz");
}

/* What is answered this early ends the connection: libmicrohttpd does not read the rest. */
static enum MHD_Result begin_request(Request *q, struct MHD_Connection *mhd, const char *url, const char *method) {
        if (is_health(url)) {
                if (streq(method, "GET") || streq(method, "HEAD"))
                        return MHD_YES;
                return answer_text(q, mhd, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD.\n", "GET, HEAD");
        }
        if (!streq(url, REVIEW_PATH))
                return answer_text(q, mhd, MHD_HTTP_NOT_FOUND, "There are " REVIEW_PATH ", /healthz and /readyz here.\n", NULL);
        if (!streq(method, "POST"))
                return answer_text(q, mhd, MHD_HTTP_METHOD_NOT_ALLOWED, "Only POST.\n", "POST");
        return MHD_YES;
}

static bool suite_is_allowed(Server *s, struct MHD_Connection *mhd) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);

        return info && tls_profile_allows(s->allowed_suites, info->tls_session);
}

/* Called once when the headers are there, for each piece of the body, and then until a response is queued. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
                                  const char *upload, size_t *upload_size, void **context) {
        Generation *g = cls;
        Connection *c = connection_of(mhd);
        Request *q = *context;

        if (!c)
                return MHD_NO;
        if (!q) {
                if (!suite_is_allowed(g->server, mhd))
                        return MHD_NO;
                q = new(Request);
                if (!q)
                        return MHD_NO;
                *q = (Request) { .server = g->server };
                *context = c->request = q;
                connection_used(c, g->server->settings->request_usec);
                return begin_request(q, mhd, url, method);
        }
        if (*upload_size > 0) {
                take_body(q, upload, *upload_size);
                *upload_size = 0;
                return MHD_YES;
        }
        return is_health(url) ? answer_health(q, mhd, url) : answer_review(q, mhd);
}

static void on_request_over(void *cls, struct MHD_Connection *mhd, void **context, enum MHD_RequestTerminationCode code) {
        Connection *c = connection_of(mhd);
        Request *q = *context;

        if (!q)
                return;
        drop_body(q);
        free(q);
        *context = NULL;
        if (!c)
                return;
        c->request = NULL;
        if (!c->ending)
                connection_used(c, c->generation->server->settings->idle_usec);
}

/* ---- generations ---- */

static Generation* generation_free(Generation *g) {
        if (!g)
                return NULL;

        http_daemon_done(&g->daemon);
        free(g);
        return NULL;
}
DEFINE_CLEANUP(Generation*, generation_free);

static int generation_new(Server *s, const CertPair *pair, Generation **ret) {
        _cleanup_(generation_freep) Generation *g = NULL;
        int r;

        g = new(Generation);
        if (!g)
                return -ENOMEM;
        *g = (Generation) { .server = s };
        r = cert_get_expiry(pair->cert, &g->end_usec);
        if (r < 0)
                return r;

        const struct MHD_OptionItem options[] = {
                { MHD_OPTION_HTTPS_MEM_KEY, 0, pair->key },
                { MHD_OPTION_HTTPS_MEM_CERT, 0, pair->cert },
                { MHD_OPTION_HTTPS_PRIORITIES, 0, s->priority },
                { MHD_OPTION_END, 0, NULL },
        };
        r = http_daemon_init(&g->daemon, s->event, &(HttpDaemonSpec) {
                .flags = MHD_USE_TLS,
                .connections_max = SERVER_CONNECTIONS_MAX,
                .memory_max = SERVER_MEMORY_MAX,
                .options = options,
                .on_request = on_request,
                .on_request_over = on_request_over,
                .on_connection = on_connection,
                .userdata = g,
        });
        if (r < 0)
                return r;

        *ret = TAKE_PTR(g);
        return 0;
}

static int on_reap(sd_event_source *es, void *userdata) {
        Server *s = userdata;
        Generation *next;

        for (Generation *g = LIST_FIRST(&s->generations); g; g = next) {
                next = LIST_NEXT(g, generations);
                if (g == s->current || g->n_connections > 0)
                        continue;
                LIST_REMOVE(g, generations);
                generation_free(g);
        }
        return 0;
}

int server_set_certificate(Server *s, const CertPair *pair) {
        Generation *g;
        int r;

        r = generation_new(s, pair, &g);
        if (r < 0)
                return r;
        LIST_INSERT_HEAD(&s->generations, g, generations);
        s->current = g;
        (void) sd_event_source_set_enabled(s->reap, SD_EVENT_ONESHOT);
        return 0;
}

/* ---- listening ---- */

/* Whoever has been silent for longest goes, now or as soon as it has been so for long enough. */
static void make_place(Server *s) {
        Connection *c = TAILQ_FIRST(&s->connections);
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        if (!c || c->ending)
                return;
        if (now - c->used_usec >= SILENCE_USEC)
                end_connection(c);
        else
                listeners_pause(&s->listeners, c->used_usec + SILENCE_USEC - now);
}

static bool has_room(void *userdata) {
        Server *s = userdata;

        if (s->n_connections < SERVER_CONNECTIONS_MAX)
                return true;
        make_place(s);
        return false;
}

static void on_accepted(int fd, const struct sockaddr *sa, socklen_t size, void *userdata) {
        Server *s = userdata;

        http_daemon_add(&s->current->daemon, fd, sa, size);
}

Listeners* server_listeners(Server *s) {
        return &s->listeners;
}

int server_new(sd_event *event, const WebhookSettings *settings, Server **ret) {
        _cleanup_(server_freep) Server *s = NULL;
        _cleanup_(freep) char *problem = NULL;
        int r;

        s = new(Server);
        if (!s)
                return -ENOMEM;
        *s = (Server) {
                .event = sd_event_ref(event),
                .settings = settings,
                .listeners = { .event = event, .accepted = on_accepted, .has_room = has_room, .userdata = s },
        };
        LIST_INIT(&s->generations);
        TAILQ_INIT(&s->connections);

        r = tls_profile_get_priority(settings->min_version, settings->cipher_suites, &s->priority, &s->allowed_suites, &problem);
        if (r < 0)
                return r;
        r = sd_event_add_defer(event, &s->reap, on_reap, s);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(s);
        return 0;
}

Server* server_free(Server *s) {
        Generation *g;

        if (!s)
                return NULL;

        listeners_done(&s->listeners);
        while ((g = LIST_FIRST(&s->generations))) {
                LIST_REMOVE(g, generations);
                generation_free(g);
        }
        sd_event_source_disable_unref(s->reap);
        free(s->priority);
        strv_free(s->allowed_suites);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}
