/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/kube-object.h"

#include <gnutls/crypto.h>
#include <json-c/json_object.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "basic/error-text.h"
#include "basic/util.h"

#define NAME_MAX_SIZE 253
#define HASH_DIGITS 10

/* ---- paths ---- */

/* RFC 3986, unreserved */
static char* put_escaped(char *p, const char *s) {
        static const char digits[] = "0123456789ABCDEF";

        for (; *s; s++) {
                unsigned char c = (unsigned char) *s;

                if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || strchr("-_.~", c))
                        *p++ = (char) c;
                else {
                        *p++ = '%';
                        *p++ = digits[c >> 4];
                        *p++ = digits[c & 15];
                }
        }
        *p = '\0';
        return p;
}

static char* put_part(char *p, const char *part) {
        *p++ = '/';
        return put_escaped(p, part);
}

char* kube_path(const char *group_version, const char *ns, const char *plural, const char *name, const char *subresource) {
        const char *parts[] = { ns, plural, name, subresource };
        size_t size = sizeof("/apis//namespaces") + strlen(group_version);
        char *path, *p;

        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                size += 1 + 3 * strlen(strempty(parts[i]));
        path = malloc(size);
        if (!path)
                return NULL;

        p = path + sprintf(path, "/%s/%s", strchr(group_version, '/') ? "apis" : "api", group_version);
        if (ns)
                p = put_part(stpcpy(p, "/namespaces"), ns);
        p = put_part(p, plural);
        if (name)
                p = put_part(p, name);
        if (name && subresource)
                (void) put_part(p, subresource);
        return path;
}

int kube_query_add(char **path, const char *key, const char *value) {
        size_t n = strlen(*path);
        char *bigger, *p;

        if (!value)
                return 0;
        bigger = malloc(n + 3 * (strlen(key) + strlen(value)) + 3);
        if (!bigger)
                return -ENOMEM;
        p = stpcpy(bigger, *path);
        *p++ = strchr(*path, '?') ? '&' : '?';
        p = put_escaped(p, key);
        *p++ = '=';
        (void) put_escaped(p, value);
        free(*path);
        *path = bigger;
        return 0;
}

/* ---- reading ---- */

static int get_string(json_object *meta, const char *key, const char **ret, char **reterr) {
        const char *s = "";
        int r = json_get_string(meta, key, &s, reterr);

        *ret = s;
        return r < 0 ? r : 0;
}

int kube_meta(json_object *object, KubeMeta *ret, char **reterr) {
        json_object *meta = NULL;
        KubeMeta m = {};
        const char *deletion = "";
        int r;

        r = json_get_object(object, "metadata", &meta, reterr);
        if (r < 0)
                return r;
        if (r == 0)
                return error_text(reterr, -EBADMSG, "the object has no metadata");
        struct {
                const char *key;
                const char **ret;
        } strings[] = {
                { "namespace", &m.ns }, { "name", &m.name }, { "uid", &m.uid }, { "resourceVersion", &m.resource_version },
                { "generateName", &m.generate_name }, { "creationTimestamp", &m.creation_timestamp }, { "deletionTimestamp", &deletion },
        };
        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                r = get_string(meta, strings[i].key, strings[i].ret, reterr);
                if (r < 0)
                        return r;
        }
        if (isempty(m.name))
                return error_text(reterr, -EBADMSG, "the object has no name");
        m.deleting = !isempty(deletion);
        if ((r = json_get_object(meta, "labels", &m.labels, reterr)) < 0 || (r = json_get_object(meta, "annotations", &m.annotations, reterr)) < 0 ||
            (r = json_get_array(meta, "finalizers", &m.finalizers, reterr)) < 0 ||
            (r = json_get_array(meta, "ownerReferences", &m.owner_references, reterr)) < 0)
                return r;
        *ret = m;
        return 0;
}

/* Index of a string in an array; -1. */
static ssize_t find_string(json_object *array, const char *s) {
        for (size_t i = 0; array && i < json_object_array_length(array); i++) {
                json_object *v = json_object_array_get_idx(array, i);

                if (json_object_is_type(v, json_type_string) && streq(json_object_get_string(v), s))
                        return (ssize_t) i;
        }
        return -1;
}

bool kube_has_finalizer(const KubeMeta *meta, const char *finalizer) {
        return find_string(meta->finalizers, finalizer) >= 0;
}

static json_object* object_at(json_object *object, const char *key, va_list ap) {
        for (; object && key; key = va_arg(ap, const char*))
                if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, &object))
                        return NULL;
        return object;
}

json_object* kube_object_at(json_object *object, const char *key, ...) {
        va_list ap;

        va_start(ap, key);
        object = object_at(object, key, ap);
        va_end(ap);
        return object;
}

const char* kube_string_at(json_object *object, const char *key, ...) {
        va_list ap;

        va_start(ap, key);
        object = object_at(object, key, ap);
        va_end(ap);
        if (!json_object_is_type(object, json_type_string) || strlen(json_object_get_string(object)) != (size_t) json_object_get_string_len(object))
                return "";
        return json_object_get_string(object);
}

/* ---- making ---- */

json_object* kube_object_new(const char *api_version, const char *kind, const char *ns, const char *name) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        json_object *meta;

        if (!o || json_set_string(o, "apiVersion", api_version) < 0 || json_set_string(o, "kind", kind) < 0 ||
            json_set(o, "metadata", json_object_new_object()) < 0)
                return NULL;
        meta = json_object_object_get(o, "metadata");
        if (json_set_string(meta, "name", name) < 0 || json_set_string(meta, "namespace", ns) < 0)
                return NULL;
        return TAKE_PTR(o);
}

/* RFC 6901: "~" is "~0", "/" is "~1". Newly allocated. */
static char* make_pointer(const char *key, va_list ap) {
        char *path = strdup("");

        for (; path && key; key = va_arg(ap, const char*)) {
                size_t n = strlen(path);
                char *bigger = realloc(path, n + 2 + 2 * strlen(key)), *p;

                if (!bigger) {
                        free(path);
                        return NULL;
                }
                path = bigger;
                p = path + n;
                *p++ = '/';
                for (const char *s = key; *s; s++)
                        if (*s == '~' || *s == '/') {
                                *p++ = '~';
                                *p++ = *s == '~' ? '0' : '1';
                        } else
                                *p++ = *s;
                *p = '\0';
        }
        return path;
}

static int add_op(json_object **patch, const char *op, json_object *value, const char *path) {
        _cleanup_(json_object_putp) json_object *owned = value;
        json_object *o;

        if (!*patch)
                *patch = json_object_new_array();
        o = *patch ? json_object_new_object() : NULL;
        if (!o)
                return -ENOMEM;
        if (json_object_array_add(*patch, o) < 0) {
                json_object_put(o);
                return -ENOMEM;
        }
        if (json_set_string(o, "op", op) < 0 || json_set_string(o, "path", path) < 0)
                return -ENOMEM;
        return owned ? json_set(o, "value", TAKE_PTR(owned)) : 0;
}

int kube_patch_add_op(json_object **patch, const char *op, json_object *value, const char *key, ...) {
        _cleanup_(freep) char *path = NULL;
        va_list ap;

        va_start(ap, key);
        path = make_pointer(key, ap);
        va_end(ap);
        /* A value that its maker had no memory for. */
        if (!path || (!value && !streq(op, "remove"))) {
                json_object_put(value);
                return -ENOMEM;
        }
        return add_op(patch, op, value, path);
}

int kube_patch_remove_finalizer(json_object *object, const char *finalizer, json_object **ret) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        char index[24];
        KubeMeta meta;
        ssize_t i;
        int r;

        r = kube_meta(object, &meta, NULL);
        if (r < 0)
                return r;
        i = find_string(meta.finalizers, finalizer);
        if (i < 0)
                return 0;

        (void) snprintf(index, sizeof(index), "%zi", i);
        if ((r = kube_patch_add_op(&patch, "test", json_object_new_string(meta.uid), "metadata", "uid", NULL)) < 0 ||
            (r = kube_patch_add_op(&patch, "test", json_object_new_string(finalizer), "metadata", "finalizers", index, NULL)) < 0 ||
            (r = kube_patch_add_op(&patch, "remove", NULL, "metadata", "finalizers", index, NULL)) < 0)
                return r;
        *ret = TAKE_PTR(patch);
        return 1;
}

int kube_delete_options(const char *uid, const char *resource_version, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object(), *preconditions = json_object_new_object();
        int r;

        if (!o || !preconditions)
                return -ENOMEM;
        if ((r = json_set_string(o, "apiVersion", "v1")) < 0 || (r = json_set_string(o, "kind", "DeleteOptions")) < 0 ||
            (r = json_set_string(o, "propagationPolicy", "Background")) < 0 || (r = json_set_string(preconditions, "uid", uid)) < 0 ||
            (r = json_set_string(preconditions, "resourceVersion", resource_version)) < 0)
                return r;
        if (uid || resource_version) {
                r = json_set(o, "preconditions", TAKE_PTR(preconditions));
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(o);
        return 0;
}

/* ---- times ---- */

static void format_time(uint64_t realtime_usec, bool micro, char *ret) {
        /* What a time_t of the year 9999 has is the end of what RFC 3339 can say. */
        time_t t = (time_t) MIN(realtime_usec / USEC_PER_SEC, UINT64_C(253402300799));
        struct tm tm;
        size_t n;

        (void) gmtime_r(&t, &tm);
        n = strftime(ret, KUBE_TIME_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
        if (micro)
                (void) snprintf(ret + n, KUBE_TIME_SIZE - n, ".%06uZ", (unsigned) (realtime_usec % USEC_PER_SEC));
        else
                (void) snprintf(ret + n, KUBE_TIME_SIZE - n, "Z");
}

void kube_time_format(uint64_t realtime_usec, char ret[static KUBE_TIME_SIZE]) {
        format_time(realtime_usec, false, ret);
}

void kube_micro_time_format(uint64_t realtime_usec, char ret[static KUBE_TIME_SIZE]) {
        format_time(realtime_usec, true, ret);
}

/* Exactly @n digits; -1. */
static int digits(const char **s, unsigned n) {
        int value = 0;

        for (; n > 0; n--, (*s)++) {
                if (**s < '0' || **s > '9')
                        return -1;
                value = value * 10 + (**s - '0');
        }
        return value;
}

static bool skip(const char **s, const char *set) {
        if (!**s || !strchr(set, **s))
                return false;
        (*s)++;
        return true;
}

int kube_time_parse(const char *s, uint64_t *ret_usec) {
        struct tm tm = {};
        int64_t seconds, offset = 0;
        uint64_t usec = 0;

        if ((tm.tm_year = digits(&s, 4)) < 1970 || !skip(&s, "-") || (tm.tm_mon = digits(&s, 2)) < 1 || tm.tm_mon > 12 || !skip(&s, "-") ||
            (tm.tm_mday = digits(&s, 2)) < 1 || tm.tm_mday > 31 || !skip(&s, "Tt") || (tm.tm_hour = digits(&s, 2)) < 0 || tm.tm_hour > 23 ||
            !skip(&s, ":") || (tm.tm_min = digits(&s, 2)) < 0 || tm.tm_min > 59 || !skip(&s, ":") || (tm.tm_sec = digits(&s, 2)) < 0 || tm.tm_sec > 60)
                return -EINVAL;
        if (skip(&s, ".")) {
                uint64_t unit = USEC_PER_SEC / 10;

                if (*s < '0' || *s > '9')
                        return -EINVAL;
                for (; *s >= '0' && *s <= '9'; s++, unit /= 10)
                        usec += unit * (uint64_t) (*s - '0');
        }
        if (!skip(&s, "Zz")) {
                int sign = *s == '-' ? -1 : 1, hours, minutes;

                if (!skip(&s, "+-") || (hours = digits(&s, 2)) < 0 || hours > 23 || !skip(&s, ":") || (minutes = digits(&s, 2)) < 0 || minutes > 59)
                        return -EINVAL;
                offset = sign * (hours * 3600 + minutes * 60);
        }
        if (*s)
                return -EINVAL;
        tm.tm_year -= 1900;
        tm.tm_mon -= 1;
        seconds = (int64_t) timegm(&tm) - offset;
        if (seconds < 0)
                return -EINVAL;
        *ret_usec = (uint64_t) seconds * USEC_PER_SEC + usec;
        return 0;
}

/* ---- conditions ---- */

static json_object* find_condition(json_object *conditions, const char *type) {
        for (size_t i = 0; json_object_is_type(conditions, json_type_array) && i < json_object_array_length(conditions); i++) {
                json_object *c = json_object_array_get_idx(conditions, i);

                if (streq(kube_string_at(c, "type", NULL), type))
                        return c;
        }
        return NULL;
}

bool kube_condition_is(json_object *conditions, const char *type, const char *status) {
        json_object *c = find_condition(conditions, type);

        return c && streq(kube_string_at(c, "status", NULL), status);
}

int kube_condition_set(json_object **conditions, const char *type, const char *status, const char *reason, const char *message, int64_t generation,
                       uint64_t now_realtime_usec) {
        json_object *c;
        bool moved, changed;
        int r;

        if (!*conditions && !(*conditions = json_object_new_array()))
                return -ENOMEM;
        c = find_condition(*conditions, type);
        if (!c) {
                c = json_object_new_object();
                if (!c)
                        return -ENOMEM;
                if (json_object_array_add(*conditions, c) < 0) {
                        json_object_put(c);
                        return -ENOMEM;
                }
        }

        moved = !streq(kube_string_at(c, "status", NULL), status);
        changed = moved || !streq(kube_string_at(c, "reason", NULL), reason) || !streq(kube_string_at(c, "message", NULL), message) ||
                (generation > 0 && json_object_get_int64(kube_object_at(c, "observedGeneration", NULL)) != generation);
        if (!changed)
                return 0;
        if ((r = json_set_string(c, "type", type)) < 0 || (r = json_set_string(c, "status", status)) < 0 || (r = json_set_string(c, "reason", reason)) < 0 ||
            (r = json_set_string(c, "message", message)) < 0 || (generation > 0 && (r = json_set_u64(c, "observedGeneration", (uint64_t) generation)) < 0))
                return r;
        if (moved) {
                char now[KUBE_TIME_SIZE];

                kube_time_format(now_realtime_usec, now);
                r = json_set_string(c, "lastTransitionTime", now);
                if (r < 0)
                        return r;
        }
        return 1;
}

/* ---- names ---- */

static bool is_alphanumeric(char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool kube_name_is_valid(const char *name) {
        size_t n = strlen(name);

        if (n == 0 || n > NAME_MAX_SIZE)
                return false;
        for (size_t i = 0; i < n; i++) {
                bool edge = i == 0 || i == n - 1 || name[i - 1] == '.' || name[i + 1] == '.';

                if (!is_alphanumeric(name[i]) && (edge || (name[i] != '-' && name[i] != '.')))
                        return false;
        }
        return true;
}

char* kube_name_make(const char *base, const char *tail, size_t max) {
        size_t tail_size = tail ? 1 + strlen(tail) : 0, n = 0;
        _cleanup_(freep) char *name = NULL;
        char hash[HASH_DIGITS + 1];
        uint8_t digest[32];
        char *result = NULL;

        assert(max > tail_size + HASH_DIGITS + 1);
        if (kube_name_is_valid(base) && strlen(base) + tail_size <= max)
                return asprintf(&result, "%s%s%s", base, tail ? "-" : "", strempty(tail)) < 0 ? NULL : result;

        if (gnutls_hash_fast(GNUTLS_DIG_SHA256, base, strlen(base), digest) < 0)
                return NULL;
        for (size_t i = 0; i < HASH_DIGITS / 2; i++)
                (void) sprintf(hash + 2 * i, "%02x", digest[i]);
        name = strdup(base);
        if (!name)
                return NULL;
        for (const char *s = base; *s && n < max - tail_size - HASH_DIGITS - 1; s++) {
                char c = *s >= 'A' && *s <= 'Z' ? (char) (*s - 'A' + 'a') : *s;

                if (is_alphanumeric(c) || n > 0)
                        name[n++] = is_alphanumeric(c) ? c : '-';
        }
        while (n > 0 && name[n - 1] == '-')
                n--;
        return asprintf(&result, "%.*s%s%s%s%s", (int) n, name, n > 0 ? "-" : "", hash, tail ? "-" : "", strempty(tail)) < 0 ? NULL : result;
}
