/* SPDX-License-Identifier: Apache-2.0 */
/* What a TOML value is that is neither string, array nor table. */
#pragma once

#include "basic/toml.h"

/**
 * toml_scalar_parse() - one word of the characters that numbers, booleans and dates consist of
 * @ret_integer: of an integer and a boolean
 *
 * Returns 0, -EINVAL (none of these), -ERANGE (an integer of more than 64 bits).
 */
int toml_scalar_parse(const char *word, size_t size, TomlType *ret_type, int64_t *ret_integer);
