/* SPDX-License-Identifier: Apache-2.0 */
/* The private bus face: org.confidentialcontainers.PeerPod1.Provider. */
#pragma once

#include "provider/manager.h"

#define PROVIDER_PATH "/org/confidentialcontainers/PeerPod1/Provider"
#define PROVIDER_INTERFACE "org.confidentialcontainers.PeerPod1.Provider"

/* provider_bus_setup() - a BusServerSetup; @userdata is the Manager, which outlives the link */
int provider_bus_setup(sd_bus *bus, void *userdata);
