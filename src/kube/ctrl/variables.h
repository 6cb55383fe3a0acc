/* SPDX-License-Identifier: Apache-2.0 */
/* A set of environment variables, secrets among them: cloud settings on their way from where they are kept to a provider's process. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/cleanup.h"

#define VARIABLES_MAX 1024U
#define VARIABLES_SIZE_MAX (1U << 20)   /* of all; a ConfigMap or a Secret has at most 1 MiB */

typedef struct Variables {
        char **items;                   /* "NAME=VALUE", sorted by name; secret */
        size_t n, size;
} Variables;

#define VARIABLES_NULL ((Variables) {})

/* variables_set() - returns 0, -EINVAL (no name of a variable, or a value with a NUL byte), -E2BIG, -ENOMEM */
int variables_set(Variables *v, const char *name, const char *value, size_t size);
/* variables_parse_item() - the same for "NAME=VALUE" */
int variables_parse_item(Variables *v, const char *item);
const char* variables_get(const Variables *v, const char *name);       /* or NULL */
bool variables_equal(const Variables *a, const Variables *b);
void variables_done(Variables *v);      /* erases */

/* variables_parse() - all assignments of an environment file (env-file.h); later ones win. Returns as variables_set(), -EBADMSG. */
int variables_parse(Variables *v, const char *text, size_t size);

/* variables_format() - as an environment file that reads the same. *ret is newly allocated, a secret. Returns 0, -ENOMEM. */
int variables_format(const Variables *v, char **ret, size_t *ret_size);
