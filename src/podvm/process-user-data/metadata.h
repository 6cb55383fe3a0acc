/* SPDX-License-Identifier: Apache-2.0 */
/* Metadata services of clouds: what to ask, and what user data is wrapped in there. Each cloud is a table. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "podvm/process-user-data/http.h"

#define METADATA_HEADERS_MAX 4

typedef struct MetadataService {
        const char *addresses[3];               /* as in an URL; the next one is tried when one cannot be reached */
        const char *headers[METADATA_HEADERS_MAX];      /* of both requests */
        const char *reply_header;               /* that an answer must have, or NULL */

        const char *token_path;                 /* asked with PUT before each attempt; NULL = no token is needed */
        const char *token_headers[2];
        const char *token_body;
        const char *token_key;                  /* of the answer, a JSON object; NULL = the answer is the token */
        const char *token_header;               /* of the second request, up to the token */

        const char *path;
        const char *key;                        /* of the answer, a JSON object; NULL = the answer is the data */
        bool base64;                            /* the data is, once more */
} MetadataService;

/* metadata_fetch() - Source.fetch() for a service, by HTTP_MODULE */
int metadata_fetch(const MetadataService *m, uint64_t deadline_usec, char **ret, size_t *ret_size, char **reterr);

/* metadata_ask() - the same with another function that asks */
int metadata_ask(const MetadataService *m, HttpFunction http, uint64_t deadline_usec,
                 char **ret, size_t *ret_size, char **reterr);

/**
 * metadata_token() - a token from the answer to the first request
 * @ret: of visible ASCII characters, so that it can be a part of a header; to be erased
 *
 * Returns 0, -EBADMSG with *@reterr, -ENOMEM.
 */
int metadata_token(const MetadataService *m, const char *body, size_t size, char **ret, char **reterr);

/* metadata_data() - user data from the answer to the second one; -EAGAIN if it is empty, else as Source.fetch() */
int metadata_data(const MetadataService *m, const char *body, size_t size, char **ret, size_t *ret_size, char **reterr);
