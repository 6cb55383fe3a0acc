/* SPDX-License-Identifier: Apache-2.0 */
/* Gathers what there is to tell: from the adaptor over the system bus, and from the pages of the agent proxies of its sandboxes.
 *
 * One gathering at a time, however many ask, and none while the last is fresh: so scrapes cost the adaptor the same whoever scrapes.
 * An adaptor that does not run is not started for it. */
#pragma once

#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "metrics/exposition.h"

typedef struct Collector Collector;

/* @e: borrowed, until the next gathering; NULL if there is no memory. May not free the collector. */
typedef void (*CollectorHandler)(Collector *c, Exposition *e, void *userdata);

/* @proxies_dir: where each proxy's run-time directory is, borrowed; @cache_usec: how long what was gathered counts as fresh */
int collector_new(sd_event *event, const char *proxies_dir, uint64_t cache_usec, CollectorHandler handler, void *userdata, Collector **ret);
Collector* collector_free(Collector *c);
DEFINE_CLEANUP(Collector*, collector_free);

/* collector_start() - begin, unless it is under way. The handler runs once for all who asked until then, from the loop, never before this
 * returns. */
void collector_start(Collector *c);
