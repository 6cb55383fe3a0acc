/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/metadata.h"

#include <dlfcn.h>
#include <stdio.h>

#include "basic/error-text.h"
#include "basic/json.h"
#include "basic/util.h"
#include "podvm/process-user-data/source.h"
#include "userdata/cloud-config.h"
#include "userdata/decode.h"

#define REQUEST_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define TOKEN_SIZE_MAX 8192U                            /* IBM's is a JWT of about 2 KiB */
#define ANSWER_SIZE_MAX (2 * CLOUD_CONFIG_SIZE_MAX)     /* base64 adds a third, JSON escapes line ends and quotes */

int metadata_token(const MetadataService *m, const char *body, size_t size, char **ret, char **reterr) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *why = NULL;
        const char *token = body;
        size_t n = size;
        char *copy;
        int r;

        if (m->token_key) {
                r = json_parse(body, size, &o, &why);
                if (r >= 0)
                        r = json_get_string(o, m->token_key, &token, &why);
                if (r == -ENOMEM)
                        return r;
                if (r <= 0)
                        return error_text(reterr, -EBADMSG, "the answer with the token cannot be read: %s", why ?: "there is none in it");
                n = strlen(token);
        }

        while (n > 0 && (token[n - 1] == '\n' || token[n - 1] == '\r'))
                n--;
        if (n == 0 || n > TOKEN_SIZE_MAX)
                return error_text(reterr, -EBADMSG, "the token is %s", n == 0 ? "empty" : "too long");
        for (size_t i = 0; i < n; i++)
                if (token[i] <= ' ' || token[i] > '~')
                        return error_text(reterr, -EBADMSG, "the token has characters that no token has");

        copy = strndup(token, n);
        if (!copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
}

int metadata_data(const MetadataService *m, const char *body, size_t size, char **ret, size_t *ret_size, char **reterr) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(freep) char *why = NULL;
        const char *text = body;
        char *data;
        size_t n = size;
        int r;

        if (m->key) {
                r = json_parse(body, size, &o, &why);
                if (r >= 0)
                        r = json_get_string(o, m->key, &text, &why);
                if (r == -ENOMEM)
                        return r;
                if (r < 0)
                        return error_text(reterr, -EBADMSG, "the answer cannot be read: %s", strempty(why));
                n = r > 0 ? strlen(text) : 0;
        }
        if (n == 0)
                return error_text(reterr, -EAGAIN, "the user data is empty");

        if (m->base64) {
                r = base64_decode(text, n, &data, &n);
                if (r == -EBADMSG)
                        return error_text(reterr, r, "the user data is no base64");
                if (r < 0)
                        return r;
        } else {
                data = malloc(n + 1);
                if (!data)
                        return -ENOMEM;
                memcpy(data, text, n);
                data[n] = '\0';
        }

        if (n == 0 || n > CLOUD_CONFIG_SIZE_MAX) {
                erase_free(data, n);
                return n == 0 ? error_text(reterr, -EAGAIN, "the user data is empty") :
                                error_text(reterr, -E2BIG, "the user data is too big");
        }
        *ret = data;
        *ret_size = n;
        return 0;
}

static int check_status(int status, const char *url, char **reterr) {
        if (status == 200 || status == 201)     /* 201: a token has been created */
                return 0;
        return error_text(reterr, -EAGAIN, "'%s' was answered with HTTP status %d%s", url, status,
                           status >= 300 && status < 400 ? ", a redirect, which is not followed" :
                           status == 401 || status == 403 ? ", it refuses us or the token" :
                           status == 404 ? ", there is none (yet)" : "");
}

/* One request, at the first address that can be reached. */
static int ask(const MetadataService *m, HttpFunction http, uint64_t deadline_usec, const char *path, HttpRequest *q,
               HttpReply *ret, char **reterr) {
        int r = -EHOSTUNREACH;

        for (size_t i = 0; i < ELEMENTSOF(m->addresses) && m->addresses[i] && r == -EHOSTUNREACH; i++) {
                _cleanup_(freep) char *url = NULL, *why = NULL;
                uint64_t now = now_usec(CLOCK_MONOTONIC);

                free(*reterr);
                *reterr = NULL;
                if (now >= deadline_usec)
                        return error_text(reterr, -EAGAIN, "there is no time left to ask");
                if (asprintf(&url, "http://%s%s", m->addresses[i], path) < 0)
                        return -ENOMEM;

                q->url = url;
                q->reply_header = m->reply_header;
                q->timeout_usec = MIN(deadline_usec - now, REQUEST_TIMEOUT_USEC);
                r = http(q, ret, &why);
                if (r < 0) {
                        if (r == -ETIMEDOUT || r == -ECONNRESET || r == -EBADMSG)
                                r = -EAGAIN;
                        (void) error_text(reterr, r, "'%s': %s", url, why ?: strerror(-r));
                        continue;
                }

                r = check_status(ret->status, url, reterr);
                if (r < 0)
                        ret->body = erase_free(ret->body, ret->size);
        }
        return r;
}

static int ask_token(const MetadataService *m, HttpFunction http, uint64_t deadline_usec, char **ret, char **reterr) {
        const char *headers[METADATA_HEADERS_MAX + 3] = {};
        HttpRequest q = { .method = "PUT", .headers = headers, .body = strempty(m->token_body), .size_max = TOKEN_SIZE_MAX * 2 };
        HttpReply reply;
        size_t n = 0;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(m->headers) && m->headers[i]; i++)
                headers[n++] = m->headers[i];
        for (size_t i = 0; i < ELEMENTSOF(m->token_headers) && m->token_headers[i]; i++)
                headers[n++] = m->token_headers[i];

        r = ask(m, http, deadline_usec, m->token_path, &q, &reply, reterr);
        if (r < 0)
                return r;
        r = metadata_token(m, reply.body, reply.size, ret, reterr);
        erase_free(reply.body, reply.size);
        return r;
}

/* A token is fetched for each attempt: the one that was refused is not used again. */
int metadata_ask(const MetadataService *m, HttpFunction http, uint64_t deadline_usec,
                 char **ret, size_t *ret_size, char **reterr) {
        _cleanup_(erase_free_stringp) char *token = NULL, *token_header = NULL;
        const char *headers[METADATA_HEADERS_MAX + 2] = {};
        HttpRequest q = { .method = "GET", .headers = headers, .size_max = ANSWER_SIZE_MAX };
        HttpReply reply;
        size_t n = 0;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(m->headers) && m->headers[i]; i++)
                headers[n++] = m->headers[i];
        if (m->token_path) {
                r = ask_token(m, http, deadline_usec, &token, reterr);
                if (r < 0)
                        return r;
                if (asprintf(&token_header, "%s%s", m->token_header, token) < 0)
                        return -ENOMEM;
                headers[n++] = token_header;
        }

        r = ask(m, http, deadline_usec, m->path, &q, &reply, reterr);
        if (r < 0)
                return r;
        r = metadata_data(m, reply.body, reply.size, ret, ret_size, reterr);
        erase_free(reply.body, reply.size);
        return r;
}

int metadata_fetch(const MetadataService *m, uint64_t deadline_usec, char **ret, size_t *ret_size, char **reterr) {
        static HttpFunction http;               /* the module stays for the next attempt */

        if (!http) {
                void *module = dlopen(HTTP_MODULE, RTLD_NOW|RTLD_LOCAL);

                if (module)
                        http = (HttpFunction) dlsym(module, "http_request");
                if (!http)
                        return error_text(reterr, -ELIBACC, "%s", dlerror());
        }
        return metadata_ask(m, http, deadline_usec, ret, ret_size, reterr);
}
