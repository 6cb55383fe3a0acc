/* SPDX-License-Identifier: Apache-2.0 */
/* IBM Cloud's IAM: bearer tokens for an API key, a trusted profile by a compute resource token, or a trusted profile of the VPC instance that
 * we run on (IBM/go-sdk-core: iam_authenticator.go, container_authenticator.go, vpc_instance_authenticator.go). */
#pragma once

#include "basic/cleanup.h"
#include "cloud-http.h"
#include "cloud-token.h"

#define IAM_ENDPOINT "https://iam.cloud.ibm.com"
#define IAM_CR_TOKEN_FILE "/var/run/secrets/tokens/vault-token"

typedef struct IamConfig {
        const char *endpoint;           /* with or without "/identity/token" */
        const char *api_key;            /* wins over the profile */
        const char *profile_id;
        const char *cr_token_file;      /* read anew for each exchange; without it the instance's own identity is used */
        const char *metadata;           /* "http://169.254.169.254" */
} IamConfig;

typedef struct Iam Iam;

/* iam_new() - @config is copied, @http borrowed. Returns 0, or a negative errno with *error set. Asks nobody. */
int iam_new(const IamConfig *config, CloudHttp *http, Iam **ret, PeerpodError *error);
Iam* iam_free(Iam *iam);
DEFINE_CLEANUP(Iam*, iam_free);

/* What one request knows of its token: a CloudApi's userdata. Ends with iam_use_done(). */
typedef struct IamUse {
        Iam *iam;                       /* borrowed */
        Token token;
} IamUse;

int iam_authorize(void *userdata, const PeerpodCall *call, HttpRequest *request, bool fresh, PeerpodError *error);
void iam_use_done(IamUse *use);

/* iam_account() - the account that the API key belongs to, asked for once and kept. @ret: borrowed, as long as @iam lives. */
int iam_account(Iam *iam, const PeerpodCall *call, const char **ret, PeerpodError *error);

/* iam_token_parse() - an answer of IAM or of the metadata service; @now_usec is CLOCK_REALTIME. Returns 0, -EBADMSG, -ENOMEM. */
int iam_token_parse(const char *text, size_t size, uint64_t now_usec, Token *ret);
