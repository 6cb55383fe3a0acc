/* SPDX-License-Identifier: Apache-2.0 */
/* One call of an action of ECS or VPC: parameters in the query, signed (V3), the answer JSON. */
#pragma once

#include "alibabacloud-parse.h"
#include "alibabacloud-provider.h"

typedef struct ApiParameter {
        char *key, *value;
} ApiParameter;

typedef struct ApiRequest {
        const char *action;
        bool vpc;                       /* VPC's, not ECS's */
        ApiParameter *parameters;
        size_t n_parameters;
        bool failed;                    /* memory was short */
} ApiRequest;

void api_add(ApiRequest *q, const char *key, const char *value);        /* an empty value adds nothing */
/* api_add_item() - "PREFIX.INDEX.SUFFIX", or "PREFIX.INDEX" without suffix; indexes begin with 1 */
void api_add_item(ApiRequest *q, const char *prefix, size_t index, const char *suffix, const char *value);
void api_add_list(ApiRequest *q, const char *prefix, const char *list); /* of a PEERPOD_OPTION_LIST */
void api_request_done(ApiRequest *q);

typedef struct ApiReply {
        json_object *body;              /* NULL on failure */
        char code[ALIBABA_CODE_SIZE];   /* why it was refused, or "" */
        bool unknown;                   /* failed, and the cloud may have done it all the same */
} ApiReply;

void api_reply_done(ApiReply *reply);

/**
 * api_call() - ask, again where the cloud is not ready, too busy or our credentials have expired
 * @q:   every action that we use can be repeated: it reads, carries a token of idempotency, or is looked after by the caller
 * @ret: filled on failure, too (code, unknown); api_reply_done() in any case
 *
 * Returns 0, or a negative errno with *error set.
 */
int api_call(Alibaba *a, const PeerpodCall *call, ApiRequest *q, ApiReply *ret, PeerpodError *error);

/* api_judge() - HTTP_UNAUTHORIZED apart, what an answer of any of the services means to the client */
HttpVerdict api_judge(const HttpReply *reply);

bool code_is(const char *code, const char *prefix);     /* "A" and "A.B", not "AB" */
int api_malformed(PeerpodError *error, const ApiRequest *q, int r);     /* for what a parser says of an answer */
