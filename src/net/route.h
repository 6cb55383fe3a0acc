/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses, routes, policy rules and neighbours, of both families. */
#pragma once

#include <net/if.h>

#include "net/address.h"
#include "net/netlink.h"

typedef struct Address {
        int ifindex;
        IPPrefix prefix;
        uint8_t scope;                  /* RT_SCOPE_* */
        uint32_t flags;                 /* IFA_F_* */
} Address;

/* One next hop. What the kernel dumps with several is marked and else empty. */
typedef struct Route {
        int family;
        IPPrefix dst;                   /* the default route: zero address, length 0 */
        IPAddress gateway;              /* or "none"; may be of the other family (RTA_VIA) */
        IPAddress source;               /* preferred source, or "none" */
        int ifindex;                    /* 0 where there is none */
        uint32_t table;
        uint8_t protocol, scope, type;  /* RTPROT_*, RT_SCOPE_*, RTN_* */
        uint32_t priority;
        uint32_t mtu;                   /* 0: the device's */
        bool onlink;
        bool multipath;
        bool special;                   /* it goes by more than the destination, or wraps packets up: not for route_replace() */
        bool cached;                    /* no route, but what one said of a destination */
} Route;

/* A rule of policy routing, as far as it goes by what is here. */
typedef struct PolicyRule {
        int family;
        uint32_t priority;
        IPPrefix from, to;              /* or "none" */
        uint32_t mark, mask;
        char iif[IFNAMSIZ], oif[IFNAMSIZ];      /* or "" */
        bool invert;
        uint8_t type;                   /* RTN_UNICAST: look into the table; RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT */
        uint32_t table;
        bool special;                   /* it goes by more: ports, users, other rules … Never added. */
} PolicyRule;

typedef struct Neighbour {
        int ifindex;
        IPAddress address;
        MACAddress mac;
        bool has_mac;
        uint16_t state;                 /* NUD_* */
} Neighbour;

/* The lists: newly allocated, the caller frees. @ifindex 0 is all devices, @family AF_UNSPEC both. Return 0 or -errno. */
int address_list(Netlink *nl, int family, int ifindex, Address **ret, size_t *ret_n);
int route_list_main(Netlink *nl, int family, Route **ret, size_t *ret_n);       /* table main, type unicast */
int route_list_all(Netlink *nl, int family, Route **ret, size_t *ret_n);        /* without the kernel's table "local" */
int rule_list(Netlink *nl, PolicyRule **ret, size_t *ret_n);                    /* without those that each namespace begins with */
int neighbour_list(Netlink *nl, int family, int ifindex, Neighbour **ret, size_t *ret_n);

int address_replace(Netlink *nl, const Address *a);
int address_delete(Netlink *nl, const Address *a);
int route_replace(Netlink *nl, const Route *r);
int route_delete(Netlink *nl, const Route *r);
int neighbour_replace(Netlink *nl, const Neighbour *n);
/* -EEXIST where the same rule is there already; -ENOENT where it is not. */
int rule_add(Netlink *nl, const PolicyRule *r);
int rule_delete(Netlink *nl, const PolicyRule *r);

/* route_lookup() - how the kernel would send to @to. -ENETUNREACH, -EHOSTUNREACH … */
int route_lookup(Netlink *nl, const IPAddress *to, Route *ret);

/**
 * route_primary() - the route that makes an interface the primary one of a namespace
 *
 * Of table main's default routes with one next hop, the one with the lowest metric; the kernel's order decides a tie (cloud-api-adaptor:
 * src/cloud-api-adaptor/pkg/podnetwork/common.go goes by the number in the device's name and does not compare metrics).
 * Returns NULL where there is none.
 */
const Route* route_primary(const Route *routes, size_t n_routes, int family);
