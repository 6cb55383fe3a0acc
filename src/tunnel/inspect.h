/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at a pod's network as the CNI made it. */
#pragma once

#include "basic/log.h"
#include "tunnel/manager.h"

/**
 * inspect_pod_network() - everything the pod VM needs to stand in for the pod
 * @pod: NETLINK_ROUTE socket in the pod's namespace
 * @ret: without VNI and index; release with pod_network_done()
 * @log: what is left out is logged with it
 *
 * Changes nothing. Returns 0, or -errno with @e.
 */
int inspect_pod_network(Manager *m, Netlink *pod, const LogContext *log, PodNetwork *ret, NetError *e);
