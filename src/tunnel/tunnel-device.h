/* SPDX-License-Identifier: Apache-2.0 */
/* The tunnel's device in the pod's network namespace, with its bridge: there from Inspect on, which reserves a VXLAN id by it. */
#pragma once

#include "net/link.h"
#include "tunnel/pod-netns.h"
#include "tunnel/tunnel.h"

/* tunnel_reserve_vni() - make the device, down and without remote end, with a VXLAN id that is free; writes the record */
int tunnel_reserve_vni(Manager *m, Tunnel *t, PodNetns *n, const PodNetwork *pn, NetError *e);

/* tunnel_ensure_device() - is it still there? It goes when somebody deletes it by hand, and is made again. */
int tunnel_ensure_device(Manager *m, Tunnel *t, PodNetns *n, Link *ret, NetError *e);

/* tunnel_remove_devices() - device and bridge, whatever the first gives; what is not there is done */
int tunnel_remove_devices(PodNetns *n, NetError *e);
