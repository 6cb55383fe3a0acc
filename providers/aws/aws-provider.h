/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "aws.h"

/* aws_verify() - credentials, image, network, types, and what the role is allowed, as far as it can be asked without making anything */
int aws_verify(void *provider, const PeerpodCall *call, PeerpodError *error);
