/* SPDX-License-Identifier: Apache-2.0 */
#include "libvirt-address.h"

#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <netlink/netlink.h>
#include <netlink/route/neighbour.h>
#include <syslog.h>

#include "libvirt-domain.h"

#define POLL_USEC (500 * USEC_PER_MSEC)
#define NOTE_USEC (30 * USEC_PER_SEC)

/* A neighbour entry in one of these states has a hardware address that was learnt from the neighbour itself or set by hand. */
#define NUD_KNOWN (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)

void address_list_add(PeerpodInstance *i, const char *address) {
        struct in6_addr a6;
        struct in_addr a4;
        size_t at;
        bool ipv4 = inet_pton(AF_INET, address, &a4) == 1;

        if (ipv4) {
                uint32_t a = ntohl(a4.s_addr);

                if (a >> 24 == 0 || a >> 24 == 127 || a >> 28 >= 14 || a >> 16 == 0xa9fe)
                        return;
        } else if (inet_pton(AF_INET6, address, &a6) != 1 || IN6_IS_ADDR_LINKLOCAL(&a6) || IN6_IS_ADDR_LOOPBACK(&a6) ||
                   IN6_IS_ADDR_MULTICAST(&a6) || IN6_IS_ADDR_UNSPECIFIED(&a6) || IN6_IS_ADDR_V4MAPPED(&a6))
                return;

        for (uint32_t k = 0; k < i->n_addresses; k++)
                if (streq(i->addresses[k], address))
                        return;
        if (i->n_addresses == PEERPOD_ADDRESSES_MAX || strlen(address) >= PEERPOD_ADDRESS_SIZE)
                return;

        at = i->n_addresses;
        if (ipv4)
                for (at = 0; at < i->n_addresses && !strchr(i->addresses[at], ':'); at++)
                        ;
        memmove(i->addresses + at + 1, i->addresses + at, (i->n_addresses - at) * PEERPOD_ADDRESS_SIZE);
        strcpy(i->addresses[at], address);
        i->n_addresses++;
}

static void ask_libvirt(virDomainPtr domain, unsigned source, const uint8_t mac[static 6], PeerpodInstance *ret) {
        virDomainInterfacePtr *interfaces = NULL;
        int n;

        n = virDomainInterfaceAddresses(domain, &interfaces, source, 0);
        for (int i = 0; i < n; i++) {
                uint8_t m[6];

                if (interfaces[i]->hwaddr && mac_parse(interfaces[i]->hwaddr, m) == 0 && memcmp(m, mac, 6) == 0)
                        for (unsigned k = 0; k < interfaces[i]->naddrs; k++)
                                address_list_add(ret, interfaces[i]->addrs[k].addr);
                virDomainInterfaceFree(interfaces[i]);
        }
        free(interfaces);
        virResetLastError();    /* "no lease yet" and "no agent yet" are no errors */
}

typedef struct Search {
        const uint8_t *mac;
        int ifindex;            /* 0: any */
        PeerpodInstance *ret;
} Search;

static void on_neighbour(struct nl_object *o, void *userdata) {
        struct rtnl_neigh *n = (struct rtnl_neigh*) o;
        struct nl_addr *lladdr = rtnl_neigh_get_lladdr(n), *dst = rtnl_neigh_get_dst(n);
        int state = rtnl_neigh_get_state(n);
        char text[INET6_ADDRSTRLEN];
        Search *s = userdata;

        if (!lladdr || nl_addr_get_len(lladdr) != 6 || memcmp(nl_addr_get_binary_addr(lladdr), s->mac, 6) != 0)
                return;
        if (state < 0 || !(state & NUD_KNOWN) || (s->ifindex > 0 && rtnl_neigh_get_ifindex(n) != s->ifindex))
                return;
        if (!dst || (nl_addr_get_family(dst) != AF_INET && nl_addr_get_family(dst) != AF_INET6))
                return;         /* a bridge's forwarding entry has no address */
        if (inet_ntop(nl_addr_get_family(dst), nl_addr_get_binary_addr(dst), text, sizeof(text)))
                address_list_add(s->ret, text);
}

static int ask_neighbours(int ifindex, const uint8_t mac[static 6], PeerpodInstance *ret) {
        Search search = { .mac = mac, .ifindex = ifindex, .ret = ret };
        struct nl_sock *sock = nl_socket_alloc();
        struct nl_cache *cache;
        int r;

        if (!sock)
                return -ENOMEM;
        r = nl_connect(sock, NETLINK_ROUTE);
        if (r >= 0)
                r = rtnl_neigh_alloc_cache(sock, &cache);
        if (r >= 0) {
                nl_cache_foreach(cache, on_neighbour, &search);
                nl_cache_free(cache);
        }
        nl_socket_free(sock);
        return r < 0 ? -EIO : 0;        /* libnl counts errors its own way */
}

static const char* state_to_string(int state) {
        static const char *const names[] = {
                [VIR_DOMAIN_PAUSED] = "paused",
                [VIR_DOMAIN_SHUTDOWN] = "shutting down",
                [VIR_DOMAIN_SHUTOFF] = "shut off",
                [VIR_DOMAIN_CRASHED] = "crashed",
                [VIR_DOMAIN_PMSUSPENDED] = "suspended",
        };

        return state >= 0 && (size_t) state < ELEMENTSOF(names) && names[state] ? names[state] : "in an unknown state";
}

static int check_running(virDomainPtr domain, PeerpodError *error) {
        int state, reason;

        if (virDomainGetState(domain, &state, &reason, 0) < 0)
                return libvirt_fail(error, PEERPOD_E_INTERNAL, "Failed to read the VM's state");
        if (state == VIR_DOMAIN_RUNNING || state == VIR_DOMAIN_BLOCKED || state == VIR_DOMAIN_NOSTATE)
                return 0;
        return peerpod_error_set(error, PEERPOD_E_INTERNAL, "The VM has no address yet and is %s%s.", state_to_string(state),
                                 state == VIR_DOMAIN_SHUTOFF && reason == VIR_DOMAIN_SHUTOFF_CRASHED ? ", it crashed" :
                                 state == VIR_DOMAIN_SHUTOFF && reason == VIR_DOMAIN_SHUTOFF_SHUTDOWN ? ", it ended by itself" : "");
}

int address_wait(const Libvirt *l, const PeerpodCall *call, virDomainPtr domain, const uint8_t mac[static 6], PeerpodInstance *ret,
                 PeerpodError *error) {
        uint64_t begin = peerpod_now_usec(), noted = begin;

        for (;;) {
                int r;

                r = check_running(domain, error);
                if (r < 0)
                        return r;

                if (!libvirt_is_embedded(l))
                        ask_libvirt(domain, VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, mac, ret);
                if (ret->n_addresses == 0 && l->local &&
                    ask_neighbours(libvirt_is_embedded(l) ? (int) if_nametoindex(l->network) : 0, mac, ret) < 0)
                        peerpod_log(call, LOG_DEBUG, "The neighbour table cannot be read.");
                if (ret->n_addresses == 0)
                        ask_libvirt(domain, VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT, mac, ret);
                if (ret->n_addresses > 0)
                        return 0;

                if (peerpod_now_usec() - noted >= NOTE_USEC) {
                        noted = peerpod_now_usec();
                        peerpod_log(call, LOG_INFO, "The VM has no address after %" PRIu64 "s, still waiting.",
                                    (noted - begin) / USEC_PER_SEC);
                }
                r = peerpod_call_wait(call, -1, 0, POLL_USEC, error);
                if (r == -ETIMEDOUT)
                        return peerpod_error_set(error, PEERPOD_E_TIMED_OUT, "The VM runs, but had no address on network '%s' within %" PRIu64 "s.",
                                                 l->network, (peerpod_now_usec() - begin) / USEC_PER_SEC);
                if (r < 0)
                        return r;
        }
}
