/* SPDX-License-Identifier: Apache-2.0 */
/* RunInstances. */
#pragma once

#include "alibabacloud-api.h"

typedef struct RunSpec {
        const PeerpodInstanceSpec *spec;
        const char *type;
        const char *user_data;          /* base64 */
        const char *token;              /* of idempotency; NULL: a dry run */
} RunSpec;

/* run_instances() - @ret_id: untouched on failure. @ret_reply: why it failed; api_reply_done() in any case. */
int run_instances(Alibaba *a, const PeerpodCall *call, const RunSpec *run, char **ret_id, ApiReply *ret_reply, PeerpodError *error);
