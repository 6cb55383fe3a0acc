/* SPDX-License-Identifier: Apache-2.0 */
/* Text to values, strictly: the whole string, no blanks, no sign where none belongs, range checked. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All return 0, -EINVAL (not of this form) or -ERANGE; *ret is untouched on failure. */
int parse_u64(const char *s, uint64_t *ret);
int parse_u32(const char *s, uint32_t *ret);
int parse_port(const char *s, uint16_t *ret);           /* 1…65535 */
int parse_bool(const char *s, bool *ret);               /* 1/0, true/false, yes/no, on/off, any case */

/* Go's duration syntax as upstream's settings have it ("5m", "300s", "1h30m", "1.5s"), and a bare number of seconds. */
int parse_duration_usec(const char *s, uint64_t *ret);

/* A decimal such as "2", "1.5" or "0.25", rounded up to a whole number ("1.5" → 2). */
int parse_decimal_ceil(const char *s, uint64_t *ret);

/**
 * sandbox_id_is_valid() - may @s name a sandbox, and so be a part of paths and unit names
 *
 * 1 to 64 of [A-Za-z0-9._-], the first alphanumeric. CRI runtimes use 64 hexadecimal digits; the upper limit keeps
 * /run/peerpod/pods/ID/agent.ttrpc within sun_path (unix(7)).
 */
bool sandbox_id_is_valid(const char *s);

/* A valid UTF-8 string of at most @max_size bytes, without control characters. */
bool text_is_plain(const char *s, size_t max_size);

/* text_make_plain() - a newly allocated copy of at most @max_size bytes that text_is_plain(): what is not ASCII becomes '?', line ends and
 * tabs become blanks. NULL when memory is short. */
char* text_make_plain(const char *s, size_t max_size);
