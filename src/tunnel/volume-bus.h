/* SPDX-License-Identifier: Apache-2.0 */
/* The private bus face of what else needs root on the worker: reading the records of a pod's volumes. */
#pragma once

#include <systemd/sd-bus.h>

/* volume_bus_setup() - give a new link its vtable; @directory is borrowed, and outlives the link */
int volume_bus_setup(sd_bus *bus, const char *directory);
