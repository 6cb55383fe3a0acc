/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "alibabacloud-provider.h"

int alibaba_verify(void *provider, const PeerpodCall *call, PeerpodError *error);
