/* SPDX-License-Identifier: Apache-2.0 */
#include "ibmcloud.h"

#include <json-c/json.h>
#include <stdarg.h>

#include "basic/util.h"
#include "cloud-config.h"

/* The dates for which we know the API; TDX and secure boot need 2024-07-02 (IBM/vpc-java-sdk). */
#define VERSION "2026-03-24"
#define PAGES_MAX 1000
#define TOKEN_MAX 1024

char* vpc_url(const Vpc *v, const char *format, ...) {
        _cleanup_(freep) char *rest = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vasprintf(&rest, format, ap);
        va_end(ap);
        if (r < 0) {
                rest = NULL;
                return NULL;
        }
        return ibm_url(v->vpc_url, "%s%cversion=" VERSION "&generation=2", rest, strchr(rest, '?') ? '&' : '?');
}

int vpc_get(Vpc *v, const PeerpodCall *call, const char *what, char *url, IbmReply *ret, PeerpodError *error) {
        int r = ibm_call(&v->api, call, &(IbmRequest) { .method = "GET", .what = what, .url = url }, ret, error);

        if (r == 0 && !ret->body)
                return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer is empty.", what);
        return r;
}

int vpc_delete(Vpc *v, const PeerpodCall *call, const char *what, char *url, IbmReply *ret, PeerpodError *error) {
        return ibm_call(&v->api, call, &(IbmRequest) { .method = "DELETE", .what = what, .url = url }, ret, error);
}

/* Of the next page's address only the token is taken: the rest is ours to say. */
static int next_start(json_object *body, char **ret) {
        const char *href = json_path_string(body, "next.href", ""), *start = strstr(href, "?start=") ?: strstr(href, "&start=");
        size_t n;

        *ret = NULL;
        if (!start)
                return 0;
        start += strlen("?start=");
        n = strcspn(start, "&#");
        if (n == 0 || n > TOKEN_MAX || strspn(start, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~%+-=") < n)
                return -EBADMSG;
        *ret = strndup(start, n);
        return *ret ? 1 : -ENOMEM;
}

static int each(json_object *body, const char *key, VpcItem item, void *userdata) {
        json_object *items;
        int r = 0;

        if (json_get_array(body, key, &items, NULL) <= 0)
                return -EBADMSG;
        for (size_t i = 0; i < json_object_array_length(items) && r == 0; i++) {
                json_object *o = json_object_array_get_idx(items, i);

                r = json_object_is_type(o, json_type_object) ? item(userdata, o) : -EBADMSG;
        }
        return r;
}

int vpc_list(Vpc *v, const PeerpodCall *call, const char *what, const char *path, const char *query, const char *key, VpcItem item,
             void *userdata, PeerpodError *error) {
        _cleanup_(freep) char *start = NULL;

        for (unsigned page = 0; page < PAGES_MAX; page++) {
                _cleanup_(ibm_reply_done) IbmReply reply = {};
                int r;

                r = vpc_get(v, call, what, vpc_url(v, "%s?%s%s%s", path, query, start ? "&start=" : "", strempty(start)), &reply, error);
                if (r < 0)
                        return r;
                r = each(reply.body, key, item, userdata);
                if (r > 0)
                        return 0;
                if (r < 0 && r != -EBADMSG && r != -ENOMEM)
                        return r;
                free(TAKE_PTR(start));
                if (r == 0)
                        r = next_start(reply.body, &start);
                if (r == -EBADMSG)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: the answer is not as the API says.", what);
                if (r < 0)
                        return oom(error);
                if (r == 0)
                        return 0;
        }
        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "%s: more than %d pages.", what, PAGES_MAX);
}
