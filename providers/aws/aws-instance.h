/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "provider/peerpod-provider.h"

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
