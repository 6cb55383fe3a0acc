/* SPDX-License-Identifier: Apache-2.0 */
/* A pod's network namespace, opened. */
#pragma once

#include <stdint.h>

#include "tunnel/manager.h"

typedef struct PodNetns {
        int fd;
        uint64_t cookie;
        Netlink *nl;
} PodNetns;

#define POD_NETNS_NULL ((PodNetns) { .fd = -EBADF })

/* pod_netns_open() - -ENOENT; -EMEDIUMTYPE: no network namespace; -EINVAL: no path of one, or the host's own */
int pod_netns_open(Manager *m, const char *path, PodNetns *ret, NetError *e);
void pod_netns_done(PodNetns *n);
