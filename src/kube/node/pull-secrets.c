/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/pull-secrets.h"

#include <json-c/linkhash.h>
#include <stdio.h>
#include <string.h>

#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/kube-object.h"
#include "userdata/decode.h"
#include "userdata/encode.h"

#define REGISTRY_MAX 512U       /* bytes of a registry's name, with a path where docker has one */

int pull_secret_names(json_object *list, char ***names) {
        size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

        for (size_t i = 0; i < n; i++) {
                const char *name = kube_string_at(json_object_array_get_idx(list, i), "name", NULL);
                int r;

                if (!kube_name_is_valid(name))
                        continue;
                if (strv_length(*names) >= PULL_SECRETS_MAX)
                        return -E2BIG;
                r = strv_extend(names, name);
                if (r < 0)
                        return r;
        }

        return 0;
}

/* base64("USERNAME:PASSWORD") */
static int make_auth(const char *username, const char *password, char **ret) {
        _cleanup_(erase_free_stringp) char *plain = NULL;

        if (asprintf(&plain, "%s:%s", username, password) < 0) {
                plain = NULL;
                return -ENOMEM;
        }
        return base64_encode(plain, strlen(plain), ret);
}

/* The "auth" of one registry, newly allocated. Returns 1, 0 (it has none), -EBADMSG, -ENOMEM. */
static int read_entry(json_object *entry, char **ret) {
        const char *auth = "", *username = "", *password = "";
        int r;

        if (!json_object_is_type(entry, json_type_object))
                return -EBADMSG;
        r = json_get_string(entry, "auth", &auth, /* ret_error= */ NULL);
        if (r >= 0)
                r = json_get_string(entry, "username", &username, /* ret_error= */ NULL);
        if (r >= 0)
                r = json_get_string(entry, "password", &password, /* ret_error= */ NULL);
        if (r < 0)
                return r;

        if (!isempty(auth)) {
                *ret = strdup(auth);
                return *ret ? 1 : -ENOMEM;
        }
        if (isempty(username) || isempty(password))
                return 0;
        r = make_auth(username, password, ret);
        return r < 0 ? r : 1;
}

static int add_registry(json_object *auths, const char *registry, const char *auth) {
        json_object *o;
        int r;

        if (!json_object_object_get_ex(auths, registry, NULL) && json_object_object_length(auths) >= (int) PULL_REGISTRIES_MAX)
                return -E2BIG;
        o = json_object_new_object();
        if (!o)
                return -ENOMEM;
        r = json_set_string(o, "auth", auth);
        if (r < 0) {
                json_object_put(o);
                return r;
        }
        return json_set(auths, registry, o);
}

static int merge_map(json_object *map, json_object *auths) {
        int n = 0;

        json_object_object_foreach(map, registry, entry) {
                _cleanup_(erase_free_stringp) char *auth = NULL;
                int r;

                if (isempty(registry) || !text_is_plain(registry, REGISTRY_MAX))
                        return -EBADMSG;
                r = read_entry(entry, &auth);
                if (r < 0)
                        return r;
                if (r == 0)
                        continue;
                if (!text_is_plain(auth, AUTH_JSON_SIZE_MAX))
                        return -EBADMSG;
                r = add_registry(auths, registry, auth);
                if (r < 0)
                        return r;
                n++;
        }

        return n;
}

/* Text of a value below "data". Returns 1, 0 (there is none of that name), -EBADMSG, -ENOMEM. */
static int parse_data(json_object *secret, const char *key, json_object **ret) {
        const char *encoded = kube_string_at(secret, "data", key, NULL);
        char *text;
        size_t size;
        int r;

        if (isempty(encoded))
                return 0;
        r = base64_decode(encoded, strlen(encoded), &text, &size);
        if (r < 0)
                return r;
        r = json_parse(text, size, ret, /* ret_error= */ NULL);
        erase_free(text, size);
        return r < 0 ? r : 1;
}

int pull_secret_merge(json_object *secret, json_object *auths) {
        _cleanup_(json_object_putp) json_object *config = NULL;
        json_object *map = NULL;
        int r;

        r = parse_data(secret, ".dockerconfigjson", &config);
        if (r < 0)
                return r;
        if (r > 0) {
                r = json_get_object(config, "auths", &map, /* ret_error= */ NULL);
                return r <= 0 ? r : merge_map(map, auths);
        }

        r = parse_data(secret, ".dockercfg", &config);
        if (r < 0)
                return r;
        return r == 0 ? -ENOENT : merge_map(config, auths);
}

int auth_json_format(json_object *auths, char **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *text;
        int r;

        if (json_object_object_length(auths) == 0) {
                *ret = NULL;
                return 0;
        }
        o = json_object_new_object();
        if (!o)
                return -ENOMEM;
        r = json_set(o, "auths", json_object_get(auths));
        if (r < 0)
                return r;
        text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return -ENOMEM;
        if (strlen(text) > AUTH_JSON_SIZE_MAX)
                return -E2BIG;

        *ret = strdup(text);
        return *ret ? 0 : -ENOMEM;
}
