/* SPDX-License-Identifier: Apache-2.0 */
/* The opened module: settings, and what all calls share. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/util.h"
#include "cloud-http.h"
#include "cloud-token.h"
#include "instance-type.h"
#include "provider/peerpod-provider.h"

#define USER_DATA_MAX 32768             /* before base64 (Ecs 2014-05-26, RunInstances, UserData) */

typedef enum CredentialsSource {
        CREDENTIALS_STATIC,
        CREDENTIALS_OIDC,               /* a Kubernetes service account's token, at STS */
        CREDENTIALS_METADATA,           /* the RAM role of the machine */
} CredentialsSource;

typedef struct Alibaba {
        char *region, *image, *default_type, *allowed_types, *vswitch, *vpc, *security_groups, *key_name, *tags;
        char *disk_category, *http_tokens, *resource_group, *dedicated_host;
        uint64_t disk_size_gib;
        bool public_address, confidential;

        char *ecs_url, *vpc_url, *sts_url, *metadata_url;       /* "https://host" */

        CredentialsSource source;
        Token fixed;                    /* secret */
        char *role_arn, *oidc_provider_arn, *oidc_token_file, *session_name, *ram_role;

        CloudHttp *http;
        TokenCache *tokens;
        InstanceTypeCache *types;
} Alibaba;
