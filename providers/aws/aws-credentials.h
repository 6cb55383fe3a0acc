/* SPDX-License-Identifier: Apache-2.0 */
/* Who we are to AWS: the chain of the vendor's own libraries (aws/aws-sdk-go-v2: config/resolve_credentials.go). */
#pragma once

#include "aws.h"

int credentials_fetch(void *userdata, const PeerpodCall *call, Token *ret, PeerpodError *error);        /* TokenFetch */

/* profile_region() - of the profile in use; 1 and *ret, 0 if there is none, or a negative errno with *error set */
int profile_region(Aws *a, char **ret, PeerpodError *error);
