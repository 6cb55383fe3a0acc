/* SPDX-License-Identifier: Apache-2.0 */
/* For cloud-http-test.py: the HTTP client and the token cache of the modules, driven from the command line.
 *
 * cloud-http-call [KEY=VALUE]... URL: one request, or n at once from as many threads; prints a line for each result. */
#include <pthread.h>
#include <sys/eventfd.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-http.h"
#include "cloud-token.h"

typedef struct Rig {
        CloudHttp *http;
        TokenCache *tokens;
        HttpRequest request;
        const char *token_url, *header, *warm;  /* warm: asked first, so that there is a connection */
        bool authorize, quiet;
        uint64_t n, deadline_msec, cancel_msec;
        pthread_mutex_t lock;
} Rig;

static void on_log(void *userdata, int level, const char *text) {
        if (!((Rig*) userdata)->quiet)
                (void) fprintf(stderr, "<%d>%s\n", level, text);
}

static PeerpodCall call_of(Rig *rig, int cancel_fd) {
        return (PeerpodCall) {
                .size = sizeof(PeerpodCall),
                .cancel_fd = cancel_fd,
                .deadline_usec = now_usec(CLOCK_MONOTONIC) + rig->deadline_msec * USEC_PER_MSEC,
                .log = on_log,
                .log_userdata = rig,
        };
}

static int fetch_token(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error) {
        _cleanup_(http_reply_done) HttpReply reply = {};
        HttpRequest request = { .method = "GET", .what = "Token", .repeatable = true };
        Rig *rig = userdata;
        int r;

        request.url = rig->token_url;
        r = cloud_http_perform(rig->http, call, &request, &reply, NULL, error);
        if (r < 0)
                return r;
        if (reply.status != 200)
                return http_error(error, "Token", &reply, NULL, NULL);
        ret->parts[0] = strdup(reply.body);
        ret->expires_usec = now_usec(CLOCK_REALTIME) + 3600 * USEC_PER_SEC;
        return ret->parts[0] ? 0 : -ENOMEM;
}

static __thread Token last_token;       /* what this thread sent last, to say which one was refused */

static int authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        _cleanup_(token_done) Token t = {};
        Rig *rig = userdata;
        int r;

        r = token_cache_get(rig->tokens, call, fresh ? &last_token : NULL, &t, error);
        if (r < 0)
                return r;
        r = http_add_header(request, "Authorization", t.parts[0]);
        token_done(&last_token);
        last_token = t;
        t = (Token) {};
        return r;
}

static int on_body(void *userdata, const void *data, size_t size) {
        return memchr(data, 'X', size) ? -EBADMSG : 0;
}

static void* cancel_later(void *userdata) {
        void **args = userdata;

        (void) poll(NULL, 0, (int) ((Rig*) args[0])->cancel_msec);
        (void) eventfd_write(*(int*) args[1], 1);
        return NULL;
}

static void* run(void *userdata) {
        _cleanup_(http_reply_done) HttpReply reply = {};
        _cleanup_(close_fdp) int cancel_fd = eventfd(0, EFD_CLOEXEC);
        _cleanup_(freep) char *header = NULL;
        Rig *rig = userdata;
        void *args[] = { rig, &cancel_fd };
        CloudApi api = { .authorize = authorize, .userdata = rig };
        HttpRequest request = rig->request;
        PeerpodCall call = call_of(rig, cancel_fd);
        PeerpodError error = { .size = sizeof(PeerpodError) };
        uint64_t start = now_usec(CLOCK_MONOTONIC);
        pthread_t canceller;
        bool sent;
        int r;

        if (rig->warm) {
                HttpRequest first = { .method = "GET", .what = "Warm", .url = rig->warm };

                (void) cloud_http_perform(rig->http, &call, &first, &reply, NULL, &error);
                http_reply_done(&reply);
        }
        if (rig->authorize)
                request.api = &api;
        (void) http_add_header(&request, "X-Test", "one");
        if (rig->cancel_msec != UINT64_MAX)
                (void) pthread_create(&canceller, NULL, cancel_later, args);
        r = cloud_http_perform(rig->http, &call, &request, &reply, &sent, &error);
        if (rig->cancel_msec != UINT64_MAX)
                (void) pthread_join(canceller, NULL);

        (void) pthread_mutex_lock(&rig->lock);
        if (r < 0)
                printf("error kind=%u sent=%d msec=%" PRIu64 " text=%s\n", error.kind, sent, (now_usec(CLOCK_MONOTONIC) - start) / 1000, error.text);
        else {
                (void) http_reply_header(&reply, rig->header, &header);
                printf("reply status=%d sent=%d msec=%" PRIu64 " size=%zu headers=%zu header=%s body=%.64s\n", reply.status, sent,
                       (now_usec(CLOCK_MONOTONIC) - start) / 1000, reply.size, request.n_headers, strempty(header), reply.body);
        }
        (void) pthread_mutex_unlock(&rig->lock);
        http_request_done(&request);
        token_done(&last_token);
        return NULL;
}

static uint64_t number(const char *s) {
        uint64_t v = 0;
        int r = parse_u64(s, &v);

        assert(r == 0);
        (void) r;
        return v;
}

int main(int argc, char *argv[]) {
        Rig rig = { .n = 1, .deadline_msec = 30000, .cancel_msec = UINT64_MAX, .header = "X-Reply", .lock = PTHREAD_MUTEX_INITIALIZER,
                    .request = { .method = "GET", .what = "Test" } };
        CloudHttpConfig config = { .user_agent = "peerpod-test/1", .pause_usec = 1000, .pause_max_usec = 4000 };
        PeerpodError error = { .size = sizeof(PeerpodError) };
        pthread_t *threads;

        for (int i = 1; i < argc; i++) {
                const char *v;

                if ((v = startswith(argv[i], "method=")))
                        rig.request.method = v;
                else if ((v = startswith(argv[i], "body="))) {
                        rig.request.body = v;
                        rig.request.body_size = strlen(v);
                } else if ((v = startswith(argv[i], "repeatable=")))
                        rig.request.repeatable = streq(v, "1");
                else if ((v = startswith(argv[i], "timeout=")))
                        rig.request.timeout_usec = number(v) * 1000;
                else if ((v = startswith(argv[i], "max=")))
                        rig.request.reply_max = number(v);
                else if ((v = startswith(argv[i], "deadline=")))
                        rig.deadline_msec = number(v);
                else if ((v = startswith(argv[i], "cancel=")))
                        rig.cancel_msec = number(v);
                else if ((v = startswith(argv[i], "n=")))
                        rig.n = number(v);
                else if ((v = startswith(argv[i], "tries=")))
                        config.tries_max = (uint32_t) number(v);
                else if ((v = startswith(argv[i], "connections=")))
                        config.connections_max = (uint32_t) number(v);
                else if ((v = startswith(argv[i], "ca=")))
                        config.ca_file = v;
                else if ((v = startswith(argv[i], "pin=")))
                        config.pinned_key = v;
                else if ((v = startswith(argv[i], "cert=")))
                        config.cert_file = v;
                else if ((v = startswith(argv[i], "key=")))
                        config.key_file = v;
                else if ((v = startswith(argv[i], "warm=")))
                        rig.warm = v;
                else if ((v = startswith(argv[i], "unix=")))
                        config.unix_socket = v;
                else if ((v = startswith(argv[i], "token="))) {
                        rig.token_url = v;
                        rig.authorize = true;
                } else if (streq(argv[i], "take"))
                        rig.request.on_body = on_body;
                else if (streq(argv[i], "quiet"))
                        rig.quiet = true;
                else
                        rig.request.url = argv[i];
        }
        if (cloud_http_new(&config, &rig.http, &error) < 0) {
                printf("error kind=%u sent=0 msec=0 text=%s\n", error.kind, error.text);
                return EXIT_SUCCESS;
        }
        if (token_cache_new(fetch_token, &rig, 60 * USEC_PER_SEC, &rig.tokens) < 0)
                return EXIT_FAILURE;

        threads = new0(pthread_t, rig.n);
        assert(threads);
        for (uint64_t i = 0; i < rig.n; i++) {
                int r = pthread_create(threads + i, NULL, run, &rig);

                assert(r == 0);
                (void) r;
        }
        for (uint64_t i = 0; i < rig.n; i++)
                (void) pthread_join(threads[i], NULL);
        free(threads);
        rig.tokens = token_cache_free(rig.tokens);
        rig.http = cloud_http_free(rig.http);
        return EXIT_SUCCESS;
}
