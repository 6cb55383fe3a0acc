/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials that expire: fetched once for all threads, ahead of their end, again when the cloud refuses them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "provider/peerpod-provider.h"

#define TOKEN_PARTS 3

/* What a fetch brings: one secret or several that belong together (key id, key, session token). Owned strings; erased by token_done(). */
typedef struct Token {
        char *parts[TOKEN_PARTS];
        uint64_t expires_usec;          /* CLOCK_REALTIME; UINT64_MAX: never */
        uint64_t fetched_usec;          /* CLOCK_REALTIME; set by the cache */
} Token;

void token_done(Token *t);
int token_copy(const Token *from, Token *ret);          /* 0, -ENOMEM */

/* Get new ones. Returns 0, or a negative errno with *error set. Runs on the thread of a caller, never twice at once. */
typedef int (*TokenFetch)(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error);

typedef struct TokenCache TokenCache;

/* @early_usec: how long before the end, at most a fifth of the life, a token is fetched anew. */
int token_cache_new(TokenFetch fetch, void *userdata, uint64_t early_usec, TokenCache **ret);   /* 0, -ENOMEM */
TokenCache* token_cache_free(TokenCache *c);
DEFINE_CLEANUP(TokenCache*, token_cache_free);

/**
 * token_cache_get() - a copy of the token
 * @refused: one that the cloud has refused, or NULL: if it still is the cached one, it is fetched anew
 *
 * While one caller fetches, others go on with the old token as long as it is valid, or wait (deadline and cancel honoured). If the fetch
 * fails and the old token is still valid, that one is given, and the failure logged. Returns 0, or a negative errno with *error set.
 */
int token_cache_get(TokenCache *c, const PeerpodCall *call, const Token *refused, Token *ret, PeerpodError *error);

/* token_parse_time() - "2026-11-28T12:00:00Z", fractions and offsets as in RFC 3339 → µs since 1970; 0, -EINVAL */
int token_parse_time(const char *s, uint64_t *ret);
