/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/diagnose.h"

#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <stdio.h>

#include "basic/io.h"
#include "basic/messages.h"
#include "basic/strv.h"
#include "net/firewall.h"
#include "net/iptables.h"
#include "net/link.h"
#include "net/route.h"

/* Sockets of programs that share a port number are few; a busy host's list is long. */
#define PROC_SIZE_MAX (4U << 20)
#define SOCKETS_MAX 4

static int add(char ***l, const char *format, ...) PRINTF(2, 3);
static int add(char ***l, const char *format, ...) {
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        return strv_extend(l, text);
}

/*
 * A device in collect-metadata mode takes all frames of its port, whatever their VNI, so it and a plain one exclude each other; plain
 * ones share the port. Another namespace's devices are not seen from here.
 */
static int find_devices(Manager *m, uint16_t port, char ***l) {
        _cleanup_(freep) Link *links = NULL;
        size_t n;
        int r;

        r = link_list(m->host, "vxlan", &links, &n);
        if (r < 0)
                return add(l, "the host's VXLAN devices cannot be listed: %s", strerror(-r));
        FOREACH_ELEMENT(const Link, v, links, n)
                if (v->port == port && v->collect_metadata) {
                        r = add(l, "interface '%s' is a VXLAN device in collect-metadata mode on UDP port %u, which takes all of the port's "
                                   "packets", v->name, port);
                        if (r < 0)
                                return r;
                }
        return 0;
}

/* "sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …": linux: net/ipv4/udp.c, udp4_format_sock() */
static int find_sockets_in(const char *path, uint16_t port, size_t *n, char ***l) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int r;

        r = read_full_file_at(AT_FDCWD, path, PROC_SIZE_MAX, &text, &size);
        if (r < 0)
                return r == -ENOENT ? 0 : add(l, "'%s' cannot be read: %s", path, strerror(-r));
        for (char *line = text, *next; line && *line; line = next) {
                unsigned local_port, uid;
                char address[33];

                next = strchr(line, '\n');
                if (next)
                        *next++ = '\0';
                if (sscanf(line, " %*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %*x %*x:%*x %*x:%*x %*x %u", address, &local_port, &uid) != 3 ||
                    local_port != port || (*n)++ >= SOCKETS_MAX)
                        continue;
                r = add(l, "a UDP socket of the user with id %u has port %u", uid, port);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int find_sockets(uint16_t port, char ***l) {
        size_t n = 0;
        int r = find_sockets_in("/proc/thread-self/net/udp", port, &n, l);

        return r < 0 ? r : find_sockets_in("/proc/thread-self/net/udp6", port, &n, l);
}

char* diagnose_port(Manager *m, uint16_t port) {
        _cleanup_(strv_freep) char **l = NULL;
        _cleanup_(freep) char *all = NULL;
        char *text;

        if (find_devices(m, port, &l) < 0 || find_sockets(port, &l) < 0 || !l || strv_join(l, "; ", &all) < 0 ||
            asprintf(&text, " (%s)", all) < 0)
                return NULL;
        return text;
}

static int take_all(char ***l, char **found, const char *what) {
        for (; found && *found; found++) {
                int r = add(l, "%s: %s", what, *found);

                if (r < 0)
                        return r;
        }
        return 0;
}

static int find_rules(Manager *m, const FirewallPacket *out, char ***l) {
        _cleanup_(firewall_ruleset_freep) FirewallRuleset *s = NULL;
        int r;

        r = firewall_ruleset_new(&s);
        if (r < 0)
                return r;
        r = firewall_ruleset_load(s, m->nft);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return add(l, "the firewall's rules cannot be read: %s", strerror(-r));

        for (int incoming = 0; incoming <= 1; incoming++) {
                _cleanup_(strv_freep) char **certain = NULL, **possible = NULL;
                char what[160];
                FirewallPacket p = *out;

                if (incoming) {
                        p.incoming = true;
                        p.source = out->destination;
                        p.destination = out->source;
                }
                (void) snprintf(what, sizeof(what), "packets %s UDP port %u%s%s", incoming ? "to this host's" : "from this host to",
                                p.port, ip_address_is_set(&out->destination) ? incoming ? " from " : " of " : "",
                                FORMAT_IP_ADDRESS(&out->destination));
                r = firewall_find_drops(s, &p, &certain, &possible);
                if (r < 0)
                        return r;
                r = iptables_find_drops(&p, &certain, &possible);
                if (r == -ENOMEM)
                        return r;
                if (r < 0)
                        r = add(l, "iptables-legacy's tables cannot be read: %s", strerror(-r));
                if (r >= 0)             /* what only may drop them is of interest where nothing certainly does */
                        r = take_all(l, certain ?: possible, what);
                if (r < 0)
                        return r;
        }
        return 0;
}

int diagnose(Manager *m, const Tunnel *t, char ***ret) {
        FirewallPacket p = { .port = t ? t->port : m->settings->vxlan_port };
        _cleanup_(strv_freep) char **l = NULL;
        Route route;
        Link link;
        int r;

        if (t) {
                p.destination = t->peer;
                p.vni = t->vni;
                r = route_lookup(m->host, &t->peer, &route);
                if (r < 0)
                        r = add(&l, "this host has no route to %s: %s", FORMAT_IP_ADDRESS(&t->peer), strerror(-r));
                else if (route.type != RTN_UNICAST)
                        r = add(&l, "%s is an address of this host itself", FORMAT_IP_ADDRESS(&t->peer));
                else if (link_get_by_index(m->host, route.ifindex, &link) >= 0) {
                        p.ifindex = link.ifindex;
                        memcpy(p.device, link.name, sizeof(p.device));
                        r = link.flags & IFF_RUNNING ? 0 : add(&l, "interface '%s' to %s has no link", link.name, FORMAT_IP_ADDRESS(&t->peer));
                }
                if (r < 0)
                        return r;
                p.source = tunnel_local_address(t);
        }

        if ((r = find_devices(m, p.port, &l)) < 0 ||
            (r = find_rules(m, &p, &l)) < 0)
                return r;
        if (!l) {
                l = new0(char*, 1);
                if (!l)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(l);
        return 0;
}

void diagnose_at_start(Manager *m) {
        _cleanup_(strv_freep) char **findings = NULL;

        if (diagnose(m, NULL, &findings) < 0)
                return;
        for (char **f = findings; *f; f++)
                (void) log_full(NULL, LOG_WARNING, MSG_TUNNEL_DEAD, 0, "Tunnels may carry no packets: %s.", *f);
}

char* diagnose_probe(Manager *m, const Tunnel *t, const ProbeReport *r) {
        _cleanup_(strv_freep) char **findings = NULL;
        _cleanup_(freep) char *all = NULL;
        IPAddress local = tunnel_local_address(t);
        const char *from = FORMAT_IP_ADDRESS(&local), *to = FORMAT_IP_ADDRESS(&t->peer);
        char *text = NULL;
        int n;

        if (r->ok && r->carried == r->mtu)
                n = asprintf(&text, "Tunnel with VXLAN id %u from %s to %s by UDP port %u carries packets of %u bytes both ways; "
                             "first answer after %s.", t->vni, from, to, t->port, r->mtu, FORMAT_USEC(r->usec));
        else if (r->ok)
                n = asprintf(&text, "Pod VM at %s answers ARP through the tunnel (UDP port %u), but no ping: how large packets may be is "
                             "not proven.", to, t->port);
        else if (r->arp)
                n = asprintf(&text, "Tunnel from %s to %s by UDP port %u carries packets of %u bytes and not those of %u: a part of the way "
                             "carries less than the interfaces at its ends; set the pod network's MTU to at most %u.", from, to, t->port,
                             r->carried, r->mtu, r->carried);
        else {
                if (diagnose(m, t, &findings) < 0 || strv_join(findings, "; ", &all) < 0)
                        return NULL;
                n = asprintf(&text, "No answer from the pod VM through the tunnel with VXLAN id %u from %s to %s within %s: UDP port %u must be "
                             "open between both addresses, both ways, in the cloud's firewall and on this host. %s%s.", t->vni, from, to,
                             FORMAT_USEC(m->settings->probe_timeout_usec), t->port, isempty(all) ? "Nothing on this host was found to drop it"
                             : "Found on this host: ", strempty(all));
        }
        return n < 0 ? NULL : text;
}
