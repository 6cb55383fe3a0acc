/* SPDX-License-Identifier: Apache-2.0 */
/* What an instance has beside itself: volumes, elastic addresses, interfaces. */
#pragma once

#include "aws-describe.h"

#define VOLUMES_MAX 25                  /* /dev/xvdb … /dev/xvdz */

/* volumes_check() - do they exist, are they free (or at @instance_id, which may be ""), are they in the zone of @subnet ("": unknown) */
int volumes_check(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *subnet, const char *instance_id, PeerpodError *error);
/* volumes_attach() - to a running instance; those that it has already are left; waits for all */
int volumes_attach(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *instance_id, PeerpodError *error);

/* addresses_give() - an elastic address to each interface that has no public one */
int addresses_give(Aws *a, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const Ec2Instance *i, PeerpodError *error);

/* sides_remove() - elastic addresses and interfaces with the owner's tags. The instance is gone, or will be: an interface that it still has is
 * waited for. */
int sides_remove(Aws *a, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error);

/* sides_find() - calls @found with name and sandbox of the owner of each elastic address and interface whose tag names @node */
typedef int (*SideFound)(void *userdata, const char *name, const char *sandbox_id, const char *id, PeerpodError *error);
int sides_find(Aws *a, const PeerpodCall *call, const char *node, SideFound found, void *userdata, PeerpodError *error);

/* spec_n_volumes() - 0 where the daemon knows nothing of volumes */
static inline uint64_t spec_n_volumes(const PeerpodInstanceSpec *spec) {
        return PEERPOD_HAS(spec, n_volumes) ? spec->n_volumes : 0;
}
