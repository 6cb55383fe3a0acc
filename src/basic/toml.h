/* SPDX-License-Identifier: Apache-2.0 */
/* TOML 1.0.0 (toml.io), read strictly and within bounds, for files that come from outside.
 *
 * All of the language but these, which are refused: a NUL in a key, and more than the limits below. Values of floats and dates are checked
 * and kept as they are written, since nobody here computes with them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

#define TOML_SIZE_MAX (4U << 20)
#define TOML_VALUES_MAX 4096U           /* tables and elements of arrays count, too */
#define TOML_DEPTH_MAX 16U              /* of arrays and inline tables in one another, and of parts of a key */
#define TOML_KEY_MAX 1024U              /* bytes of one part of a key */

typedef enum TomlType {
        TOML_TABLE,
        TOML_ARRAY,
        TOML_STRING,
        TOML_INTEGER,
        TOML_FLOAT,
        TOML_BOOL,
        TOML_DATETIME,          /* with an offset from UTC */
        TOML_DATETIME_LOCAL,
        TOML_DATE_LOCAL,
        TOML_TIME_LOCAL,
} TomlType;

typedef struct TomlValue TomlValue;
struct TomlValue {
        char *key;              /* in a table; NULL in an array, and of the root; owned, as all */
        TomlType type;
        unsigned line;          /* where it is given, or mentioned first */
        char *text;             /* of a string, with a NUL behind it; of a number or date as written */
        size_t size;            /* of the text; a string may hold NUL */
        int64_t integer;        /* of an integer; of a boolean, 0 or 1 */
        TomlValue *items;       /* of a table or an array, in the order of the file */
        size_t n_items;
        unsigned origin;        /* the reader's: what may still be added to a table, and from where */
};

#define TOML_NULL (TomlValue) {}

/**
 * toml_parse() - read a whole file
 * @ret:    the table that the file is; filled on success only; toml_done()
 * @reterr: "line 7: …", newly allocated; never quotes the text. May be NULL, and *@reterr must be NULL before
 *
 * Returns 0, -EBADMSG, -EFBIG (without text), -ENOMEM.
 */
int toml_parse(const char *text, size_t size, TomlValue *ret, char **reterr);
void toml_done(TomlValue *v);

/* toml_get() - the value of a key of a table, or NULL; borrowed */
const TomlValue* toml_get(const TomlValue *table, const char *key);

/* toml_find() - the value at a path of keys that have no dots, "agent.kata.dial_timeout"; NULL if there is none; borrowed */
const TomlValue* toml_find(const TomlValue *root, const char *path);
