/* SPDX-License-Identifier: Apache-2.0 */
/* Quantities of Kubernetes ("500m", "1.5Gi", "2e3"), without floating point. */
#pragma once

#include <stdint.h>

/* Billionths of one: what Kubernetes rounds up to. What is parsed, and what is added, stays below 2^93. */
__extension__ typedef __int128 Quantity;

#define QUANTITY_ONE ((Quantity) 1000000000)
#define QUANTITY_MIB (QUANTITY_ONE << 20)

/**
 * quantity_parse() - read a quantity as Kubernetes reads it (kubernetes/apimachinery: pkg/api/resource/quantity.go)
 *
 * What lies between two billionths becomes the one farther from zero; more than 2^63-1 with a binary suffix becomes just that. A sign
 * or a suffix alone is zero there, and here.
 *
 * Returns 0, -EINVAL (no quantity), -ERANGE (2^63 or more, which no VM has).
 */
int quantity_parse(const char *text, Quantity *ret);

/* quantity_add() - no sum is greater than what can be parsed */
Quantity quantity_add(Quantity a, Quantity b);

#define QUANTITY_TEXT_SIZE 48

/* quantity_format() - a short text of @q, not negative, which is parsed as @q again; returns @buffer */
const char* quantity_format(Quantity q, char buffer[static QUANTITY_TEXT_SIZE]);

/* quantity_ceil() - @q, not negative, in whole units, rounded up */
uint64_t quantity_ceil(Quantity q, Quantity unit);
