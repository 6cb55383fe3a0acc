/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/tunnel-device.h"

#include <sys/random.h>

#include "basic/crash-point.h"

/* Each failed attempt means that a random number of 16 million was in use; so many in a row mean that the range is full. */
#define VNI_ATTEMPTS 4096

static bool device_is_ours(const Tunnel *t, const Link *l) {
        return link_is_vxlan(l) && l->vni == t->vni && l->port == t->port;
}

/* A reserved or working device of an earlier call or process that lost its record. Anything else of the name is not ours. */
static int remove_device(PodNetns *n, NetError *e) {
        Link l;
        int r = link_get(n->nl, TUNNEL_DEVICE, &l);

        if (r == -ENODEV)
                return 0;
        if (r < 0)
                return netlink_fail(n->nl, e, r, "look at '%s'", TUNNEL_DEVICE);
        if (!link_is_vxlan(&l))
                return net_error_set(e, -EEXIST, "pod has an interface '%s' that is not a tunnel's", TUNNEL_DEVICE);

        crash_point("device-delete");
        r = link_delete(n->nl, l.ifindex);
        crash_point("device-deleted");
        return r < 0 && r != -ENODEV ? netlink_fail(n->nl, e, r, "delete '%s'", TUNNEL_DEVICE) : 0;
}

static int remove_bridge(PodNetns *n, NetError *e) {
        Link l;
        int r = link_get(n->nl, TUNNEL_BRIDGE, &l);

        if (r >= 0 && streq(l.kind, "bridge"))
                r = link_delete(n->nl, l.ifindex);
        return r < 0 && r != -ENODEV ? netlink_fail(n->nl, e, r, "delete '%s'", TUNNEL_BRIDGE) : 0;
}

int tunnel_remove_devices(PodNetns *n, NetError *e) {
        NetError bridge_error = {};
        int r = remove_device(n, e), k = remove_bridge(n, &bridge_error);

        if (r >= 0 && k < 0 && e)
                *e = bridge_error;
        return r < 0 ? r : k;
}

/*
 * Who tells the sender of a packet that is too large for the tunnel? Frames come to vxlan1 by a redirect at layer 2, where nobody
 * compares sizes. The VXLAN driver does when its device is a port of a bridge: it then answers "fragmentation needed" or "packet too
 * big" itself, in the name of the pod and by the way on which the packet came, with the MTU of the route to the VM less its headers
 * (linux: drivers/net/vxlan/vxlan_core.c, vxlan_xmit_one(); net/ipv4/ip_tunnel_core.c, skb_tunnel_check_pmtu()). So it gets a bridge
 * that is down, has no other port and never sees a frame: the redirect at ingress comes before the bridge.
 */
static int join_bridge(PodNetns *n, const Link *device, NetError *e) {
        Link bridge;
        int r;

        r = link_get(n->nl, TUNNEL_BRIDGE, &bridge);
        if (r == -ENODEV) {
                r = bridge_create(n->nl, TUNNEL_BRIDGE);
                if (r < 0)
                        return netlink_fail(n->nl, e, r, "create '%s'", TUNNEL_BRIDGE);
                r = link_get(n->nl, TUNNEL_BRIDGE, &bridge);
        }
        if (r < 0)
                return netlink_fail(n->nl, e, r, "look at '%s'", TUNNEL_BRIDGE);
        if (!streq(bridge.kind, "bridge"))
                return net_error_set(e, -EEXIST, "pod has an interface '%s' that is not a tunnel's", TUNNEL_BRIDGE);
        if (device->master == bridge.ifindex)
                return 0;
        r = link_set_master(n->nl, device->ifindex, bridge.ifindex);
        return r < 0 ? netlink_fail(n->nl, e, r, "make '%s' a port of '%s'", device->name, TUNNEL_BRIDGE) : 0;
}

/* Make vxlan1, down and without remote end, which reserves its VNI on this host. */
static int create_device(Manager *m, const Tunnel *t, PodNetns *n, const PodNetwork *pn, NetError *e) {
        VxlanSettings s = {
                .name = TUNNEL_DEVICE, .netns_fd = n->fd, .vni = t->vni, .port = t->port, .mtu = pn->mtu,
                /* The VM's guard takes frames from this address only. Without it the kernel takes one by the route, which is another
                 * one where the VM is not reached by the host's primary interface (a libvirt network on this host). */
                .local = pn->worker_ip.address,
                /* So that a router on the way tells what it cannot carry, and join_bridge()'s answers say so. */
                .inherit_df = true,
        };
        Link l;
        int r;

        crash_point("device-create");
        r = vxlan_create(m->host, &s);
        crash_point("device-created");
        if (r < 0)
                return netlink_fail(m->host, e, r, "create '%s' with VXLAN id %u", TUNNEL_DEVICE, t->vni);

        r = link_get(n->nl, TUNNEL_DEVICE, &l);
        if (r >= 0)
                r = link_set_no_address_generation(n->nl, l.ifindex);
        if (r < 0)
                (void) netlink_fail(n->nl, e, r, "set up '%s'", TUNNEL_DEVICE);
        else
                r = join_bridge(n, &l, e);
        if (r < 0)
                (void) tunnel_remove_devices(n, NULL);
        return r;
}

/*
 * Any number within the range may be in use: by tunnels of before a restart, by the cluster's network, by another program. The
 * kernel knows, so the device itself is the reservation. The start is random, not the lowest free number: a sender who wants
 * to forge frames has to know it.
 */
int tunnel_reserve_vni(Manager *m, Tunnel *t, PodNetns *n, const PodNetwork *pn, NetError *e) {
        uint32_t min = m->settings->vxlan_min_id, range = VXLAN_VNI_MAX - min + 1, start;
        int r;

        if (getrandom(&start, sizeof(start), 0) != sizeof(start))
                return net_error_set(e, -EIO, "no random number");

        for (uint32_t i = 0; i < MIN((uint32_t) VNI_ATTEMPTS, range); i++) {
                t->vni = min + (start % range + i) % range;
                r = tunnel_save(m, t, e);
                if (r < 0)
                        return r;
                r = create_device(m, t, n, pn, e);
                if (r != -EEXIST || !vxlan_vni_is_taken(m->host))
                        return r;
        }
        return net_error_set(e, -ENOSPC, "no free VXLAN id between %u and %u on UDP port %u", min, VXLAN_VNI_MAX, t->port);
}

int tunnel_ensure_device(Manager *m, Tunnel *t, PodNetns *n, Link *ret, NetError *e) {
        _cleanup_(pod_network_done) PodNetwork pn = POD_NETWORK_NULL;
        Link l;
        int r;

        r = link_get(n->nl, TUNNEL_DEVICE, &l);
        if (r >= 0 && device_is_ours(t, &l)) {
                r = join_bridge(n, &l, e);
                if (r < 0)
                        return r;
                *ret = l;
                return 0;
        }
        if (r >= 0)
                r = remove_device(n, e);
        else if (r != -ENODEV)
                (void) netlink_fail(n->nl, e, r, "look at '%s'", TUNNEL_DEVICE);
        if (r < 0 && r != -ENODEV)
                return r;

        r = tunnel_read_pod_network(t, &pn, e);
        if (r < 0)
                return r;
        r = create_device(m, t, n, &pn, e);
        if (r < 0)
                return r;
        r = link_get(n->nl, TUNNEL_DEVICE, ret);
        return r < 0 ? netlink_fail(n->nl, e, r, "look at '%s'", TUNNEL_DEVICE) : 0;
}
