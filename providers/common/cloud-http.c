/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud-http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <gnutls/gnutls.h>
#include <strings.h>
#include <sys/random.h>
#include <syslog.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-thumbprint.h"
#include "curl-thread.h"
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
typedef struct Transfer {
        CURL *easy;
        const HttpRequest *request;
        Buffer body, headers;
        char words[CURL_ERROR_SIZE];
        int body_result;                /* of on_body() */
        CURLcode code;
        const Thumbprint *thumbprint;   /* borrowed from the client */
        char its_thumbprint[THUMBPRINT_TEXT_SIZE];
        bool no_memory, too_big, mistrusted;
} Transfer;

struct CloudHttp {
        CurlThread *thread;
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
        curl_thread_free(h->thread);
        free_settings(h);
        free(h);
        return NULL;
}

static int check_file(const char *path, const char *what, PeerpodError *error) {
        if (isempty(path) || access(path, R_OK) == 0)
                return 0;
        return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "%s '%s' cannot be read: %s", what, path, strerror(errno));
}

static bool copy_settings(CloudHttp *h, const CloudHttpConfig *config) {
        return copy_setting(config->user_agent, &h->user_agent) >= 0 && copy_setting(config->ca_file, &h->ca_file) >= 0 &&
                copy_setting(config->pinned_key, &h->pinned_key) >= 0 && copy_setting(config->unix_socket, &h->unix_socket) >= 0 &&
                copy_setting(config->cert_file, &h->cert_file) >= 0 && copy_setting(config->key_file, &h->key_file) >= 0;
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
                .tries_max = config->tries_max ?: TRIES_MAX,
                .pause_usec = config->pause_usec ?: PAUSE_USEC,
                .pause_max_usec = config->pause_max_usec ?: PAUSE_MAX_USEC,
        };
        if (!copy_settings(h, config) || curl_thread_new(config->connections_max ?: CONNECTIONS_MAX, &h->thread) < 0) {
                cloud_http_free(h);
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
        return SET(CURLOPT_URL, url) && SET(CURLOPT_PROTOCOLS_STR, "http,https") &&
                /* No CURLOPT_PIPEWAIT: with HTTP/1.1 connections would be made one after the other, and time-outs are not looked at meanwhile. */
                SET(CURLOPT_FOLLOWLOCATION, 0L) && SET(CURLOPT_NOSIGNAL, 1L) && SET(CURLOPT_QUICK_EXIT, 1L) &&
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
        };
        const char *url = q->signed_url ?: q->url;
        uint64_t began = now_usec(CLOCK_MONOTONIC);
        long request_size = 0;
        bool this_sent;
        int r;

        t.easy = curl_easy_init();
        if (!t.easy || list_headers(q, &headers) < 0 ||
            !set_transfer(h, &t, url, headers, (long) MIN((q->timeout_usec ?: TIMEOUT_USEC) / USEC_PER_MSEC + 1, UINT64_C(86400000))))
                return oom(error);

        r = curl_thread_perform(h->thread, call, t.easy, &t.code, error);
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
