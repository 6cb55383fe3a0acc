/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8, strictly (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define UTF8_MAX 4U                     /* bytes of one character */

/* utf8_decode() - the character at the beginning of @size bytes and its length; 0 if there is none, or no UTF-8 */
size_t utf8_decode(const void *text, size_t size, uint32_t *ret);

/* utf8_encode() - returns the number of bytes, 0 for what is no Unicode scalar value */
size_t utf8_encode(uint32_t c, char ret[static UTF8_MAX]);
