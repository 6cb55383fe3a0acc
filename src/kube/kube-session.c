/* SPDX-License-Identifier: Apache-2.0 */
/* Where transfers go and as whom. PEM that stands in the kubeconfig itself is handed to libcurl as a memfd, since not each of its TLS libraries takes
 * certificates from memory. */
#include "kube/kube-session.h"

#include <stdio.h>

#include "basic/error-text.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"
#include "kube/kube-config.h"

#define TOKEN_MAX_AGE_USEC (60 * USEC_PER_SEC)

static int copy(const char *from, char **to) {
        if (!from)
                return 0;
        *to = strdup(from);
        return *to ? 0 : -ENOMEM;
}

static int copy_config(const KubeConfig *from, KubeConfig **ret) {
        _cleanup_(kube_config_freep) KubeConfig *c = new0(KubeConfig, 1);

        if (!c)
                return -ENOMEM;
        c->insecure = from->insecure;
        c->loopback = from->loopback;
        if (copy(from->origin, &c->origin) < 0 || copy(from->server, &c->server) < 0 || copy(from->tls_server_name, &c->tls_server_name) < 0 ||
            copy(from->proxy_url, &c->proxy_url) < 0 || copy(from->ca_file, &c->ca_file) < 0 || copy(from->ca_data, &c->ca_data) < 0 ||
            copy(from->token, &c->token) < 0 || copy(from->token_file, &c->token_file) < 0 || copy(from->username, &c->username) < 0 ||
            copy(from->password, &c->password) < 0 || copy(from->cert_file, &c->cert_file) < 0 || copy(from->key_file, &c->key_file) < 0 ||
            copy(from->cert_data, &c->cert_data) < 0 || copy(from->key_data, &c->key_data) < 0 || copy(from->default_namespace, &c->default_namespace) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(c);
        return 0;
}

/* A PEM's path for libcurl: the file's own, or that of a memfd with the data. */
static int provide(const char *data, const char *file, int *fd, char **ret) {
        if (!data)
                return copy(file, ret);
        *fd = memfd_new_sealed("kubeconfig", data, strlen(data));
        if (*fd < 0)
                return *fd;
        if (asprintf(ret, "/proc/self/fd/%i", *fd) < 0) {
                *ret = NULL;
                return -ENOMEM;
        }
        return 0;
}

static int check_readable(const char *path, const char *what, char **reterr) {
        if (path && access(path, R_OK) < 0)
                return error_text(reterr, -errno, "the %s '%s' cannot be read: %s", what, path, strerror(errno));
        return 0;
}

/* "HOST:PORT" of the server's URL, in the URL's own writing. */
static int set_names(KubeSession *s) {
        CURLU *url = curl_url();
        char *host = NULL, *port = NULL, *path = NULL, *scheme = NULL;
        int r = -ENOMEM;

        if (url && curl_url_set(url, CURLUPART_URL, s->config->server, 0) == CURLUE_OK && curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
            curl_url_get(url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK && curl_url_get(url, CURLUPART_PATH, &path, 0) == CURLUE_OK &&
            curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK) {
                const char *name = s->config->tls_server_name;

                r = 0;
                if (name) {
                        /* libcurl checks the certificate against the URL's host: so that is the certificate's, and the connection goes to the
                         * real one. */
                        char *to = NULL, *header = NULL;

                        if (asprintf(&s->base, "%s://%s:%s%s", scheme, name, port, streq(path, "/") ? "" : path) < 0)
                                s->base = NULL;
                        if (asprintf(&to, "%s:%s:%s:%s", name, port, host, port) < 0)
                                to = NULL;
                        if (asprintf(&header, "Host: %s:%s", host, port) < 0)
                                header = NULL;
                        s->connect_to = to ? curl_slist_append(NULL, to) : NULL;
                        s->host_header = header;
                        r = s->base && s->connect_to && header ? 0 : -ENOMEM;
                        free(to);
                } else
                        r = copy(s->config->server, &s->base);
        }
        curl_free(host);
        curl_free(port);
        curl_free(path);
        curl_free(scheme);
        curl_url_cleanup(url);
        return r;
}

int kube_session_new(sd_event *event, const KubeConfig *config, const KubeClientOptions *options, KubeSession **ret, char **reterr) {
        _cleanup_(kube_session_freep) KubeSession *s = new(KubeSession);
        const KubeClientOptions none = {}, *o = options ?: &none;
        int r;

        if (!s)
                return -ENOMEM;
        *s = (KubeSession) {
                .event = sd_event_ref(event), .ca_fd = -EBADF, .cert_fd = -EBADF, .key_fd = -EBADF,
                .connect_timeout_usec = o->connect_timeout_usec ?: 10 * USEC_PER_SEC,
                .token_max_age_usec = o->token_max_age_usec ?: TOKEN_MAX_AGE_USEC,
        };
        if ((r = copy_config(config, &s->config)) < 0 || (r = copy(o->user_agent ?: "peerpod/" PEERPOD_VERSION, &s->user_agent)) < 0 ||
            (r = set_names(s)) < 0 || (r = kube_curl_new(event, &s->curl)) < 0)
                return r;
        if ((r = check_readable(s->config->ca_data ? NULL : s->config->ca_file, "certificate authority", reterr)) < 0 ||
            (r = check_readable(s->config->cert_data ? NULL : s->config->cert_file, "client certificate", reterr)) < 0 ||
            (r = check_readable(s->config->key_data ? NULL : s->config->key_file, "client key", reterr)) < 0)
                return r;
        if ((r = provide(s->config->ca_data, s->config->ca_file, &s->ca_fd, &s->ca_path)) < 0 ||
            (r = provide(s->config->cert_data, s->config->cert_file, &s->cert_fd, &s->cert_path)) < 0 ||
            (r = provide(s->config->key_data, s->config->key_file, &s->key_fd, &s->key_path)) < 0)
                return error_text(reterr, r, "the certificates of %s cannot be kept: %s", s->config->origin, strerror(-r));
        if (s->config->token_file) {
                r = kube_token_read(s->config->token_file, &s->token, reterr);
                if (r < 0)
                        return r;
                s->token_usec = now_usec(CLOCK_BOOTTIME);
                s->n_token_reads++;
        }
        *ret = TAKE_PTR(s);
        return 0;
}

KubeSession* kube_session_free(KubeSession *s) {
        if (!s)
                return NULL;
        kube_curl_unref(s->curl);
        kube_config_free(s->config);
        curl_slist_free_all(s->connect_to);
        free(s->base);
        free(s->host_header);
        free(s->user_agent);
        free(s->ca_path);
        free(s->cert_path);
        free(s->key_path);
        close_fd(s->ca_fd);
        close_fd(s->cert_fd);
        close_fd(s->key_fd);
        erase_free_stringp(&s->token);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}

/* The token file again; the old token stays where that is not possible. Returns whether it has become another one. */
static bool read_token(KubeSession *s) {
        _cleanup_(erase_free_stringp) char *token = NULL;
        _cleanup_(freep) char *why = NULL;
        bool other;
        int r;

        s->token_usec = now_usec(CLOCK_BOOTTIME);
        s->n_token_reads++;
        r = kube_token_read(s->config->token_file, &token, &why);
        if (r < 0) {
                if (!s->token_failed)
                        log_warning("Cannot read the API server's token again, keeping the old one: %s", why ?: strerror(-r));
                s->token_failed = true;
                return false;
        }
        s->token_failed = false;
        other = !streq(token, s->token);
        erase_free_stringp(&s->token);
        s->token = TAKE_PTR(token);
        return other;
}

const char* kube_session_token(KubeSession *s) {
        if (!s->config->token_file)
                return s->config->token;
        if (now_usec(CLOCK_BOOTTIME) - s->token_usec >= s->token_max_age_usec)
                (void) read_token(s);
        return s->token;
}

bool kube_session_renew(KubeSession *s) {
        if (s->config->token_file) {
                (void) read_token(s);
                /* The file may be the same and the server just have been behind: once more in any case. */
                return true;
        }
        if (s->cert_path && s->cert_fd < 0) {
                /* The file may have been replaced; who is asked for it on a new connection reads it again. */
                kube_session_distrust(s);
                return true;
        }
        return false;
}

void kube_session_distrust(KubeSession *s) {
        _cleanup_(kube_curl_unrefp) KubeCurl *fresh = NULL;

        if (kube_curl_new(s->event, &fresh) < 0)
                return;
        kube_curl_unref(s->curl);       /* goes when the last transfer on it has ended */
        s->curl = TAKE_PTR(fresh);
}
