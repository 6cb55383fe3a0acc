/* SPDX-License-Identifier: Apache-2.0 */
/* Reading what a module is configured with, and errors that name the setting. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "provider/peerpod-provider.h"

bool config_bool(const PeerpodConfig *config, unsigned option);
uint64_t config_uint(const PeerpodConfig *config, unsigned option);     /* of a UINT or a DURATION */

/* config_copy() - 0, or -ENOMEM with *error set */
int config_copy(const PeerpodConfig *config, unsigned option, char **ret, PeerpodError *error);

/* config_refuse() - PEERPOD_E_INVALID_ARGUMENT "Value 'V' of VARIABLE: WHY."; the value of a secret is left out. Returns -EINVAL. */
int config_refuse(PeerpodError *error, const PeerpodOption *options, const PeerpodConfig *config, unsigned option, const char *why);

int oom(PeerpodError *error);           /* -EIO, "Out of memory." */

/* list_next() - the next item of a LIST or MAP value: for (const char *p = list; list_next(&p, &item, &n);). Borrowed, not terminated. */
bool list_next(const char **p, const char **ret_item, size_t *ret_size);
bool list_contains(const char *list, const char *item);

/* environment_or() - a variable's value as far as it is not empty, for what is no option (AWS_ENDPOINT_URL …); only in open() */
const char* environment_or(const char *variable, const char *fallback);
