/* SPDX-License-Identifier: Apache-2.0 */
/* A seed disk in NoCloud's layout (cloud-init documentation, NoCloud): libvirt, IBM Cloud VPC. Docker binds the same file there, and
 * a machine that is brought along gets it by SFTP. */
#include "podvm/process-user-data/seed.h"

static bool nocloud_detect(const SourceSettings *s) {
        return seed_has(s, "user-data");
}

static int nocloud_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        return seed_read(s, "user-data", ret, ret_size, reterr);
}

const Source source_nocloud = {
        .name = "NoCloud seed",
        .detect = nocloud_detect,
        .fetch = nocloud_fetch,
};
