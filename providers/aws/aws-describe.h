/* SPDX-License-Identifier: Apache-2.0 */
/* Instances as EC2 describes them. */
#pragma once

#include "aws-api.h"

#define NICS_MAX 8

typedef struct Ec2Nic {
        uint64_t index;                 /* of the device */
        char id[32], address[PEERPOD_ADDRESS_SIZE], public_address[PEERPOD_ADDRESS_SIZE];
} Ec2Nic;

typedef struct Ec2Instance {
        char id[32], state[24], type[64], reason[256];
        char name[128], sandbox[128], node[257];        /* of the tags */
        bool ours;                                      /* it has all tags of an owner */
        Ec2Nic nics[NICS_MAX];                          /* by index */
        size_t n_nics;
} Ec2Instance;

bool instance_id_is_valid(const char *s);
bool ec2_is_over(const Ec2Instance *i);         /* shutting down or terminated */

int ec2_parse(const xmlNode *item, Ec2Instance *ret, PeerpodError *error);
/* ec2_get() - 1, 0 if there is none (also of one that just begins to be), or a negative errno with *error set */
int ec2_get(Aws *a, const PeerpodCall *call, const char *id, Ec2Instance *ret, PeerpodError *error);

typedef struct Ec2List {
        Ec2Instance *items;
        size_t n;
} Ec2List;

void ec2_list_done(Ec2List *l);
/* ec2_list() - all with tag @key = @value that are not terminated */
int ec2_list(Aws *a, const PeerpodCall *call, const char *key, const char *value, Ec2List *ret, PeerpodError *error);

/* ec2_tag() - value of tag @key in the "item"s of @set, a tagSet; "" if there is none. 1 if there is, 0, or negative with *error set. */
int ec2_tag(const xmlNode *set, const char *key, char *ret, size_t size, PeerpodError *error);
