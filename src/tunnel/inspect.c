/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/inspect.h"

#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include "basic/log.h"
#include "net/link.h"
#include "net/route.h"

/* The address that the tunnel comes from: what the default route prefers, else the first that is no alias. */
static int choose_worker_address(Netlink *host, const Link *l, const Route *primary, IPPrefix *ret, NetError *e) {
        _cleanup_(freep) Address *addresses = NULL;
        const Address *best = NULL;
        size_t n;
        int r;

        r = address_list(host, AF_INET, l->ifindex, &addresses, &n);
        if (r < 0)
                return netlink_fail(host, e, r, "list the addresses of the host's interface '%s'", l->name);

        FOREACH_ELEMENT(const Address, a, addresses, n) {
                if (a->scope != RT_SCOPE_UNIVERSE && a->scope != RT_SCOPE_LINK)
                        continue;
                if (primary && primary->ifindex == l->ifindex && ip_address_equal(&primary->source, &a->prefix.address)) {
                        best = a;
                        break;
                }
                if (!best || (best->flags & IFA_F_SECONDARY && !(a->flags & IFA_F_SECONDARY)))
                        best = a;
        }
        if (!best)
                return net_error_set(e, -EADDRNOTAVAIL, "host's interface '%s' has no IPv4 address", l->name);

        *ret = best->prefix;
        return 0;
}

static int inspect_host(Manager *m, PodNetwork *n, uint32_t *ret_mtu, NetError *e) {
        _cleanup_(freep) Route *routes = NULL;
        const char *wanted = m->settings->host_interface;
        const Route *primary;
        size_t n_routes;
        Link l;
        int r;

        r = route_list_main(m->host, AF_INET, &routes, &n_routes);
        if (r < 0)
                return netlink_fail(m->host, e, r, "list the host's routes");
        primary = route_primary(routes, n_routes, AF_INET);

        if (!isempty(wanted)) {
                r = link_get(m->host, wanted, &l);
                if (r < 0)
                        return netlink_fail(m->host, e, r, "look at the host's interface '%s'", wanted);
                n->dedicated = !primary || primary->ifindex != l.ifindex;
        } else {
                if (!primary)
                        return net_error_set(e, -ENETUNREACH,
                                             "host has no IPv4 default route, so its interface for the tunnel is not known");
                r = link_get_by_index(m->host, primary->ifindex, &l);
                if (r < 0)
                        return netlink_fail(m->host, e, r, "look at the interface of the host's default route");
        }

        r = choose_worker_address(m->host, &l, primary, &n->worker_ip, e);
        if (r < 0)
                return r;
        *ret_mtu = l.mtu;
        return 0;
}

/* The pod's address is the one that it speaks from: the default route's choice, else the first that is no alias. */
static const Address* choose_pod_address(const Address *addresses, size_t n, const Route *primary) {
        const Address *best = NULL;

        FOREACH_ELEMENT(const Address, a, addresses, n) {
                if (a->prefix.address.family != AF_INET)
                        continue;
                if (ip_address_is_set(&primary->source) && ip_address_equal(&primary->source, &a->prefix.address))
                        return a;
                if (!best || (best->flags & IFA_F_SECONDARY && !(a->flags & IFA_F_SECONDARY)))
                        best = a;
        }
        return best;
}

static int inspect_addresses(Netlink *pod, const Link *l, const Route *primary, PodNetwork *n, NetError *e) {
        _cleanup_(freep) Address *addresses = NULL;
        const Address *best;
        size_t n_addresses;
        int r;

        r = address_list(pod, AF_UNSPEC, l->ifindex, &addresses, &n_addresses);
        if (r < 0)
                return netlink_fail(pod, e, r, "list the addresses of the pod's interface '%s'", l->name);

        best = choose_pod_address(addresses, n_addresses, primary);
        if (best)
                n->pod_ip = best->prefix;
        FOREACH_ELEMENT(const Address, a, addresses, n_addresses) {
                if (a == best || (a->prefix.address.family == AF_INET6 &&
                                  (a->scope != RT_SCOPE_UNIVERSE || !(a->flags & IFA_F_PERMANENT))))
                        continue;
                r = pod_network_add_address(n, &a->prefix);
                if (r < 0)
                        return net_error_set(e, r, "too many addresses on the pod's interface '%s'", l->name);
        }
        if (!best && n->n_addresses6 == 0)
                return net_error_set(e, -EADDRNOTAVAIL, "no address on the pod's interface '%s'", l->name);
        return 0;
}

static bool has_family(const PodNetwork *n, int family) {
        return family == AF_INET ? ip_address_is_set(&n->pod_ip.address) : n->n_addresses6 > 0;
}

/* Made by the kernel, or by a router, for any namespace with such an interface. */
static bool comes_by_itself(const Route *v) {
        return v->family == AF_INET6 &&
                (v->protocol == RTPROT_RA || v->protocol == RTPROT_REDIRECT ||
                 IN6_IS_ADDR_MULTICAST(&v->dst.address.in6) ||
                 (v->protocol == RTPROT_KERNEL && (IN6_IS_ADDR_LINKLOCAL(&v->dst.address.in6) || v->type != RTN_UNICAST)));
}

/* Does it say that packets end here? Then it has no interface of its own. */
static bool rejects(const Route *v) {
        return v->type == RTN_BLACKHOLE || v->type == RTN_UNREACHABLE || v->type == RTN_PROHIBIT || v->type == RTN_THROW;
}

/* Can the pod VM have this route? What not is for the log. */
static const char* reason_to_leave_out(const Route *v, const Link *l) {
        if (v->special)
                return "it goes by more than the destination, or wraps packets up";
        if (rejects(v))
                return NULL;
        if (v->type != RTN_UNICAST)
                return "its type has a meaning on the worker only";
        if (v->multipath)
                return "it has several next hops";
        if (v->ifindex != l->ifindex)
                return "it leaves by another interface, which stays on the worker";
        if (ip_address_is_set(&v->gateway) && v->gateway.family != v->family)
                return "its gateway is of another family";
        return NULL;
}

static int add_route(PodNetwork *n, const PodRoute *v, NetError *e) {
        int r = pod_network_add_route(n, v);

        return r < 0 ? net_error_set(e, r, "too many routes in the pod's network") : 0;
}

static int inspect_routes(const Route *routes, size_t n_routes, const Link *l, const LogContext *log, PodNetwork *n, NetError *e) {
        FOREACH_ELEMENT(const Route, v, routes, n_routes) {
                const char *reason;
                PodRoute p;
                int r;

                if (!has_family(n, v->family) || comes_by_itself(v))
                        continue;
                reason = reason_to_leave_out(v, l);
                if (reason) {
                        (void) log_full(log, LOG_WARNING, NULL, 0, "Leaving out the pod's route to '%s': %s.",
                                        FORMAT_IP_PREFIX(&v->dst), reason);
                        continue;
                }

                p = (PodRoute) {
                        .dst = v->dst,
                        .gateway = v->gateway,
                        .protocol = v->protocol,
                        .scope = v->scope,
                        .source = v->source,
                        .priority = v->priority,
                        .mtu = v->mtu,
                        .onlink = v->onlink,
                        .table = v->table,
                        .type = v->type,
                };
                if (!rejects(v))
                        memcpy(p.device, l->name, sizeof(p.device));
                r = add_route(n, &p, e);
                if (r < 0)
                        return r;
        }
        return 0;
}

static bool reaches_vm(const char *interface, const PodNetwork *n) {
        return isempty(interface) || streq(interface, n->interface) || streq(interface, "lo");
}

static const char* reason_to_leave_out_rule(const PolicyRule *v, const PodNetwork *n) {
        bool has_table = v->type != RTN_UNICAST || v->table == RT_TABLE_MAIN || v->table == RT_TABLE_DEFAULT || v->table == RT_TABLE_LOCAL;

        if (v->special)
                return "it goes by more than addresses, marks and interfaces";
        if (!reaches_vm(v->iif, n) || !reaches_vm(v->oif, n))
                return "its interface stays on the worker";
        for (size_t i = 0; !has_table && i < n->n_routes; i++)
                has_table = n->routes[i].table == v->table && n->routes[i].dst.address.family == v->family;
        return has_table ? NULL : "none of its table's routes leaves by the pod's interface";
}

/* A table without a rule that looks into it is not worth a word, but does no harm in the pod VM either. */
static int inspect_rules(Netlink *pod, const LogContext *log, PodNetwork *n, NetError *e) {
        _cleanup_(freep) PolicyRule *rules = NULL;
        size_t n_rules;
        int r;

        r = rule_list(pod, &rules, &n_rules);
        if (r < 0)
                return netlink_fail(pod, e, r, "list the pod's policy rules");

        FOREACH_ELEMENT(const PolicyRule, v, rules, n_rules) {
                const char *reason = has_family(n, v->family) ? reason_to_leave_out_rule(v, n) : "the pod has no such address";

                if (reason) {
                        (void) log_full(log, LOG_WARNING, NULL, 0, "Leaving out the pod's policy rule with priority %u: %s.",
                                        v->priority, reason);
                        continue;
                }
                r = pod_network_add_rule(n, v);
                if (r < 0)
                        return net_error_set(e, r, "too many policy rules in the pod's network");
        }
        return 0;
}

static bool has_route(const PodNetwork *n, const IPPrefix *dst) {
        for (size_t i = 0; i < n->n_routes; i++)
                if (n->routes[i].table == RT_TABLE_MAIN && ip_prefix_equal(&n->routes[i].dst, dst))
                        return true;
        return false;
}

/* By the gateway that the pod's interface has for that family, if it has one. */
static int add_pod_subnets(const Manager *m, const Route *routes, size_t n_routes, const Link *l, PodNetwork *n, NetError *e) {
        for (size_t i = 0; i < m->n_pod_subnets; i++) {
                PodRoute p = { .dst = m->pod_subnets[i], .table = RT_TABLE_MAIN, .type = RTN_UNICAST };
                int family = p.dst.address.family, r;
                const Route *way = route_primary(routes, n_routes, family);

                /* A second route to the pod's own subnet would push the first one aside in the pod VM. */
                if (!has_family(n, family) || has_route(n, &p.dst))
                        continue;
                if (way && way->ifindex == l->ifindex && way->gateway.family == family)
                        p.gateway = way->gateway;
                p.scope = ip_address_is_set(&p.gateway) || family == AF_INET6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
                memcpy(p.device, l->name, sizeof(p.device));
                r = add_route(n, &p, e);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int inspect_neighbours(Netlink *pod, const Link *l, PodNetwork *n, NetError *e) {
        _cleanup_(freep) Neighbour *neighbours = NULL;
        size_t n_neighbours;
        int r;

        r = neighbour_list(pod, AF_UNSPEC, l->ifindex, &neighbours, &n_neighbours);
        if (r < 0)
                return netlink_fail(pod, e, r, "list the neighbours of the pod's interface '%s'", l->name);

        FOREACH_ELEMENT(const Neighbour, v, neighbours, n_neighbours) {
                PodNeighbour p = { .address = v->address, .mac = v->mac, .has_mac = v->has_mac, .state = v->state };

                /* The others are found anew from the pod VM. The AWS VPC CNI sets one for its gateway 169.254.1.1. */
                if (v->state != NUD_PERMANENT || !v->has_mac || !has_family(n, v->address.family))
                        continue;
                memcpy(p.device, l->name, sizeof(p.device));
                r = pod_network_add_neighbour(n, &p);
                if (r < 0)
                        return net_error_set(e, r, "too many permanent neighbours in the pod's network");
        }
        return 0;
}

int inspect_pod_network(Manager *m, Netlink *pod, const LogContext *log, PodNetwork *ret, NetError *e) {
        _cleanup_(pod_network_done) PodNetwork n = POD_NETWORK_NULL;
        _cleanup_(freep) Route *routes = NULL;
        const Route *primary;
        size_t n_routes;
        uint32_t underlay_mtu = 0;
        Link l;
        int r;

        r = inspect_host(m, &n, &underlay_mtu, e);
        if (r < 0)
                return r;

        r = route_list_all(pod, AF_UNSPEC, &routes, &n_routes);
        if (r < 0)
                return netlink_fail(pod, e, r, "list the pod's routes");
        primary = route_primary(routes, n_routes, AF_INET) ?: route_primary(routes, n_routes, AF_INET6);
        if (!primary)
                return net_error_set(e, -ENETUNREACH, "pod has no default route, so its primary interface is not known");

        r = link_get_by_index(pod, primary->ifindex, &l);
        if (r < 0)
                return netlink_fail(pod, e, r, "look at the interface of the pod's default route");
        if (!l.has_mac)
                return net_error_set(e, -EMEDIUMTYPE, "pod's interface '%s' is no Ethernet device", l.name);
        if (streq(l.name, "lo"))
                return net_error_set(e, -EINVAL, "pod's default route leads to the loopback device");

        memcpy(n.interface, l.name, sizeof(n.interface));
        n.mac = l.mac;
        n.has_mac = true;
        (void) stpcpy(n.tunnel_type, POD_NETWORK_TUNNEL_VXLAN);
        n.vxlan_port = m->settings->vxlan_port;
        n.external_net_via_pod_vm = m->settings->external_network_via_podvm;

        n.mtu = l.mtu;
        if (underlay_mtu > VXLAN_OVERHEAD_IPV4 && n.mtu > underlay_mtu - VXLAN_OVERHEAD_IPV4) {
                n.mtu = underlay_mtu - VXLAN_OVERHEAD_IPV4;
                /* A property of the node's networks: once is enough for a warning. */
                (void) log_full(log, m->told_mtu ? LOG_INFO : LOG_WARNING, NULL, 0,
                                "MTU of the pod's interface '%s' is %u, and the tunnel carries %u: who sends larger packets to the pod is told so, "
                                "or they go in fragments if they may. An MTU of at most %u in the pod network avoids it.",
                                l.name, l.mtu, n.mtu, n.mtu);
                m->told_mtu = true;
        }

        if ((r = inspect_addresses(pod, &l, primary, &n, e)) < 0 ||
            (r = inspect_routes(routes, n_routes, &l, log, &n, e)) < 0 ||
            (r = add_pod_subnets(m, routes, n_routes, &l, &n, e)) < 0 ||
            (r = inspect_rules(pod, log, &n, e)) < 0 ||
            (r = inspect_neighbours(pod, &l, &n, e)) < 0)
                return r;

        *ret = n;
        n = POD_NETWORK_NULL;
        return 0;
}
