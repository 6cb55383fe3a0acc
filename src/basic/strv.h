/* SPDX-License-Identifier: Apache-2.0 */
/* NULL-terminated vectors of strings. NULL is an empty vector everywhere. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "basic/cleanup.h"

/* strv_free() - free the vector and its strings; takes NULL, returns NULL */
char** strv_free(char **l);
DEFINE_CLEANUP(char**, strv_free);

size_t strv_length(char *const *l);
bool strv_contains(char *const *l, const char *s);
bool strv_equal(char *const *a, char *const *b);

/* strv_extend() - append a copy of @s; @l is unchanged on failure. Returns 0, -ENOMEM. */
int strv_extend(char ***l, const char *s);

/* strv_copy() - deep copy; an empty vector gives an allocated empty one. Returns 0, -ENOMEM. */
int strv_copy(char *const *l, char ***ret);

/* strv_split() - split at any of @separators, trimming blanks and dropping empty pieces. Returns 0, -ENOMEM. */
int strv_split(const char *s, const char *separators, char ***ret);

/* strv_join() - join with @separator; @ret is newly allocated. Returns 0, -ENOMEM. */
int strv_join(char *const *l, const char *separator, char **ret);
