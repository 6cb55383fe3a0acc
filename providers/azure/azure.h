/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the module share: the settings, and the few objects that all calls use. Read-only after open() but for what the mutex
 * guards. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/json.h"
#include "basic/util.h"
#include "cloud-config.h"
#include "cloud-http.h"
#include "cloud-token.h"
#include "instance-type.h"

typedef enum AzureOption {
        OPTION_CLIENT_ID,
        OPTION_CLIENT_SECRET,
        OPTION_TENANT_ID,
        OPTION_SUBSCRIPTION,
        OPTION_REGION,
        OPTION_ZONE,
        OPTION_GROUP,
        OPTION_SUBNET,
        OPTION_NSG,
        OPTION_SIZE,
        OPTION_SIZES,
        OPTION_IMAGE,
        OPTION_SSH_KEY_PATH,
        OPTION_SSH_USER,
        OPTION_DISABLE_CVM,
        OPTION_SECURE_BOOT,
        OPTION_PUBLIC_IP,
        OPTION_ROOT_SIZE,
        OPTION_TAGS,
        OPTION_SECOND_SUBNET,
        OPTION_CVM_DISK,
        OPTION_TOKEN_FILE,
        OPTION_AUTHORITY,
        OPTION_ENDPOINT,
        OPTION_IDENTITY_HOST,
        OPTION_CA_FILE,
        _AZURE_OPTION_MAX,
} AzureOption;

extern const PeerpodOption azure_options[_AZURE_OPTION_MAX];

/* A VM size, beyond what an InstanceType says. */
typedef struct AzureSku {
        char *name;
        char *confidential;             /* "SNP", "TDX", or NULL */
        char *zones;                    /* a LIST of those it may be used in, "" for none */
        bool restricted;                /* in the whole region, for this subscription */
        uint32_t disks_max, nics_max;   /* 0: unknown */
} AzureSku;

typedef struct Azure {
        char *text[_AZURE_OPTION_MAX];  /* the settings as they came; endpoints without a '/' at their end */
        char *ssh_key;                  /* one line of authorized_keys */
        uint64_t root_size_gib;
        bool confidential, secure_boot, public_ip;

        CloudHttp *http;
        CloudApi api, token_api;
        TokenCache *tokens;
        InstanceTypeCache *types;

        pthread_mutex_t mutex;
        AzureSku *skus;                 /* guarded, as the next two */
        size_t n_skus;
        bool subnet_is_filtered;        /* seen to have a network security group of its own */
} Azure;

static inline const char* azure_text(const Azure *a, AzureOption option) {
        return a->text[option];
}
