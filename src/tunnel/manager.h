/* SPDX-License-Identifier: Apache-2.0 */
/* What peerpod-tunneld is: its settings, its sockets in the host's network namespace, and the tunnels it holds. */
#pragma once

#include <systemd/sd-bus.h>

#include "net/address.h"
#include "net/netlink.h"
#include "net/nft.h"
#include "net/pod-network.h"

typedef struct Manager Manager;
typedef struct Tunnel Tunnel;

typedef struct Settings {
        char *tunnel_type, *host_interface;
        uint16_t vxlan_port;
        uint32_t vxlan_min_id;
        bool external_network_via_podvm;
        char **pod_subnet_cidrs;
        uint64_t probe_timeout_usec, verify_interval_usec;
        char *user, *runtime_dir, *listen;
        char *direct_volumes_dir;       /* Kata's; nothing to do with tunnels, but root's */
        bool check_settings;            /* and end */
} Settings;

struct Manager {
        const Settings *settings;       /* borrowed */
        sd_event *event;                /* borrowed */
        IPPrefix *pod_subnets;          /* settings' list, parsed */
        size_t n_pod_subnets;

        int host_netns_fd, runtime_dir_fd;
        Netlink *host, *nft;            /* NETLINK_ROUTE and NETLINK_NETFILTER in it */

        Tunnel **tunnels;
        size_t n_tunnels;
        bool defer_nft;                 /* manager_sync_nft() is done once, at the end */
        NftTable nft_table;             /* the firewall's table as we wrote it; no rules: there is none */

        /* verify.c */
        int firewall_fd;                /* news of the firewall */
        sd_event_source *firewall_io, *firewall_timer, *verify_timer;
        size_t verify_next;             /* index of the tunnel whose turn it is */
};

/* manager_new() - open the sockets in the calling thread's network namespace, check settings. Returns 0, -EINVAL (logged), -errno
 * (logged). */
int manager_new(const Settings *settings, sd_event *event, Manager **ret);
Manager* manager_free(Manager *m);
DEFINE_CLEANUP(Manager*, manager_free);

/* manager_load() - read all records, drop those whose namespace is gone, mend what is not as it should be, make the firewall's
 * table say what is left. Only a run-time directory that cannot be read is an error. */
int manager_load(Manager *m);

Tunnel* manager_find(Manager *m, const char *sandbox_id);
Tunnel* manager_find_netns(Manager *m, uint64_t netns_cookie);
/* The table takes the tunnel over when it succeeds. 0, -ENOMEM. */
int manager_add(Manager *m, Tunnel *t);
/* Out of the table, and freed. */
void manager_remove(Manager *m, Tunnel *t);

/* manager_sync_nft() - the table "peerpod" from all tunnels that have a peer */
int manager_sync_nft(Manager *m, NetError *e);
/* manager_guard() - only what @t, which has a peer, adds to it; manager_unguard() - take that away, and the peer from @t */
int manager_guard(Manager *m, const Tunnel *t, NetError *e);
int manager_unguard(Manager *m, Tunnel *t, NetError *e);

/* manager_setup_bus() - give a new link its vtable */
int manager_setup_bus(sd_bus *bus, void *userdata);
