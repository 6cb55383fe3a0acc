/* SPDX-License-Identifier: Apache-2.0 */
/* Text from outside, made fit to be read by a program or to be shown on a terminal. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "basic/util.h"

/* A copy with U+FFFD in place of what is not UTF-8; NULL when there is no memory. */
char* text_make_utf8(const char *s);

/* A copy that cannot steer a terminal: control characters (of C0, but for newline and tab, and of C1) and what is not
 * UTF-8 become \xNN. Pod VMs write error texts, clouds write names, and root reads them. NULL: no memory. */
char* text_for_terminal(const char *s);

/* Columns of valid UTF-8 text without wide characters. */
int text_width(const char *s);

/* Strict RFC 4648 section 4: padded, no line breaks, nothing after the end. */
int base64_decode_strict(const char *text, uint8_t **ret, size_t *ret_size);   /* -EINVAL, -ENOMEM */

/* Pairs of hex digits, blanks between pairs allowed. */
int hex_decode(const char *text, uint8_t **ret, size_t *ret_size);      /* -EINVAL, -ENOMEM */

/* Makes a sentence about what was given and returns -EINVAL, for functions that end in char **reterr; or -ENOMEM. */
int refuse_text(char **reterr, const char *format, ...) PRINTF(2, 3);
