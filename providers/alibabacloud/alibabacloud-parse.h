/* SPDX-License-Identifier: Apache-2.0 */
/* What ECS, VPC, STS and the metadata service answer (Alibaba Cloud: API references of Ecs 2014-05-26, Vpc 2016-04-28, Sts 2015-04-01).
 * Pure functions of their arguments; all return 0, -EBADMSG (not of this form) or -ENOMEM, outputs untouched on failure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cloud-token.h"
#include "instance-type.h"

typedef struct json_object json_object;

#define ALIBABA_ITEMS_MAX 1000          /* of one page; the clouds' own limits are 100 */

/* Owned strings, never NULL; what the cloud does not say is "". */
typedef struct EcsInstance {
        char *id, *name, *status, *type;
        char *node, *sandbox_id;                        /* the owner tag */
        char *private_address, *public_address;         /* of the primary interface */
        char *second_interface, *second_address;        /* of the first secondary interface */
} EcsInstance;

void ecs_instances_free(EcsInstance *instances, size_t n);

typedef struct VpcAddress {
        char *id, *address, *status;
        char *instance_id, *instance_type;              /* what it is bound to */
        char *node, *sandbox_id, *name;                 /* the owner tag */
} VpcAddress;

void vpc_addresses_free(VpcAddress *addresses, size_t n);

/* @ret_next: the token of the next page, "" on the last one */
int ecs_instances_parse(json_object *body, EcsInstance **ret, size_t *ret_n, char **ret_next);
int vpc_addresses_parse(json_object *body, VpcAddress **ret, size_t *ret_n, uint64_t *ret_total);
/* instance_types_parse() - types without the numbers that a choice needs are left out */
int instance_types_parse(json_object *body, InstanceType **ret, size_t *ret_n, char **ret_next);
/* instance_id_parse() - the one instance that RunInstances made */
int instance_id_parse(json_object *body, char **ret);
/* string_parse() - the string at @path ("Disks/Disk/0/Status"), "" where there is none */
int string_parse(json_object *body, const char *path, char **ret);

/* error_parse() - code and message of a refusal; both "" and -EBADMSG where it is none. Codes are [A-Za-z0-9._-]. */
#define ALIBABA_CODE_SIZE 128
int error_parse(const char *text, size_t size, char ret_code[static ALIBABA_CODE_SIZE], char **ret_message);

/* credentials_parse() - key id, key and session token, from @path in the answer of STS ("Credentials") or of the metadata service ("") */
int credentials_parse(const char *text, size_t size, const char *path, Token *ret);
