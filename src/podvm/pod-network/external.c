/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With "external-net-via-pod-vm" the pod reaches its own subnet and what "pod-subnet-cidrs" names through the tunnel, and all else by the
 * VM's second interface, which is moved into the pod's namespace (cloud-api-adaptor: src/cloud-api-adaptor/docs/external-network.md).
 *
 * Replies must go the way on which their question came: a kubelet's probe comes from the node's address, which no route of the main table
 * leads back to the tunnel, and a cloud drops packets that leave an interface with a foreign source. So packets from the pod's address go
 * by a table of their own, with the tunnel's routes; those that the pod begins itself have the second interface's.
 */
#include "podvm/pod-network/external.h"

#include <linux/rtnetlink.h>
#include <poll.h>

#include "basic/log.h"
#include "net/route.h"

/* For an interface whose name the pod's namespace has already. */
#define SPARE_NAME "ext0"

/* What is no interface of the VM's own, as cloud-api-adaptor has it: src/cloud-api-adaptor/pkg/podnetwork/podnode.go */
static bool is_candidate(const Link *l, const PodVM *vm) {
        static const char *const prefixes[] = { "veth", "docker", "podman", "br-", "cni", "tunl", "tun", "tap" };
        static const char *const kinds[] = { "bridge", "bond", "dummy", "ipvlan", "macvlan", "tun", "vlan", "vxlan", "wireguard" };
        MACAddress mac;

        if (!l->has_mac || l->flags & IFF_LOOPBACK)
                return false;
        if (!isempty(vm->external_interface))
                return streq(l->name, vm->external_interface) ||
                        (mac_address_parse(vm->external_interface, &mac) >= 0 && memcmp(&mac, &l->mac, sizeof(mac)) == 0);
        for (size_t i = 0; i < ELEMENTSOF(prefixes); i++)
                if (startswith(l->name, prefixes[i]))
                        return false;
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
                if (streq(l->kind, kinds[i]))
                        return false;
        return true;
}

typedef struct External {
        Link link;
        IPPrefix address;
        IPAddress gateway;
} External;

static bool contains(const IPPrefix *p, const IPAddress *a) {
        IPPrefix other = { .address = *a, .length = p->length }, x = ip_prefix_masked(p), y = ip_prefix_masked(&other);

        return a->family == p->address.family && ip_address_equal(&x.address, &y.address);
}

/* Its own default route, or, on the subnet of the primary one, that one's gateway. */
static bool find_gateway(const Route *routes, size_t n_routes, External *x) {
        const Route *primary = route_primary(routes, n_routes, AF_INET), *own = NULL;

        FOREACH_ELEMENT(const Route, v, routes, n_routes)
                if (v->family == AF_INET && v->dst.length == 0 && v->ifindex == x->link.ifindex && v->gateway.family == AF_INET &&
                    (!own || v->priority < own->priority))
                        own = v;
        if (!own && primary && primary->gateway.family == AF_INET && contains(&x->address, &primary->gateway))
                own = primary;
        if (own)
                x->gateway = own->gateway;
        return own;
}

/* 1: found, 0: not yet. The tunnel's interface is passed over, and that of the default route, by which the VM itself is reached. */
static int find_external(Netlink *host, const PodVM *vm, const Link *underlay, External *ret, NetError *e) {
        _cleanup_(freep) Route *routes = NULL;
        _cleanup_(freep) Link *links = NULL;
        const Route *primary;
        size_t n_routes, n_links;
        int r;

        r = route_list_main(host, AF_INET, &routes, &n_routes);
        if (r < 0)
                return netlink_fail(host, e, r, "list the VM's routes");
        r = link_list(host, NULL, &links, &n_links);
        if (r < 0)
                return netlink_fail(host, e, r, "list the VM's interfaces");
        primary = route_primary(routes, n_routes, AF_INET);

        FOREACH_ELEMENT(const Link, l, links, n_links) {
                _cleanup_(freep) Address *addresses = NULL;
                External x = { .link = *l };
                size_t n_addresses;

                if (!is_candidate(l, vm) || l->ifindex == underlay->ifindex || (primary && primary->ifindex == l->ifindex))
                        continue;
                r = address_list(host, AF_INET, l->ifindex, &addresses, &n_addresses);
                if (r < 0)
                        return netlink_fail(host, e, r, "list the addresses of '%s'", l->name);
                if (n_addresses == 0)
                        continue;
                x.address = addresses[0].prefix;
                if (find_gateway(routes, n_routes, &x)) {
                        *ret = x;
                        return 1;
                }
        }
        return 0;
}

static int wait_for_external(Netlink *host, const PodVM *vm, const Link *underlay, External *ret, NetError *e) {
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

                r = find_external(host, vm, underlay, ret, e);
                if (r != 0)
                        return r;
                if (!said)
                        log_info("Waiting for a second interface, for the pod's external traffic.");
                said = true;
                now = now_usec(CLOCK_MONOTONIC);
                if (now >= deadline)
                        return net_error_set(e, -ETIMEDOUT, "no second interface%s%s with an address and a gateway came up in %s, which "
                                             "'external-net-via-pod-vm' asks for", isempty(vm->external_interface) ? "" : " ",
                                             strempty(vm->external_interface), FORMAT_USEC(vm->timeout_usec));
                if (poll(&p, 1, (int) MIN((deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC, UINT64_C(600000))) < 0 && errno != EINTR)
                        return net_error_set(e, -errno, "wait for network events: %m");
                netlink_drain(fd);
        }
}

/* The one of an earlier run, in the pod's namespace. -ENODEV if there is none. */
static int find_moved(Netlink *pod, const PodNetwork *n, Link *ret) {
        _cleanup_(freep) Link *links = NULL;
        size_t n_links;
        int r;

        r = link_list(pod, NULL, &links, &n_links);
        if (r < 0)
                return r;
        FOREACH_ELEMENT(const Link, l, links, n_links)
                if (l->has_mac && !(l->flags & IFF_LOOPBACK) && !link_is_vxlan(l) && !streq(l->name, n->interface)) {
                        *ret = *l;
                        return 0;
                }
        return -ENODEV;
}

/* Does the default route go by it? 1, 0, -errno */
static int is_in_use(Netlink *pod, const Link *l) {
        _cleanup_(freep) Route *routes = NULL;
        const Route *primary;
        size_t n;
        int r;

        r = route_list_main(pod, AF_INET, &routes, &n);
        if (r < 0)
                return r;
        primary = route_primary(routes, n, AF_INET);
        return primary && primary->ifindex == l->ifindex;
}

/* Of the tunnel's: also what has its place in the main table, so that the pod's subnet is not looked for outside. */
static int copy_routes(Netlink *pod, const PodNetwork *n, NetError *e) {
        Link tunnel;
        int r;

        r = link_get(pod, n->interface, &tunnel);
        if (r < 0)
                return netlink_fail(pod, e, r, "look at '%s'", n->interface);
        for (int with_gateway = 0; with_gateway <= 1; with_gateway++)
                FOREACH_ELEMENT(const PodRoute, p, n->routes, n->n_routes) {
                        if (ip_address_is_set(&p->gateway) != with_gateway || p->dst.address.family != AF_INET ||
                            p->table != RT_TABLE_MAIN || p->type != RTN_UNICAST)
                                continue;
                        r = podvm_set_route(pod, p, &tunnel, EXTERNAL_TUNNEL_TABLE, e);
                        if (r < 0)
                                return r;
                }
        return 0;
}

/* One for each address of the pod. */
static int change_rules(Netlink *pod, const PodNetwork *n, int (*change)(Netlink *nl, const PolicyRule *r), int already) {
        int result = 0;

        for (size_t i = 0; i <= n->n_addresses4; i++) {
                PolicyRule v = {
                        .family = AF_INET, .priority = EXTERNAL_RULE_PRIORITY, .type = RTN_UNICAST, .table = EXTERNAL_TUNNEL_TABLE,
                        .from = { .address = i == 0 ? n->pod_ip.address : n->addresses4[i - 1].address, .length = 32 },
                };
                int r = ip_address_is_set(&v.from.address) ? change(pod, &v) : 0;

                if (r < 0 && r != already)
                        result = r;
        }
        return result;
}

static int configure(Netlink *pod, const PodNetwork *n, const External *x, NetError *e) {
        Route v = {
                .family = AF_INET, .dst.address.family = AF_INET, .gateway = x->gateway, .ifindex = x->link.ifindex,
                .protocol = RTPROT_BOOT, .type = RTN_UNICAST, .onlink = !contains(&x->address, &x->gateway),
        };
        Address a = { .ifindex = x->link.ifindex, .prefix = x->address };
        int r;

        r = address_replace(pod, &a);
        if (r < 0)
                return netlink_fail(pod, e, r, "add address %s to '%s'", FORMAT_IP_PREFIX(&a.prefix), x->link.name);
        r = link_set_up(pod, x->link.ifindex, true);
        if (r < 0)
                return netlink_fail(pod, e, r, "set '%s' up", x->link.name);
        r = route_replace(pod, &v);
        if (r < 0)
                return netlink_fail(pod, e, r, "add the default route via %s", FORMAT_IP_ADDRESS(&x->gateway));
        log_notice("Pod's external traffic goes by the VM's interface '%s' with %s to %s.", x->link.name, FORMAT_IP_PREFIX(&x->address),
                   FORMAT_IP_ADDRESS(&x->gateway));
        return 0;
}

static int move(Netlink *host, Netlink *pod, int pod_netns_fd, const PodNetwork *n, External *x, NetError *e) {
        int r;

        r = link_move(host, x->link.ifindex, pod_netns_fd, SPARE_NAME);
        if (r < 0)
                return netlink_fail(host, e, r, "move '%s' into the pod's namespace", x->link.name);
        r = find_moved(pod, n, &x->link);       /* with another number, and perhaps another name */
        return r < 0 ? netlink_fail(pod, e, r, "find the second interface in the pod's namespace") : 0;
}

int external_setup(Netlink *host, Netlink *pod, int pod_netns_fd, const PodNetwork *n, const PodVM *vm, const Link *underlay, NetError *e) {
        External x = {};
        int r;

        r = copy_routes(pod, n, e);
        if (r < 0)
                return r;
        r = find_moved(pod, n, &x.link);
        if (r >= 0)
                r = is_in_use(pod, &x.link);
        if (r > 0) {
                log_info("Adopted '%s' of an earlier run.", x.link.name);
                return 0;
        }
        if (r == 0) {                   /* that run was cut off; what the address and the gateway were is known over there */
                r = external_teardown(pod, n, e);
                if (r < 0)
                        return r;
        } else if (r != -ENODEV)
                return netlink_fail(pod, e, r, "list the interfaces and routes of the pod's namespace");
        r = change_rules(pod, n, rule_add, -EEXIST);
        if (r < 0)
                return netlink_fail(pod, e, r, "add a policy rule for packets from the pod's address");
        r = wait_for_external(host, vm, underlay, &x, e);
        if (r < 0)
                return r;
        r = move(host, pod, pod_netns_fd, n, &x, e);
        if (r >= 0)
                r = configure(pod, n, &x, e);
        if (r < 0)
                (void) external_teardown(pod, n, NULL);
        return r;
}

int external_teardown(Netlink *pod, const PodNetwork *n, NetError *e) {
        _cleanup_(close_fdp) int own = -EBADF;
        Link l;
        int r, k = change_rules(pod, n, rule_delete, -ENOENT);

        r = find_moved(pod, n, &l);
        if (r == -ENODEV)
                r = 0;
        else if (r >= 0) {
                r = netns_open_own(&own);
                if (r >= 0)
                        r = link_move(pod, l.ifindex, own, SPARE_NAME);
        }
        if (r >= 0)
                r = k;
        return r < 0 ? netlink_fail(pod, e, r, "give the second interface back") : 0;
}
