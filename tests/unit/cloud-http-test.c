/* SPDX-License-Identifier: Apache-2.0 */
/* The modules' HTTP client and their cache of credentials, against a server of this test's own on the loopback. */
#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "basic/util.h"
#include "cloud-form.h"
#include "cloud-http.h"
#include "cloud-token.h"
#include "retry-after.h"

/* One connection after the other, each served by a thread: what it does is told by the first word of the path. */
typedef struct Server {
        int fd;
        pthread_t thread;
        uint16_t port;
        atomic_int n_requests, n_connections, n_open;
        pthread_mutex_t mutex;
        atomic_bool stop;
        char last[4096];                /* of the last request; by the mutex */
} Server;

static void put(int fd, const char *text) {
        (void) send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void reset(int fd) {
        struct linger l = { .l_onoff = 1 };

        (void) setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
}

/* Does what @path says for request number @n on it. Returns false when the connection ends. */
static bool act(Server *s, int fd, const char *path, const char *request, int n) {
        if (streq(path, "/ok"))
                put(fd, "HTTP/1.1 200 OK\r\nX-Name:  a b \r\nContent-Length: 2\r\n\r\nok");
        else if (streq(path, "/404"))
                put(fd, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        else if (streq(path, "/401"))
                put(fd, strstr(request, "X-Key: fresh") ? "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nin" : "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n");
        else if (streq(path, "/503-once"))
                put(fd, n == 1 ? "HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n" : "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        else if (streq(path, "/503"))
                put(fd, "HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n");
        else if (streq(path, "/429-once"))
                put(fd, n == 1 ? "HTTP/1.1 429 Slow\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n" : "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        else if (streq(path, "/429-long"))
                put(fd, "HTTP/1.1 429 Slow\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n");
        else if (streq(path, "/reset-once") && n > 1)
                put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        else if (startswith(path, "/reset")) {
                reset(fd);
                return false;
        } else if (streq(path, "/cut")) {
                put(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                return false;
        } else if (streq(path, "/big")) {
                put(fd, "HTTP/1.1 200 OK\r\n\r\n");
                for (int i = 0; i < 100; i++)
                        put(fd, "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789");
                return false;
        } else if (streq(path, "/redirect"))
                put(fd, "HTTP/1.1 302 There\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n");
        else if (streq(path, "/hang"))
                while (!s->stop && recv(fd, (char[1]) {}, 1, MSG_DONTWAIT) != 0)
                        (void) usleep(1000);
        return true;
}

typedef struct Connection {
        Server *server;
        int fd;
} Connection;

static void* serve_connection(void *userdata) {
        Connection c = *(Connection*) userdata;
        char text[4096], path[256];
        bool go_on = true;

        free(userdata);
        while (go_on) {
                size_t n = 0;
                ssize_t k;
                int number;

                memset(text, 0, sizeof(text));
                while (!strstr(text, "\r\n\r\n") && n < sizeof(text) - 1 && (k = recv(c.fd, text + n, sizeof(text) - 1 - n, 0)) > 0)
                        n += k;
                if (sscanf(text, "%*s %255[^ ?]", path) != 1)
                        break;
                number = ++c.server->n_requests;
                (void) pthread_mutex_lock(&c.server->mutex);
                memcpy(c.server->last, text, sizeof(text));
                (void) pthread_mutex_unlock(&c.server->mutex);
                go_on = act(c.server, c.fd, path, text, number);
        }
        (void) close(c.fd);
        c.server->n_open--;
        return NULL;
}

static void* serve(void *userdata) {
        Server *s = userdata;

        while (!s->stop) {
                Connection *c = malloc(sizeof(*c));
                pthread_attr_t attr;
                pthread_t t;

                assert(c);
                *c = (Connection) { s, accept4(s->fd, NULL, NULL, SOCK_CLOEXEC) };
                if (c->fd < 0) {
                        free(c);
                        break;
                }
                s->n_connections++;
                s->n_open++;
                (void) pthread_attr_init(&attr);
                (void) pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
                assert(pthread_create(&t, &attr, serve_connection, c) == 0);
                (void) pthread_attr_destroy(&attr);
        }
        return NULL;
}

typedef struct Fixture {
        Server server;
        CloudHttp *http;
        int cancel_fd;
        char url[64];
} Fixture;

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(*f));
        const CloudHttpConfig config = { .user_agent = "peerpod-test/1", .pause_usec = 20 * USEC_PER_MSEC, .pause_max_usec = 50 * USEC_PER_MSEC, .tries_max = 3 };
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof(in);
        PeerpodError error = { .size = sizeof(error) };

        (void) pthread_mutex_init(&f->server.mutex, NULL);
        f->server.fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
        assert_true(bind(f->server.fd, (struct sockaddr*) &in, sizeof(in)) == 0 && listen(f->server.fd, 128) == 0);
        assert_int_equal(getsockname(f->server.fd, (struct sockaddr*) &in, &size), 0);
        f->server.port = ntohs(in.sin_port);
        assert_int_equal(pthread_create(&f->server.thread, NULL, serve, &f->server), 0);
        (void) snprintf(f->url, sizeof(f->url), "http://127.0.0.1:%u", f->server.port);
        f->cancel_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK);
        assert_int_equal(cloud_http_new(&config, &f->http, &error), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;

        cloud_http_free(f->http);
        f->server.stop = true;
        (void) shutdown(f->server.fd, SHUT_RDWR);
        (void) pthread_join(f->server.thread, NULL);
        (void) close(f->server.fd);
        (void) close(f->cancel_fd);
        while (f->server.n_open > 0)    /* their clients are gone, so they end */
                (void) usleep(1000);
        (void) pthread_mutex_destroy(&f->server.mutex);
        free(f);
        return 0;
}

static PeerpodCall call_of(const Fixture *f, uint64_t usec) {
        return (PeerpodCall) { .size = sizeof(PeerpodCall), .cancel_fd = f->cancel_fd, .deadline_usec = peerpod_now_usec() + usec };
}

typedef struct Result {
        int r;
        HttpReply reply;
        PeerpodError error;
        bool sent;
} Result;

static Result ask(Fixture *f, const char *path, HttpRequest q, uint64_t usec) {
        _cleanup_(freep) char *url = NULL;
        Result result = { .error.size = sizeof(PeerpodError) };
        PeerpodCall call = call_of(f, usec);

        assert_true(asprintf(&url, "%s%s", f->url, path) > 0);
        q.url = url;
        q.method = q.method ?: "GET";
        q.what = "Ask";
        result.r = cloud_http_perform(f->http, &call, &q, &result.reply, &result.sent, &result.error);
        http_request_done(&q);
        return result;
}

static void expect_reply(Result *result, int status, const char *body) {
        if (result->r < 0)
                fail_msg("%s", result->error.text);
        assert_int_equal(result->reply.status, status);
        if (body)
                assert_string_equal(result->reply.body, body);
        http_reply_done(&result->reply);
}

#define REPEATABLE (HttpRequest) { .repeatable = true }
#define ONCE (HttpRequest) {}
#define LONG (60 * USEC_PER_SEC)

static void a_reply_has_status_body_and_headers(void **state) {
        Fixture *f = *state;
        Result r = ask(f, "/ok?q=1", REPEATABLE, LONG);
        char *value = NULL;

        assert_int_equal(http_reply_header(&r.reply, "x-name", &value), 1);
        assert_string_equal(value, "a b");
        free(value);
        assert_int_equal(http_reply_header(&r.reply, "x-nam", &value), 0);
        expect_reply(&r, 200, "ok");
        assert_non_null(strstr(f->server.last, "GET /ok?q=1 HTTP/1.1"));
        assert_non_null(strstr(f->server.last, "User-Agent: peerpod-test/1"));
}

static void connections_are_kept(void **state) {
        Fixture *f = *state;

        for (int i = 0; i < 10; i++) {
                Result r = ask(f, "/ok", REPEATABLE, LONG);

                expect_reply(&r, 200, "ok");
        }
        assert_int_equal(f->server.n_connections, 1);
}

static void a_body_is_sent_with_its_own_method_and_type(void **state) {
        Fixture *f = *state;
        HttpRequest q = { .method = "PUT", .body = "{}", .body_size = 2 };
        Result r;

        assert_int_equal(http_add_header(&q, "Content-Type", "application/json"), 0);
        assert_int_equal(http_add_header(&q, "X-Empty", ""), 0);
        assert_int_equal(http_add_header(&q, "X-Bad", "a\r\nb"), -EINVAL);
        r = ask(f, "/ok", q, LONG);
        expect_reply(&r, 200, "ok");
        assert_non_null(startswith(f->server.last, "PUT /ok HTTP/1.1\r\n"));
        assert_non_null(strstr(f->server.last, "Content-Type: application/json\r\n"));
        assert_non_null(strstr(f->server.last, "Content-Length: 2\r\n"));
        assert_non_null(strstr(f->server.last, "X-Empty:\r\n"));
}

static void redirects_are_not_followed(void **state) {
        Result r = ask(*state, "/redirect", REPEATABLE, LONG);

        expect_reply(&r, 302, "");
}

static void a_passing_fault_is_tried_again_if_that_is_safe(void **state) {
        Fixture *f = *state;
        Result r = ask(f, "/503-once", REPEATABLE, LONG);

        expect_reply(&r, 200, "ok");
        f->server.n_requests = 0;
        r = ask(f, "/503-once", ONCE, LONG);
        expect_reply(&r, 503, "");
        assert_int_equal(f->server.n_requests, 1);
        f->server.n_requests = 0;
        r = ask(f, "/503", REPEATABLE, LONG);
        expect_reply(&r, 503, "");
        assert_int_equal(f->server.n_requests, 3);
}

static void a_throttled_request_is_tried_again_when_the_server_says(void **state) {
        uint64_t begin = now_usec(CLOCK_MONOTONIC);
        Result r = ask(*state, "/429-once", ONCE, LONG);

        expect_reply(&r, 200, "ok");
        assert_true(now_usec(CLOCK_MONOTONIC) - begin >= USEC_PER_SEC);
}

static void a_pause_beyond_the_deadline_is_not_waited_for(void **state) {
        uint64_t begin = now_usec(CLOCK_MONOTONIC);
        Result r = ask(*state, "/429-long", REPEATABLE, LONG);

        expect_reply(&r, 429, "");
        assert_true(now_usec(CLOCK_MONOTONIC) - begin < 30 * USEC_PER_SEC);
}

static void a_broken_connection_is_tried_again_if_that_is_safe(void **state) {
        Fixture *f = *state;
        Result r = ask(f, "/reset-once", REPEATABLE, LONG);

        expect_reply(&r, 200, "ok");
        f->server.n_requests = 0;
        r = ask(f, "/reset", ONCE, LONG);
        assert_int_equal(r.r, -EHOSTUNREACH);
        assert_int_equal(r.error.kind, PEERPOD_E_UNAVAILABLE);
        assert_non_null(startswith(r.error.text, "Ask: "));
        assert_true(r.sent);
        assert_int_equal(f->server.n_requests, 1);
        r = ask(f, "/cut", ONCE, LONG);
        assert_int_equal(r.error.kind, PEERPOD_E_UNAVAILABLE);
}

static void what_was_never_sent_is_tried_again(void **state) {
        Fixture *f = *state;
        Result r;

        (void) snprintf(f->url, sizeof(f->url), "http://127.0.0.1:1");
        r = ask(f, "/ok", ONCE, LONG);
        assert_int_equal(r.error.kind, PEERPOD_E_UNAVAILABLE);
        assert_false(r.sent);
}

static void too_big_an_answer_is_refused(void **state) {
        Result r = ask(*state, "/big", (HttpRequest) { .reply_max = 5000 }, LONG);

        assert_int_equal(r.r, -EIO);
        assert_non_null(strstr(r.error.text, "larger than allowed"));
}

static int count_bytes(void *userdata, const void *data, size_t size) {
        *(size_t*) userdata += size;
        return 0;
}

static void a_long_body_is_taken_piece_by_piece(void **state) {
        size_t n = 0;
        Result r = ask(*state, "/big", (HttpRequest) { .on_body = count_bytes, .userdata = &n }, LONG);

        expect_reply(&r, 200, "");
        assert_int_equal(n, 10000);
}

static void* cancel_soon(void *userdata) {
        (void) usleep(100000);
        (void) eventfd_write(*(int*) userdata, 1);
        return NULL;
}

static void cancel_ends_the_wait_at_once(void **state) {
        Fixture *f = *state;
        uint64_t begin = now_usec(CLOCK_MONOTONIC);
        pthread_t t;
        Result r;

        assert_int_equal(pthread_create(&t, NULL, cancel_soon, &f->cancel_fd), 0);
        r = ask(f, "/hang", REPEATABLE, 3600 * USEC_PER_SEC);
        assert_int_equal(r.r, -ECANCELED);
        assert_int_equal(r.error.kind, PEERPOD_E_CANCELLED);
        assert_true(r.sent);
        assert_true(now_usec(CLOCK_MONOTONIC) - begin < 30 * USEC_PER_SEC);
        (void) pthread_join(t, NULL);
}

static void the_deadline_ends_the_wait(void **state) {
        Result r = ask(*state, "/hang", REPEATABLE, 200 * USEC_PER_MSEC);

        assert_int_equal(r.error.kind, PEERPOD_E_TIMED_OUT);
}

static void each_try_has_a_time_of_its_own(void **state) {
        Fixture *f = *state;
        Result r = ask(f, "/hang", (HttpRequest) { .repeatable = true, .timeout_usec = 50 * USEC_PER_MSEC }, LONG);

        assert_int_equal(r.error.kind, PEERPOD_E_TIMED_OUT);
        assert_int_equal(f->server.n_requests, 3);
}

static int add_key(void *userdata, const PeerpodCall *call, HttpRequest *q, bool fresh, PeerpodError *error) {
        (*(int*) userdata)++;
        return http_add_header(q, "X-Key", fresh ? "fresh" : "old");
}

static void refused_credentials_are_renewed_once(void **state) {
        Fixture *f = *state;
        int n = 0;
        const CloudApi api = { .authorize = add_key, .userdata = &n };
        Result r = ask(f, "/401", (HttpRequest) { .api = &api }, LONG);

        expect_reply(&r, 200, "in");
        assert_int_equal(n, 2);
        assert_int_equal(f->server.n_requests, 2);
}

static void* ask_often(void *userdata) {
        for (int i = 0; i < 20; i++) {
                Result r = ask(userdata, i % 3 == 0 ? "/404" : "/ok", REPEATABLE, LONG);

                if (r.r < 0)
                        return r.error.text[0] ? strdup(r.error.text) : strdup("?");
                http_reply_done(&r.reply);
        }
        return NULL;
}

static void a_hundred_threads_share_a_few_connections(void **state) {
        Fixture *f = *state;
        pthread_t threads[100];

        for (size_t i = 0; i < ELEMENTSOF(threads); i++)
                assert_int_equal(pthread_create(threads + i, NULL, ask_often, f), 0);
        for (size_t i = 0; i < ELEMENTSOF(threads); i++) {
                void *failure;

                assert_int_equal(pthread_join(threads[i], &failure), 0);
                if (failure)
                        fail_msg("%s", (char*) failure);
        }
        assert_int_equal(f->server.n_requests, 2000);
        assert_in_range(f->server.n_connections, 1, 16);
}

static void forms_are_escaped(void **state) {
        Form form = {};
        char *s = url_escape("a b/ä~");

        assert_string_equal(s, "a%20b%2F%C3%A4~");
        free(s);
        assert_string_equal(form_text(&form), "");
        form_add(&form, "A.1", "x y");
        form_add(&form, "None", NULL);
        form_addf(&form, "n", "%i&", 5);
        assert_string_equal(form_text(&form), "A.1=x%20y&n=5%26");
        form_done(&form);
}

static void errors_say_what_the_cloud_says(void **state) {
        PeerpodError error = { .size = sizeof(error) };

        assert_int_equal(http_error(&error, "RunInstances", &(HttpReply) { .status = 403 }, "Denied", "not\nallowed"), -EACCES);
        assert_string_equal(error.text, "RunInstances: not allowed (Denied, HTTP 403)");
        assert_int_equal(http_error(&error, "Get", &(HttpReply) { .status = 404 }, NULL, NULL), -ENOENT);
        assert_string_equal(error.text, "Get: HTTP 404");
        assert_int_equal(http_error(&error, "Get", &(HttpReply) { .status = 429 }, NULL, NULL), -EBUSY);
        assert_int_equal(http_error(&error, "Get", &(HttpReply) { .status = 502 }, NULL, NULL), -EHOSTUNREACH);
}

static void retry_after_is_seconds_or_a_date(void **state) {
        /* The date is the example of RFC 9110, section 5.6.7: 784111777 s since 1970. */
        const uint64_t now = UINT64_C(784111770) * USEC_PER_SEC;
        static const struct {
                const char *text;
                int r;
                uint64_t usec;
        } cases[] = {
                { "0", 0, 0 }, { "120", 0, 120 * USEC_PER_SEC }, { "99999999999999999999999", 0, 86400 * USEC_PER_SEC },
                { "Sun, 06 Nov 1994 08:49:37 GMT", 0, 7 * USEC_PER_SEC }, { "Sun, 06 Nov 1994 08:49:00 GMT", 0, 0 },
                { "Sunday, 06-Nov-94 08:49:37 GMT", 0, 7 * USEC_PER_SEC }, { "soon", -EINVAL, 0 }, { "", -EINVAL, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t usec = 0;

                assert_int_equal(retry_after_parse(cases[i].text, now, &usec), cases[i].r);
                assert_int_equal(usec, cases[i].usec);
        }
}

typedef struct Issuer {
        atomic_int n, running;
        uint64_t life_usec;
        atomic_bool fail;
} Issuer;

static int issue(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        Issuer *i = userdata;
        int n;

        if (atomic_fetch_add(&i->running, 1) != 0)
                abort();
        (void) usleep(20000);
        n = ++i->n;
        i->running--;
        if (i->fail)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "no");
        *ret = (Token) { .expires_usec = i->life_usec == UINT64_MAX ? UINT64_MAX : now_usec(CLOCK_REALTIME) + i->life_usec };
        if (asprintf(ret->parts, "token-%i", n) < 0)
                return -ENOMEM;
        return 0;
}

static int get_token(TokenCache *c, const Token *refused, Token *ret) {
        PeerpodCall call = { .size = sizeof(call), .cancel_fd = -1, .deadline_usec = peerpod_now_usec() + LONG };
        PeerpodError error = { .size = sizeof(error) };

        return token_cache_get(c, &call, refused, ret, &error);
}

static void* get_one(void *userdata) {
        Token t = {};
        int r = get_token(userdata, NULL, &t);
        bool good = r == 0 && streq(t.parts[0], "token-1");

        token_done(&t);
        return good ? NULL : userdata;
}

static void one_fetch_serves_all_threads(void **state) {
        Issuer i = { .life_usec = 3600 * USEC_PER_SEC };
        TokenCache *c;
        pthread_t threads[32];

        assert_int_equal(token_cache_new(issue, &i, 300 * USEC_PER_SEC, &c), 0);
        for (size_t k = 0; k < ELEMENTSOF(threads); k++)
                assert_int_equal(pthread_create(threads + k, NULL, get_one, c), 0);
        for (size_t k = 0; k < ELEMENTSOF(threads); k++) {
                void *bad;

                assert_int_equal(pthread_join(threads[k], &bad), 0);
                assert_null(bad);
        }
        assert_int_equal(i.n, 1);
        token_cache_free(c);
}

static void a_refused_token_is_fetched_anew_once(void **state) {
        Issuer i = { .life_usec = UINT64_MAX };
        Token first = {}, second = {}, third = {};
        TokenCache *c;

        assert_int_equal(token_cache_new(issue, &i, 0, &c), 0);
        assert_int_equal(get_token(c, NULL, &first), 0);
        assert_int_equal(get_token(c, &first, &second), 0);
        assert_string_equal(second.parts[0], "token-2");
        /* Another thread was refused the old one, too: the new one is there already. */
        assert_int_equal(get_token(c, &first, &third), 0);
        assert_string_equal(third.parts[0], "token-2");
        token_done(&first);
        token_done(&second);
        token_done(&third);
        token_cache_free(c);
}

static void an_old_token_serves_while_no_new_one_is_to_be_had(void **state) {
        /* Of 10 s of life, a fifth is 2 s: due after 8 s, so this one is due from the beginning of its life on only if early. */
        Issuer i = { .life_usec = 300 * USEC_PER_MSEC };
        Token t = {};
        TokenCache *c;

        assert_int_equal(token_cache_new(issue, &i, 300 * USEC_PER_SEC, &c), 0);
        assert_int_equal(get_token(c, NULL, &t), 0);
        token_done(&t);
        /* Over: a failure is told. */
        (void) usleep(400000);
        i.fail = true;
        assert_int_equal(get_token(c, NULL, &t), -EHOSTUNREACH);
        i.fail = false;
        i.life_usec = UINT64_MAX;
        assert_int_equal(get_token(c, NULL, &t), 0);
        token_done(&t);
        token_cache_free(c);
}

static void times_are_read_as_rfc_3339_has_them(void **state) {
        static const struct {
                const char *text;
                int r;
                uint64_t usec;
        } cases[] = {
                { "1985-04-12T23:20:50.52Z", 0, UINT64_C(482196050520000) },            /* RFC 3339, section 5.8 */
                { "1996-12-19T16:39:57-08:00", 0, UINT64_C(851042397000000) },
                { "2026-11-28T00:00:00Z", 0, UINT64_C(1795824000000000) },
                { "2026-11-28T00:00:00", -EINVAL, 0 }, { "2026-13-28T00:00:00Z", -EINVAL, 0 }, { "2026-11-28", -EINVAL, 0 },
                { "2026-11-28T00:00:00.Z", -EINVAL, 0 }, { "", -EINVAL, 0 }, { "1960-01-01T00:00:00Z", -EINVAL, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t usec = 0;

                assert_int_equal(token_parse_time(cases[i].text, &usec), cases[i].r);
                assert_int_equal(usec, cases[i].usec);
        }
}

#define WITH_SERVER(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                WITH_SERVER(a_reply_has_status_body_and_headers),
                WITH_SERVER(connections_are_kept),
                WITH_SERVER(a_body_is_sent_with_its_own_method_and_type),
                WITH_SERVER(redirects_are_not_followed),
                WITH_SERVER(a_passing_fault_is_tried_again_if_that_is_safe),
                WITH_SERVER(a_throttled_request_is_tried_again_when_the_server_says),
                WITH_SERVER(a_pause_beyond_the_deadline_is_not_waited_for),
                WITH_SERVER(a_broken_connection_is_tried_again_if_that_is_safe),
                WITH_SERVER(what_was_never_sent_is_tried_again),
                WITH_SERVER(too_big_an_answer_is_refused),
                WITH_SERVER(a_long_body_is_taken_piece_by_piece),
                WITH_SERVER(cancel_ends_the_wait_at_once),
                WITH_SERVER(the_deadline_ends_the_wait),
                WITH_SERVER(each_try_has_a_time_of_its_own),
                WITH_SERVER(refused_credentials_are_renewed_once),
                WITH_SERVER(a_hundred_threads_share_a_few_connections),
                cmocka_unit_test(forms_are_escaped),
                cmocka_unit_test(errors_say_what_the_cloud_says),
                cmocka_unit_test(retry_after_is_seconds_or_a_date),
                cmocka_unit_test(one_fetch_serves_all_threads),
                cmocka_unit_test(a_refused_token_is_fetched_anew_once),
                cmocka_unit_test(an_old_token_serves_while_no_new_one_is_to_be_had),
                cmocka_unit_test(times_are_read_as_rfc_3339_has_them),
        };

        return cmocka_run_group_tests_name("cloud-http", tests, NULL, NULL);
}
