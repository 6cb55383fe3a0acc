/* SPDX-License-Identifier: Apache-2.0 */
/* One thread drives the multi handle; a caller prepares an easy handle, hands it over, and waits for an eventfd. Whoever gives up says so and
 * waits until the thread has let go of the handle, which it does at once: so all that a transfer uses may live on its caller's stack. */
#include "cloud-http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <gnutls/gnutls.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <syslog.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-thumbprint.h"
#include "retry-after.h"

#define CONNECTIONS_MAX 16
#define TRIES_MAX 5
#define PAUSE_USEC (500 * USEC_PER_MSEC)
#define PAUSE_MAX_USEC (20 * USEC_PER_SEC)
#define TIMEOUT_USEC (60 * USEC_PER_SEC)
#define CONNECT_TIMEOUT_MSEC 10000L
#define THROTTLED_TRIES 10              /* times as many where the server has done nothing, and wants it later */
#define HEADERS_SIZE_MAX (64U << 10)

DEFINE_CLEANUP(struct curl_slist*, curl_slist_free_all);
DEFINE_CLEANUP(CURLU*, curl_url_cleanup);

typedef struct Buffer {
        char *data;
        size_t size, allocated, max;
} Buffer;

/* One try of a request. */
typedef struct Transfer Transfer;
struct Transfer {
        CURL *easy;
        const HttpRequest *request;
        Buffer body, headers;
        char words[CURL_ERROR_SIZE];
        int done_fd;
        int body_result;                /* of on_body() */
        CURLcode code;
        const Thumbprint *thumbprint;   /* borrowed from the client */
        char its_thumbprint[THUMBPRINT_TEXT_SIZE];
        bool no_memory, too_big, mistrusted;
        bool added, abandoned, finished; /* the client's mutex */
        Transfer *next;                 /* of the client's list */
};

struct CloudHttp {
        CURLM *multi;
        pthread_t thread;
        pthread_mutex_t mutex;
        Transfer *transfers;            /* all that a caller waits for */
        bool stop;
        char *user_agent, *ca_file, *pinned_key, *unix_socket, *cert_file, *key_file;
        Thumbprint thumbprint;
        bool insecure;
        uint32_t tries_max;
        uint64_t pause_usec, pause_max_usec;
};

static void buffer_done(Buffer *b) {
        b->data = erase_free(b->data, b->allocated);
}

/* Grows by doubling; what it held is erased. Room for a NUL is always there. */
static int buffer_add(Buffer *b, const void *data, size_t size) {
        if (size > b->max - b->size)
                return -E2BIG;
        if (b->size + size + 1 > b->allocated) {
                size_t need = b->size + size + 1, doubled = MAX(b->allocated * 2, (size_t) 4096), want = MAX(need, doubled);
                char *bigger = malloc(want);

                if (!bigger)
                        return -ENOMEM;
                if (b->size > 0)
                        memcpy(bigger, b->data, b->size);
                erase_free(b->data, b->allocated);
                b->data = bigger;
                b->allocated = want;
        }
        if (size > 0)
                memcpy(b->data + b->size, data, size);
        b->size += size;
        b->data[b->size] = '\0';
        return 0;
}

static size_t keep(Transfer *t, Buffer *b, const char *data, size_t n) {
        int r = buffer_add(b, data, n);

        if (r >= 0)
                return n;
        t->too_big = r == -E2BIG;
        t->no_memory = r == -ENOMEM;
        return CURL_WRITEFUNC_ERROR;
}

static size_t on_curl_body(char *data, size_t unit, size_t n, void *userdata) {
        Transfer *t = userdata;
        long status = 0;

        if (t->request->on_body && curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK && status / 100 == 2) {
                t->body_result = t->request->on_body(t->request->userdata, data, n);
                return t->body_result < 0 ? CURL_WRITEFUNC_ERROR : n;
        }
        return keep(t, &t->body, data, n);
}

static size_t on_curl_header(char *data, size_t unit, size_t n, void *userdata) {
        Transfer *t = userdata;

        /* A new status line: what came before was a 1xx, or a proxy's. */
        if (n >= 5 && strncmp(data, "HTTP/", 5) == 0)
                t->headers.size = 0;
        return keep(t, &t->headers, data, n);
}

/* The handshake is done, and nothing of the request is sent yet. Asked for each request, whether its connection is new or kept. */
static int on_curl_ready(void *userdata, char *address, char *local_address, int port, int local_port) {
        struct curl_tlssessioninfo *tls = NULL;
        const gnutls_datum_t *chain = NULL;
        Transfer *t = userdata;
        unsigned n = 0;

        if (curl_easy_getinfo(t->easy, CURLINFO_TLS_SSL_PTR, &tls) == CURLE_OK && tls && tls->backend == CURLSSLBACKEND_GNUTLS && tls->internals)
                chain = gnutls_certificate_get_peers(tls->internals, &n);
        if (chain && n > 0 && thumbprint_fits(t->thumbprint, chain[0].data, chain[0].size))
                return CURL_PREREQFUNC_OK;
        t->mistrusted = true;
        if (chain && n > 0)
                thumbprint_of(t->thumbprint, chain[0].data, chain[0].size, t->its_thumbprint);
        return CURL_PREREQFUNC_ABORT;
}

/* Called with the mutex held. */
static void finish(CloudHttp *h, Transfer *t, CURLcode code) {
        for (Transfer **p = &h->transfers; *p; p = &(*p)->next)
                if (*p == t) {
                        *p = t->next;
                        break;
                }
        if (t->added)
                (void) curl_multi_remove_handle(h->multi, t->easy);
        t->code = code;
        t->finished = true;
        (void) eventfd_write(t->done_fd, 1);
}

static void take_orders(CloudHttp *h) {
        Transfer *next;

        for (Transfer *t = h->transfers; t; t = next) {
                next = t->next;
                if (t->abandoned)
                        finish(h, t, CURLE_ABORTED_BY_CALLBACK);
                else if (!t->added) {
                        if (curl_multi_add_handle(h->multi, t->easy) == CURLM_OK)
                                t->added = true;
                        else
                                finish(h, t, CURLE_OUT_OF_MEMORY);
                }
        }
}

static void take_results(CloudHttp *h) {
        CURLMsg *m;
        int n;

        while ((m = curl_multi_info_read(h->multi, &n))) {
                CURLcode code = m->data.result;
                Transfer *t = NULL;

                if (m->msg != CURLMSG_DONE)
                        continue;
                (void) curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
                finish(h, t, code);
        }
}

static void* work(void *userdata) {
        CloudHttp *h = userdata;
        int running;

        for (;;) {
                bool stop;

                (void) pthread_mutex_lock(&h->mutex);
                take_orders(h);
                stop = h->stop && !h->transfers;
                (void) pthread_mutex_unlock(&h->mutex);
                if (stop)
                        return NULL;

                (void) curl_multi_perform(h->multi, &running);
                (void) pthread_mutex_lock(&h->mutex);
                take_results(h);
                (void) pthread_mutex_unlock(&h->mutex);
                /* Woken for all that matters; libcurl's own times are kept whatever is said here. */
                (void) curl_multi_poll(h->multi, NULL, 0, INT_MAX, NULL);
        }
}

static int copy_setting(const char *from, char **to) {
        if (isempty(from))
                return 0;
        *to = strdup(from);
        return *to ? 0 : -ENOMEM;
}

static void free_settings(CloudHttp *h) {
        free(h->user_agent);
        free(h->ca_file);
        free(h->pinned_key);
        free(h->unix_socket);
        free(h->cert_file);
        free(h->key_file);
}

CloudHttp* cloud_http_free(CloudHttp *h) {
        if (!h)
                return NULL;
        (void) pthread_mutex_lock(&h->mutex);
        assert(!h->transfers);
        h->stop = true;
        (void) pthread_mutex_unlock(&h->mutex);
        (void) curl_multi_wakeup(h->multi);
        (void) pthread_join(h->thread, NULL);
        (void) curl_multi_cleanup(h->multi);
        (void) pthread_mutex_destroy(&h->mutex);
        free_settings(h);
        free(h);
        curl_global_cleanup();
        return NULL;
}

static int start_thread(CloudHttp *h) {
        sigset_t all, old;
        int r;

        (void) sigfillset(&all);
        r = pthread_sigmask(SIG_SETMASK, &all, &old);
        if (r != 0)
                return -r;
        r = pthread_create(&h->thread, NULL, work, h);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        return -r;
}

static int check_file(const char *path, const char *what, PeerpodError *error) {
        if (isempty(path) || access(path, R_OK) == 0)
                return 0;
        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s '%s' cannot be read: %s", what, path, strerror(errno));
}

static bool set_up(CloudHttp *h, const CloudHttpConfig *config) {
        long connections_max = config->connections_max ?: CONNECTIONS_MAX;

        if (copy_setting(config->user_agent, &h->user_agent) < 0 || copy_setting(config->ca_file, &h->ca_file) < 0 ||
            copy_setting(config->pinned_key, &h->pinned_key) < 0 || copy_setting(config->unix_socket, &h->unix_socket) < 0 ||
            copy_setting(config->cert_file, &h->cert_file) < 0 || copy_setting(config->key_file, &h->key_file) < 0)
                return false;
        h->multi = curl_multi_init();
        return h->multi &&
                curl_multi_setopt(h->multi, CURLMOPT_PIPELINING, (long) CURLPIPE_MULTIPLEX) == CURLM_OK &&
                curl_multi_setopt(h->multi, CURLMOPT_MAX_HOST_CONNECTIONS, connections_max) == CURLM_OK &&
                /* Of some hosts; the default follows the number of running transfers, and so closes what the next ones need. */
                curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, connections_max * 4) == CURLM_OK;
}

int cloud_http_new(const CloudHttpConfig *config, CloudHttp **ret, PeerpodError *error) {
        Thumbprint thumbprint = {};
        CloudHttp *h;
        int r;

        r = check_file(config->ca_file, "CA file", error);
        if (r == 0)
                r = check_file(config->cert_file, "Client certificate", error);
        if (r == 0)
                r = check_file(config->key_file, "Client key", error);
        if (r < 0)
                return r;
        /* 32 bytes in base64 */
        if (config->pinned_key && (!startswith(config->pinned_key, "sha256//") || strlen(config->pinned_key) != 8 + 44))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.80s' is no pinned key 'sha256//BASE64'.", config->pinned_key);

        if (!isempty(config->thumbprint) && thumbprint_parse(config->thumbprint, &thumbprint) < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "'%.100s' is no thumbprint of a certificate, 'AA:BB:…' of SHA-1 or SHA-256.",
                                         config->thumbprint);

        h = new(CloudHttp);
        if (!h)
                return oom(error);
        *h = (CloudHttp) {
                .thumbprint = thumbprint,
                .insecure = config->insecure,
                .mutex = PTHREAD_MUTEX_INITIALIZER,
                .tries_max = config->tries_max ?: TRIES_MAX,
                .pause_usec = config->pause_usec ?: PAUSE_USEC,
                .pause_max_usec = config->pause_max_usec ?: PAUSE_MAX_USEC,
        };
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
                free(h);
                return oom(error);
        }
        if (!set_up(h, config) || start_thread(h) < 0) {
                if (h->multi)
                        (void) curl_multi_cleanup(h->multi);
                free_settings(h);
                free(h);
                curl_global_cleanup();
                return oom(error);
        }
        *ret = h;
        return 0;
}

int http_add_header(HttpRequest *request, const char *name, const char *value) {
        char *line;

        if (request->n_headers == HTTP_HEADERS_MAX)
                return -E2BIG;
        if (strpbrk(name, "\r\n:") || strpbrk(strempty(value), "\r\n"))
                return -EINVAL;
        /* libcurl: "Name:" takes a header away, "Name;" sends an empty one. */
        if (!value)
                line = asprintf(&line, "%s:", name) < 0 ? NULL : line;
        else if (*value == '\0')
                line = asprintf(&line, "%s;", name) < 0 ? NULL : line;
        else
                line = asprintf(&line, "%s: %s", name, value) < 0 ? NULL : line;
        if (!line)
                return -ENOMEM;
        request->headers[request->n_headers++] = line;
        return 0;
}

static void drop_headers(HttpRequest *request, size_t n) {
        while (request->n_headers > n) {
                char *line = request->headers[--request->n_headers];

                request->headers[request->n_headers] = erase_free(line, strlen(line));
        }
        if (request->signed_url)
                request->signed_url = erase_free(request->signed_url, strlen(request->signed_url));
}

void http_request_done(HttpRequest *request) {
        drop_headers(request, 0);
}

void http_reply_done(HttpReply *reply) {
        reply->body = erase_free(reply->body, reply->size);
        if (reply->headers)
                reply->headers = erase_free(reply->headers, strlen(reply->headers));
        *reply = (HttpReply) {};
}

int http_reply_header(const HttpReply *reply, const char *name, char **ret) {
        const char *found = NULL;
        size_t n = strlen(name), size;

        for (const char *p = strempty(reply->headers); *p;) {
                if (strncasecmp(p, name, n) == 0 && p[n] == ':')
                        found = p + n + 1;
                p += strcspn(p, "\n");
                p += *p == '\n';
        }
        if (!found)
                return 0;
        found += strspn(found, " \t");
        size = strcspn(found, "\r\n");
        while (size > 0 && (found[size - 1] == ' ' || found[size - 1] == '\t'))
                size--;
        *ret = strndup(found, size);
        return *ret ? 1 : -ENOMEM;
}

HttpVerdict http_judge_by_status(void *userdata, const HttpReply *reply) {
        switch (reply->status) {
        case 401:
                return HTTP_UNAUTHORIZED;
        case 429:
                return HTTP_AGAIN_UNDONE;
        case 408:
        case 500:
        case 502:
        case 503:
        case 504:
                return HTTP_AGAIN;
        default:
                return HTTP_DONE;
        }
}

static PeerpodErrorKind kind_of_status(int status) {
        switch (status) {
        case 400:
        case 422:
                return PEERPOD_E_INVALID_ARGUMENT;
        case 401:
        case 403:
                return PEERPOD_E_UNAUTHENTICATED;
        case 404:
        case 410:
                return PEERPOD_E_NOT_FOUND;
        case 409:
        case 412:
                return PEERPOD_E_FAILED_PRECONDITION;
        case 429:
                return PEERPOD_E_THROTTLED;
        default:
                return status >= 500 ? PEERPOD_E_UNAVAILABLE : PEERPOD_E_INTERNAL;
        }
}

int http_error(PeerpodError *error, const char *what, const HttpReply *reply, const char *code, const char *detail) {
        _cleanup_(freep) char *plain_detail = text_make_plain(strempty(detail), 600), *plain_code = text_make_plain(strempty(code), 100);

        return peerpod_error_set(error, kind_of_status(reply->status), "%s: %s%s%s%sHTTP %i%s", what, strempty(plain_detail),
                                 isempty(plain_detail) ? "" : " (", strempty(plain_code), isempty(plain_code) ? "" : ", ", reply->status,
                                 isempty(plain_detail) ? "" : ")");
}

/* What is on this machine, or is this machine's own metadata service, is behind no proxy. */
static bool is_local(const char *url) {
        _cleanup_(curl_url_cleanupp) CURLU *u = curl_url();
        char *host = NULL;
        struct in_addr a;
        bool local = false;

        if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
                uint32_t v4 = inet_pton(AF_INET, host, &a) == 1 ? ntohl(a.s_addr) : 0;

                local = streq(host, "localhost") || streq(host, "[::1]") || strncasecmp(host, "[fe8", 4) == 0 ||
                        strncasecmp(host, "[fd00:ec2:", 10) == 0 || v4 >> 24 == 127 || v4 >> 16 == 0xa9fe ||
                        v4 == 0x646464c8 /* Alibaba Cloud's metadata service, 100.100.100.200 */;
        }
        curl_free(host);
        return local;
}

#define SET(option, value) (curl_easy_setopt(t->easy, (option), (value)) == CURLE_OK)

static bool set_method(Transfer *t, const HttpRequest *q) {
        if (q->body)
                return SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) q->body_size) && SET(CURLOPT_POSTFIELDS, q->body) &&
                        SET(CURLOPT_CUSTOMREQUEST, q->method);
        if (streq(q->method, "HEAD"))
                return SET(CURLOPT_NOBODY, 1L);
        return SET(CURLOPT_CUSTOMREQUEST, q->method);
}

static bool set_tls(const CloudHttp *h, Transfer *t) {
        /* Instead of the system's: GnuTLS would trust Debian's /etc/ssl/certs, which libcurl has as its default, as well. */
        if (h->ca_file && !(SET(CURLOPT_CAINFO, h->ca_file) && SET(CURLOPT_CAPATH, NULL)))
                return false;
        if (h->cert_file && !(SET(CURLOPT_SSLCERT, h->cert_file) && (!h->key_file || SET(CURLOPT_SSLKEY, h->key_file))))
                return false;
        if (h->pinned_key && !(SET(CURLOPT_PINNEDPUBLICKEY, h->pinned_key) && SET(CURLOPT_SSL_VERIFYPEER, 0L) && SET(CURLOPT_SSL_VERIFYHOST, 0L)))
                return false;
        if ((h->insecure || h->thumbprint.size > 0) && !(SET(CURLOPT_SSL_VERIFYPEER, 0L) && SET(CURLOPT_SSL_VERIFYHOST, 0L)))
                return false;
        if (h->thumbprint.size > 0) {
                t->thumbprint = &h->thumbprint;
                if (!SET(CURLOPT_PREREQFUNCTION, on_curl_ready) || !SET(CURLOPT_PREREQDATA, t))
                        return false;
        }
        return SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
}

static bool set_transfer(const CloudHttp *h, Transfer *t, const char *url, struct curl_slist *headers, long timeout_msec) {
        return SET(CURLOPT_PRIVATE, t) && SET(CURLOPT_URL, url) && SET(CURLOPT_PROTOCOLS_STR, "http,https") &&
                SET(CURLOPT_FOLLOWLOCATION, 0L) && SET(CURLOPT_NOSIGNAL, 1L) && SET(CURLOPT_QUICK_EXIT, 1L) && SET(CURLOPT_PIPEWAIT, 1L) &&
                SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS) && SET(CURLOPT_ERRORBUFFER, t->words) &&
                SET(CURLOPT_CONNECTTIMEOUT_MS, MIN(CONNECT_TIMEOUT_MSEC, timeout_msec)) && SET(CURLOPT_TIMEOUT_MS, timeout_msec) &&
                SET(CURLOPT_WRITEFUNCTION, on_curl_body) && SET(CURLOPT_WRITEDATA, t) &&
                SET(CURLOPT_HEADERFUNCTION, on_curl_header) && SET(CURLOPT_HEADERDATA, t) && SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L) &&
                SET(CURLOPT_HTTPHEADER, headers) &&
                /* libcurl itself repeats what a kept connection did not answer. Those that are made for one request would only pile up. */
                (t->request->repeatable || (SET(CURLOPT_FRESH_CONNECT, 1L) && SET(CURLOPT_FORBID_REUSE, 1L))) &&
                (!h->user_agent || SET(CURLOPT_USERAGENT, h->user_agent)) &&
                (!h->unix_socket || SET(CURLOPT_UNIX_SOCKET_PATH, h->unix_socket)) &&
                (!(h->unix_socket || is_local(url)) || SET(CURLOPT_PROXY, "")) &&
                set_tls(h, t) && set_method(t, t->request);
}

static int list_headers(const HttpRequest *q, struct curl_slist **ret) {
        struct curl_slist *list = *ret = curl_slist_append(NULL, "Expect:");   /* no round trip to ask for leave */

        for (size_t i = 0; list && i < q->n_headers; i++) {
                list = curl_slist_append(*ret, q->headers[i]);
                if (list)
                        *ret = list;
        }
        return list ? 0 : -ENOMEM;
}

/* Hands the transfer over and waits. 0: it has ended (or failed) by itself; negative: the call has, *error is set. */
static int run_transfer(CloudHttp *h, const PeerpodCall *call, Transfer *t, PeerpodError *error) {
        int r;

        (void) pthread_mutex_lock(&h->mutex);
        t->next = h->transfers;
        h->transfers = t;
        (void) pthread_mutex_unlock(&h->mutex);
        (void) curl_multi_wakeup(h->multi);

        r = peerpod_call_wait(call, t->done_fd, POLLIN, UINT64_MAX, error);
        (void) pthread_mutex_lock(&h->mutex);
        t->abandoned = !t->finished;
        (void) pthread_mutex_unlock(&h->mutex);
        if (t->abandoned) {
                (void) curl_multi_wakeup(h->multi);
                while (poll(&(struct pollfd) { .fd = t->done_fd, .events = POLLIN }, 1, -1) <= 0)
                        ;
                /* The thread says so under the mutex: pass by it before the descriptor is closed. */
                (void) pthread_mutex_lock(&h->mutex);
                assert(t->finished);
                (void) pthread_mutex_unlock(&h->mutex);
        }
        return r < 0 ? r : 0;
}

static void log_try(const PeerpodCall *call, const Transfer *t, const char *url, unsigned try, uint64_t began_usec) {
        uint64_t took = (now_usec(CLOCK_MONOTONIC) - began_usec) / USEC_PER_MSEC;
        long status = 0;

        (void) curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        peerpod_log(call, LOG_DEBUG, "%s %s %.*s, try %u: %s %li, %" PRIu64 " ms", t->request->what, t->request->method, (int) strcspn(url, "?"), url,
                    try, t->code == CURLE_OK ? "HTTP" : curl_easy_strerror(t->code), status, took);
}

typedef enum Outcome {
        OUTCOME_REPLY,
        OUTCOME_AGAIN,          /* *error says why, if there is no other try */
        OUTCOME_FAILED,
} Outcome;

static Outcome explain(const Transfer *t, const HttpRequest *q, bool sent, PeerpodError *error) {
        const char *words = isempty(t->words) ? curl_easy_strerror(t->code) : t->words;

        if (t->body_result < 0) {
                if (error->kind == PEERPOD_E_NONE)
                        (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: the answer was refused: %s", q->what, strerror(-t->body_result));
                return OUTCOME_FAILED;
        }
        if (t->too_big) {
                (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: the answer is larger than allowed.", q->what);
                return OUTCOME_FAILED;
        }
        if (t->no_memory || t->code == CURLE_OUT_OF_MEMORY) {
                (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: out of memory.", q->what);
                return OUTCOME_FAILED;
        }

        if (t->mistrusted) {
                (void) peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s: the server's certificate is not trusted: its thumbprint is %s.", q->what,
                                         isempty(t->its_thumbprint) ? "none" : t->its_thumbprint);
                return OUTCOME_FAILED;
        }

        switch (t->code) {
        case CURLE_URL_MALFORMAT:
        case CURLE_UNSUPPORTED_PROTOCOL:
                (void) peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s: '%.*s' is no URL of a service.", q->what, (int) strcspn(q->url, "?"), q->url);
                return OUTCOME_FAILED;
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_CERTPROBLEM:
        case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
                (void) peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "%s: the server's certificate is not trusted: %s", q->what, words);
                return OUTCOME_FAILED;
        case CURLE_OPERATION_TIMEDOUT:
                (void) peerpod_error_set(error, PEERPOD_E_TIMED_OUT, "%s: %s", q->what, words);
                break;
        default:
                (void) peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: %s", q->what, words);
        }
        return q->repeatable || !sent ? OUTCOME_AGAIN : OUTCOME_FAILED;
}

static void transfer_done(Transfer *t) {
        if (t->easy)
                curl_easy_cleanup(t->easy);
        buffer_done(&t->body);
        buffer_done(&t->headers);
        t->done_fd = close_fd(t->done_fd);
}

static int take_reply(Transfer *t, HttpReply *ret) {
        long status = 0;

        if (buffer_add(&t->body, "", 0) < 0 || buffer_add(&t->headers, "", 0) < 0 ||
            curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK)
                return -ENOMEM;
        *ret = (HttpReply) {
                .status = (int) status,
                .body = TAKE_PTR(t->body.data),
                .size = t->body.size,
                .headers = TAKE_PTR(t->headers.data),
        };
        return 0;
}

/* One try. Negative: no other one, *error is set. */
static int try_once(CloudHttp *h, const PeerpodCall *call, const HttpRequest *q, unsigned try, HttpReply *ret, Outcome *ret_outcome, bool *sent,
                    PeerpodError *error) {
        _cleanup_(curl_slist_free_allp) struct curl_slist *headers = NULL;
        _cleanup_(transfer_done) Transfer t = {
                .request = q,
                .body.max = q->reply_max ?: HTTP_BODY_MAX,
                .headers.max = HEADERS_SIZE_MAX,
                .done_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK),
        };
        const char *url = q->signed_url ?: q->url;
        uint64_t began = now_usec(CLOCK_MONOTONIC);
        long request_size = 0;
        bool this_sent;
        int r;

        t.easy = curl_easy_init();
        if (t.done_fd < 0 || !t.easy || list_headers(q, &headers) < 0 ||
            !set_transfer(h, &t, url, headers, (long) MIN((q->timeout_usec ?: TIMEOUT_USEC) / USEC_PER_MSEC + 1, UINT64_C(86400000))))
                return oom(error);

        r = run_transfer(h, call, &t, error);
        (void) curl_easy_getinfo(t.easy, CURLINFO_REQUEST_SIZE, &request_size);
        this_sent = request_size > 0;
        *sent = *sent || this_sent;
        log_try(call, &t, url, try, began);
        if (r < 0) {
                char why[256];

                (void) snprintf(why, sizeof(why), "%.255s", error->text);
                return peerpod_error_set(error, error->kind, "%s: %s", q->what, why);
        }
        if (t.code != CURLE_OK) {
                *ret_outcome = explain(&t, q, this_sent, error);
                return 0;
        }
        *ret_outcome = OUTCOME_REPLY;
        return take_reply(&t, ret) < 0 ? oom(error) : 0;
}

static uint64_t random_below(uint64_t limit) {
        uint64_t v = 0;

        if (getrandom(&v, sizeof(v), 0) < 0)
                v = now_usec(CLOCK_MONOTONIC) * UINT64_C(6364136223846793005);
        return limit > 0 ? v % limit : 0;
}

/* Full jitter: anything up to a limit that doubles. What the service says wins. */
static uint64_t pause_before(const CloudHttp *h, const HttpRequest *q, const HttpReply *reply, unsigned repetition) {
        _cleanup_(freep) char *text = NULL;
        uint64_t limit = h->pause_usec, asked = 0;

        if (reply && q->api && q->api->pause)
                asked = q->api->pause(q->api->userdata, reply);
        if (asked == 0 && reply && http_reply_header(reply, "Retry-After", &text) > 0)
                (void) retry_after_parse(text, now_usec(CLOCK_REALTIME), &asked);
        for (unsigned i = 0; i < repetition && limit < h->pause_max_usec; i++)
                limit *= 2;
        limit = MIN(limit, h->pause_max_usec);
        /* Some jitter on top, lest all that were throttled come back together; more when what was asked for has not sufficed. */
        if (asked > 0)
                return usec_add(asked, random_below(repetition == 0 ? MIN(asked, h->pause_usec) : limit));
        return random_below(limit);
}

static HttpVerdict judge(const HttpRequest *q, const HttpReply *reply) {
        return q->api && q->api->judge ? q->api->judge(q->api->userdata, reply) : http_judge_by_status(NULL, reply);
}

/* Is there another try? A pause that would outlast the call is none. Who is only told to come later does so for long: of a crowd that is
 * throttled, someone is unlucky several times in a row. */
static bool may_repeat(const CloudHttp *h, const PeerpodCall *call, unsigned n_tries, bool throttled, uint64_t pause) {
        return n_tries < (throttled ? h->tries_max * THROTTLED_TRIES : h->tries_max) && usec_add(now_usec(CLOCK_MONOTONIC), pause) < call->deadline_usec;
}

int cloud_http_perform(CloudHttp *h, const PeerpodCall *call, HttpRequest *q, HttpReply *ret, bool *ret_sent, PeerpodError *error) {
        size_t n_own = q->n_headers;
        unsigned n_tries = 0;
        bool fresh = false, sent = false;
        int r;

        for (;;) {
                HttpReply reply = {};
                Outcome outcome;
                HttpVerdict verdict = HTTP_AGAIN;
                uint64_t pause;

                r = peerpod_call_check(call, error);
                if (r >= 0 && q->api && q->api->authorize)
                        r = q->api->authorize(q->api->userdata, call, q, fresh, error);
                if (r < 0)
                        break;
                error->kind = PEERPOD_E_NONE;
                r = try_once(h, call, q, ++n_tries, &reply, &outcome, &sent, error);
                drop_headers(q, n_own);
                if (r < 0)
                        break;

                if (outcome == OUTCOME_FAILED) {
                        r = peerpod_error_to_errno(error->kind);
                        break;
                }
                if (outcome == OUTCOME_REPLY) {
                        verdict = judge(q, &reply);
                        if (verdict == HTTP_UNAUTHORIZED && q->api && q->api->authorize && !fresh) {
                                fresh = true;
                                n_tries--;
                                http_reply_done(&reply);
                                continue;
                        }
                        if (verdict == HTTP_DONE || verdict == HTTP_UNAUTHORIZED || (verdict == HTTP_AGAIN && !q->repeatable)) {
                                *ret = reply;
                                break;
                        }
                }

                pause = pause_before(h, q, outcome == OUTCOME_REPLY ? &reply : NULL, n_tries - 1);
                if (!may_repeat(h, call, n_tries, outcome == OUTCOME_REPLY && verdict == HTTP_AGAIN_UNDONE, pause) || (outcome == OUTCOME_REPLY && q->on_body)) {
                        if (outcome == OUTCOME_REPLY)
                                *ret = reply;
                        else
                                r = peerpod_error_to_errno(error->kind);
                        break;
                }
                http_reply_done(&reply);
                r = peerpod_call_wait(call, -1, 0, pause, error);
                if (r < 0)
                        break;
        }

        drop_headers(q, n_own);
        if (ret_sent)
                *ret_sent = sent;
        return r < 0 ? r : 0;
}

static bool is_unreserved(unsigned char c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '~';
}

static char* put_escaped(char *p, const char *s) {
        static const char digits[] = "0123456789ABCDEF";

        for (; *s; s++) {
                unsigned char c = (unsigned char) *s;

                if (is_unreserved(c))
                        *p++ = (char) c;
                else {
                        *p++ = '%';
                        *p++ = digits[c >> 4];
                        *p++ = digits[c & 15];
                }
        }
        return p;
}

char* url_escape(const char *s) {
        char *out = malloc(strlen(s) * 3 + 1);

        if (out)
                *put_escaped(out, s) = '\0';
        return out;
}

void form_add(Form *f, const char *key, const char *value) {
        size_t need;
        char *bigger, *p;

        if (!value || f->failed)
                return;
        need = f->size + 3 * (strlen(key) + strlen(value)) + 3;
        bigger = malloc(need);
        if (!bigger) {
                f->failed = true;
                return;
        }
        p = bigger;
        if (f->size > 0) {
                memcpy(p, f->text, f->size);
                p += f->size;
                *p++ = '&';
        }
        p = put_escaped(p, key);
        *p++ = '=';
        p = put_escaped(p, value);
        *p = '\0';
        erase_free(f->text, f->size);
        f->text = bigger;
        f->size = p - bigger;
}

void form_addf(Form *f, const char *key, const char *format, ...) {
        char *value = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&value, format, ap) < 0) {
                f->failed = true;
                value = NULL;
        }
        va_end(ap);
        form_add(f, key, value);
        if (value)
                erase_free(value, strlen(value));
}

const char* form_text(const Form *f) {
        return f->failed ? NULL : strempty(f->text);
}

void form_done(Form *f) {
        f->text = erase_free(f->text, f->size);
        *f = (Form) {};
}
