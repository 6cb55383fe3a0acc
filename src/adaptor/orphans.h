/* SPDX-License-Identifier: Apache-2.0 */
/* Compares what cloud and kernel have of this node with the records, for a person who asks, and takes away what no record knows; hands on
 * the question whether the provider can be used at all. */
#pragma once

#include <stdbool.h>
#include <systemd/sd-bus.h>

typedef struct Manager Manager;
typedef struct OrphanQuery OrphanQuery;

#define ORPHAN_QUERIES_MAX 8U           /* each one asks the cloud */

/**
 * orphans_begin() - answer FindOrphans() or (@reap) ReapOrphans()
 * @call: answered later, "a(ssssss)" as org.confidentialcontainers.PeerPod1(5) describes it
 *
 * Returns 1, or negative with @error set.
 */
int orphans_begin(Manager *m, sd_bus_message *call, bool reap, sd_bus_error *error);

/* provider_verify_begin() - answer VerifyProvider(), the same way */
int provider_verify_begin(Manager *m, sd_bus_message *call, sd_bus_error *error);

/* orphans_forget() - at the end of the process: those under way get no answer */
void orphans_forget(Manager *m);
