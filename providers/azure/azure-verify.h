/* SPDX-License-Identifier: Apache-2.0 */
/* What --check asks the cloud. */
#pragma once

#include "azure.h"

int azure_verify(void *provider, const PeerpodCall *call, PeerpodError *error);

/* azure_action_matches() - does "Microsoft.Compute/virtualMachines/read" match a pattern, in which each star stands for any text? */
bool azure_action_matches(const char *pattern, const char *action);
