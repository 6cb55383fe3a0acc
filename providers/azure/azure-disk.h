/* SPDX-License-Identifier: Apache-2.0 */
/* A pod's volumes: managed disks that are there already. */
#pragma once

#include "azure.h"

#define AZURE_DISKS_MAX 64              /* of the biggest sizes; each has its own limit (azure_sku_check()) */

typedef struct AzureDisks {
        char **ids;                     /* resource ids, in the order of the spec */
        char zone[16];                  /* that they are in, or "" */
} AzureDisks;

/* azure_disks_check() - are they there, in our region, free, and all in one zone? Returns 0 or a negative errno with *error set. */
int azure_disks_check(Azure *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, AzureDisks *ret, PeerpodError *error);
void azure_disks_done(AzureDisks *d);
