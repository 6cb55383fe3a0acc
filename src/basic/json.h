/* SPDX-License-Identifier: Apache-2.0 */
/* json-c with its traps closed: strict and bounded parsing, getters that check the type and name the key. */
#pragma once

#include <json-c/json_object.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

typedef struct json_object json_object;

static inline void json_object_putp(json_object **o) {
        if (*o)
                json_object_put(*o);
}

/**
 * json_parse() - parse one JSON object that fills the whole buffer (white space around it is fine)
 * @ret:        release with json_object_put()
 * @ret_error:  what is wrong, for people, newly allocated; may be NULL. Never quotes the input.
 *
 * Strict (no comments, no trailing commas; json-c takes single-quoted keys all the same), at most 32 levels deep, no NUL bytes. Returns 0, -EBADMSG, -ENOMEM.
 */
int json_parse(const char *text, size_t size, json_object **ret, char **ret_error);

/* Getters: 1 and *ret set; 0 if the key is absent or null (*ret untouched); -EBADMSG for another type, a number out of range or a
 * string with a NUL byte, with *ret_error (may be NULL) naming the key. Strings are borrowed from the object. */
int json_get_string(json_object *o, const char *key, const char **ret, char **ret_error);
int json_get_u64(json_object *o, const char *key, uint64_t max, uint64_t *ret, char **ret_error);
int json_get_bool(json_object *o, const char *key, bool *ret, char **ret_error);
int json_get_array(json_object *o, const char *key, json_object **ret, char **ret_error);       /* borrowed */
int json_get_object(json_object *o, const char *key, json_object **ret, char **ret_error);      /* borrowed */
int json_get_strv(json_object *o, const char *key, char ***ret, char **ret_error);              /* newly allocated */

/* By path, "a.b.c", through objects; a key has 63 bytes at most. What is not there or of another type is NULL, or @fallback; so is a string
 * with a NUL byte. Borrowed. For answers of which all is optional. */
json_object* json_path(json_object *o, const char *path);
json_object* json_path_array(json_object *o, const char *path);
const char* json_path_string(json_object *o, const char *path, const char *fallback);

/* Setters: return 0 or -ENOMEM; a NULL string sets nothing. */
int json_set_string(json_object *o, const char *key, const char *value);
int json_set_u64(json_object *o, const char *key, uint64_t value);
int json_set_bool(json_object *o, const char *key, bool value);
int json_set_strv(json_object *o, const char *key, char *const *value);
/* Takes the reference on @value, also on failure. */
int json_set(json_object *o, const char *key, json_object *value);
