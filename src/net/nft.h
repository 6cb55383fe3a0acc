/* SPDX-License-Identifier: Apache-2.0 */
/* The firewall's part in the tunnels: no connection tracking for them, and no forged frames into them. */
#pragma once

#include "net/address.h"
#include "net/netlink.h"

typedef struct NftTunnel {
        IPAddress peer;                 /* IPv4 */
        uint16_t port;
        uint32_t vni;
} NftTunnel;

/**
 * nft_set_tunnels() - make the table "peerpod" say exactly this
 * @nl: NETLINK_NETFILTER socket of the namespace that carries the tunnels
 *
 * One transaction replaces the whole table, or removes it where there is no tunnel: it holds or it does not, whatever was there
 * before (nothing, an older version's table, one that somebody edited), and no packet meets a half of it. Other tables are not
 * touched. Returns 0, -errno.
 */
int nft_set_tunnels(Netlink *nl, const NftTunnel *tunnels, size_t n_tunnels);

/* One tunnel more or less in a table that is there, at a cost that does not grow with the others; one that is there already may be
 * added again. @keep_peer: another tunnel has the same peer and port. -ENOENT: the table, or this tunnel in it, is not there. */
int nft_add_tunnel(Netlink *nl, const NftTunnel *t);
int nft_remove_tunnel(Netlink *nl, const NftTunnel *t, bool keep_peer);

/* nft_has_tunnel() - is all there that nft_add_tunnel() adds? 1, 0, -errno */
int nft_has_tunnel(Netlink *nl, const NftTunnel *t);

/* What there is of the table besides its sets' elements. Each rule has a number of its own that no other of the table ever gets, so a rule
 * with the number it had is the rule it was. */
#define NFT_TABLE_RULES 3U
typedef struct NftTable {
        uint64_t rules[NFT_TABLE_RULES];
        size_t n_rules;                 /* more than there is place for: somebody has added some */
        size_t n_chains;                /* that let pass what no rule decides */
        bool dormant;
} NftTable;

/* nft_look() - the table as it is now; -ENOENT */
int nft_look(Netlink *nl, NftTable *ret);
bool nft_table_equal(const NftTable *a, const NftTable *b);
