/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's end of one sandbox's tunnel. */
#pragma once

#include <net/if.h>

#include "basic/log.h"
#include "tunnel/manager.h"

#define TUNNEL_DEVICE "vxlan1"          /* in the pod's network namespace, as cloud-api-adaptor has it */

/*
 * A record is on disk before the effect that it speaks of:
 *
 *      Inspect   record {namespace, VNI}  →  vxlan1, down, without remote end: the kernel holds the VNI for us
 *                record {+ pod network}   →  the answer
 *      Setup     record {+ peer}          →  firewall, remote end, up, redirects
 *      Teardown  redirects, vxlan1, firewall  →  record removed
 *
 * so that after a crash at any point the record names all that may exist, and each call can be made again.
 */
struct Tunnel {
        char *sandbox_id;
        char *netns_path;
        uint64_t netns_cookie;          /* the path may name another namespace tomorrow */
        uint32_t vni;
        uint16_t port;
        char interface[IFNAMSIZ];       /* the pod's */
        bool own_ingress;               /* there was nothing at its ingress hook before us */
        bool dedicated;
        char *pod_network;              /* what Inspect answered; NULL until it has */
        IPAddress peer;                 /* "none" until Setup */
        LogContext log;
};

/* tunnel_new() - not in the manager's table yet. Returns 0, -ENOMEM. */
int tunnel_new(const char *sandbox_id, const char *netns_path, Tunnel **ret);
Tunnel* tunnel_free(Tunnel *t);
DEFINE_CLEANUP(Tunnel*, tunnel_free);

/*
 * The three calls of the bus. All set @e on failure and return -errno:
 * -EINVAL, -EMEDIUMTYPE  argument (address, no network namespace, the host's own)
 * -ENOENT                namespace does not exist
 * -ENOTCONN              Setup before Inspect
 * -ESTALE                the path names another namespace than at Inspect
 * -EEXIST                another sandbox has the namespace
 * -EADDRINUSE            UDP port taken on the host
 * -ENOSPC                no VXLAN id left
 * and whatever the kernel says.
 */

/* tunnel_has_netns() - is the path still the network namespace that the sandbox was inspected with, or one at all if it never was, or in
 * another life of ours? Changes nothing. Returns 1, 0, or negative if that cannot be told. */
int tunnel_has_netns(Manager *m, const char *sandbox_id, const char *netns_path, NetError *e);

/* @ret_pod_network: JSON, newly allocated */
int tunnel_inspect(Manager *m, const char *sandbox_id, const char *netns_path, char **ret_pod_network, NetError *e);
int tunnel_setup(Manager *m, const char *sandbox_id, const char *netns_path, char *const *addresses, NetError *e);
/* Takes every step, whatever the ones before it gave; what is not there is done. On failure the record stays. */
int tunnel_teardown(Manager *m, const char *sandbox_id, const char *netns_path, NetError *e);

/* tunnel_recover() - after a restart: 1 if the tunnel is as its record says or was mended, 0 if its namespace is gone */
int tunnel_recover(Manager *m, Tunnel *t, NetError *e);

/* Records (tunnel-store.c). tunnel_load() does not touch the table; -EBADMSG for a record that makes no sense. */
int tunnel_save(const Manager *m, const Tunnel *t, NetError *e);
int tunnel_unlink(const Manager *m, const char *sandbox_id, NetError *e);
int tunnel_load(int dir_fd, const char *file_name, Tunnel **ret, char **ret_error);
#define TUNNEL_RECORD_SIZE_MAX (4U * 1024U * 1024U)
