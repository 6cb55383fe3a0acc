/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/verify.h"

#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdio.h>

#include "basic/messages.h"
#include "basic/strv.h"
#include "net/link.h"
#include "net/nft.h"
#include "net/tc.h"

/* Calls of the adaptor come in between. */
#define TUNNELS_AT_ONCE 16U
#define PAUSE_USEC (20 * USEC_PER_MSEC)
/* A node's agents change the firewall often, and many rules at a time. */
#define FIREWALL_PAUSE_USEC (500 * USEC_PER_MSEC)

static int verify_redirect(Netlink *pod, const Link *from, const Link *to, char ***findings, NetError *e) {
        char text[96];
        IngressHook hook;
        int r, target = 0;

        r = tc_get_ingress(pod, from->ifindex, &hook);
        if (r >= 0 && hook != INGRESS_NONE)
                r = tc_redirect_get(pod, from->ifindex, hook, &target);
        if (r < 0)
                return netlink_fail(pod, e, r, "look at the redirect of '%s'", from->name);
        if (target == to->ifindex)
                return 0;
        (void) snprintf(text, sizeof(text), "redirect of '%s' to '%s' was missing", from->name, to->name);
        return strv_extend(findings, text);
}

static int verify_devices(Netlink *pod, const Tunnel *t, const Link *device, char ***findings, NetError *e) {
        Link interface, bridge;
        int r;

        r = link_get(pod, t->interface, &interface);
        if (r < 0)
                return netlink_fail(pod, e, r, "look at the pod's interface '%s'", t->interface);
        if (link_get(pod, TUNNEL_BRIDGE, &bridge) < 0 || device->master != bridge.ifindex) {
                r = strv_extend(findings, "'" TUNNEL_DEVICE "' was no port of '" TUNNEL_BRIDGE "'");
                if (r < 0)
                        return r;
        }
        if (!ip_address_is_set(&t->peer))
                return 0;               /* only reserved yet */

        if (!(device->flags & IFF_UP) && (r = strv_extend(findings, "'" TUNNEL_DEVICE "' was down")) < 0)
                return r;
        if (!ip_address_equal(&device->group, &t->peer) && (r = strv_extend(findings, "'" TUNNEL_DEVICE "' had another remote end")) < 0)
                return r;
        r = verify_redirect(pod, device, &interface, findings, e);
        return r < 0 ? r : verify_redirect(pod, &interface, device, findings, e);
}

int verify_tunnel(Manager *m, const Tunnel *t, char ***findings, NetError *e) {
        NftTunnel n = { .peer = t->peer, .port = t->port, .vni = t->vni };
        _cleanup_(netlink_freep) Netlink *pod = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        Link device;
        int r;

        if (!t->pod_network)
                return 0;               /* half inspected; nobody has an answer */
        r = tunnel_open_netns(m, t, &fd, &pod, e);
        if (r < 0)
                return r;
        r = link_get(pod, TUNNEL_DEVICE, &device);
        if (r < 0 && r != -ENODEV)
                return netlink_fail(pod, e, r, "look at '%s'", TUNNEL_DEVICE);
        if (r == -ENODEV || !link_is_vxlan(&device) || device.vni != t->vni || device.port != t->port)
                r = strv_extend(findings, r == -ENODEV ? "'" TUNNEL_DEVICE "' was gone" : "'" TUNNEL_DEVICE "' was another one");
        else
                r = verify_devices(pod, t, &device, findings, e);
        if (r < 0 || !ip_address_is_set(&t->peer))
                return r;

        r = nft_has_tunnel(m->nft, &n);
        if (r == 0 || r == -ENOENT)
                return strv_extend(findings, "it was missing in the firewall's table 'peerpod'");
        return r < 0 ? netlink_fail(m->nft, e, r, "look at the firewall's table 'peerpod'") : 0;
}

int verify_firewall(Manager *m, char ***findings, NetError *e) {
        NftTable now = {};
        int r;

        if (m->nft_table.n_rules == 0)
                return 0;               /* no tunnel, no table */
        r = nft_look(m->nft, &now);
        if (r < 0 && r != -ENOENT)
                return netlink_fail(m->nft, e, r, "look at the firewall's table 'peerpod'");
        if (r == -ENOENT)
                return strv_extend(findings, "the firewall's table 'peerpod' was gone");
        if (!nft_table_equal(&m->nft_table, &now))
                return strv_extend(findings, "the firewall's table 'peerpod' had been changed");
        return 0;
}

int verify_and_mend(Manager *m, Tunnel *t, char ***ret_findings) {
        _cleanup_(strv_freep) char **findings = NULL;
        _cleanup_(freep) char *all = NULL;
        NetError e = {};
        int r;

        r = t ? verify_tunnel(m, t, &findings, &e) : verify_firewall(m, &findings, &e);
        if (r == -ENOENT || r == -EMEDIUMTYPE || r == -ESTALE)
                return r;
        if (r >= 0 && !findings)
                return 0;
        if (r >= 0)
                r = strv_join(findings, ", ", &all);
        if (r >= 0)
                r = t ? tunnel_recover(m, t, &e) : manager_sync_nft(m, &e);
        if (r < 0)
                return log_full(t ? &t->log : NULL, LOG_WARNING, MSG_TUNNEL_FAILED, r, "Failed to mend a tunnel%s%s: %s",
                                all ? " where " : "", strempty(all), net_error_text(&e, r));

        if (t)
                (void) log_full(&t->log, LOG_WARNING, MSG_TUNNEL_MENDED, 0, "Mended the tunnel with VXLAN id %u: %s.", t->vni, all);
        else
                (void) log_full(NULL, LOG_WARNING, MSG_TUNNEL_MENDED, 0, "Mended what all tunnels share: %s.", all);
        for (char **f = findings; ret_findings && *f; f++) {
                r = strv_extend(ret_findings, *f);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int on_verify(sd_event_source *es, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        uint64_t pause = PAUSE_USEC;

        if (m->verify_next == 0)
                (void) verify_and_mend(m, NULL, NULL);
        /* Tunnels that come and go meanwhile change places; the next round has them all again. */
        for (size_t i = 0; i < TUNNELS_AT_ONCE && m->verify_next < m->n_tunnels; i++)
                (void) verify_and_mend(m, m->tunnels[m->verify_next++], NULL);
        if (m->verify_next >= m->n_tunnels) {
                m->verify_next = 0;
                pause = m->settings->verify_interval_usec;
        }
        (void) sd_event_source_set_time_relative(es, pause);
        (void) sd_event_source_set_enabled(es, SD_EVENT_ONESHOT);
        return 0;
}

static int on_firewall_settled(sd_event_source *es, uint64_t usec, void *userdata) {
        (void) verify_and_mend(userdata, NULL, NULL);
        return 0;
}

/* Whoever changed what, ourselves too: it is looked at a moment later, once. */
static int on_firewall_changed(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        Manager *m = userdata;
        int enabled = SD_EVENT_OFF;

        netlink_drain(fd);
        (void) sd_event_source_get_enabled(m->firewall_timer, &enabled);
        if (enabled == SD_EVENT_OFF) {
                (void) sd_event_source_set_time_relative(m->firewall_timer, FIREWALL_PAUSE_USEC);
                (void) sd_event_source_set_enabled(m->firewall_timer, SD_EVENT_ONESHOT);
        }
        return 0;
}

int verify_start(Manager *m) {
        static const int groups[] = { NFNLGRP_NFTABLES, 0 };
        int r;

        if (m->settings->verify_interval_usec == 0)
                return 0;
        m->firewall_fd = netlink_subscribe(-EBADF, NETLINK_NETFILTER, groups);
        if (m->firewall_fd < 0)
                return log_error_errno(m->firewall_fd, "Failed to subscribe to changes of the firewall: %m");
        r = sd_event_add_io(m->event, &m->firewall_io, m->firewall_fd, EPOLLIN, on_firewall_changed, m);
        if (r >= 0)
                r = sd_event_add_time_relative(m->event, &m->firewall_timer, CLOCK_MONOTONIC, 0, 0, on_firewall_settled, m);
        if (r >= 0)
                r = sd_event_source_set_enabled(m->firewall_timer, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_add_time_relative(m->event, &m->verify_timer, CLOCK_MONOTONIC, m->settings->verify_interval_usec, 0, on_verify, m);
        return r < 0 ? log_error_errno(r, "Failed to set a timer: %m") : 0;
}
