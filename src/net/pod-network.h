/* SPDX-License-Identifier: Apache-2.0 */
/* The settings of a pod's network that go from the worker to the pod VM: key "pod-network" of apf.json. */
#pragma once

#include <net/if.h>

#include "basic/json.h"
#include "basic/util.h"
#include "net/route.h"

#define POD_NETWORK_ROUTES_MAX 4096U
#define POD_NETWORK_NEIGHBOURS_MAX 4096U
#define POD_NETWORK_ADDRESSES_MAX 64U
#define POD_NETWORK_RULES_MAX 1024U
#define POD_NETWORK_TUNNEL_VXLAN "vxlan"

typedef struct PodRoute {
        IPPrefix dst;
        IPAddress gateway;              /* or "none" */
        char device[IFNAMSIZ];          /* or "" */
        uint8_t protocol;               /* RTPROT_*, RTPROT_UNSPEC if not said */
        uint8_t scope;                  /* RT_SCOPE_*, RT_SCOPE_UNIVERSE if not said */
        /* Keys that cloud-api-adaptor does not have and ignores */
        IPAddress source;
        uint32_t priority, mtu;
        bool onlink;
        uint32_t table;                 /* RT_TABLE_MAIN, if not said */
        uint8_t type;                   /* RTN_UNICAST, or one that lets nothing pass and has neither gateway nor device */
} PodRoute;

typedef struct PodNeighbour {
        IPAddress address;
        MACAddress mac;
        bool has_mac;
        char device[IFNAMSIZ];
        uint16_t state;                 /* NUD_* */
} PodNeighbour;

typedef struct PodNetwork {
        IPPrefix pod_ip, worker_ip;     /* IPv4 */
        MACAddress mac;
        bool has_mac;
        char interface[IFNAMSIZ];
        char tunnel_type[16];
        PodRoute *routes;
        PodNeighbour *neighbours;
        PolicyRule *rules;
        IPPrefix *addresses4;           /* further ones beside pod_ip */
        IPPrefix *addresses6;           /* the pod's IPv6 addresses, if it has any; routes, neighbours and rules hold both families */
        size_t n_routes, n_neighbours, n_rules, n_addresses4, n_addresses6;
        uint32_t mtu;                   /* 0: not said */
        uint64_t index;
        uint16_t vxlan_port;
        uint32_t vxlan_id;
        bool dedicated, external_net_via_pod_vm;
} PodNetwork;

#define POD_NETWORK_NULL ((PodNetwork) {})

/* Frees what it holds and makes it POD_NETWORK_NULL again. */
void pod_network_done(PodNetwork *n);

/* Append one; copied. 0, -ENOMEM, -E2BIG. */
int pod_network_add_route(PodNetwork *n, const PodRoute *r);
int pod_network_add_neighbour(PodNetwork *n, const PodNeighbour *v);
int pod_network_add_rule(PodNetwork *n, const PolicyRule *v);
int pod_network_add_address(PodNetwork *n, const IPPrefix *p);  /* beside pod_ip, of either family */

/**
 * pod_network_from_json() - read it as cloud-api-adaptor's agent-protocol-forwarder does
 * @ret_error: what is wrong, with the key, newly allocated; may be NULL
 *
 * Keys nobody knows are ignored; what is known must have its type and a value that makes sense (cloud-api-adaptor:
 * src/cloud-api-adaptor/pkg/podnetwork/tunneler/tunneler.go). Default routes may be "0.0.0.0/0", "::ffff:0.0.0.0/0" or "".
 * Only a protocol's name may be unknown, since it says nothing about where packets go.
 * Returns 0, -EBADMSG, -ENOMEM.
 */
int pod_network_from_json(json_object *o, PodNetwork *ret, char **ret_error);

/**
 * pod_network_to_json() - write it so that cloud-api-adaptor reads it
 *
 * What it does not know has keys that it ignores, and stays out of those that it does: "podips" for further addresses, "ipv6",
 * and "policy" for rules, for other tables than main, and for routes that reject. Protocols without a name there are given as
 * "protocol-number". Returns 0, -ENOMEM.
 */
int pod_network_to_json(const PodNetwork *n, json_object **ret);

/* pod_network_to_text() - the same, in one line */
int pod_network_to_text(const PodNetwork *n, char **ret);
