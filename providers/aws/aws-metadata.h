/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata service of the machine that we run on: what is not configured is taken from it, as late as it is needed. */
#pragma once

#include "aws.h"

/**
 * metadata_get() - GET below /latest/
 * @path: "meta-data/placement/region"
 *
 * Returns 1 and *ret (at most 64 KiB, a secret perhaps: erase it), 0 if there is no such thing, or a negative errno with *error set. Takes some
 * seconds at most.
 */
int metadata_get(Aws *a, const PeerpodCall *call, const char *path, char **ret, PeerpodError *error);

int metadata_token_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error);     /* TokenFetch */

/* aws_region() - the configured one, else the profile's, else this machine's. Newly allocated. */
int aws_region(Aws *a, const PeerpodCall *call, char **ret, PeerpodError *error);

/* Where instances go, as far as it is configured, else where this machine is. */
typedef struct AwsPlace {
        char *subnet, *groups, *key_name;       /* owned; "" if unknown, which is right for a launch template only */
} AwsPlace;

void aws_place_done(AwsPlace *p);
int aws_place(Aws *a, const PeerpodCall *call, AwsPlace *ret, PeerpodError *error);

bool aws_region_is_valid(const char *s);
