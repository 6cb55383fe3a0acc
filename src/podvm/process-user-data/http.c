/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/http.h"

#include <curl/curl.h>
#include <stdio.h>

#include "basic/util.h"

#define CONNECT_TIMEOUT_USEC (5 * USEC_PER_SEC)

DEFINE_CLEANUP(CURL*, curl_easy_cleanup);
DEFINE_CLEANUP(struct curl_slist*, curl_slist_free_all);

typedef struct Body {
        char *data;
        size_t size, size_max;
        bool too_big;
} Body;

static void body_done(Body *b) {
        b->data = erase_free(b->data, b->size);
}

static size_t on_body(char *data, size_t unit, size_t n, void *userdata) {
        Body *b = userdata;

        assert(unit == 1);
        if (n > b->size_max - b->size) {
                b->too_big = true;
                return CURL_WRITEFUNC_ERROR;
        }
        memcpy(b->data + b->size, data, n);
        b->size += n;
        return n;
}

static int add_header(struct curl_slist **list, const char *header) {
        struct curl_slist *longer = curl_slist_append(*list, header);

        if (!longer)
                return -ENOMEM;
        *list = longer;
        return 0;
}

static long msec(uint64_t usec) {
        return (long) (MIN(usec, 3600 * USEC_PER_SEC) / USEC_PER_MSEC) ?: 1;
}

static bool prepare(CURL *c, const HttpRequest *q, struct curl_slist *headers, Body *body, char *words) {
        return curl_easy_setopt(c, CURLOPT_URL, q->url) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http") == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_PROXY, "") == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, q->method) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
                (!q->body || curl_easy_setopt(c, CURLOPT_POSTFIELDS, q->body) == CURLE_OK) &&
                curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, msec(MIN(q->timeout_usec, CONNECT_TIMEOUT_USEC))) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, msec(q->timeout_usec)) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t) q->size_max) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_WRITEDATA, body) == CURLE_OK &&
                curl_easy_setopt(c, CURLOPT_ERRORBUFFER, words) == CURLE_OK;
}

static int refuse(char **reterr, int error, const char *text) {
        *reterr = strdup(text);
        return error;
}

static int explain(CURL *c, CURLcode code, const Body *body, const char *words, char **reterr) {
        curl_off_t connected = 0;

        if (code == CURLE_OUT_OF_MEMORY)
                return -ENOMEM;
        if (code == CURLE_FILESIZE_EXCEEDED || body->too_big)
                return refuse(reterr, -E2BIG, "the answer is too big");

        (void) curl_easy_getinfo(c, CURLINFO_CONNECT_TIME_T, &connected);
        return refuse(reterr,
                      connected == 0 ? -EHOSTUNREACH : code == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -ECONNRESET,
                      isempty(words) ? curl_easy_strerror(code) : words);
}

/* @wanted is "Name: value". */
static bool has_header(CURL *c, const char *wanted) {
        size_t n = strcspn(wanted, ":");
        _cleanup_(freep) char *name = strndup(wanted, n);
        struct curl_header *h;

        return name && curl_easy_header(c, name, 0, CURLH_HEADER, -1, &h) == CURLHE_OK && streq(h->value, wanted + n + 2);
}

__attribute__((visibility("default")))
int http_request(const HttpRequest *q, HttpReply *ret, char **reterr) {
        _cleanup_(curl_slist_free_allp) struct curl_slist *headers = NULL;
        _cleanup_(curl_easy_cleanupp) CURL *c = NULL;
        _cleanup_(body_done) Body body = { .size_max = q->size_max };
        char words[CURL_ERROR_SIZE] = "";
        CURLcode code;
        long status;
        int r;

        body.data = malloc(q->size_max + 1);
        c = curl_easy_init();
        if (!body.data || !c)
                return -ENOMEM;

        /* What libcurl would add by itself to a request with a body; ours say what they are. */
        r = add_header(&headers, "Content-Type:");
        for (size_t i = 0; r >= 0 && q->headers && q->headers[i]; i++)
                r = add_header(&headers, q->headers[i]);
        if (r < 0 || !prepare(c, q, headers, &body, words))
                return -ENOMEM;

        code = curl_easy_perform(c);
        if (code != CURLE_OK)
                return explain(c, code, &body, words, reterr);
        if (curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status) != CURLE_OK)
                return -ENOMEM;
        if (q->reply_header && !has_header(c, q->reply_header))
                return refuse(reterr, -EBADMSG, "the answer comes from somebody else");

        body.data[body.size] = '\0';
        *ret = (HttpReply) { .status = (int) status, .body = TAKE_PTR(body.data), .size = body.size };
        return 0;
}
