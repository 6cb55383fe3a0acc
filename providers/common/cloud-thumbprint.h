/* SPDX-License-Identifier: Apache-2.0 */
/* One certificate that is trusted by its digest, whoever has signed it: "AA:BB:…", SHA-1 or SHA-256 of its DER. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define THUMBPRINT_SIZE_MAX 32
#define THUMBPRINT_TEXT_SIZE (3 * THUMBPRINT_SIZE_MAX)

typedef struct Thumbprint {
        uint8_t digest[THUMBPRINT_SIZE_MAX];
        size_t size;                    /* 20: SHA-1, 32: SHA-256, 0: none */
} Thumbprint;

/* thumbprint_parse() - hexadecimal digits of any case, with or without colons between the bytes; 0, -EINVAL */
int thumbprint_parse(const char *s, Thumbprint *ret);
bool thumbprint_fits(const Thumbprint *t, const void *der, size_t size);
/* thumbprint_of() - of a certificate, as long as @like; for people */
void thumbprint_of(const Thumbprint *like, const void *der, size_t size, char ret[static THUMBPRINT_TEXT_SIZE]);
