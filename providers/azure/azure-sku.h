/* SPDX-License-Identifier: Apache-2.0 */
/* What the region's VM sizes have and may be used for (Microsoft.Compute/skus), listed once in a while. */
#pragma once

#include "azure.h"

/* azure_skus_fetch() - InstanceTypeFetch; @userdata is the Azure */
int azure_skus_fetch(void *userdata, const PeerpodCall *call, InstanceType **ret, size_t *ret_n, PeerpodError *error);

/* azure_sku_parse() - one item of the listing. 1; 0: it is no VM size, or of another region; -EBADMSG, -ENOMEM. The two are freed by
 * instance_type_done() and azure_sku_done(). */
int azure_sku_parse(json_object *item, const char *region, InstanceType *ret_type, AzureSku *ret_sku);
void azure_sku_done(AzureSku *s);
void azure_skus_free(AzureSku *skus, size_t n);

/* azure_sku_copy() - what is known of size @name: 1, 0 if nothing, -ENOMEM */
int azure_sku_copy(Azure *a, const char *name, AzureSku *ret);

/* azure_sku_check() - may size @name be used as the settings and @zone ("" for none) want? A size that is not in the listing is left for the
 * cloud to judge. */
int azure_sku_check(Azure *a, const char *name, const char *zone, bool two_nics, size_t n_disks, PeerpodError *error);
