/* SPDX-License-Identifier: Apache-2.0 */
/* Which rules of the firewall would drop a packet: a walk through nf_tables as the kernel takes it, for one UDP packet. */
#pragma once

#include <net/if.h>

#include "net/address.h"
#include "net/netlink.h"

typedef struct FirewallPacket {
        IPAddress source, destination;  /* IPv4, or "none" where it is not known */
        uint16_t port;                  /* destination's; the source's is any */
        uint32_t vni;
        bool incoming;
        char device[IFNAMSIZ];          /* where it comes in or goes out, or "" */
        int ifindex;
} FirewallPacket;

typedef struct FirewallRuleset FirewallRuleset;

int firewall_ruleset_new(FirewallRuleset **ret);
FirewallRuleset* firewall_ruleset_free(FirewallRuleset *s);
DEFINE_CLEANUP(FirewallRuleset*, firewall_ruleset_free);

/* firewall_ruleset_add() - one message of a dump: table, chain, rule or elements of a set; others are passed over. Returns 0, -EBADMSG,
 * -ENOMEM, -E2BIG. */
int firewall_ruleset_add(FirewallRuleset *s, const struct nlmsghdr *h);

/* firewall_ruleset_load() - all of the namespace of @nft, a NETLINK_NETFILTER socket */
int firewall_ruleset_load(FirewallRuleset *s, Netlink *nft);

/**
 * firewall_find_drops() - what drops @p
 * @certain, @possible: strvs that a sentence for each is added to; the latter are of what depends on something not known here
 *
 * An over-approximation: of what it does not understand it says that it may match. Other tables' rules are not changed by what a rule
 * does to the packet (marks, NAT). The table "peerpod" is not looked at. Returns 0, -ENOMEM.
 */
int firewall_find_drops(const FirewallRuleset *s, const FirewallPacket *p, char ***certain, char ***possible);
