/* SPDX-License-Identifier: Apache-2.0 */
/* OpenStack's config drive (OpenStack Nova documentation, "Config drives"), which IBM's PowerVS uses, too. What it has is what the
 * creator of the machine gave: not encoded. */
#include "podvm/process-user-data/seed.h"

#define USER_DATA "openstack/latest/user_data"

static bool config_drive_detect(const SourceSettings *s) {
        return seed_has(s, "openstack");
}

static int config_drive_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        return seed_read(s, USER_DATA, ret, ret_size, reterr);
}

const Source source_config_drive = {
        .name = "config drive",
        .detect = config_drive_detect,
        .fetch = config_drive_fetch,
};
