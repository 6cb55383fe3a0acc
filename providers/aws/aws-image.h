/* SPDX-License-Identifier: Apache-2.0 */
/* What EC2 says of images and of instance types. */
#pragma once

#include "aws.h"

bool image_id_is_valid(const char *s);

/* aws_image() - of image @id, from EC2 once and then from memory; a negative errno with *error set if it is not there or not usable */
int aws_image(Aws *a, const PeerpodCall *call, const char *id, AwsImage *ret, PeerpodError *error);

/* types_fetch() - all allowed types and the default one; with confidential VMs, only those that can make one (InstanceTypeFetch) */
int types_fetch(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error);
