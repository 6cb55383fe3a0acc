/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/json.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

#define DEPTH_MAX 32

static int refuse(char **ret_error, const char *format, ...) PRINTF(2, 3);
static int refuse(char **ret_error, const char *format, ...) {
        if (ret_error) {
                va_list ap;

                va_start(ap, format);
                if (vasprintf(ret_error, format, ap) < 0)
                        *ret_error = NULL;
                va_end(ap);
        }

        return -EBADMSG;
}

DEFINE_CLEANUP(struct json_tokener*, json_tokener_free);

static int parse_text(const char *text, size_t size, int flags, json_object **ret, char **ret_error) {
        _cleanup_(json_tokener_freep) struct json_tokener *tokener = NULL;
        _cleanup_(json_object_putp) json_object *o = NULL;
        enum json_tokener_error error;

        tokener = json_tokener_new_ex(DEPTH_MAX);
        if (!tokener)
                return -ENOMEM;
        json_tokener_set_flags(tokener, flags);

        o = json_tokener_parse_ex(tokener, text, size);
        error = json_tokener_get_error(tokener);
        if (error == json_tokener_continue)
                return refuse(ret_error, "the text ends too early");
        if (error != json_tokener_success)
                return refuse(ret_error, "%s at byte %zu", json_tokener_error_desc(error),
                              json_tokener_get_parse_end(tokener));
        for (size_t i = json_tokener_get_parse_end(tokener); i < size; i++)
                if (!strchr(" \t\r\n", text[i]))
                        return refuse(ret_error, "something follows the object at byte %zu", i);
        if (!json_object_is_type(o, json_type_object))
                return refuse(ret_error, "not an object");

        *ret = TAKE_PTR(o);
        return 0;
}

static bool is_ascii(const char *text, size_t size) {
        for (size_t i = 0; i < size; i++)
                if ((unsigned char) text[i] >= 0x80)
                        return false;
        return true;
}

/* json-c 0.18 in strict mode takes each byte above 0x7f in a string for a control character (json-c: json_tokener.c compares a signed
 * char with 0x1f). So the grammar of a text that has such bytes is checked on a copy that has letters in their place: in a string
 * they are as good, and anywhere else as wrong. */
static int check_grammar(const char *text, size_t size, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        char *copy = malloc(size);
        int r;

        if (!copy)
                return -ENOMEM;
        for (size_t i = 0; i < size; i++)
                copy[i] = (unsigned char) text[i] >= 0x80 ? 'x' : text[i];

        r = parse_text(copy, size, JSON_TOKENER_STRICT, &o, ret_error);
        erase_free(copy, size);
        return r;
}

int json_parse(const char *text, size_t size, json_object **ret, char **ret_error) {
        int r;

        if (size >= INT_MAX)
                return refuse(ret_error, "too big");
        if (memchr(text, 0, size))
                return refuse(ret_error, "NUL byte in the text");
        if (is_ascii(text, size))
                return parse_text(text, size, JSON_TOKENER_STRICT, ret, ret_error);

        r = check_grammar(text, size, ret_error);
        if (r < 0)
                return r;
        return parse_text(text, size, JSON_TOKENER_VALIDATE_UTF8, ret, ret_error);
}

static int get(json_object *o, const char *key, enum json_type type, json_object **ret, char **ret_error) {
        json_object *v;

        if (!json_object_object_get_ex(o, key, &v) || !v)
                return 0;
        if (!json_object_is_type(v, type))
                return refuse(ret_error, "'%s' is not of type %s", key, json_type_to_name(type));

        *ret = v;
        return 1;
}

static int string_of(json_object *v, const char *key, const char **ret, char **ret_error) {
        const char *s = json_object_get_string(v);

        if (strlen(s) != (size_t) json_object_get_string_len(v))
                return refuse(ret_error, "'%s' holds a NUL byte", key);

        *ret = s;
        return 1;
}

int json_get_string(json_object *o, const char *key, const char **ret, char **ret_error) {
        json_object *v;
        int r = get(o, key, json_type_string, &v, ret_error);

        return r <= 0 ? r : string_of(v, key, ret, ret_error);
}

int json_get_u64(json_object *o, const char *key, uint64_t max, uint64_t *ret, char **ret_error) {
        json_object *v;
        uint64_t n;
        int r = get(o, key, json_type_int, &v, ret_error);

        if (r <= 0)
                return r;
        if (json_object_get_int64(v) < 0)
                return refuse(ret_error, "'%s' is negative", key);
        n = json_object_get_uint64(v);
        if (n > max)
                return refuse(ret_error, "'%s' is above %llu", key, (unsigned long long) max);

        *ret = n;
        return 1;
}

int json_get_bool(json_object *o, const char *key, bool *ret, char **ret_error) {
        json_object *v;
        int r = get(o, key, json_type_boolean, &v, ret_error);

        if (r > 0)
                *ret = json_object_get_boolean(v);
        return r;
}

int json_get_array(json_object *o, const char *key, json_object **ret, char **ret_error) {
        return get(o, key, json_type_array, ret, ret_error);
}

int json_get_object(json_object *o, const char *key, json_object **ret, char **ret_error) {
        return get(o, key, json_type_object, ret, ret_error);
}

int json_get_strv(json_object *o, const char *key, char ***ret, char **ret_error) {
        _cleanup_(strv_freep) char **l = NULL;
        json_object *array;
        size_t n;
        int r;

        r = get(o, key, json_type_array, &array, ret_error);
        if (r <= 0)
                return r;

        n = json_object_array_length(array);
        l = new0(char*, n + 1);
        if (!l)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                json_object *v = json_object_array_get_idx(array, i);
                const char *s;

                if (!json_object_is_type(v, json_type_string))
                        return refuse(ret_error, "'%s' has an element that is no string", key);
                r = string_of(v, key, &s, ret_error);
                if (r < 0)
                        return r;
                l[i] = strdup(s);
                if (!l[i])
                        return -ENOMEM;
        }

        *ret = TAKE_PTR(l);
        return 1;
}

json_object* json_path(json_object *o, const char *path) {
        while (o && *path) {
                size_t n = strcspn(path, ".");
                char key[64];

                if (n >= sizeof(key) || !json_object_is_type(o, json_type_object))
                        return NULL;
                memcpy(key, path, n);
                key[n] = '\0';
                if (!json_object_object_get_ex(o, key, &o))
                        return NULL;
                path += n + (path[n] == '.');
        }
        return o;
}

json_object* json_path_array(json_object *o, const char *path) {
        json_object *v = json_path(o, path);

        return v && json_object_is_type(v, json_type_array) ? v : NULL;
}

const char* json_path_string(json_object *o, const char *path, const char *fallback) {
        json_object *v = json_path(o, path);
        const char *s;

        if (!v || !json_object_is_type(v, json_type_string))
                return fallback;
        s = json_object_get_string(v);
        return strlen(s) == (size_t) json_object_get_string_len(v) ? s : fallback;
}

int json_set(json_object *o, const char *key, json_object *value) {
        if (!value)
                return -ENOMEM;
        if (json_object_object_add(o, key, value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }

        return 0;
}

int json_set_string(json_object *o, const char *key, const char *value) {
        return value ? json_set(o, key, json_object_new_string(value)) : 0;
}

int json_set_u64(json_object *o, const char *key, uint64_t value) {
        return json_set(o, key, json_object_new_uint64(value));
}

int json_set_bool(json_object *o, const char *key, bool value) {
        return json_set(o, key, json_object_new_boolean(value));
}

int json_set_strv(json_object *o, const char *key, char *const *value) {
        _cleanup_(json_object_putp) json_object *array = json_object_new_array();

        if (!array)
                return -ENOMEM;
        for (; value && *value; value++) {
                json_object *s = json_object_new_string(*value);

                if (!s)
                        return -ENOMEM;
                if (json_object_array_add(array, s) < 0) {
                        json_object_put(s);
                        return -ENOMEM;
                }
        }

        return json_set(o, key, TAKE_PTR(array));
}

static int read_text(json_object *o, const JsonField *f, char **field, char **ret_error) {
        const char *value;
        int r;

        r = json_get_string(o, f->key, &value, ret_error);
        if (r <= 0)
                return r;
        if (strlen(value) < f->min || !text_is_plain(value, f->max))
                return json_bad_value(ret_error, f->key);

        *field = strdup(value);
        return *field ? 0 : -ENOMEM;
}

int json_fields_read(json_object *o, const JsonField *fields, void *target, char **ret_error) {
        for (const JsonField *f = fields; f->key; f++) {
                void *field = (char*) target + f->offset;
                int r;

                r = f->type == JSON_TEXT ? read_text(o, f, field, ret_error) :
                        json_get_u64(o, f->key, INT64_MAX, field, ret_error);
                if (r < 0)
                        return r;
        }

        return 0;
}

int json_fields_write(json_object *o, const JsonField *fields, const void *target) {
        for (const JsonField *f = fields; f->key; f++) {
                const void *field = (const char*) target + f->offset;
                int r = 0;

                if (f->type == JSON_TEXT)
                        r = json_set_string(o, f->key, *(char *const*) field);
                else if (*(const uint64_t*) field > 0)
                        r = json_set_u64(o, f->key, *(const uint64_t*) field);
                if (r < 0)
                        return r;
        }

        return 0;
}

void json_fields_free(const JsonField *fields, void *target) {
        for (const JsonField *f = fields; f->key; f++)
                if (f->type == JSON_TEXT) {
                        char **field = (char**) ((char*) target + f->offset);

                        free(TAKE_PTR(*field));
                }
}

int json_bad_value(char **ret_error, const char *key) {
        return refuse(ret_error, "value of '%s' is missing or impossible", key);
}

int json_record_parse(const char *text, size_t size, size_t size_max, uint64_t version_max, json_object **ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        uint64_t version = 0;
        int r;

        if (size > size_max)
                return -EFBIG;
        r = json_parse(text, size, &o, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "version", UINT64_MAX, &version, ret_error);
        if (r < 0)
                return r;
        if (version == 0)
                return json_bad_value(ret_error, "version");
        if (version > version_max) {
                (void) refuse(ret_error, "written by a newer version, as form %" PRIu64, version);
                return -EPROTONOSUPPORT;
        }

        *ret = TAKE_PTR(o);
        return 0;
}

int json_record_format(json_object *o, size_t size_max, char **ret) {
        const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY|JSON_C_TO_STRING_NOSLASHESCAPE);
        char *text;

        if (!s)
                return -ENOMEM;
        if (strlen(s) >= size_max)
                return -EFBIG;
        if (asprintf(&text, "%s\n", s) < 0)
                return -ENOMEM;

        *ret = text;
        return 0;
}
