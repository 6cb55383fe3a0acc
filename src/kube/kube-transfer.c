/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/kube-transfer.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <json-c/json_object.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>

#include "basic/log.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "kube/kube-config.h"
#include "kube/kube-object.h"
#include "kube/kube-session.h"

#define TEXT_MAX 1024U
#define RETRY_AFTER_MAX_USEC (3600 * USEC_PER_SEC)
#define UNACKNOWLEDGED_MSEC 30000U      /* TCP: bytes of ours that long without an answer mean that nobody is there */

struct KubeTransfer {
        KubeSession *session;           /* borrowed */
        KubeCurl *curl;                 /* the pool it is in; a reference while it runs */
        CURL *easy;
        struct curl_slist *headers;     /* one is a secret */
        char *body, *url, *method;
        const char *path;               /* within url */
        char words[CURL_ERROR_SIZE];
        KubeTransferSpec spec;          /* its strings are not valid any more */
        uint64_t began_usec;

        char *reply;                    /* erased: may hold a Secret */
        size_t size, allocated;
        int result;                     /* of on_data(), or why the reply was refused */
        CURLcode code;
        long status;
        uint64_t retry_after_usec;

        json_object *object;
        char *text;
};

static int collect(KubeTransfer *t, const char *data, size_t size) {
        if (size > t->spec.reply_max - t->size)
                return -EMSGSIZE;
        if (t->size + size + 1 > t->allocated) {
                size_t want = MAX(t->size + size + 1, t->allocated * 2 + 4096);
                char *bigger = malloc(want);

                if (!bigger)
                        return -ENOMEM;
                if (t->size > 0)
                        memcpy(bigger, t->reply, t->size);
                (void) erase_free(t->reply, t->allocated);
                t->reply = bigger;
                t->allocated = want;
        }
        memcpy(t->reply + t->size, data, size);
        t->size += size;
        t->reply[t->size] = '\0';
        return 0;
}

static size_t on_curl_body(char *data, size_t unit, size_t n, void *userdata) {
        KubeTransfer *t = userdata;
        long status = 0;

        (void) curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        t->result = t->spec.on_data && status / 100 == 2 ? t->spec.on_data(t, data, n, t->spec.userdata) : n > 0 ? collect(t, data, n) : 0;
        return t->result < 0 ? CURL_WRITEFUNC_ERROR : t->result > 0 ? CURL_WRITEFUNC_PAUSE : n;
}

/* The API server sends seconds (kubernetes/apiserver: pkg/endpoints/handlers/responsewriters/status.go). */
static size_t on_curl_header(char *data, size_t unit, size_t n, void *userdata) {
        static const char name[] = "retry-after:";
        KubeTransfer *t = userdata;
        char value[24];
        uint64_t seconds;
        size_t size;

        if (n <= 2 && t->spec.on_begin) {
                long status = 0;

                (void) curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
                if (status / 100 == 2)
                        t->spec.on_begin(t, t->spec.userdata);
        }
        if (n < sizeof(name) - 1 || strncasecmp(data, name, sizeof(name) - 1) != 0)
                return n;
        data += sizeof(name) - 1;
        size = n - (sizeof(name) - 1);
        for (; size > 0 && *data == ' '; data++)
                size--;
        for (; size > 0 && strchr(" \r\n", data[size - 1]); size--)
                ;
        (void) snprintf(value, sizeof(value), "%.*s", (int) MIN(size, sizeof(value) - 1), data);
        if (parse_u64(value, &seconds) >= 0)
                t->retry_after_usec = MIN(seconds, RETRY_AFTER_MAX_USEC / USEC_PER_SEC) * USEC_PER_SEC;
        return n;
}

/* A connection whose other end is gone is found out even while nothing is expected on it. */
static int on_curl_new_socket(void *userdata, curl_socket_t fd, curlsocktype purpose) {
        unsigned msec = UNACKNOWLEDGED_MSEC;

        (void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &msec, sizeof(msec));
        return CURL_SOCKOPT_OK;
}

static void free_headers(struct curl_slist *l) {
        for (struct curl_slist *i = l; i; i = i->next)
                explicit_bzero(i->data, strlen(i->data));
        curl_slist_free_all(l);
}

static int add_header(KubeTransfer *t, const char *name, const char *value) {
        _cleanup_(erase_free_stringp) char *line = NULL;
        struct curl_slist *l;

        if (asprintf(&line, "%s: %s", name, value) < 0) {
                line = NULL;
                return -ENOMEM;
        }
        l = curl_slist_append(t->headers, line);
        if (!l)
                return -ENOMEM;
        t->headers = l;
        return 0;
}

static int set_headers(KubeTransfer *t, const KubeTransferSpec *spec) {
        KubeSession *s = t->session;
        const char *token = kube_session_token(s);
        struct curl_slist *l = curl_slist_append(NULL, "Expect:");      /* no round trip to ask for leave */

        t->headers = l;
        if (!l || add_header(t, "Accept", "application/json") < 0 || (spec->body && add_header(t, "Content-Type", spec->content_type ?: KUBE_JSON) < 0))
                return -ENOMEM;
        if (s->host_header) {
                l = curl_slist_append(t->headers, s->host_header);
                if (!l)
                        return -ENOMEM;
                t->headers = l;
        }
        if (token) {
                _cleanup_(erase_free_stringp) char *bearer = NULL;

                if (asprintf(&bearer, "Bearer %s", token) < 0) {
                        bearer = NULL;
                        return -ENOMEM;
                }
                return add_header(t, "Authorization", bearer);
        }
        return 0;
}

#define SET(option, value) (curl_easy_setopt(t->easy, (option), (value)) == CURLE_OK)

static bool set_tls(KubeTransfer *t) {
        const KubeSession *s = t->session;

        /* The server is trusted by what the configuration says alone, where it says something. */
        if (s->ca_path && !(SET(CURLOPT_CAINFO, s->ca_path) && SET(CURLOPT_CAPATH, NULL)))
                return false;
        if (s->config->insecure && !(SET(CURLOPT_SSL_VERIFYPEER, 0L) && SET(CURLOPT_SSL_VERIFYHOST, 0L)))
                return false;
        if (s->cert_path && !(SET(CURLOPT_SSLCERT, s->cert_path) && SET(CURLOPT_SSLKEY, s->key_path)))
                return false;
        return SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
}

static bool set_credentials(KubeTransfer *t) {
        const KubeConfig *c = t->session->config;

        return !c->username || (SET(CURLOPT_HTTPAUTH, (long) CURLAUTH_BASIC) && SET(CURLOPT_USERNAME, c->username) && SET(CURLOPT_PASSWORD, strempty(c->password)));
}

static bool set_route(KubeTransfer *t) {
        const KubeSession *s = t->session;

        if (s->connect_to && !SET(CURLOPT_CONNECT_TO, s->connect_to))
                return false;
        if (s->config->proxy_url)
                return SET(CURLOPT_PROXY, s->config->proxy_url) && SET(CURLOPT_NOPROXY, "");
        return !s->config->loopback || SET(CURLOPT_PROXY, "");  /* nor one of the environment */
}

static bool set_body(KubeTransfer *t) {
        return !t->body || (SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) strlen(t->body)) && SET(CURLOPT_POSTFIELDS, t->body));
}

static bool set_options(KubeTransfer *t, const KubeTransferSpec *spec) {
        long timeout_msec = spec->timeout_usec == USEC_INFINITY ? 0 : (long) MIN(spec->timeout_usec / USEC_PER_MSEC + 1, UINT64_C(86400000));

        return SET(CURLOPT_URL, t->url) && SET(CURLOPT_PROTOCOLS_STR, "http,https") && SET(CURLOPT_FOLLOWLOCATION, 0L) && SET(CURLOPT_NOSIGNAL, 1L) &&
                /* No CURLOPT_PIPEWAIT: libcurl looks at no time-outs of what waits for another one's connection. */
                SET(CURLOPT_QUICK_EXIT, 1L) && SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_2TLS) &&
                SET(CURLOPT_ERRORBUFFER, t->words) && SET(CURLOPT_TIMEOUT_MS, timeout_msec) &&
                SET(CURLOPT_CONNECTTIMEOUT_MS, (long) (t->session->connect_timeout_usec / USEC_PER_MSEC)) && SET(CURLOPT_TCP_KEEPALIVE, 1L) &&
                SET(CURLOPT_TCP_KEEPIDLE, 30L) && SET(CURLOPT_TCP_KEEPINTVL, 10L) && SET(CURLOPT_SOCKOPTFUNCTION, on_curl_new_socket) &&
                SET(CURLOPT_WRITEFUNCTION, on_curl_body) && SET(CURLOPT_WRITEDATA, t) && SET(CURLOPT_HEADERFUNCTION, on_curl_header) &&
                SET(CURLOPT_HEADERDATA, t) && SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L) && SET(CURLOPT_HTTPHEADER, t->headers) &&
                SET(CURLOPT_USERAGENT, t->session->user_agent) && SET(CURLOPT_CUSTOMREQUEST, t->method) &&
                /* libcurl itself repeats what a kept connection did not answer: so what must not be done twice gets one of its own. */
                (spec->repeatable || (SET(CURLOPT_FRESH_CONNECT, 1L) && SET(CURLOPT_FORBID_REUSE, 1L))) && set_body(t) && set_tls(t) &&
                set_credentials(t) && set_route(t);
}

static void on_curl_done(CURL *easy, CURLcode code, void *userdata) {
        KubeTransfer *t = userdata;
        uint64_t took = (now_usec(CLOCK_MONOTONIC) - t->began_usec) / USEC_PER_MSEC;

        t->code = code;
        (void) curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &t->status);
        t->curl = kube_curl_unref(t->curl);
        log_debug("%s %.*s: %s %li, %" PRIu64 " ms", t->method, (int) strcspn(t->path, "?"), t->path, code == CURLE_OK ? "HTTP" : curl_easy_strerror(code),
                  t->status, took);
        t->spec.on_done(t, t->spec.userdata);
}

int kube_transfer_new(KubeSession *s, const KubeTransferSpec *spec, KubeTransfer **ret) {
        _cleanup_(kube_transfer_freep) KubeTransfer *t = new0(KubeTransfer, 1);
        int r;

        if (!t)
                return -ENOMEM;
        t->session = s;
        t->spec = *spec;
        t->began_usec = now_usec(CLOCK_MONOTONIC);
        t->easy = curl_easy_init();
        t->method = strdup(spec->method);
        t->body = spec->body ? strdup(spec->body) : NULL;
        if (asprintf(&t->url, "%s%s", s->base, spec->path) < 0)
                t->url = NULL;
        if (!t->easy || !t->method || (spec->body && !t->body) || !t->url || set_headers(t, spec) < 0 || !set_options(t, spec))
                return -ENOMEM;

        t->path = t->url + strlen(s->base);
        t->curl = kube_curl_ref(s->curl);
        r = kube_curl_add(t->curl, t->easy, on_curl_done, t);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(t);
        return 0;
}

KubeTransfer* kube_transfer_free(KubeTransfer *t) {
        if (!t)
                return NULL;
        if (t->curl)
                kube_curl_remove(t->curl, t->easy);
        kube_curl_unref(t->curl);
        if (t->easy)
                curl_easy_cleanup(t->easy);
        free_headers(t->headers);
        erase_free_stringp(&t->body);
        (void) erase_free(t->reply, t->allocated);
        json_object_put(t->object);
        free(t->url);
        free(t->method);
        free(t->text);
        free(t);
        return NULL;
}

void kube_transfer_resume(KubeTransfer *t) {
        (void) curl_easy_pause(t->easy, CURLPAUSE_CONT);
}

/* ---- what came of it ---- */

int kube_reply_error(int status, const char *reason) {
        switch (status) {
        case 200 ... 299:
                return 0;
        case 401:
                return -EACCES;
        case 403:
                return -EPERM;
        case 404:
                return -ENOENT;
        case 409:
                return streq(reason, "AlreadyExists") ? -EEXIST : -ESTALE;
        case 410:
                return -ESTALE;
        case 429:
                return -EAGAIN;
        default:
                return status / 100 == 4 ? -EINVAL : -EREMOTEIO;
        }
}

static int transport_error(const KubeTransfer *t, const char **ret_words) {
        *ret_words = isempty(t->words) ? curl_easy_strerror(t->code) : t->words;
        if (t->result < 0) {
                *ret_words = t->result == -EMSGSIZE ? "the answer is larger than allowed" : strerror(-t->result);
                return t->result;
        }
        switch (t->code) {
        case CURLE_OPERATION_TIMEDOUT:
                return -ETIMEDOUT;
        case CURLE_OUT_OF_MEMORY:
                return -ENOMEM;
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_CERTPROBLEM:
        case CURLE_SSL_CONNECT_ERROR:
        case CURLE_SSL_CIPHER:
                return -EPROTO;
        default:
                return -ENOTCONN;
        }
}

static void PRINTF(2, 3) set_text(KubeTransfer *t, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        free(t->text);
        t->text = text ? text_make_plain(text, TEXT_MAX) : NULL;
}

/* A Status object, or the words of whatever stands before the server. */
static void explain_status(KubeTransfer *t, KubeReply *ret) {
        const char *message;

        if (t->size > 0 && json_parse(t->reply, t->size, &t->object, NULL) >= 0) {
                ret->object = t->object;
                ret->reason = kube_string_at(t->object, "reason", NULL);
        }
        message = kube_string_at(t->object, "message", NULL);
        ret->error = kube_reply_error(ret->status, ret->reason);
        set_text(t, "%s %.*s: HTTP %i%s%s%s%s", t->method, (int) strcspn(t->path, "?"), t->path, ret->status, *ret->reason ? " " : "", ret->reason,
                 *message ? ": " : "", message);
}

void kube_transfer_reply(KubeTransfer *t, KubeReply *ret) {
        _cleanup_(freep) char *why = NULL;
        const char *words;
        long sent = 0;
        int r;

        (void) curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &sent);
        *ret = (KubeReply) { .status = (int) t->status, .reason = "", .sent = sent > 0, .retry_after_usec = t->retry_after_usec };
        if (t->code != CURLE_OK) {
                ret->error = transport_error(t, &words);
                set_text(t, "%s %.*s: %s", t->method, (int) strcspn(t->path, "?"), t->path, words);
        } else if (t->status / 100 != 2)
                explain_status(t, ret);
        else if (t->size > 0) {
                r = json_parse(t->reply, t->size, &t->object, &why);
                if (r < 0) {
                        ret->error = r;
                        set_text(t, "%s %.*s: the answer is no JSON object: %s", t->method, (int) strcspn(t->path, "?"), t->path, why ?: strerror(-r));
                }
                ret->object = t->object;
        }
        ret->text = ret->error == 0 ? "" : t->text ?: "out of memory";
}

bool kube_transfer_is_undone(const KubeTransfer *t) {
        long sent = 0;

        (void) curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &sent);
        return t->code != CURLE_OK && sent == 0;
}
