/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <poll.h>

#include "basic/log.h"
#include "net/link.h"
#include "net/nft.h"
#include "net/route.h"
#include "podvm/pod-network/external.h"
#include "podvm/pod-network/pod-network.h"

#define VXLAN_PORT_DEFAULT 4789         /* cloud-api-adaptor: src/cloud-api-adaptor/pkg/podnetwork/tunneler/vxlan */

/* The sockets of both namespaces of the VM. */
typedef struct Sockets {
        int pod_netns_fd;
        Netlink *host, *nft, *pod;
} Sockets;

#define SOCKETS_NULL ((Sockets) { .pod_netns_fd = -EBADF })

static void sockets_done(Sockets *s) {
        s->host = netlink_free(s->host);
        s->nft = netlink_free(s->nft);
        s->pod = netlink_free(s->pod);
        s->pod_netns_fd = close_fd(s->pod_netns_fd);
}

/* A namespace that does not exist is -ENOENT, with @ret usable for the host's side. */
static int sockets_open(const PodVM *vm, Sockets *ret, NetError *e) {
        _cleanup_(sockets_done) Sockets s = SOCKETS_NULL;
        int r;

        r = netlink_open(-EBADF, NETLINK_ROUTE, &s.host);
        if (r >= 0)
                r = netlink_open(-EBADF, NETLINK_NETFILTER, &s.nft);
        if (r < 0)
                return net_error_set(e, r, "open netlink sockets: %s", strerror(-r));

        r = netns_open(vm->netns_path, &s.pod_netns_fd);
        if (r == -EMEDIUMTYPE)
                return net_error_set(e, r, "'%.128s' is not a network namespace", vm->netns_path);
        if (r >= 0)
                r = netlink_open(s.pod_netns_fd, NETLINK_ROUTE, &s.pod);
        if (r == -ENOENT)
                (void) net_error_set(e, r, "network namespace '%.128s' does not exist: netns@podns.service makes it",
                                     vm->netns_path);
        else if (r < 0)
                return net_error_set(e, r, "enter network namespace '%.128s': %s", vm->netns_path, strerror(-r));

        *ret = s;
        s = SOCKETS_NULL;
        return r;
}

int podvm_check(const PodNetwork *n, const PodVM *vm, NetError *e) {
        if (!streq(n->tunnel_type, POD_NETWORK_TUNNEL_VXLAN))
                return net_error_set(e, -EINVAL, "'tunnel-type' is '%s', only 'vxlan' is known", n->tunnel_type);
        if (isempty(n->interface))
                return net_error_set(e, -EINVAL, "'interface' is missing");
        if (!ip_address_is_host(&n->worker_ip.address))
                return net_error_set(e, -EINVAL, "'worker-node-ip' is missing or no host's address");
        if (!ip_address_is_set(&n->pod_ip.address) && n->n_addresses6 == 0)
                return net_error_set(e, -EINVAL, "'podip' is missing");
        if (!n->has_mac)
                return net_error_set(e, -EINVAL, "'pod-hw-addr' is missing");
        return 0;
}

static int is_primary(Netlink *host, int ifindex) {
        _cleanup_(freep) Route *routes = NULL;
        const Route *primary;
        size_t n;
        int r;

        r = route_list_main(host, AF_INET, &routes, &n);
        if (r < 0)
                return r;
        primary = route_primary(routes, n, AF_INET);
        return primary && primary->ifindex == ifindex;
}

/* Has the VM an address to reach the worker from? 1, 0 (not yet), -errno. */
static int underlay_is_ready(Netlink *host, const PodNetwork *n, const PodVM *vm, Link *ret, NetError *e) {
        _cleanup_(freep) Address *addresses = NULL;
        size_t n_addresses;
        Route route;
        Link l;
        int r;

        r = route_lookup(host, &n->worker_ip.address, &route);
        if (r == -ENETUNREACH || r == -EHOSTUNREACH || (r >= 0 && !ip_address_is_nonzero(&route.source)))
                return 0;
        if (r < 0)
                return netlink_fail(host, e, r, "look up the route to the worker");

        if (n->dedicated && isempty(vm->host_interface)) {
                r = is_primary(host, route.ifindex);
                if (r < 0)
                        return netlink_fail(host, e, r, "list the VM's routes");
                if (r > 0)
                        return 0;       /* the way to the worker is not yet the tunnel's own */
        }

        r = n->dedicated && !isempty(vm->host_interface) ? link_get(host, vm->host_interface, &l)
                                                         : link_get_by_index(host, route.ifindex, &l);
        if (r == -ENODEV)
                return 0;
        if (r >= 0)
                r = address_list(host, AF_INET, l.ifindex, &addresses, &n_addresses);
        if (r < 0)
                return netlink_fail(host, e, r, "look at the VM's interface");
        if (n_addresses == 0 && n->dedicated)
                return 0;
        if (l.flags & IFF_LOOPBACK)
                return net_error_set(e, -EINVAL, "'worker-node-ip' is an address of this VM");

        if (route.mtu > 0 && route.mtu < l.mtu)
                l.mtu = route.mtu;
        *ret = l;
        return 1;
}

/* Waits for news of links, addresses and routes; looks again at each. */
static int wait_for_underlay(Netlink *host, const PodNetwork *n, const PodVM *vm, Link *ret, NetError *e) {
        static const int groups[] = { RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, 0 };
        uint64_t deadline = usec_add(now_usec(CLOCK_MONOTONIC), vm->timeout_usec), now;
        _cleanup_(close_fdp) int fd = -EBADF;
        bool said = false;
        int r;

        fd = netlink_subscribe(-EBADF, NETLINK_ROUTE, groups);
        if (fd < 0)
                return net_error_set(e, fd, "subscribe to network events: %s", strerror(-fd));

        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };

                r = underlay_is_ready(host, n, vm, ret, e);
                if (r != 0)
                        return r;
                if (!said)
                        log_info("Waiting for an interface with a way to the worker %s.", FORMAT_IP_ADDRESS(&n->worker_ip.address));
                said = true;

                now = now_usec(CLOCK_MONOTONIC);
                if (now >= deadline)
                        return net_error_set(e, -ETIMEDOUT, "no interface%s%s with an address and a route to the worker %s came up in %s",
                                             n->dedicated ? " of the tunnel's own " : "", n->dedicated ? vm->host_interface : "",
                                             FORMAT_IP_ADDRESS(&n->worker_ip.address), FORMAT_USEC(vm->timeout_usec));
                if (poll(&p, 1, (int) MIN((deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC, UINT64_C(600000))) < 0 && errno != EINTR)
                        return net_error_set(e, -errno, "wait for network events: %m");
                netlink_drain(fd);
        }
}

static bool is_adoptable(const Link *l, const PodNetwork *n, uint16_t port) {
        return link_is_vxlan(l) && l->vni == n->vxlan_id && l->port == port && ip_address_equal(&l->group, &n->worker_ip.address) &&
                l->has_mac && memcmp(&l->mac, &n->mac, sizeof(n->mac)) == 0;
}

static int make_device(Sockets *s, const PodNetwork *n, uint16_t port, uint32_t mtu, bool *ret_undo, Link *ret, NetError *e) {
        VxlanSettings v = {
                .name = n->interface, .netns_fd = s->pod_netns_fd, .vni = n->vxlan_id, .port = port,
                .group = n->worker_ip.address, .mtu = mtu, .mac = &n->mac,
        };
        Link l;
        int r;

        r = link_get(s->pod, n->interface, &l);
        if (r >= 0 && is_adoptable(&l, n, port)) {
                r = mtu > 0 && l.mtu != mtu ? link_set_mtu(s->pod, l.ifindex, mtu) : 0;
                if (r < 0)
                        return netlink_fail(s->pod, e, r, "set the MTU of '%s' to %u", l.name, mtu);
                log_info("Adopted '%s' of an earlier run.", l.name);
                *ret = l;
                return 0;
        }
        *ret_undo = r >= 0 || r == -ENODEV;     /* no device of ours is at work */
        if (r >= 0 && !link_is_vxlan(&l))
                return net_error_set(e, -EEXIST, "pod's namespace has an interface '%s' that is not a tunnel's", l.name);
        if (r >= 0) {
                log_info("Replacing '%s' of an earlier run, which is another tunnel's.", l.name);
                r = link_delete(s->pod, l.ifindex);
        }
        if (r < 0 && r != -ENODEV)
                return netlink_fail(s->pod, e, r, "replace '%s'", n->interface);

        r = vxlan_create(s->host, &v);
        if (r < 0)
                return netlink_fail(s->host, e, r, "create '%s' with VXLAN id %u, MTU %u", n->interface, n->vxlan_id, mtu);
        r = link_get(s->pod, n->interface, ret);
        if (r < 0)
                return netlink_fail(s->pod, e, r, "look at '%s'", n->interface);
        if (n->n_addresses6 > 0)
                return 0;               /* neighbour discovery needs the link-local address */
        r = link_set_no_address_generation(s->pod, ret->ifindex);
        return r < 0 ? netlink_fail(s->pod, e, r, "set up '%s'", n->interface) : 0;
}

static bool has_address4(const PodNetwork *n, const IPPrefix *p) {
        if (ip_prefix_equal(p, &n->pod_ip))
                return true;
        FOREACH_ELEMENT(const IPPrefix, q, n->addresses4, n->n_addresses4)
                if (ip_prefix_equal(p, q))
                        return true;
        return false;
}

static int add_address(Netlink *pod, const IPPrefix *p, const Link *l, NetError *e) {
        Address a = {
                .ifindex = l->ifindex,
                .prefix = *p,
                /* The routes come from the worker, where the CNI may have changed the one that the kernel would make. */
                .flags = IFA_F_NOPREFIXROUTE | (p->address.family == AF_INET ? 0 : IFA_F_NODAD),
        };
        int r = address_replace(pod, &a);

        return r < 0 ? netlink_fail(pod, e, r, "add address %s to '%s'", FORMAT_IP_PREFIX(&a.prefix), l->name) : 0;
}

/* The pod's addresses, and none else. */
static int set_addresses(Netlink *pod, const PodNetwork *n, const Link *l, NetError *e) {
        _cleanup_(freep) Address *old = NULL;
        size_t n_old;
        int r;

        r = address_list(pod, AF_INET, l->ifindex, &old, &n_old);
        if (r < 0)
                return netlink_fail(pod, e, r, "list the addresses of '%s'", l->name);
        FOREACH_ELEMENT(const Address, a, old, n_old)
                if (!has_address4(n, &a->prefix)) {
                        r = address_delete(pod, a);
                        if (r < 0 && r != -EADDRNOTAVAIL)
                                return netlink_fail(pod, e, r, "delete address %s of '%s'", FORMAT_IP_PREFIX(&a->prefix), l->name);
                }

        /* The first is the one that the kernel takes where nothing says which. */
        if (ip_address_is_set(&n->pod_ip.address) && (r = add_address(pod, &n->pod_ip, l, e)) < 0)
                return r;
        FOREACH_ELEMENT(const IPPrefix, p, n->addresses4, n->n_addresses4)
                if ((r = add_address(pod, p, l, e)) < 0)
                        return r;
        FOREACH_ELEMENT(const IPPrefix, p, n->addresses6, n->n_addresses6)
                if ((r = add_address(pod, p, l, e)) < 0)
                        return r;
        return 0;
}

static Route make_route(const PodRoute *p, const Link *l) {
        bool has_gateway = ip_address_is_set(&p->gateway), passes = p->type == RTN_UNICAST;

        return (Route) {
                .family = p->dst.address.family,
                .dst = p->dst,
                .gateway = p->gateway,
                .source = p->source,
                .ifindex = passes ? l->ifindex : 0,
                .table = p->table,
                .protocol = p->protocol ?: RTPROT_BOOT,
                .scope = p->scope == RT_SCOPE_UNIVERSE && !has_gateway && passes && p->dst.address.family == AF_INET ? RT_SCOPE_LINK : p->scope,
                .type = p->type,
                .priority = p->priority,
                .mtu = p->mtu,
                .onlink = p->onlink,
        };
}

int podvm_set_route(Netlink *pod, const PodRoute *p, const Link *l, uint32_t table, NetError *e) {
        Route v = make_route(p, l);
        int r;

        v.table = table;
        r = route_replace(pod, &v);
        return r < 0 ? netlink_fail(pod, e, r, "add route to %s%s%s", FORMAT_IP_PREFIX(&v.dst), ip_address_is_set(&v.gateway) ? " via " : "",
                                    FORMAT_IP_ADDRESS(&v.gateway)) : 0;
}

static int set_rules(Netlink *pod, const PodNetwork *n, NetError *e) {
        FOREACH_ELEMENT(const PolicyRule, v, n->rules, n->n_rules) {
                int r = rule_add(pod, v);

                if (r < 0 && r != -EEXIST)
                        return netlink_fail(pod, e, r, "add the policy rule with priority %u", v->priority);
        }
        return 0;
}

/* What does not go with the device. */
static void remove_policy(Netlink *pod, const PodNetwork *n) {
        static const Link none = {};

        FOREACH_ELEMENT(const PolicyRule, v, n->rules, n->n_rules)
                (void) rule_delete(pod, v);
        FOREACH_ELEMENT(const PodRoute, p, n->routes, n->n_routes)
                if (p->type != RTN_UNICAST) {
                        Route v = make_route(p, &none);

                        (void) route_delete(pod, &v);
                }
}

static bool is_of_interface(const char *device, const PodNetwork *n) {
        return isempty(device) || streq(device, n->interface);
}

/* A gateway must be reachable before it is used: on-link routes first. */
static int set_routes(Netlink *pod, const PodNetwork *n, const Link *l, NetError *e) {
        for (int with_gateway = 0; with_gateway <= 1; with_gateway++)
                FOREACH_ELEMENT(const PodRoute, p, n->routes, n->n_routes) {
                        int r;

                        if (ip_address_is_set(&p->gateway) != with_gateway)
                                continue;
                        if (!is_of_interface(p->device, n)) {
                                log_warning("Ignoring the route to %s by interface '%s', which this VM does not have.",
                                            FORMAT_IP_PREFIX(&p->dst), p->device);
                                continue;
                        }
                        /* It goes elsewhere: external.c */
                        if (n->external_net_via_pod_vm && p->dst.address.family == AF_INET && p->dst.length == 0 &&
                            p->table == RT_TABLE_MAIN)
                                continue;
                        r = podvm_set_route(pod, p, l, p->table, e);
                        if (r < 0)
                                return r;
                }
        return 0;
}

static int set_neighbours(Netlink *pod, const PodNetwork *n, const Link *l, NetError *e) {
        FOREACH_ELEMENT(const PodNeighbour, p, n->neighbours, n->n_neighbours) {
                Neighbour v = { .ifindex = l->ifindex, .address = p->address, .mac = p->mac, .has_mac = p->has_mac, .state = p->state };
                int r;

                if (!is_of_interface(p->device, n))
                        continue;
                if (!p->has_mac || p->state == NUD_NONE)
                        return net_error_set(e, -EINVAL, "neighbour %s has no MAC address or no state", FORMAT_IP_ADDRESS(&p->address));
                r = neighbour_replace(pod, &v);
                if (r < 0)
                        return netlink_fail(pod, e, r, "add neighbour %s", FORMAT_IP_ADDRESS(&p->address));
        }
        return 0;
}

/*
 * Let the kernel announce the pod's address by gratuitous ARP: the cluster's bridges learn where it is now, and the frame that
 * carries it makes this VM known on the cloud's network. To give an interface the MAC address it has is what makes it
 * announce (linux: net/ipv4/devinet.c, inetdev_event(), NETDEV_CHANGEADDR), and needs no raw socket and so no capability for one.
 */
static int announce(Netlink *pod, const PodNetwork *n, const Link *l, NetError *e) {
        int r = link_set_arp_notify(pod, l->ifindex);

        if (r >= 0)
                r = link_set_mac(pod, l->ifindex, &n->mac);
        return r < 0 ? netlink_fail(pod, e, r, "announce the pod's address") : 0;
}

static uint32_t inner_mtu(const PodNetwork *n, const Link *underlay) {
        uint32_t fits = underlay->mtu > VXLAN_OVERHEAD_IPV4 ? underlay->mtu - VXLAN_OVERHEAD_IPV4 : underlay->mtu;

        if (n->mtu > fits)
                log_info("MTU of the pod's network is %u, but the tunnel by '%s' carries %u without fragments: using that.",
                         n->mtu, underlay->name, fits);
        return n->mtu == 0 ? fits : MIN(n->mtu, fits);
}

static int configure(Sockets *s, const PodNetwork *n, const PodVM *vm, const Link *underlay, bool *ret_undo, NetError *e) {
        uint16_t port = n->vxlan_port ?: VXLAN_PORT_DEFAULT;
        NftTunnel tunnel = { .peer = n->worker_ip.address, .port = port, .vni = n->vxlan_id };
        Link l;
        int r;

        r = nft_set_tunnels(s->nft, &tunnel, 1);
        if (r < 0)
                return netlink_fail(s->nft, e, r, "write the firewall's table 'peerpod'");
        r = make_device(s, n, port, inner_mtu(n, underlay), ret_undo, &l, e);
        if (r < 0)
                return r;
        r = set_addresses(s->pod, n, &l, e);
        if (r < 0)
                return r;
        r = link_set_up(s->pod, l.ifindex, true);
        if (r == -EADDRINUSE)
                return net_error_set(e, r, "UDP port %u is in use in this VM by something else than plain VXLAN devices", port);
        if (r < 0)
                return netlink_fail(s->pod, e, r, "set '%s' up", l.name);
        /* Neighbours last: with the announcement the kernel forgets all that it knew of them, the permanent ones too. */
        if ((r = set_routes(s->pod, n, &l, e)) < 0 ||
            (r = set_rules(s->pod, n, e)) < 0 ||
            (r = announce(s->pod, n, &l, e)) < 0)
                return r;
        r = set_neighbours(s->pod, n, &l, e);
        if (r < 0 || !n->external_net_via_pod_vm)
                return r;
        return external_setup(s->host, s->pod, s->pod_netns_fd, n, vm, underlay, e);
}

static int remove_all(Sockets *s, const PodNetwork *n, NetError *e) {
        const char *interface = n->interface;
        int r, result = 0;
        Link l;

        if (s->pod && n->external_net_via_pod_vm)
                result = external_teardown(s->pod, n, e);
        if (s->pod && !isempty(interface)) {
                remove_policy(s->pod, n);
                r = link_get(s->pod, interface, &l);
                if (r >= 0 && link_is_vxlan(&l))
                        r = link_delete(s->pod, l.ifindex);
                if (r < 0 && r != -ENODEV && result >= 0)
                        result = netlink_fail(s->pod, e, r, "delete '%s'", interface);
        }
        r = nft_set_tunnels(s->nft, NULL, 0);
        if (r < 0 && result >= 0)
                result = netlink_fail(s->nft, e, r, "remove the firewall's table 'peerpod'");
        return result;
}

int podvm_setup(const PodNetwork *n, const PodVM *vm, NetError *e) {
        _cleanup_(sockets_done) Sockets s = SOCKETS_NULL;
        bool undo = false;
        Link underlay;
        int r;

        r = podvm_check(n, vm, e);
        if (r < 0)
                return r;
        r = sockets_open(vm, &s, e);
        if (r < 0)
                return r;
        r = wait_for_underlay(s.host, n, vm, &underlay, e);
        if (r < 0)
                return r;

        r = configure(&s, n, vm, &underlay, &undo, e);
        if (r < 0) {
                /* An adopted device serves containers that run: it stays, and the firewall with it. */
                if (undo)
                        (void) remove_all(&s, n, NULL);
                return r;
        }
        log_notice("Pod's interface '%s' with %s is connected to the worker %s.", n->interface,
                   FORMAT_IP_PREFIX(ip_address_is_set(&n->pod_ip.address) ? &n->pod_ip : n->addresses6),
                   FORMAT_IP_ADDRESS(&n->worker_ip.address));
        return 0;
}

int podvm_teardown(const PodNetwork *n, const PodVM *vm, NetError *e) {
        _cleanup_(sockets_done) Sockets s = SOCKETS_NULL;
        int r;

        r = sockets_open(vm, &s, e);
        return r < 0 && r != -ENOENT ? r : remove_all(&s, n, e);
}
