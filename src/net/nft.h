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
