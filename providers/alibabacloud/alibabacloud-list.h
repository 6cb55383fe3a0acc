/* SPDX-License-Identifier: Apache-2.0 */
/* Listing what there is, page by page. */
#pragma once

#include "alibabacloud-api.h"

/* tag_value() - @s as the value of a tag: a digest of it where the grammar or length does not take it (128 characters, no "aliyun…") */
#define TAG_VALUE_SIZE 129
void tag_value(const char *s, char ret[static TAG_VALUE_SIZE]);

/* Members that are NULL filter nothing. */
typedef struct ListFilter {
        const char *id, *name;          /* of the instance */
        const char *node, *sandbox_id;  /* of the owner tag, as tag_value() has them */
} ListFilter;

/* Both return 0, or a negative errno with *error set. @ret: ecs_instances_free(), vpc_addresses_free(). */
int list_instances(Alibaba *a, const PeerpodCall *call, const ListFilter *f, EcsInstance **ret, size_t *ret_n, PeerpodError *error);
/* A user without rights to see addresses, and without a setting to have any, has none. @f: node, sandbox_id */
int list_addresses(Alibaba *a, const PeerpodCall *call, const ListFilter *f, VpcAddress **ret, size_t *ret_n, PeerpodError *error);

/* list_types() - an InstanceTypeFetch; @userdata: Alibaba. The default type and the allowed ones. */
int list_types(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error);
