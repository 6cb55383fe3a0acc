/* SPDX-License-Identifier: Apache-2.0 */
/* The pod VM's own second interface as the pod's way to everything outside the cluster. */
#pragma once

#include "net/link.h"
#include "podvm/pod-network/pod-network.h"

/* The tunnel's routes, for packets from the pod's address; the main table has them without the default route. */
#define EXTERNAL_TUNNEL_TABLE 4789U
#define EXTERNAL_RULE_PRIORITY 1000U

/**
 * external_setup() - move it into the pod's namespace, and the default route to it
 * @host, @pod:  NETLINK_ROUTE sockets in both namespaces
 * @pod_netns_fd: borrowed
 * @underlay:    the tunnel's interface, which is never taken
 *
 * Waits for it, as clouds attach it after the boot. Done again, it finds the interface where it is. Undone on failure. Returns 0, -ETIMEDOUT,
 * -errno, with @e.
 */
int external_setup(Netlink *host, Netlink *pod, int pod_netns_fd, const PodNetwork *n, const PodVM *vm, const Link *underlay, NetError *e);

/* external_teardown() - back where it came from; nothing to do is no error */
int external_teardown(Netlink *pod, const PodNetwork *n, NetError *e);
