/* SPDX-License-Identifier: Apache-2.0 */
/* Where the pool's state is: a ConfigMap that all nodes share, or a file of this node's.
 *
 * A change is always worked out on the state that it replaces: read, change, write under that state's resourceVersion, and all of it again
 * on a conflict. So two nodes never overwrite each other's allocation. Only a map that is not there (404) may be made. */
#include <fcntl.h>
#include <sys/random.h>

#include "basic/io.h"
#include "basic/util.h"
#include "byom-provider.h"
#include "cloud-config.h"

#define STATE_MAX (UINT32_C(1) << 20)
#define KEY "allocation-state"
#define TOKEN_MAX 65536
#define PAUSE_MIN (5 * USEC_PER_MSEC)
#define PAUSE_MAX (500 * USEC_PER_MSEC)

static int bad_state(const Byom *b, const char *why, PeerpodError *error) {
        return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION,
                                 "The pool's state in %s '%s' is damaged (%s); put it right, nothing is given out until then.",
                                 b->api_url ? "ConfigMap" : "file", b->api_url ? b->configmap : b->file, why ?: "no memory");
}

static int parse_state(const Byom *b, const char *text, size_t size, json_object **ret, PeerpodError *error) {
        _cleanup_(freep) char *why = NULL;
        int r = state_parse(text, size, ret, &why);

        return r < 0 ? bad_state(b, why, error) : 0;
}

/* Kubernetes. */

static int authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error) {
        _cleanup_(freep) char *path = NULL;
        _cleanup_(erase_free_stringp) char *token = NULL, *value = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        const Byom *b = userdata;
        int r;

        /* Each time anew: the kubelet replaces it (and it is a symbolic link). */
        if (asprintf(&path, "%s/token", b->account) < 0)
                return oom(error);
        fd = open(path, O_RDONLY|O_CLOEXEC);
        r = fd < 0 ? -errno : read_full_fd(fd, TOKEN_MAX, &token, NULL);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The service account's token '%s' cannot be read: %s", path, strerror(-r));
        token[strcspn(token, "\r\n")] = '\0';
        if (asprintf(&value, "Bearer %s", token) < 0)
                return oom(error);
        r = http_add_header(request, "Authorization", value);
        return r < 0 ? peerpod_error_set(error, PEERPOD_E_UNAUTHENTICATED, "The token in '%s' is not one.", path) : 0;
}

static int status_error(const HttpReply *reply, const char *what, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *reason = NULL, *message = NULL;

        if (json_parse(reply->body, reply->size, &o, NULL) >= 0) {
                (void) json_get_string(o, "reason", &reason, NULL);
                (void) json_get_string(o, "message", &message, NULL);
        }
        return http_error(error, what, reply, reason, message);
}

/* @name: NULL for the collection */
static int api_request(Byom *b, const PeerpodCall *call, const char *method, const char *name, bool dry, const char *body, HttpReply *ret,
                       PeerpodError *error) {
        const CloudApi api = { .authorize = authorize, .userdata = b };
        HttpRequest request = { .api = &api, .method = method, .what = "ConfigMap of the pool", .body = body, .body_size = body ? strlen(body) : 0,
                                /* The resourceVersion, and the name, let a repetition do nothing: it is a conflict then. */
                                .repeatable = true, .reply_max = 4 * STATE_MAX, .timeout_usec = 15 * USEC_PER_SEC };
        _cleanup_(freep) char *url = NULL;
        int r;

        if (asprintf(&url, "%s/api/v1/namespaces/%s/configmaps%s%s%s", b->api_url, b->namespace, name ? "/" : "", strempty(name),
                     dry ? "?dryRun=All" : "") < 0)
                return oom(error);
        request.url = url;
        r = http_add_header(&request, "Accept", "application/json");
        if (r == 0 && body)
                r = http_add_header(&request, "Content-Type", "application/json");
        r = r < 0 ? oom(error) : cloud_http_perform(b->http, call, &request, ret, NULL, error);
        http_request_done(&request);
        return r;
}

/* @ret_map: the whole object, or NULL if there is none yet */
static int map_read(Byom *b, const PeerpodCall *call, json_object **ret_map, json_object **ret_state, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *map = NULL, *state = NULL;
        _cleanup_(http_reply_done) HttpReply reply = {};
        json_object *data = NULL;
        const char *text;
        int r;

        r = api_request(b, call, "GET", b->configmap, false, NULL, &reply, error);
        if (r < 0)
                return r;
        if (reply.status == 404) {
                state = state_new();
                if (!state)
                        return oom(error);
        } else if (reply.status != 200)
                return status_error(&reply, "Reading the pool's state", error);
        else {
                if (json_parse(reply.body, reply.size, &map, NULL) < 0 || json_get_object(map, "data", &data, NULL) < 0)
                        return peerpod_error_set(error, PEERPOD_E_UNAVAILABLE, "Reading the pool's state: the reply is no ConfigMap.");
                r = data ? json_get_string(data, KEY, &text, NULL) : 0;
                if (r < 0)
                        return bad_state(b, "no text", error);
                if (r == 0) {
                        /* A map made by hand; but one of another kind is not taken for the pool's. */
                        if (data && json_object_object_length(data) > 0)
                                return bad_state(b, "it has no key '" KEY "'", error);
                        state = state_new();
                        if (!state)
                                return oom(error);
                } else {
                        r = parse_state(b, text, strlen(text), &state, error);
                        if (r < 0)
                                return r;
                }
        }
        *ret_map = TAKE_PTR(map);
        *ret_state = TAKE_PTR(state);
        return 0;
}

static json_object* map_new(const Byom *b) {
        json_object *o = json_object_new_object(), *meta = json_object_new_object(), *labels = json_object_new_object();

        if (!o || !meta || !labels)
                goto fail;
        if (json_set_string(labels, "app.kubernetes.io/name", "cloud-api-adaptor") < 0 ||
            json_set_string(labels, "app.kubernetes.io/component", "byom-ip-pool-state") < 0 || json_set_string(meta, "name", b->configmap) < 0 ||
            json_set_string(meta, "namespace", b->namespace) < 0 || json_set_string(o, "apiVersion", "v1") < 0 ||
            json_set_string(o, "kind", "ConfigMap") < 0)
                goto fail;
        if (json_set(meta, "labels", TAKE_PTR(labels)) < 0 || json_set(o, "metadata", TAKE_PTR(meta)) < 0)
                goto fail;
        return o;
fail:
        json_object_put(o);
        json_object_put(meta);
        json_object_put(labels);
        return NULL;
}

/* 1 written, 0 a conflict: read again, or a negative errno with *error set */
static int map_write(Byom *b, const PeerpodCall *call, json_object *map, json_object *state, bool dry, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *made = NULL;
        _cleanup_(http_reply_done) HttpReply reply = {};
        const char *text = state_text(state, b->addresses), *body;
        json_object *data = NULL;
        bool is_new = !map;
        int r;

        if (!text)
                return oom(error);
        if (strlen(text) > STATE_MAX)
                return peerpod_error_set(error, PEERPOD_E_EXHAUSTED, "The pool's state is larger than a ConfigMap can be.");
        if (is_new) {
                map = made = map_new(b);
                if (!map)
                        return oom(error);
        }
        if (json_get_object(map, "data", &data, NULL) <= 0) {
                data = json_object_new_object();
                if (json_set(map, "data", data) < 0)
                        return oom(error);
        }
        if (json_set_string(data, KEY, text) < 0)
                return oom(error);
        body = json_object_to_json_string_ext(map, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!body)
                return oom(error);
        r = api_request(b, call, is_new ? "POST" : "PUT", is_new ? NULL : b->configmap, dry, body, &reply, error);
        if (r < 0)
                return r;
        if (reply.status / 100 == 2)
                return 1;
        /* Conflict, or AlreadyExists; and it may have been deleted since it was read. */
        if (reply.status == 409 || (reply.status == 404 && !is_new))
                return 0;
        return status_error(&reply, "Writing the pool's state", error);
}

static uint64_t jitter(uint64_t max) {
        uint32_t n = 0;

        if (getrandom(&n, sizeof(n), GRND_NONBLOCK) != (ssize_t) sizeof(n))
                n = (uint32_t) (max / 2);
        return PAUSE_MIN + n % max;
}

static int map_change(Byom *b, const PeerpodCall *call, PoolChange change, void *userdata, PeerpodError *error) {
        for (uint64_t pause = PAUSE_MIN;; pause = MIN(pause * 2, PAUSE_MAX)) {
                _cleanup_(json_object_putp) json_object *map = NULL, *state = NULL;
                int r;

                r = map_read(b, call, &map, &state, error);
                if (r == 0)
                        r = change(userdata, state, error);
                if (r > 0) {
                        r = map_write(b, call, map, state, false, error);
                        if (r == 0) {
                                r = peerpod_call_wait(call, -1, 0, jitter(pause), error);
                                if (r < 0)
                                        return r;
                                continue;
                        }
                }
                return r < 0 ? r : 0;
        }
}

/* The file. */

static int file_read(Byom *b, json_object **ret, PeerpodError *error) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = read_full_file_at(AT_FDCWD, b->file, STATE_MAX, &text, &size);
        if (r == -ENOENT) {
                *ret = state_new();
                return *ret ? 0 : oom(error);
        }
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "The pool's state '%s' cannot be read: %s", b->file, strerror(-r));
        return parse_state(b, text, size, ret, error);
}

static int file_change(Byom *b, PoolChange change, void *userdata, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *state = NULL;
        int r;

        (void) pthread_mutex_lock(&b->file_lock);
        r = file_read(b, &state, error);
        if (r == 0)
                r = change(userdata, state, error);
        if (r > 0) {
                const char *text = state_text(state, b->addresses);

                if (!text)
                        r = oom(error);
                else {
                        r = write_file_atomic(b->file, text, strlen(text), 0600);
                        if (r < 0)
                                r = peerpod_error_set(error, PEERPOD_E_INTERNAL, "The pool's state '%s' cannot be written: %s", b->file, strerror(-r));
                }
        }
        (void) pthread_mutex_unlock(&b->file_lock);
        return r < 0 ? r : 0;
}

int pool_change(Byom *b, const PeerpodCall *call, PoolChange change, void *userdata, PeerpodError *error) {
        return b->api_url ? map_change(b, call, change, userdata, error) : file_change(b, change, userdata, error);
}

static int change_nothing(void *userdata, json_object *state, PeerpodError *error) {
        return 0;
}

int pool_check(Byom *b, const PeerpodCall *call, PeerpodError *error) {
        _cleanup_(json_object_putp) json_object *map = NULL, *state = NULL;
        int r;

        if (!b->api_url)
                return file_change(b, change_nothing, NULL, error);
        r = map_read(b, call, &map, &state, error);
        if (r == 0)
                r = map_write(b, call, map, state, true, error);
        return r < 0 ? r : 0;
}
