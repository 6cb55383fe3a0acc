/* SPDX-License-Identifier: Apache-2.0 */
/* The pod VM's end of the tunnel. */
#pragma once

#include "net/pod-network.h"
#include "net/netlink.h"

typedef struct PodVM {
        const char *netns_path;         /* where the pod lives */
        const char *host_interface;     /* the tunnel's own NIC; "" if it shares the primary one */
        const char *external_interface; /* name or MAC address of the one for external traffic; "" if any will do */
        uint64_t timeout_usec;          /* for interface and address to come up */
} PodVM;

typedef struct Link Link;

/* podvm_set_route() - one of the configuration's, on the tunnel's device @l */
int podvm_set_route(Netlink *pod, const PodRoute *p, const Link *l, uint32_t table, NetError *e);

/* podvm_check() - can this be set up at all? Returns 0 or -EINVAL with @e. */
int podvm_check(const PodNetwork *n, const PodVM *vm, NetError *e);
/* podvm_setup() - adopts or replaces what an earlier run left; undone on failure. 0 or -errno with @e. */
int podvm_setup(const PodNetwork *n, const PodVM *vm, NetError *e);
/* podvm_teardown() - every step; what is not there is done. @n may be POD_NETWORK_NULL if it is not known. */
int podvm_teardown(const PodNetwork *n, const PodVM *vm, NetError *e);
