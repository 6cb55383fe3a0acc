/* SPDX-License-Identifier: Apache-2.0 */
/* Create, remove and find, as peerpod-provider.h has them. */
#pragma once

#include "azure.h"

int azure_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
int azure_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int azure_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
