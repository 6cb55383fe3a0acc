/* SPDX-License-Identifier: Apache-2.0 */
/* A Secret with the input as its docker configuration: what is made of it has an auth for each registry and nothing else, and is read again as
 * the same. */
#include "basic/json.h"
#include "basic/util.h"
#include "kube/kube-object.h"
#include "kube/node/pull-secrets.h"
#include "userdata/encode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_object* make_secret(const char *key, const void *data, size_t size) {
        _cleanup_(freep) char *encoded = NULL;
        json_object *secret = json_object_new_object(), *map = json_object_new_object();
        int r;

        assert(secret && map);
        r = base64_encode(data, size, &encoded);
        assert(r >= 0);
        r = json_set_string(map, key, encoded);
        assert(r >= 0);
        r = json_set(secret, "data", map);
        assert(r >= 0);
        return secret;
}

static void check(const char *key, const void *data, size_t size) {
        _cleanup_(json_object_putp) json_object *secret = make_secret(key, data, size), *auths = json_object_new_object();
        _cleanup_(json_object_putp) json_object *secret_again = NULL, *auths_again = json_object_new_object();
        _cleanup_(freep) char *text = NULL, *again = NULL;
        int r, n;

        assert(auths && auths_again);
        n = pull_secret_merge(secret, auths);
        assert(n >= 0 || n == -ENOENT || n == -EBADMSG || n == -E2BIG);
        assert(json_object_object_length(auths) <= (int) PULL_REGISTRIES_MAX);
        r = auth_json_format(auths, &text);
        assert(r >= 0 || r == -E2BIG);
        if (r < 0 || !text)
                return;

        secret_again = make_secret(".dockerconfigjson", text, strlen(text));
        r = pull_secret_merge(secret_again, auths_again);
        assert(r == json_object_object_length(auths));
        r = auth_json_format(auths_again, &again);
        assert(r >= 0 && streq(text, again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        check(".dockerconfigjson", data, size);
        check(".dockercfg", data, size);
        return 0;
}
