/* SPDX-License-Identifier: Apache-2.0 */
/* The adaptor's face on the system bus: interface org.confidentialcontainers.PeerPod1.Manager. */
#pragma once

#include <systemd/sd-bus.h>

typedef struct Manager Manager;

/* manager_bus_add() - serve the object, and all pod VMs' objects, on @bus */
int manager_bus_add(sd_bus *bus, Manager *m);

/* manager_bus_request_name() - from now on clients find us. Returns 0 or -errno: -EEXIST another one has the name. */
int manager_bus_request_name(Manager *m);

void manager_bus_changed(Manager *m, const char *property);
