/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-node's face on the system bus. */
#pragma once

#include <systemd/sd-bus.h>

#define NODE_BUS_NAME "org.confidentialcontainers.PeerPodNode1"
#define NODE_BUS_PATH "/org/confidentialcontainers/PeerPodNode1"

typedef struct Node Node;

int node_bus_add(sd_bus *bus, Node *n);
int node_bus_request_name(sd_bus *bus);

/* node_bus_changed() - announce one of the properties */
void node_bus_changed(Node *n, const char *property);
