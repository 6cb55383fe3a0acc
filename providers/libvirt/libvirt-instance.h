/* SPDX-License-Identifier: Apache-2.0 */
/* An instance's life: what the module's create, remove and find do. */
#pragma once

#include "libvirt-provider.h"

int instance_create(void *provider, const PeerpodCall *call, const PeerpodInstanceSpec *spec, PeerpodInstance *ret, PeerpodError *error);
int instance_remove(void *provider, const PeerpodCall *call, const PeerpodInstanceKey *key, PeerpodError *error);
int instance_find(void *provider, const PeerpodCall *call, const char *node, PeerpodFound found, void *userdata, PeerpodError *error);
