/* SPDX-License-Identifier: Apache-2.0 */
/* The body of the one request that makes VM, network interfaces, public address and disk. */
#pragma once

#include "azure.h"

typedef struct AzurePlan {
        const PeerpodInstanceSpec *spec;
        const char *size;
        const char *image;              /* the pod's or the settings' */
        const char *zone;               /* "" for none */
        char *const *disks;             /* resource ids, spec->n_volumes of them */
        const char *user_data;          /* in Base64; secret */
} AzurePlan;

/* azure_image_check() - is it an image's resource id, a community or shared gallery's, or a URN "PUBLISHER:OFFER:SKU:VERSION"? 0, -EINVAL */
int azure_image_check(const char *image);

/* azure_body_write() - @ret: newly allocated, secret: erase_free() it. 0, or -EIO with *error set (memory) */
int azure_body_write(const Azure *a, const AzurePlan *plan, char **ret, size_t *ret_size, PeerpodError *error);
