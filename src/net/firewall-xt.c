/* SPDX-License-Identifier: Apache-2.0 */
/* Matches of iptables, which nf_tables carries as they are ("iptables-nft"). Only the destination port is known of the ports. */
#include <netinet/in.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_multiport.h>
#include <linux/netfilter/xt_tcpudp.h>

#include "net/firewall-internal.h"

static Match port_within(uint16_t port, uint16_t from, uint16_t to, bool invert) {
        return (port >= from && port <= to) != invert ? YES : NO;
}

bool firewall_xt_target_drops(const char *name) {
        return streq(name, "REJECT") || streq(name, "DROP");
}

Match firewall_xt_match(const FirewallPacket *p, const char *name, const void *info, size_t size) {
        if (streq(name, "comment"))
                return YES;
        if (streq(name, "tcp"))
                return NO;
        if (streq(name, "udp") && size >= sizeof(struct xt_udp)) {
                struct xt_udp u;
                Match m;

                memcpy(&u, info, sizeof(u));
                m = port_within(p->port, u.dpts[0], u.dpts[1], u.invflags & XT_UDP_INV_DSTPT);
                if (m == YES && (u.spts[0] > 0 || u.spts[1] < UINT16_MAX))
                        m = PERHAPS;
                return m;
        }
        if (streq(name, "multiport") && size >= sizeof(struct xt_multiport_v1)) {
                struct xt_multiport_v1 u;
                bool found = false;

                memcpy(&u, info, sizeof(u));
                if (u.flags == XT_MULTIPORT_SOURCE)
                        return PERHAPS;
                for (size_t i = 0; i < MIN((size_t) u.count, ELEMENTSOF(u.ports)); i++) {
                        uint16_t to = u.ports[i];

                        if (u.pflags[i] && i + 1 < ELEMENTSOF(u.ports))
                                to = u.ports[i + 1];
                        found = found || (p->port >= u.ports[i] && p->port <= to);
                        i += u.pflags[i] ? 1 : 0;
                }
                return found != (bool) u.invert ? YES : u.flags == XT_MULTIPORT_EITHER ? PERHAPS : NO;
        }
        if (streq(name, "conntrack") && size >= sizeof(struct xt_conntrack_mtinfo3)) {
                struct xt_conntrack_mtinfo3 u;

                memcpy(&u, info, sizeof(u));
                if (u.match_flags != XT_CONNTRACK_STATE)
                        return PERHAPS;
                /* Our own rules switch tracking off at priority raw. */
                return (bool) (u.state_mask & XT_CONNTRACK_STATE_UNTRACKED) != (bool) (u.invert_flags & XT_CONNTRACK_STATE) ? YES : NO;
        }
        return PERHAPS;
}
