/* SPDX-License-Identifier: Apache-2.0 */
/* Resource ids of Azure Resource Manager: paths whose keywords and names are compared without regard to case, as the service itself may
 * change it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define ARM_ID_SIZE 512

typedef struct ArmId {
        char subscription[64];
        char group[96];
        char type[160];         /* "Microsoft.Compute/virtualMachines", "Microsoft.Network/virtualNetworks/subnets" */
        char name[96];          /* the last segment */
} ArmId;

/**
 * arm_id_parse() - "/subscriptions/S/resourceGroups/R/providers/NAMESPACE/TYPE/NAME[/SUBTYPE/NAME…]"
 *
 * Takes letters, digits and "-_.()" only, so that the id may stand in a URL as it is. Returns 0, -EINVAL.
 */
int arm_id_parse(const char *s, ArmId *ret);
bool arm_id_is(const ArmId *id, const char *type);      /* without regard to case */

/* arm_path_is_plain() - may @s, which begins with '/', stand in a URL as it is: segments of the characters above, none empty, "." or ".." */
bool arm_path_is_plain(const char *s);

/* arm_location_equal() - "West Europe" is "westeurope" */
bool arm_location_equal(const char *a, const char *b);

/* arm_url_is_below() - does @url belong to the service at @endpoint ("https://HOST[:PORT][/PATH]"): same scheme, authority and path? */
bool arm_url_is_below(const char *url, const char *endpoint);
