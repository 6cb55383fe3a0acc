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

typedef enum JsonFieldType {
        JSON_TEXT,              /* char*, owned: text_is_plain() of @min to @max bytes; NULL is not written */
        JSON_USEC,              /* uint64_t, up to INT64_MAX; 0 is not written */
} JsonFieldType;

/* A row of a table of what a struct and an object have in common; the last one has no key. */
typedef struct JsonField {
        const char *key;
        JsonFieldType type;
        size_t offset;          /* of the field in the struct */
        size_t min, max;
} JsonField;

/**
 * json_fields_read() - set the fields of @target whose keys are there and not null
 * @target: its texts are NULL before; what has been read is in it on failure, too: json_fields_free()
 *
 * Returns 0, -EBADMSG (*ret_error, which may be NULL, names the key), -ENOMEM.
 */
int json_fields_read(json_object *o, const JsonField *fields, void *target, char **ret_error);

/* json_fields_write() - in the order of the table. Returns 0, -ENOMEM. */
int json_fields_write(json_object *o, const JsonField *fields, const void *target);

/* json_fields_free() - free the texts, which are NULL afterwards */
void json_fields_free(const JsonField *fields, void *target);

/* json_bad_value() - "value of 'KEY' is missing or impossible"; returns -EBADMSG. @ret_error may be NULL. */
int json_bad_value(char **ret_error, const char *key);

/**
 * json_record_parse() - json_parse() for a record on disk, whose "version" is at least 1
 * @version_max: the newest that is known here
 *
 * Returns 0, -EBADMSG, -EPROTONOSUPPORT (a newer version), -EFBIG, -ENOMEM.
 */
int json_record_parse(const char *text, size_t size, size_t size_max, uint64_t version_max, json_object **ret, char **ret_error);

/* json_record_format() - @ret is newly allocated, for people too, and ends with a newline. Returns 0, -EFBIG, -ENOMEM. */
int json_record_format(json_object *o, size_t size_max, char **ret);
