/* SPDX-License-Identifier: Apache-2.0 */
/* Requests put together, replies taken apart: the part of the HTTP client that does no I/O. */
#include "cloud-http.h"
#include "cloud-http-text.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <stdio.h>
#include <strings.h>

#include "basic/parse.h"
#include "basic/util.h"
#include "cloud-config.h"

#define RETRY_AFTER_MAX (UINT64_C(3600) * USEC_PER_SEC)
#define FORM_MAX (UINT32_C(1) << 24)
#define DETAIL_MAX 700
#define TOKEN_CHARACTERS "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"    /* RFC 9110 section 5.6.2 */

int http_add_header(HttpRequest *request, const char *name, const char *value) {
        char *line;
        int n;

        if (isempty(name) || name[strspn(name, TOKEN_CHARACTERS)] != '\0' || (value && value[strcspn(value, "\r\n")] != '\0'))
                return -EINVAL;
        if (request->n_headers >= HTTP_HEADERS_MAX)
                return -E2BIG;

        /* libcurl(3): "Name:" suppresses a header, "Name;" sends an empty one (CURLOPT_HTTPHEADER). */
        if (isempty(value))
                n = asprintf(&line, "%s%c", name, value ? ';' : ':');
        else
                n = asprintf(&line, "%s: %s", name, value);
        if (n < 0)
                return -ENOMEM;

        request->headers[request->n_headers++] = line;
        return 0;
}

void http_request_done(HttpRequest *request) {
        while (request->n_headers > 0)
                erase_free_stringp(&request->headers[--request->n_headers]);
        erase_free_stringp(&request->signed_url);
}

void http_reply_done(HttpReply *reply) {
        reply->body = erase_free(reply->body, reply->size);
        if (reply->headers)
                erase_free_stringp(&reply->headers);
        *reply = (HttpReply) {};
}

/* The value of a line "Name: value", or NULL if it is another's. */
static const char* header_value(const char *line, size_t size, const char *name, size_t *ret_size) {
        size_t n = strlen(name);
        const char *end = line + size;

        if (size <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
                return NULL;
        line += n + 1;
        while (line < end && (*line == ' ' || *line == '\t'))
                line++;
        while (end > line && strchr(" \t\r", end[-1]))
                end--;
        *ret_size = (size_t) (end - line);
        return line;
}

int http_reply_header(const HttpReply *reply, const char *name, char **ret) {
        const char *found = NULL;
        size_t found_size = 0;

        for (const char *line = strempty(reply->headers); *line;) {
                size_t size = strcspn(line, "\n"), value_size;
                const char *value = header_value(line, size, name, &value_size);

                if (value) {
                        found = value;
                        found_size = value_size;
                }
                line += size + (line[size] == '\n');
        }
        if (!found)
                return 0;
        *ret = strndup(found, found_size);
        return *ret ? 1 : -ENOMEM;
}

uint64_t http_retry_after(const HttpReply *reply, uint64_t realtime_usec) {
        _cleanup_(freep) char *value = NULL;
        uint64_t seconds, at;
        time_t date;
        int r;

        if (http_reply_header(reply, "Retry-After", &value) <= 0)
                return 0;
        r = parse_u64(value, &seconds);
        if (r == -ERANGE)
                return RETRY_AFTER_MAX;
        if (r == 0)
                return MIN(seconds, RETRY_AFTER_MAX / USEC_PER_SEC) * USEC_PER_SEC;

        date = curl_getdate(value, NULL);
        if (date <= 0)
                return 0;
        at = (uint64_t) date > UINT64_MAX / USEC_PER_SEC ? UINT64_MAX : (uint64_t) date * USEC_PER_SEC;
        return at > realtime_usec ? MIN(at - realtime_usec, RETRY_AFTER_MAX) : 0;
}

static bool address_is_near(const char *host) {
        struct in6_addr six;
        struct in_addr four;

        if (inet_pton(AF_INET, host, &four) == 1) {
                uint32_t a = ntohl(four.s_addr);

                /* 100.100.100.200: Alibaba Cloud's metadata service; Azure's 168.63.129.16 is one, too. */
                return a >> 24 == 127 || a >> 16 == 0xa9fe || a == 0x646464c8 || a == 0xa83f8110;
        }
        if (inet_pton(AF_INET6, host, &six) == 1)
                return IN6_IS_ADDR_LOOPBACK(&six) || IN6_IS_ADDR_LINKLOCAL(&six) ||
                        /* fd00:ec2::254: AWS's metadata service */
                        memcmp(&six, "\xfd\x00\x0e\xc2\0\0\0\0\0\0\0\0\0\0\x02\x54", sizeof(six)) == 0;
        return false;
}

bool http_url_is_near(const char *url) {
        CURLU *u = curl_url();
        char *host = NULL;
        bool near = false;

        if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
                size_t n = strlen(host);

                if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
                        host[n - 1] = '\0';
                        near = address_is_near(host + 1);
                } else
                        near = strcasecmp(host, "localhost") == 0 || strcasecmp(host, "metadata.google.internal") == 0 ||
                                address_is_near(host);
        }
        curl_free(host);
        curl_url_cleanup(u);
        return near;
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

static PeerpodErrorKind kind_by_status(int status) {
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
        _cleanup_(freep) char *plain_detail = NULL, *plain_code = NULL;

        plain_detail = text_make_plain(isempty(detail) ? "the request failed" : detail, DETAIL_MAX);
        plain_code = text_make_plain(strempty(code), 128);
        if (!plain_detail || !plain_code)
                return oom(error);
        return peerpod_error_set(error, kind_by_status(reply->status), "%s: %s (%s%sHTTP %d)", what, plain_detail, plain_code,
                                 isempty(plain_code) ? "" : ", ", reply->status);
}

static bool is_unreserved(char c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c != '\0' && strchr("-_.~", c));
}

char* url_escape(const char *s) {
        static const char hex[] = "0123456789ABCDEF";
        char *ret = new0(char, strlen(s) * 3 + 1), *p = ret;

        if (!ret)
                return NULL;
        for (; *s; s++)
                if (is_unreserved(*s))
                        *p++ = *s;
                else {
                        *p++ = '%';
                        *p++ = hex[(uint8_t) *s >> 4];
                        *p++ = hex[(uint8_t) *s & 15];
                }
        *p = '\0';
        return ret;
}

void form_add(Form *f, const char *key, const char *value) {
        _cleanup_(freep) char *k = NULL;
        _cleanup_(erase_free_stringp) char *v = NULL;
        size_t size;
        char *text;

        if (!value || f->failed)
                return;
        k = url_escape(key);
        v = url_escape(value);
        f->failed = true;
        if (!k || !v)
                return;
        size = f->size + (f->size > 0) + strlen(k) + 1 + strlen(v);
        if (size > FORM_MAX)
                return;
        text = malloc(size + 1);        /* no realloc(), which would leave the old bytes behind */
        if (!text)
                return;
        (void) snprintf(text, size + 1, "%s%s%s=%s", strempty(f->text), f->size > 0 ? "&" : "", k, v);
        (void) erase_free(f->text, f->size);
        *f = (Form) { .text = text, .size = size };
}

void form_addf(Form *f, const char *key, const char *format, ...) {
        _cleanup_(erase_free_stringp) char *value = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&value, format, ap);
        va_end(ap);
        if (n < 0) {
                value = NULL;
                f->failed = true;
                return;
        }
        form_add(f, key, value);
}

const char* form_text(const Form *f) {
        return f->failed ? NULL : strempty(f->text);
}

void form_done(Form *f) {
        (void) erase_free(f->text, f->size);
        *f = (Form) {};
}
