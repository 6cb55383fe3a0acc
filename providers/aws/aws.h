/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the aws module share: its settings, and what it has learnt. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "basic/util.h"
#include "cloud-http.h"
#include "cloud-token.h"
#include "instance-type.h"
#include "provider/peerpod-provider.h"

#define AWS_TYPES_KEPT_USEC (6 * 3600 * USEC_PER_SEC)
#define AWS_TEMPLATE_TYPE "m6a.large"          /* the default of PODVM_INSTANCE_TYPE */

/* Credentials as a Token has them. */
enum {
        CREDENTIAL_KEY_ID,
        CREDENTIAL_SECRET,
        CREDENTIAL_SESSION,             /* "" if there is none */
};

/* The variables of the vendor's own libraries, as open() found them; "" for none. */
typedef struct AwsEnvironment {
        char *key_id, *secret;                          /* AWS_ACCESS_KEY, AWS_SECRET_KEY: aliases */
        char *role_arn, *web_identity_file, *role_session;
        char *profile, *config_file, *credentials_file;
        char *container_full_uri, *container_relative_uri, *container_token, *container_token_file;
        char *metadata;                                 /* URL of the instance metadata service, without "/" at its end; NULL: not to be used */
        char *ec2, *sts;                                /* URLs */
        bool metadata_v1;                               /* may be used where version 2 does not exist */
} AwsEnvironment;

/* What the image says; see aws-image.c. */
typedef struct AwsImage {
        char id[32], root_device[32], architecture[16], boot_mode[24];
        uint64_t root_gib;
} AwsImage;

#define AWS_IMAGES_MAX 32

typedef struct Aws {
        /* Not changed after open() */
        char *key_id, *secret, *session;
        char *region, *profile, *type, *types, *template_name, *template_version, *image, *key_name, *subnet, *groups, *tags, *kms_key;
        bool use_template, public_ip, cvm;
        uint64_t root_gib;
        AwsEnvironment environment;

        CloudHttp *http;
        TokenCache *credentials, *metadata_token;
        InstanceTypeCache *type_cache;
        atomic_llong clock_offset;      /* seconds that AWS's clock is ahead of ours */

        /* What was learnt of this machine and of images */
        pthread_mutex_t mutex;
        char *known_region, *known_subnet, *known_groups, *known_key;
        AwsImage images[AWS_IMAGES_MAX];
        size_t n_images;
} Aws;

/* aws_known() - a copy of what @field holds now, or "" */
char* aws_known(Aws *a, char **field);
/* aws_learn() - keep @value, taken, in @field */
void aws_learn(Aws *a, char **field, char *value);
