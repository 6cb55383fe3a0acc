/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP client: one thread and one multi handle for all callers.
 *
 * A Transfer is one try. Its caller enters it into `incoming`, wakes the thread, and waits on the transfer's eventfd. From then on the
 * thread alone touches it, until it sets `finished` under the lock and signals; after that it is the caller's again. A caller that is
 * cancelled or out of time asks for the same by `abandoned`, and still waits for the signal: what the request borrows is in use until then.
 *
 * Invariant: a transfer is on `incoming` or `abandoned` only while it is not finished. */
#include "cloud-http.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <syslog.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-http-text.h"

#define CONNECTIONS_DEFAULT 16
#define TRIES_DEFAULT 5
#define PAUSE_DEFAULT (500 * USEC_PER_MSEC)
#define PAUSE_MAX_DEFAULT (20 * USEC_PER_SEC)
#define TIMEOUT_DEFAULT (60 * USEC_PER_SEC)
#define CONNECT_TIMEOUT (15 * USEC_PER_SEC)
#define HEADERS_SIZE_MAX (64U << 10)
#define CA_FILE_MAX (4U << 20)
#define POLL_MSEC 10000                 /* the thread is woken for all that matters */

typedef struct Buffer {
        char *data;
        size_t size, allocated;
} Buffer;

typedef struct Transfer {
        CloudHttp *http;
        HttpRequest *request;
        CURL *easy;
        struct curl_slist *headers;
        int done_fd;
        struct Transfer *next_incoming, *next_abandoned;        /* the lock's */
        bool finished;                                          /* the lock's */
        Buffer body, head;
        int taken;                      /* what on_body() returned */
        int refused;                    /* -EFBIG, -ENOMEM: we ended it */
        CURLcode code;
        bool sent;
        int status;
        char text[CURL_ERROR_SIZE];
} Transfer;

struct CloudHttp {
        char *user_agent, *ca_file, *pinned_key, *unix_socket, *cert_file, *key_file;
        Buffer ca_bundle;               /* the system's authorities and ours, where libcurl cannot take both as files */
        uint32_t tries_max;
        uint64_t pause_usec, pause_max_usec;
        CURLM *multi;
        pthread_t thread;
        bool has_thread;
        pthread_mutex_t lock;
        Transfer *incoming, *abandoned;
        bool stop;
};

static void buffer_done(Buffer *b) {
        (void) erase_free(b->data, b->size);
        *b = (Buffer) {};
}

/* Keeps a NUL behind the data. Returns 0, -EFBIG, -ENOMEM. */
static int buffer_add(Buffer *b, const void *data, size_t size, size_t max) {
        if (size > max || b->size > max - size)
                return -EFBIG;
        if (b->size + size + 1 > b->allocated) {
                size_t allocated = MAX((b->size + size + 1) * 2, (size_t) 1024);
                char *p = malloc(allocated);

                if (!p)
                        return -ENOMEM;
                if (b->size > 0)
                        memcpy(p, b->data, b->size);
                (void) erase_free(b->data, b->size);
                b->data = p;
                b->allocated = allocated;
        }
        if (size > 0)
                memcpy(b->data + b->size, data, size);
        b->size += size;
        b->data[b->size] = '\0';
        return 0;
}

/* A body or a head may come again in one transfer (100 Continue, a connection that libcurl replaced): each begins anew with its status line. */
static size_t on_header(char *data, size_t one, size_t size, void *userdata) {
        Transfer *t = userdata;
        int r;

        if (size >= 5 && memcmp(data, "HTTP/", 5) == 0) {
                t->head.size = 0;
                return size;
        }
        r = memchr(data, '\0', size) ? -EFBIG : buffer_add(&t->head, data, size, HEADERS_SIZE_MAX);
        if (r < 0)
                t->refused = r;
        return r < 0 ? CURL_WRITEFUNC_ERROR : size;
}

static size_t on_data(char *data, size_t one, size_t size, void *userdata) {
        Transfer *t = userdata;
        long status = 0;
        int r;

        (void) curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        if (t->request->on_body && status / 100 == 2) {
                t->taken = t->request->on_body(t->request->userdata, data, size);
                return t->taken < 0 ? CURL_WRITEFUNC_ERROR : size;
        }
        r = buffer_add(&t->body, data, size, t->request->reply_max ?: HTTP_BODY_MAX);
        if (r < 0)
                t->refused = r;
        return r < 0 ? CURL_WRITEFUNC_ERROR : size;
}

/* The thread. */

static void unlink_abandoned(CloudHttp *h, Transfer *t) {
        for (Transfer **p = &h->abandoned; *p; p = &(*p)->next_abandoned)
                if (*p == t) {
                        *p = t->next_abandoned;
                        return;
                }
}

static void finish(CloudHttp *h, Transfer *t, CURLcode code) {
        curl_off_t pretransfer = 0;
        long status = 0, request_size = 0;

        (void) curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        (void) curl_easy_getinfo(t->easy, CURLINFO_PRETRANSFER_TIME_T, &pretransfer);
        (void) curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &request_size);
        (void) curl_multi_remove_handle(h->multi, t->easy);
        t->code = code;
        t->status = (int) status;
        t->sent = pretransfer > 0 || request_size > 0 || status != 0;

        (void) pthread_mutex_lock(&h->lock);
        unlink_abandoned(h, t);
        t->finished = true;
        (void) eventfd_write(t->done_fd, 1);
        (void) pthread_mutex_unlock(&h->lock);
        /* The transfer is its caller's again. */
}

static bool take_work(CloudHttp *h) {
        Transfer *incoming, *next;
        bool stop;

        (void) pthread_mutex_lock(&h->lock);
        incoming = TAKE_PTR(h->incoming);
        stop = h->stop;
        (void) pthread_mutex_unlock(&h->lock);

        for (; incoming; incoming = next) {
                next = incoming->next_incoming;
                if (curl_multi_add_handle(h->multi, incoming->easy) != CURLM_OK)
                        finish(h, incoming, CURLE_OUT_OF_MEMORY);
        }

        for (;;) {
                Transfer *t;

                (void) pthread_mutex_lock(&h->lock);
                /* One that came after incoming was taken is not with libcurl yet: the next turn's. */
                for (t = h->abandoned; t; t = t->next_abandoned) {
                        Transfer *i = h->incoming;

                        while (i && i != t)
                                i = i->next_incoming;
                        if (!i)
                                break;
                }
                (void) pthread_mutex_unlock(&h->lock);
                if (!t)
                        return !stop;
                finish(h, t, CURLE_ABORTED_BY_CALLBACK);
        }
}

static void* http_thread(void *userdata) {
        CloudHttp *h = userdata;

        while (take_work(h)) {
                CURLMsg *m;
                int n;

                (void) curl_multi_perform(h->multi, &n);
                while ((m = curl_multi_info_read(h->multi, &n))) {
                        CURLcode code = m->data.result;
                        Transfer *t = NULL;

                        if (m->msg != CURLMSG_DONE)
                                continue;
                        (void) curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char**) &t);
                        finish(h, t, code);
                }
                (void) curl_multi_poll(h->multi, NULL, 0, POLL_MSEC, NULL);
        }
        return NULL;
}

/* The client. */

CloudHttp* cloud_http_free(CloudHttp *h) {
        if (!h)
                return NULL;
        if (h->has_thread) {
                (void) pthread_mutex_lock(&h->lock);
                h->stop = true;
                (void) pthread_mutex_unlock(&h->lock);
                (void) curl_multi_wakeup(h->multi);
                (void) pthread_join(h->thread, NULL);
        }
        if (h->multi)
                (void) curl_multi_cleanup(h->multi);
        (void) pthread_mutex_destroy(&h->lock);
        buffer_done(&h->ca_bundle);
        free(h->user_agent);
        free(h->ca_file);
        free(h->pinned_key);
        free(h->unix_socket);
        free(h->cert_file);
        free(h->key_file);
        free(h);
        return NULL;
}

static int copy(const char *s, char **ret, PeerpodError *error) {
        if (isempty(s))
                return 0;
        *ret = strdup(s);
        return *ret ? 0 : oom(error);
}

/* libcurl replaces its bundle file by ours; the system's directory, where it has one, stays. Else both go into one bundle. */
static int load_authorities(CloudHttp *h, PeerpodError *error) {
        _cleanup_(freep) char *ours = NULL, *systems = NULL;
        char *capath = NULL, *cainfo = NULL;
        size_t size, systems_size = 0;
        CURL *easy;
        int r;

        if (!h->ca_file)
                return 0;
        r = read_full_file_at(AT_FDCWD, h->ca_file, CA_FILE_MAX, &ours, &size);
        if (r == -ELOOP) {              /* certificates are often links */
                _cleanup_(close_fdp) int fd = open(h->ca_file, O_RDONLY|O_CLOEXEC);

                r = fd < 0 ? -errno : read_full_fd(fd, CA_FILE_MAX, &ours, &size);
        }
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "CA file '%s' cannot be read: %s.", h->ca_file, strerror(-r));
        if (!memmem(ours, size, "-----BEGIN ", 11))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "CA file '%s' holds no certificate in PEM.", h->ca_file);

        easy = curl_easy_init();
        if (!easy)
                return oom(error);
        (void) curl_easy_getinfo(easy, CURLINFO_CAPATH, &capath);
        (void) curl_easy_getinfo(easy, CURLINFO_CAINFO, &cainfo);
        if (!capath) {
                if (cainfo) {
                        _cleanup_(close_fdp) int fd = open(cainfo, O_RDONLY|O_CLOEXEC);

                        if (fd >= 0)
                                (void) read_full_fd(fd, CA_FILE_MAX, &systems, &systems_size);
                }
                r = buffer_add(&h->ca_bundle, ours, size, SIZE_MAX / 4);
                if (r == 0)
                        r = buffer_add(&h->ca_bundle, "\n", 1, SIZE_MAX / 4);
                if (r == 0 && systems)
                        r = buffer_add(&h->ca_bundle, systems, systems_size, SIZE_MAX / 4);
        }
        curl_easy_cleanup(easy);
        return r < 0 ? oom(error) : 0;
}

static int start_thread(CloudHttp *h, PeerpodError *error) {
        sigset_t all, saved;
        int r;

        (void) sigfillset(&all);
        r = pthread_sigmask(SIG_SETMASK, &all, &saved);
        assert(r == 0);
        r = pthread_create(&h->thread, NULL, http_thread, h);
        (void) pthread_sigmask(SIG_SETMASK, &saved, NULL);
        if (r != 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The HTTP client's thread cannot be started: %s.", strerror(r));
        h->has_thread = true;
        return 0;
}

int cloud_http_new(const CloudHttpConfig *config, CloudHttp **ret, PeerpodError *error) {
        _cleanup_(cloud_http_freep) CloudHttp *h = NULL;
        int r;

        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "libcurl cannot be set up.");
        h = new(CloudHttp);
        if (!h)
                return oom(error);
        *h = (CloudHttp) {
                .tries_max = config->tries_max ?: TRIES_DEFAULT,
                .pause_usec = config->pause_usec ?: PAUSE_DEFAULT,
                .pause_max_usec = config->pause_max_usec ?: PAUSE_MAX_DEFAULT,
                .lock = PTHREAD_MUTEX_INITIALIZER,
        };
        const struct {
                const char *from;
                char **to;
        } strings[] = {
                { config->user_agent, &h->user_agent }, { config->ca_file, &h->ca_file }, { config->pinned_key, &h->pinned_key },
                { config->unix_socket, &h->unix_socket }, { config->cert_file, &h->cert_file }, { config->key_file, &h->key_file },
        };
        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                r = copy(strings[i].from, strings[i].to, error);
                if (r < 0)
                        return r;
        }
        if (h->pinned_key && !startswith(h->pinned_key, "sha256//"))
                return peerpod_error_set(error, PEERPOD_E_INVALID_ARGUMENT, "The pinned key is not of the form 'sha256//BASE64'.");
        r = load_authorities(h, error);
        if (r < 0)
                return r;

        h->multi = curl_multi_init();
        if (!h->multi)
                return oom(error);
        (void) curl_multi_setopt(h->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long) (config->connections_max ?: CONNECTIONS_DEFAULT));
        (void) curl_multi_setopt(h->multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);

        r = start_thread(h, error);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(h);
        return 0;
}

/* One try. */

static void transfer_done(Transfer *t) {
        if (t->easy)
                curl_easy_cleanup(t->easy);
        for (struct curl_slist *i = t->headers; i; i = i->next)
                explicit_bzero(i->data, strlen(i->data));
        curl_slist_free_all(t->headers);
        buffer_done(&t->body);
        buffer_done(&t->head);
        t->done_fd = close_fd(t->done_fd);
}

static CURLcode set_tls(const CloudHttp *h, CURL *e) {
        CURLcode c = curl_easy_setopt(e, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);

        if (c == CURLE_OK && h->ca_bundle.size > 0) {
                struct curl_blob blob = { .data = h->ca_bundle.data, .len = h->ca_bundle.size, .flags = CURL_BLOB_NOCOPY };

                c = curl_easy_setopt(e, CURLOPT_CAINFO_BLOB, &blob);
        } else if (c == CURLE_OK && h->ca_file)
                c = curl_easy_setopt(e, CURLOPT_CAINFO, h->ca_file);
        if (c == CURLE_OK && h->pinned_key) {
                c = curl_easy_setopt(e, CURLOPT_PINNEDPUBLICKEY, h->pinned_key);
                (void) curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 0L);
                (void) curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 0L);
        }
        if (c == CURLE_OK && h->cert_file)
                c = curl_easy_setopt(e, CURLOPT_SSLCERT, h->cert_file);
        if (c == CURLE_OK && h->key_file)
                c = curl_easy_setopt(e, CURLOPT_SSLKEY, h->key_file);
        return c;
}

static bool add_headers(Transfer *t) {
        const HttpRequest *q = t->request;

        for (size_t i = 0; i <= q->n_headers; i++) {
                /* No waiting for 100 Continue: bodies are small, and some services never send it. */
                struct curl_slist *l = curl_slist_append(t->headers, i < q->n_headers ? q->headers[i] : "Expect:");

                if (!l)
                        return false;
                t->headers = l;
        }
        return curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) == CURLE_OK;
}

static int transfer_set_up(Transfer *t, const char *url, uint64_t timeout_usec) {
        CURL *e = t->easy = curl_easy_init();
        const HttpRequest *q = t->request;
        const CloudHttp *h = t->http;
        CURLcode c;

        if (!e || !add_headers(t))
                return -ENOMEM;
        c = curl_easy_setopt(e, CURLOPT_URL, url);
        if (c == CURLE_OK)
                c = curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
        if (c == CURLE_OK)
                c = curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, q->method);
        if (c == CURLE_OK && h->user_agent)
                c = curl_easy_setopt(e, CURLOPT_USERAGENT, h->user_agent);
        if (c == CURLE_OK && h->unix_socket)
                c = curl_easy_setopt(e, CURLOPT_UNIX_SOCKET_PATH, h->unix_socket);
        if (c == CURLE_OK && (h->unix_socket || http_url_is_near(url)))
                c = curl_easy_setopt(e, CURLOPT_PROXY, "");
        if (c == CURLE_OK)
                c = set_tls(h, e);
        if (c != CURLE_OK)
                return c == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EINVAL;

        if (streq(q->method, "HEAD"))
                (void) curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
        else if (q->body) {
                (void) curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) q->body_size);
                (void) curl_easy_setopt(e, CURLOPT_POSTFIELDS, q->body);
        }
        /* On a connection that it finds closed, libcurl sends a request again by itself: not one that may be done once only. */
        (void) curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, q->repeatable ? 0L : 1L);
        (void) curl_easy_setopt(e, CURLOPT_PIPEWAIT, q->repeatable ? 1L : 0L);
        (void) curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS);
        (void) curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
        (void) curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);     /* do not wait for a resolver that hangs */
        (void) curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long) MIN(timeout_usec / USEC_PER_MSEC + 1, (uint64_t) INT32_MAX));
        (void) curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long) (CONNECT_TIMEOUT / USEC_PER_MSEC));
        (void) curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
        (void) curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
        (void) curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
        (void) curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
        (void) curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_data);
        (void) curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
        (void) curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->text);
        (void) curl_easy_setopt(e, CURLOPT_PRIVATE, t);
        return 0;
}

/* Give it to the thread, and get it back. Returns 0, or -ECANCELED, -ETIMEDOUT with *error set. */
static int transfer_run(Transfer *t, const PeerpodCall *call, PeerpodError *error) {
        CloudHttp *h = t->http;
        int r;

        (void) pthread_mutex_lock(&h->lock);
        t->next_incoming = h->incoming;
        h->incoming = t;
        (void) pthread_mutex_unlock(&h->lock);
        (void) curl_multi_wakeup(h->multi);

        r = peerpod_call_wait(call, t->done_fd, POLLIN, UINT64_MAX, error);
        if (r < 0) {
                struct pollfd p = { .fd = t->done_fd, .events = POLLIN };

                (void) pthread_mutex_lock(&h->lock);
                if (!t->finished) {
                        t->next_abandoned = h->abandoned;
                        h->abandoned = t;
                }
                (void) pthread_mutex_unlock(&h->lock);
                (void) curl_multi_wakeup(h->multi);
                while (poll(&p, 1, -1) < 0 && errno == EINTR)
                        ;
        }
        /* The thread signals under the lock: let go of it before the transfer goes. */
        (void) pthread_mutex_lock(&h->lock);
        assert(t->finished);
        (void) pthread_mutex_unlock(&h->lock);
        return r < 0 ? r : 0;
}

static bool code_is_final(CURLcode c) {
        switch (c) {
        case CURLE_UNSUPPORTED_PROTOCOL:
        case CURLE_URL_MALFORMAT:
        case CURLE_OUT_OF_MEMORY:
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_CERTPROBLEM:
                return true;
        default:
                return false;
        }
}

static int transfer_error(const Transfer *t, PeerpodError *error) {
        const char *what = t->request->what;
        _cleanup_(freep) char *why = NULL;

        if (t->taken < 0) {
                (void) peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: the reply cannot be taken: %s", what, strerror(-t->taken));
                return t->taken;
        }
        if (t->refused == -EFBIG)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: the reply is larger than expected.", what);
        if (t->refused < 0 || t->code == CURLE_OUT_OF_MEMORY)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: out of memory.", what);
        why = text_make_plain(isempty(t->text) ? curl_easy_strerror(t->code) : t->text, 512);
        if (t->code == CURLE_OPERATION_TIMEDOUT)
                return peerpod_error_set(error, PEERPOD_E_TIMED_OUT, "%s: %s", what, strempty(why));
        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: %s", what, strempty(why));
}

static void log_try(const Transfer *t, const PeerpodCall *call, const char *url, uint64_t usec) {
        int n = (int) MIN(strcspn(url, "?#"), (size_t) 512);
        unsigned msec = (unsigned) (usec / USEC_PER_MSEC);

        if (t->code == CURLE_OK)
                peerpod_log(call, LOG_DEBUG, "%s: %s %.*s: %d in %u ms.", t->request->what, t->request->method, n, url, t->status, msec);
        else
                peerpod_log(call, LOG_DEBUG, "%s: %s %.*s: %s after %u ms.", t->request->what, t->request->method, n, url,
                            curl_easy_strerror(t->code), msec);
}

typedef struct Try {
        bool sent, final;
} Try;

static int try_once(CloudHttp *h, const PeerpodCall *call, HttpRequest *request, HttpReply *ret, Try *ret_try, PeerpodError *error) {
        _cleanup_(transfer_done) Transfer t = { .http = h, .request = request, .done_fd = eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK) };
        const char *url = request->signed_url ?: request->url;
        uint64_t start = now_usec(CLOCK_MONOTONIC);
        int r;

        *ret_try = (Try) { .final = true };
        if (t.done_fd < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: eventfd: %s", request->what, strerror(errno));
        r = transfer_set_up(&t, url, request->timeout_usec ?: TIMEOUT_DEFAULT);
        if (r == 0)
                r = buffer_add(&t.body, "", 0, 0);
        if (r == 0)
                r = buffer_add(&t.head, "", 0, 0);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "%s: the request cannot be set up: %s", request->what, strerror(-r));

        r = transfer_run(&t, call, error);
        *ret_try = (Try) {
                .sent = t.sent,
                .final = r < 0 || t.taken < 0 || t.refused < 0 || code_is_final(t.code),
        };
        log_try(&t, call, url, now_usec(CLOCK_MONOTONIC) - start);
        if (r < 0) {
                if (error) {
                        char text[PEERPOD_ERROR_TEXT_SIZE];

                        memcpy(text, error->text, sizeof(text));
                        (void) peerpod_error_set(error, (PeerpodErrorKind) error->kind, "%s: %.900s", request->what, text);
                }
                return r;
        }
        if (t.code != CURLE_OK)
                return transfer_error(&t, error);

        *ret = (HttpReply) {
                .status = t.status,
                .size = t.body.size,
                .body = TAKE_PTR(t.body.data),
                .headers = TAKE_PTR(t.head.data),
        };
        return 0;
}

/* Again and again. */

static uint64_t random_below(uint64_t max) {
        uint64_t n = 0;

        /* Without randomness all would come at the same time: half is better than that. */
        if (getrandom(&n, sizeof(n), GRND_NONBLOCK) != (ssize_t) sizeof(n))
                return max / 2;
        return n % (max + 1);
}

/* Full jitter (Exponential Backoff And Jitter, AWS Architecture Blog), on top of what the service asks for. */
static uint64_t pause_before(const CloudHttp *h, const HttpRequest *request, const HttpReply *reply, uint32_t n_tries) {
        uint64_t pause = h->pause_usec, asked = 0;

        for (uint32_t i = 1; i < n_tries && pause < h->pause_max_usec; i++)
                pause *= 2;
        if (reply) {
                if (request->api && request->api->pause)
                        asked = request->api->pause(request->api->userdata, reply);
                if (asked == 0)
                        asked = http_retry_after(reply, now_usec(CLOCK_REALTIME));
        }
        return asked + random_below(MIN(pause, h->pause_max_usec));
}

static void drop_credentials(HttpRequest *request, size_t n_headers) {
        while (request->n_headers > n_headers)
                erase_free_stringp(&request->headers[--request->n_headers]);
        erase_free_stringp(&request->signed_url);
}

static HttpVerdict judge(const HttpRequest *request, const HttpReply *reply) {
        if (request->api && request->api->judge)
                return request->api->judge(request->api->userdata, reply);
        return http_judge_by_status(NULL, reply);
}

int cloud_http_perform(CloudHttp *h, const PeerpodCall *call, HttpRequest *request, HttpReply *ret, bool *ret_sent, PeerpodError *error) {
        bool has_credentials = request->api && request->api->authorize, fresh = false, sent = false, unused;
        size_t n_headers = request->n_headers;
        uint32_t tries_max = request->on_body ? 1 : h->tries_max;
        int r;

        ret_sent = ret_sent ?: &unused;
        *ret_sent = false;
        for (uint32_t n = 1;; n++) {
                _cleanup_(http_reply_done) HttpReply reply = {};
                bool again = false;
                uint64_t pause;
                Try try;

                r = peerpod_call_check(call, error);
                if (r == 0 && has_credentials)
                        r = request->api->authorize(request->api->userdata, call, request, fresh, error);
                if (r < 0) {
                        drop_credentials(request, n_headers);
                        return r;
                }
                r = try_once(h, call, request, &reply, &try, error);
                drop_credentials(request, n_headers);

                if (r < 0) {
                        *ret_sent = sent = sent || try.sent;
                        again = !try.final && (request->repeatable || !try.sent);
                } else {
                        HttpVerdict v = judge(request, &reply);

                        if (v == HTTP_UNAUTHORIZED && has_credentials && !fresh) {
                                fresh = true;
                                n--;
                                continue;
                        }
                        *ret_sent = sent = sent || v == HTTP_DONE || v == HTTP_AGAIN;
                        again = v == HTTP_AGAIN_UNDONE || (v == HTTP_AGAIN && request->repeatable);
                }

                pause = pause_before(h, request, r < 0 ? NULL : &reply, n);
                /* Rather say now what is wrong than wait for the end of the call and say that it came. */
                if (!again || n >= tries_max || usec_add(now_usec(CLOCK_MONOTONIC), pause) >= call->deadline_usec) {
                        if (r < 0)
                                return r;
                        *ret = reply;
                        reply = (HttpReply) {};
                        return 0;
                }
                r = peerpod_call_wait(call, -1, 0, pause, error);
                if (r < 0)
                        return r;
        }
}
