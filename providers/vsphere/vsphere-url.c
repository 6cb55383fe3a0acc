/* SPDX-License-Identifier: Apache-2.0 */
/* GOVC_URL as vmware/govmomi's soap.ParseURL() reads it: the scheme is https, the path is /sdk, where they are not said. */
#include <curl/curl.h>

#include "basic/util.h"
#include "vsphere.h"

DEFINE_CLEANUP(CURLU*, curl_url_cleanup);

int vsphere_url(const char *value, char **ret) {
        _cleanup_(curl_url_cleanupp) CURLU *u = curl_url();
        _cleanup_(freep) char *copy = NULL;
        char *scheme = NULL, *path = NULL, *url = NULL;
        CURLUcode c;
        bool good;

        if (!u)
                return -ENOMEM;
        c = curl_url_set(u, CURLUPART_URL, value, CURLU_DEFAULT_SCHEME);
        if (c == CURLUE_OK)
                c = curl_url_get(u, CURLUPART_SCHEME, &scheme, 0);
        if (c == CURLUE_OK)
                c = curl_url_get(u, CURLUPART_PATH, &path, 0);
        good = c == CURLUE_OK && (streq(scheme, "https") || streq(scheme, "http"));
        if (good) {
                for (size_t n = strlen(path); n > 0 && path[n - 1] == '/'; n--)
                        path[n - 1] = '\0';
                c = curl_url_set(u, CURLUPART_PATH, isempty(path) ? "/sdk" : path, 0);
        }
        /* Who logs in is said by other settings; upstream, too, leaves it out. */
        if (c == CURLUE_OK)
                c = curl_url_set(u, CURLUPART_USER, NULL, 0);
        if (c == CURLUE_OK)
                c = curl_url_set(u, CURLUPART_PASSWORD, NULL, 0);
        if (c == CURLUE_OK)
                c = curl_url_get(u, CURLUPART_URL, &url, 0);
        copy = c == CURLUE_OK ? strdup(url) : NULL;
        curl_free(scheme);
        curl_free(path);
        curl_free(url);
        if (c == CURLUE_OUT_OF_MEMORY || (c == CURLUE_OK && !copy))
                return -ENOMEM;
        if (!good || c != CURLUE_OK)
                return -EINVAL;
        *ret = TAKE_PTR(copy);
        return 0;
}
