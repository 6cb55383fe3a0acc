/* SPDX-License-Identifier: Apache-2.0 */
/* What Kata's configuration files use of TOML 1.0 (toml.io), read strictly.
 *
 * Tables, dotted and quoted keys, strings on one line, whole numbers, booleans, arrays; numbers and dates of other kinds are kept as they
 * are written. Inline tables and strings of several lines are refused by name: Kata's files have none. A key that is set twice is
 * refused, as Kata does. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

#define TOML_SIZE_MAX (1U << 20)
#define TOML_VALUES_MAX 4096U
#define TOML_DEPTH_MAX 16U              /* of arrays in one another, and of parts of a key */

typedef enum TomlType {
        TOML_TABLE,             /* its header alone */
        TOML_STRING,
        TOML_INTEGER,
        TOML_BOOL,
        TOML_ARRAY,
        TOML_OTHER,             /* a float, a date */
} TomlType;

typedef struct TomlValue {
        char *path;             /* "agent.kata.dial_timeout"; owned, as all */
        TomlType type;
        char *text;             /* of a string; of a number as written */
        int64_t integer;        /* of an integer; of a boolean, 0 or 1 */
        char **items;           /* the strings of an array; other items are left out */
        unsigned line;
} TomlValue;

typedef struct TomlFile {
        TomlValue *values;
        size_t n_values;
} TomlFile;

/**
 * toml_parse() - read a whole file
 * @ret:    filled on success only; toml_done()
 * @reterr: "line 7: …", newly allocated
 *
 * Returns 0, -EBADMSG, -EFBIG, -ENOMEM.
 */
int toml_parse(const char *text, size_t size, TomlFile *ret, char **reterr);
void toml_done(TomlFile *f);

/* toml_find() - the value at a path, or the table; NULL if there is none; borrowed */
const TomlValue* toml_find(const TomlFile *f, const char *path);
