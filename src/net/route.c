/* SPDX-License-Identifier: Apache-2.0 */
#include "net/route.h"

#include <linux/fib_rules.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

/* What a dump fills; a limit, because a host's table may be the whole Internet's and nobody here wants that. */
#define LIST_MAX 65536U

typedef struct List {
        void *items;
        size_t item_size, n, allocated;
        int ifindex, family;            /* filter */
        bool all_routes;
} List;

static void list_reset(void *userdata) {
        ((List*) userdata)->n = 0;
}

static int list_add(List *l, const void *item) {
        if (l->n >= LIST_MAX)
                return -E2BIG;
        if (l->n == l->allocated) {
                size_t wanted = l->allocated ? l->allocated * 2 : 16;
                void *p = reallocarray(l->items, wanted, l->item_size);

                if (!p)
                        return -ENOMEM;
                l->items = p;
                l->allocated = wanted;
        }
        memcpy((uint8_t*) l->items + l->n++ * l->item_size, item, l->item_size);
        return 0;
}

static int list_fetch(Netlink *nl, struct nl_msg *m, netlink_handler_t handler, List *l, void *ret, size_t *ret_n) {
        int r = netlink_dump(nl, m, list_reset, handler, l);

        if (r < 0) {
                free(l->items);
                return r;
        }
        *(void**) ret = l->items;
        *ret_n = l->n;
        return 0;
}

static bool take_address(struct nlattr *a, int family, IPAddress *ret) {
        IPAddress v = { .family = family };

        if (!a || ip_address_size(&v) == 0 || nla_len(a) != (int) ip_address_size(&v))
                return false;
        memcpy(v.bytes, nla_data(a), ip_address_size(&v));
        *ret = v;
        return true;
}

static bool has_u32(struct nlattr *a) {
        return a && nla_len(a) >= (int) sizeof(uint32_t);
}

static int put_address(struct nl_msg *m, int type, const IPAddress *a) {
        return nla_put(m, type, (int) ip_address_size(a), a->bytes) < 0 ? -ENOMEM : 0;
}

static int on_address(const struct nlmsghdr *h, void *userdata) {
        const struct ifaddrmsg *i = nlmsg_data(h);
        struct nlattr *a[IFA_MAX + 1];
        List *l = userdata;
        Address v;

        if (h->nlmsg_type != RTM_NEWADDR)
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*i), a, IFA_MAX, NULL) < 0)
                return -EBADMSG;
        if ((l->ifindex > 0 && (int) i->ifa_index != l->ifindex) || (l->family != AF_UNSPEC && i->ifa_family != l->family))
                return 0;

        v = (Address) {
                .ifindex = (int) i->ifa_index,
                .prefix.length = i->ifa_prefixlen,
                .scope = i->ifa_scope,
                .flags = has_u32(a[IFA_FLAGS]) ? nla_get_u32(a[IFA_FLAGS]) : i->ifa_flags,
        };
        /* Only a point-to-point address has two different ones, and IPv6 often has no LOCAL. */
        if (!take_address(a[IFA_LOCAL], i->ifa_family, &v.prefix.address) &&
            !take_address(a[IFA_ADDRESS], i->ifa_family, &v.prefix.address))
                return 0;
        return list_add(l, &v);
}

int address_list(Netlink *nl, int family, int ifindex, Address **ret, size_t *ret_n) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ifaddrmsg i = { .ifa_family = (uint8_t) family };
        List l = { .item_size = sizeof(Address), .ifindex = ifindex, .family = family };
        int r;

        r = netlink_message(RTM_GETADDR, 0, &i, sizeof(i), &m);
        return r < 0 ? r : list_fetch(nl, m, on_address, &l, ret, ret_n);
}

static int address_message(uint16_t type, uint16_t flags, const Address *a, struct nl_msg **ret) {
        struct ifaddrmsg i = {
                .ifa_family = (uint8_t) a->prefix.address.family,
                .ifa_prefixlen = a->prefix.length,
                .ifa_scope = a->scope,
                .ifa_index = (uint32_t) a->ifindex,
        };
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r;

        r = netlink_message(type, flags, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        r = put_address(m, IFA_LOCAL, &a->prefix.address);
        if (r >= 0)
                r = put_address(m, IFA_ADDRESS, &a->prefix.address);
        if (r >= 0 && a->flags != 0 && nla_put_u32(m, IFA_FLAGS, a->flags) < 0)
                r = -ENOMEM;
        if (r >= 0 && type == RTM_NEWADDR && a->prefix.address.family == AF_INET && a->prefix.length <= 30) {
                IPAddress broadcast = a->prefix.address;

                broadcast.in.s_addr |= htonl(a->prefix.length == 0 ? UINT32_MAX : (UINT32_C(1) << (32 - a->prefix.length)) - 1);
                r = put_address(m, IFA_BROADCAST, &broadcast);
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

int address_replace(Netlink *nl, const Address *a) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = address_message(RTM_NEWADDR, NLM_F_CREATE|NLM_F_REPLACE, a, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

int address_delete(Netlink *nl, const Address *a) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = address_message(RTM_DELADDR, 0, a, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

static int parse_route(const struct nlmsghdr *h, Route *ret) {
        const struct rtmsg *i = nlmsg_data(h);
        struct nlattr *a[RTA_MAX + 1], *metrics[RTAX_MAX + 1];
        Route v;

        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*i), a, RTA_MAX, NULL) < 0)
                return -EBADMSG;

        v = (Route) {
                .family = i->rtm_family,
                .dst = { .address.family = i->rtm_family, .length = i->rtm_dst_len },
                .table = has_u32(a[RTA_TABLE]) ? nla_get_u32(a[RTA_TABLE]) : i->rtm_table,
                .protocol = i->rtm_protocol,
                .scope = i->rtm_scope,
                .type = i->rtm_type,
                .priority = has_u32(a[RTA_PRIORITY]) ? nla_get_u32(a[RTA_PRIORITY]) : 0,
                .ifindex = has_u32(a[RTA_OIF]) ? (int) nla_get_u32(a[RTA_OIF]) : 0,
                .onlink = i->rtm_flags & RTNH_F_ONLINK,
                .multipath = a[RTA_MULTIPATH],
                .special = i->rtm_tos != 0 || i->rtm_src_len != 0 || a[RTA_ENCAP],
                .cached = i->rtm_flags & RTM_F_CLONED,
        };
        (void) take_address(a[RTA_DST], i->rtm_family, &v.dst.address);
        (void) take_address(a[RTA_PREFSRC], i->rtm_family, &v.source);
        if (!take_address(a[RTA_GATEWAY], i->rtm_family, &v.gateway) && a[RTA_VIA] &&
            nla_len(a[RTA_VIA]) >= (int) sizeof(struct rtvia)) {
                const struct rtvia *via = nla_data(a[RTA_VIA]);
                IPAddress g = { .family = via->rtvia_family };

                if (nla_len(a[RTA_VIA]) - (int) sizeof(*via) == (int) ip_address_size(&g)) {
                        memcpy(g.bytes, via->rtvia_addr, ip_address_size(&g));
                        v.gateway = g;
                }
        }
        if (a[RTA_METRICS] && nla_parse_nested(metrics, RTAX_MAX, a[RTA_METRICS], NULL) >= 0 && has_u32(metrics[RTAX_MTU]))
                v.mtu = nla_get_u32(metrics[RTAX_MTU]);

        *ret = v;
        return 0;
}

static int on_route(const struct nlmsghdr *h, void *userdata) {
        List *l = userdata;
        Route v;
        int r;

        if (h->nlmsg_type != RTM_NEWROUTE)
                return 0;
        r = parse_route(h, &v);
        if (r < 0)
                return r;
        if (l->family != AF_UNSPEC ? v.family != l->family : v.family != AF_INET && v.family != AF_INET6)
                return 0;
        if (l->all_routes ? v.table == RT_TABLE_LOCAL || v.cached : v.table != RT_TABLE_MAIN || v.type != RTN_UNICAST)
                return 0;
        return list_add(l, &v);
}

static int list_routes(Netlink *nl, int family, bool all, Route **ret, size_t *ret_n) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct rtmsg i = { .rtm_family = (uint8_t) family };
        List l = { .item_size = sizeof(Route), .family = family, .all_routes = all };
        int r;

        r = netlink_message(RTM_GETROUTE, 0, &i, sizeof(i), &m);
        return r < 0 ? r : list_fetch(nl, m, on_route, &l, ret, ret_n);
}

int route_list_main(Netlink *nl, int family, Route **ret, size_t *ret_n) {
        return list_routes(nl, family, /* all= */ false, ret, ret_n);
}

int route_list_all(Netlink *nl, int family, Route **ret, size_t *ret_n) {
        return list_routes(nl, family, /* all= */ true, ret, ret_n);
}

static int route_message(uint16_t type, uint16_t flags, const Route *v, struct nl_msg **ret) {
        struct rtmsg i = {
                .rtm_family = (uint8_t) v->family,
                .rtm_dst_len = v->dst.length,
                .rtm_table = v->table < 256 ? (uint8_t) v->table : RT_TABLE_UNSPEC,
                .rtm_protocol = v->protocol,
                .rtm_scope = v->scope,
                .rtm_type = v->type,
                .rtm_flags = v->onlink ? RTNH_F_ONLINK : 0,
        };
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r;

        r = netlink_message(type, flags, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        if ((v->dst.length > 0 && put_address(m, RTA_DST, &v->dst.address) < 0) ||
            (v->ifindex > 0 && nla_put_u32(m, RTA_OIF, (uint32_t) v->ifindex) < 0) ||
            (ip_address_is_set(&v->gateway) && put_address(m, RTA_GATEWAY, &v->gateway) < 0) ||
            (ip_address_is_set(&v->source) && put_address(m, RTA_PREFSRC, &v->source) < 0) ||
            (v->table >= 256 && nla_put_u32(m, RTA_TABLE, v->table) < 0) ||
            (v->priority > 0 && nla_put_u32(m, RTA_PRIORITY, v->priority) < 0))
                return -ENOMEM;
        if (v->mtu > 0 && type == RTM_NEWROUTE) {
                struct nlattr *metrics = nla_nest_start(m, RTA_METRICS);

                if (!metrics || nla_put_u32(m, RTAX_MTU, v->mtu) < 0)
                        return -ENOMEM;
                nla_nest_end(m, metrics);
        }
        *ret = TAKE_PTR(m);
        return 0;
}

int route_replace(Netlink *nl, const Route *v) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = route_message(RTM_NEWROUTE, NLM_F_CREATE|NLM_F_REPLACE, v, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

int route_delete(Netlink *nl, const Route *v) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = route_message(RTM_DELROUTE, 0, v, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

typedef struct Lookup {
        Route route;
        bool found;
} Lookup;

static int on_lookup(const struct nlmsghdr *h, void *userdata) {
        Lookup *l = userdata;

        if (h->nlmsg_type != RTM_NEWROUTE)
                return 0;
        l->found = true;
        return parse_route(h, &l->route);
}

int route_lookup(Netlink *nl, const IPAddress *to, Route *ret) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct rtmsg i = { .rtm_family = (uint8_t) to->family, .rtm_dst_len = (uint8_t) (ip_address_size(to) * 8) };
        Lookup l = {};
        int r;

        r = netlink_message(RTM_GETROUTE, 0, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        r = put_address(m, RTA_DST, to);
        if (r < 0)
                return r;
        r = netlink_request(nl, m, on_lookup, &l);
        if (r < 0)
                return r;
        if (!l.found)
                return -ENETUNREACH;

        *ret = l.route;
        return 0;
}

const Route* route_primary(const Route *routes, size_t n_routes, int family) {
        const Route *best = NULL;

        FOREACH_ELEMENT(const Route, v, routes, n_routes)
                if (v->family == family && v->table == RT_TABLE_MAIN && v->type == RTN_UNICAST && v->dst.length == 0 && v->ifindex > 0 && !v->multipath &&
                    (!best || v->priority < best->priority))
                        best = v;
        return best;
}

/* Do we understand all that it goes by? */
static bool rule_is_special(const struct fib_rule_hdr *i, struct nlattr *const *a) {
        static const int others[] = {
                FRA_GOTO, FRA_FLOW, FRA_TUN_ID, FRA_SUPPRESS_IFGROUP, FRA_L3MDEV, FRA_UID_RANGE, FRA_IP_PROTO, FRA_SPORT_RANGE,
                FRA_DPORT_RANGE,
        };

        FOREACH_ELEMENT(const int, k, others, ELEMENTSOF(others))
                /* The kernel writes "all ones" and "no" for some that were never set (linux: net/core/fib_rules.c). */
                if (a[*k] && !(has_u32(a[*k]) && *k == FRA_SUPPRESS_IFGROUP && nla_get_u32(a[*k]) == UINT32_MAX) &&
                    !(*k == FRA_L3MDEV && nla_get_u8(a[*k]) == 0))
                        return true;
        return i->tos != 0 || (has_u32(a[FRA_SUPPRESS_PREFIXLEN]) && nla_get_u32(a[FRA_SUPPRESS_PREFIXLEN]) != UINT32_MAX) ||
                (i->action != FR_ACT_TO_TBL && i->action != FR_ACT_BLACKHOLE && i->action != FR_ACT_UNREACHABLE &&
                 i->action != FR_ACT_PROHIBIT);
}

static void take_name(struct nlattr *a, char ret[static IFNAMSIZ]) {
        if (a)
                (void) nla_strlcpy(ret, a, IFNAMSIZ);
}

static int on_rule(const struct nlmsghdr *h, void *userdata) {
        static const uint8_t types[] = {
                [FR_ACT_TO_TBL] = RTN_UNICAST, [FR_ACT_BLACKHOLE] = RTN_BLACKHOLE, [FR_ACT_UNREACHABLE] = RTN_UNREACHABLE,
                [FR_ACT_PROHIBIT] = RTN_PROHIBIT,
        };
        const struct fib_rule_hdr *i = nlmsg_data(h);
        struct nlattr *a[FRA_MAX + 1];
        PolicyRule v;

        if (h->nlmsg_type != RTM_NEWRULE)
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*i), a, FRA_MAX, NULL) < 0)
                return -EBADMSG;
        if (i->family != AF_INET && i->family != AF_INET6)      /* of multicast routing */
                return 0;

        v = (PolicyRule) {
                .family = i->family,
                .priority = has_u32(a[FRA_PRIORITY]) ? nla_get_u32(a[FRA_PRIORITY]) : 0,
                .mark = has_u32(a[FRA_FWMARK]) ? nla_get_u32(a[FRA_FWMARK]) : 0,
                .mask = has_u32(a[FRA_FWMASK]) ? nla_get_u32(a[FRA_FWMASK]) : 0,
                .invert = i->flags & FIB_RULE_INVERT,
                .type = i->action < ELEMENTSOF(types) ? types[i->action] : RTN_UNSPEC,
                .table = has_u32(a[FRA_TABLE]) ? nla_get_u32(a[FRA_TABLE]) : i->table,
                .special = rule_is_special(i, a),
        };
        if (take_address(a[FRA_SRC], i->family, &v.from.address))
                v.from.length = i->src_len;
        if (take_address(a[FRA_DST], i->family, &v.to.address))
                v.to.length = i->dst_len;
        take_name(a[FRA_IIFNAME], v.iif);
        take_name(a[FRA_OIFNAME], v.oif);

        /* linux: net/ipv4/fib_rules.c, fib_default_rules_init(), and the same for IPv6 */
        if ((v.priority == 0 && v.table == RT_TABLE_LOCAL) || (v.priority == 0x7ffe && v.table == RT_TABLE_MAIN) ||
            (v.priority == 0x7fff && v.table == RT_TABLE_DEFAULT))
                return 0;
        return list_add(userdata, &v);
}

int rule_list(Netlink *nl, PolicyRule **ret, size_t *ret_n) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct fib_rule_hdr i = { .family = AF_UNSPEC };
        List l = { .item_size = sizeof(PolicyRule) };
        int r;

        r = netlink_message(RTM_GETRULE, 0, &i, sizeof(i), &m);
        return r < 0 ? r : list_fetch(nl, m, on_rule, &l, ret, ret_n);
}

static int rule_message(uint16_t type, uint16_t flags, const PolicyRule *v, struct nl_msg **ret) {
        struct fib_rule_hdr i = {
                .family = (uint8_t) v->family,
                .src_len = v->from.length,
                .dst_len = v->to.length,
                .action = v->type == RTN_BLACKHOLE ? FR_ACT_BLACKHOLE : v->type == RTN_UNREACHABLE ? FR_ACT_UNREACHABLE :
                        v->type == RTN_PROHIBIT ? FR_ACT_PROHIBIT : FR_ACT_TO_TBL,
                .flags = v->invert ? FIB_RULE_INVERT : 0,
        };
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r;

        r = netlink_message(type, flags, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        if (nla_put_u32(m, FRA_PRIORITY, v->priority) < 0 ||
            (v->from.length > 0 && put_address(m, FRA_SRC, &v->from.address) < 0) ||
            (v->to.length > 0 && put_address(m, FRA_DST, &v->to.address) < 0) ||
            ((v->mark > 0 || v->mask > 0) &&
             (nla_put_u32(m, FRA_FWMARK, v->mark) < 0 || nla_put_u32(m, FRA_FWMASK, v->mask) < 0)) ||
            (v->iif[0] && nla_put_string(m, FRA_IIFNAME, v->iif) < 0) ||
            (v->oif[0] && nla_put_string(m, FRA_OIFNAME, v->oif) < 0) ||
            (i.action == FR_ACT_TO_TBL && nla_put_u32(m, FRA_TABLE, v->table) < 0))
                return -ENOMEM;
        *ret = TAKE_PTR(m);
        return 0;
}

int rule_add(Netlink *nl, const PolicyRule *v) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = v->special ? -EOPNOTSUPP : rule_message(RTM_NEWRULE, NLM_F_CREATE|NLM_F_EXCL, v, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

int rule_delete(Netlink *nl, const PolicyRule *v) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = rule_message(RTM_DELRULE, 0, v, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

static int on_neighbour(const struct nlmsghdr *h, void *userdata) {
        const struct ndmsg *i = nlmsg_data(h);
        struct nlattr *a[NDA_MAX + 1];
        List *l = userdata;
        Neighbour v;

        if (h->nlmsg_type != RTM_NEWNEIGH)
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*i), a, NDA_MAX, NULL) < 0)
                return -EBADMSG;
        if ((l->ifindex > 0 && i->ndm_ifindex != l->ifindex) || (l->family != AF_UNSPEC && i->ndm_family != l->family))
                return 0;

        v = (Neighbour) { .ifindex = i->ndm_ifindex, .state = i->ndm_state };
        if (!take_address(a[NDA_DST], i->ndm_family, &v.address))
                return 0;
        if (a[NDA_LLADDR] && nla_len(a[NDA_LLADDR]) == sizeof(v.mac.bytes)) {
                memcpy(v.mac.bytes, nla_data(a[NDA_LLADDR]), sizeof(v.mac.bytes));
                v.has_mac = true;
        }
        return list_add(l, &v);
}

int neighbour_list(Netlink *nl, int family, int ifindex, Neighbour **ret, size_t *ret_n) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ndmsg i = { .ndm_family = (uint8_t) family };
        List l = { .item_size = sizeof(Neighbour), .ifindex = ifindex, .family = family };
        int r;

        r = netlink_message(RTM_GETNEIGH, 0, &i, sizeof(i), &m);
        return r < 0 ? r : list_fetch(nl, m, on_neighbour, &l, ret, ret_n);
}

int neighbour_replace(Netlink *nl, const Neighbour *v) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ndmsg i = { .ndm_family = (uint8_t) v->address.family, .ndm_ifindex = v->ifindex, .ndm_state = v->state };
        int r;

        r = netlink_message(RTM_NEWNEIGH, NLM_F_CREATE|NLM_F_REPLACE, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        r = put_address(m, NDA_DST, &v->address);
        if (r < 0)
                return r;
        if (v->has_mac && nla_put(m, NDA_LLADDR, sizeof(v->mac.bytes), v->mac.bytes) < 0)
                return -ENOMEM;
        return netlink_request(nl, m, NULL, NULL);
}
