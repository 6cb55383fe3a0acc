/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VM's kernel is asked what every kernel answers, ours or not:
 *
 *      ARP     who has the pod's address, asked for nobody (RFC 5227, section 2.1.1): leaves no trace in the VM's tables
 *      echo    ICMP echo requests with "don't fragment", a small one and one that fills the tunnel, in the name of the pod's gateway,
 *              since whoever the VM does not know already it would look for in the cluster
 *
 * A pod with IPv6 addresses only is asked by neighbour solicitation (RFC 4861) and ICMPv6 echo instead, from the link-local address that
 * belongs to vxlan1's MAC address: answers to it come to us, and no gateway is needed.
 *
 * Frames go into vxlan1 from an AF_PACKET socket, so what is tried is all that lies between it and the VM's kernel, and back. Answers
 * are seen on their way in, before the redirect, and for the probe's time excepted from it: the cluster gets none of them, and the
 * gateway need not wonder. While a socket is open it keeps the pod's namespace from vanishing, which is another reason for an end.
 */
#include "tunnel/probe.h"

#include <linux/filter.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "net/link.h"
#include "net/tc.h"

#define INTERVAL_USEC (200 * USEC_PER_MSEC)
/* Once it is clear that full ones do not come back: how large may they be? Sizes of IP packets. */
#define LADDER_USEC (2 * USEC_PER_SEC)
static const uint32_t ladder[] = { 8950, 8000, 4000, 1450, 1400, 1380, 1350, 1300, 1280, 1200, 1000, 576 };
#define SMALL_SIZE 84U                  /* ping's */
#define SIZE_MAX_PROBED 9200U           /* what can be sent in one frame by any device that is in use */
#define ARP_SIZE 28U

enum { EXCEPTION_MAC, EXCEPTION_ECHO };

struct Probe {
        Tunnel *tunnel;                 /* borrowed */
        Netlink *nl;                    /* in the pod's namespace */
        int fd;
        sd_event_source *io, *timer;
        ProbeDone done;
        void *userdata;

        int ifindex;
        IngressHook hook;
        MACAddress own_mac, pod_mac;
        IPAddress pod_ip, source;       /* of one family */
        uint32_t magic;                 /* identifier and first sequence number of our echo requests */
        uint64_t timeout_usec, began, answered;
        ProbeReport report;
};

Probe* probe_free(Probe *p) {
        if (!p)
                return NULL;
        sd_event_source_disable_unref(p->io);
        sd_event_source_disable_unref(p->timer);
        if (p->nl && p->ifindex > 0) {
                (void) tc_exception_delete(p->nl, p->ifindex, p->hook, EXCEPTION_MAC);
                (void) tc_exception_delete(p->nl, p->ifindex, p->hook, EXCEPTION_ECHO);
        }
        netlink_free(p->nl);
        close_fd(p->fd);
        free(p);
        return NULL;
}

static void put_be16(uint8_t *p, unsigned v) {
        p[0] = (uint8_t) (v >> 8);
        p[1] = (uint8_t) v;
}

/* RFC 1071 */
static uint16_t checksum(const uint8_t *data, size_t size) {
        uint32_t sum = 0;

        for (size_t i = 0; i + 1 < size; i += 2)
                sum += (uint32_t) data[i] << 8 | data[i + 1];
        if (size % 2)
                sum += (uint32_t) data[size - 1] << 8;
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return (uint16_t) ~sum;
}

/* Lost ones are sent again, so a full queue is no error. */
static void send_frame(const Probe *p, const uint8_t *frame, size_t size) {
        (void) send(p->fd, frame, size, MSG_DONTWAIT);
}

static void write_ethernet(const Probe *p, const uint8_t *to, uint16_t type, uint8_t *frame) {
        memcpy(frame, to, ETH_ALEN);
        memcpy(frame + ETH_ALEN, p->own_mac.bytes, ETH_ALEN);
        put_be16(frame + 2 * ETH_ALEN, type);
}

static void send_arp(const Probe *p) {
        static const uint8_t everybody[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
        static const uint8_t header[] = { 0, ARPHRD_ETHER, ETH_P_IP >> 8, ETH_P_IP & 0xff, ETH_ALEN, 4, 0, ARPOP_REQUEST };
        uint8_t frame[ETH_ZLEN] = {}, *arp = frame + ETH_HLEN;

        write_ethernet(p, everybody, ETH_P_ARP, frame);
        memcpy(arp, header, sizeof(header));
        memcpy(arp + 8, p->own_mac.bytes, ETH_ALEN);
        memcpy(arp + 24, p->pod_ip.bytes, 4);
        send_frame(p, frame, sizeof(frame));
}

/* The header of a packet to the pod or to @to, and the checksum of what is behind it, which is there already. */
static void write_ipv6(const Probe *p, const uint8_t *to, uint8_t hops, uint8_t *ip, size_t size) {
        uint8_t *icmp = ip + sizeof(struct ip6_hdr);
        size_t payload = size - sizeof(struct ip6_hdr);

        /* RFC 8200, section 8.1: the pseudo-header's addresses are where the real one has them; length and protocol go before them */
        memset(ip, 0, 8);
        put_be16(ip + 4, (unsigned) payload);
        ip[7] = IPPROTO_ICMPV6;
        memcpy(ip + 8, p->source.bytes, 16);
        memcpy(ip + 24, to, 16);
        put_be16(icmp + 2, 0);
        put_be16(icmp + 2, checksum(ip, size));
        ip[0] = 0x60;
        ip[6] = IPPROTO_ICMPV6;
        ip[7] = hops;
}

static void send_solicitation(const Probe *p) {
        /* RFC 4291, section 2.7.1: solicited-node address; RFC 2464, section 7: its MAC address */
        uint8_t group[16] = { 0xff, 2, [11] = 1, [12] = 0xff }, mac[ETH_ALEN] = { 0x33, 0x33 };
        uint8_t frame[ETH_HLEN + sizeof(struct ip6_hdr) + sizeof(struct nd_neighbor_solicit) + 8] = {}, *ip = frame + ETH_HLEN,
                *icmp = ip + sizeof(struct ip6_hdr);

        memcpy(group + 13, p->pod_ip.bytes + 13, 3);
        memcpy(mac + 2, group + 12, 4);
        write_ethernet(p, mac, ETH_P_IPV6, frame);
        icmp[0] = ND_NEIGHBOR_SOLICIT;
        memcpy(icmp + 8, p->pod_ip.bytes, 16);
        icmp[24] = ND_OPT_SOURCE_LINKADDR;
        icmp[25] = 1;
        memcpy(icmp + 26, p->own_mac.bytes, ETH_ALEN);
        write_ipv6(p, group, 255, ip, sizeof(frame) - ETH_HLEN);
        send_frame(p, frame, sizeof(frame));
}

static void send_echo6(const Probe *p, uint32_t size) {
        uint8_t frame[ETH_HLEN + SIZE_MAX_PROBED] = {}, *ip = frame + ETH_HLEN, *icmp = ip + sizeof(struct ip6_hdr);

        write_ethernet(p, p->pod_mac.bytes, ETH_P_IPV6, frame);
        icmp[0] = ICMP6_ECHO_REQUEST;
        write_be32(icmp + 4, p->magic);
        write_ipv6(p, p->pod_ip.bytes, IPDEFTTL, ip, size);
        send_frame(p, frame, ETH_HLEN + size);
}

static void send_echo(const Probe *p, uint32_t size) {
        uint8_t frame[ETH_HLEN + SIZE_MAX_PROBED] = {}, *ip = frame + ETH_HLEN, *icmp = ip + sizeof(struct iphdr);

        if (p->pod_ip.family == AF_INET6) {
                send_echo6(p, size);
                return;
        }
        write_ethernet(p, p->pod_mac.bytes, ETH_P_IP, frame);
        ip[0] = 0x45;
        put_be16(ip + 2, size);
        put_be16(ip + 6, IP_DF);
        ip[8] = IPDEFTTL;
        ip[9] = IPPROTO_ICMP;
        memcpy(ip + 12, p->source.bytes, 4);
        memcpy(ip + 16, p->pod_ip.bytes, 4);
        put_be16(ip + 10, checksum(ip, sizeof(struct iphdr)));
        icmp[0] = ICMP_ECHO;
        write_be32(icmp + 4, p->magic);
        put_be16(icmp + 2, checksum(icmp, size - sizeof(struct iphdr)));
        send_frame(p, frame, ETH_HLEN + size);
}

/* What came from the VM. Untrusted: any length, any content. */
static void take_frame(Probe *p, const uint8_t *frame, size_t size) {
        const uint8_t *payload = frame + ETH_HLEN;

        if (size < ETH_HLEN + ARP_SIZE)
                return;
        if (frame[12] == ETH_P_ARP >> 8 && frame[13] == (ETH_P_ARP & 0xff)) {
                if (payload[6] == 0 && payload[7] == ARPOP_REPLY && memcmp(payload + 14, p->pod_ip.bytes, 4) == 0)
                        p->report.arp = true;
                return;
        }
        if (frame[12] == ETH_P_IPV6 >> 8 && frame[13] == (ETH_P_IPV6 & 0xff)) {
                uint32_t length = ((uint32_t) payload[4] << 8 | payload[5]) + (uint32_t) sizeof(struct ip6_hdr);
                const uint8_t *icmp = payload + sizeof(struct ip6_hdr);

                if (p->pod_ip.family != AF_INET6 || payload[6] != IPPROTO_ICMPV6 || length > size - ETH_HLEN ||
                    length < sizeof(struct ip6_hdr) + 8)
                        return;
                if (icmp[0] == ND_NEIGHBOR_ADVERT && length >= sizeof(struct ip6_hdr) + sizeof(struct nd_neighbor_advert) &&
                    memcmp(icmp + 8, p->pod_ip.bytes, 16) == 0)
                        p->report.arp = true;
                else if (icmp[0] == ICMP6_ECHO_REPLY && memcmp(payload + 8, p->pod_ip.bytes, 16) == 0 && read_be32(icmp + 4) == p->magic)
                        p->report.carried = MAX(p->report.carried, MIN(length, p->report.mtu));
                return;
        }
        if (frame[12] == ETH_P_IP >> 8 && frame[13] == (ETH_P_IP & 0xff)) {
                uint32_t length = (uint32_t) payload[2] << 8 | payload[3];

                if (payload[0] == 0x45 && payload[9] == IPPROTO_ICMP && length <= size - ETH_HLEN && length >= ARP_SIZE &&
                    memcmp(payload + 12, p->pod_ip.bytes, 4) == 0 && payload[20] == ICMP_ECHOREPLY &&
                    read_be32(payload + 24) == p->magic) {
                        p->report.arp = true;   /* nobody says it plainer */
                        p->report.carried = MAX(p->report.carried, MIN(length, p->report.mtu));
                }
        }
}

static void finish(Probe *p) {
        ProbeReport report = p->report;

        report.ok = report.arp && (report.carried == 0 || report.carried == report.mtu);
        p->done(p->tunnel, &report, p->userdata);
}

static void send_next(Probe *p, uint64_t now) {
        if (!p->report.arp) {
                if (p->pod_ip.family == AF_INET6)
                        send_solicitation(p);
                else
                        send_arp(p);
                return;
        }
        send_echo(p, p->report.mtu);
        if (p->report.carried > 0 && now < usec_add(p->answered, LADDER_USEC))
                return;
        send_echo(p, MIN(SMALL_SIZE, p->report.mtu));
        if (now < usec_add(p->answered, LADDER_USEC))
                return;
        FOREACH_ELEMENT(const uint32_t, size, ladder, ELEMENTSOF(ladder))
                if (*size < p->report.mtu && *size > p->report.carried)
                        send_echo(p, *size);
}

static int on_frame(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        Probe *p = userdata;
        bool was_answered = p->report.arp;

        /* A flooding VM must not keep us here. */
        for (int i = 0; i < 16; i++) {
                uint8_t frame[ETH_HLEN + SIZE_MAX_PROBED];
                struct sockaddr_ll from = {};
                socklen_t from_size = sizeof(from);
                ssize_t n = recvfrom(fd, frame, sizeof(frame), MSG_DONTWAIT, (struct sockaddr*) &from, &from_size);

                if (n < 0)
                        break;
                if (from.sll_pkttype != PACKET_OUTGOING)
                        take_frame(p, frame, (size_t) n);
        }

        if (p->report.arp && !was_answered) {
                p->answered = now_usec(CLOCK_MONOTONIC);
                p->report.usec = p->answered - p->began;
                send_next(p, p->answered);
        }
        if (p->report.carried == p->report.mtu)
                finish(p);              /* frees the probe */
        return 0;
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        Probe *p = userdata;
        uint64_t now = now_usec(CLOCK_MONOTONIC),
                 end = p->report.arp ? usec_add(p->answered, PROBE_SIZE_USEC) : usec_add(p->began, p->timeout_usec);

        if (now >= end || sd_event_source_set_time_relative(es, INTERVAL_USEC) < 0 ||
            sd_event_source_set_enabled(es, SD_EVENT_ONESHOT) < 0)
                finish(p);
        else
                send_next(p, now);
        return 0;
}

/* Only what take_frame() might want, so that the pod's own traffic does not fill the socket. */
static int set_filter(int fd) {
        static struct sock_filter code[] = {
                BPF_STMT(BPF_LD|BPF_H|BPF_ABS, 12),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, ETH_P_ARP, 0, 2),
                BPF_STMT(BPF_LD|BPF_H|BPF_ABS, 20),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, ARPOP_REPLY, 9, 10),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, ETH_P_IP, 0, 4),
                BPF_STMT(BPF_LD|BPF_B|BPF_ABS, ETH_HLEN + 9),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, IPPROTO_ICMP, 0, 7),
                BPF_STMT(BPF_LD|BPF_B|BPF_ABS, ETH_HLEN + 20),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, ICMP_ECHOREPLY, 4, 5),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, ETH_P_IPV6, 0, 4),
                BPF_STMT(BPF_LD|BPF_B|BPF_ABS, ETH_HLEN + sizeof(struct ip6_hdr)),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, ICMP6_ECHO_REPLY, 1, 0),
                BPF_JUMP(BPF_JMP|BPF_JEQ|BPF_K, ND_NEIGHBOR_ADVERT, 0, 1),
                BPF_STMT(BPF_RET|BPF_K, UINT32_MAX),
                BPF_STMT(BPF_RET|BPF_K, 0),
        };
        struct sock_fprog program = { .len = ELEMENTSOF(code), .filter = code };

        return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno : 0;
}

/* The filter stands before the first frame can come. */
static int open_socket(Probe *p, int netns_fd) {
        struct sockaddr_ll any = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = p->ifindex };
        int r;

        p->fd = netns_socket(netns_fd, AF_PACKET, SOCK_RAW|SOCK_NONBLOCK, 0);
        if (p->fd < 0)
                return p->fd;
        r = set_filter(p->fd);
        if (r < 0)
                return r;
        return bind(p->fd, (struct sockaddr*) &any, sizeof(any)) < 0 ? -errno : 0;
}

static int read_pod(const Tunnel *t, Probe *p, NetError *e) {
        _cleanup_(pod_network_done) PodNetwork n = POD_NETWORK_NULL;
        int r;

        r = tunnel_read_pod_network(t, &n, e);
        if (r < 0)
                return r;

        p->pod_mac = n.mac;
        if (!ip_address_is_set(&n.pod_ip.address)) {
                if (n.n_addresses6 == 0)
                        return net_error_set(e, -EADDRNOTAVAIL, "pod has no address");
                p->pod_ip = n.addresses6[0].address;
                return 0;               /* the source is vxlan1's */
        }
        p->pod_ip = n.pod_ip.address;
        p->source = n.worker_ip.address;
        FOREACH_ELEMENT(const PodRoute, v, n.routes, n.n_routes)
                if (v->table == RT_TABLE_MAIN && v->dst.length == 0 && v->gateway.family == AF_INET && ip_address_is_host(&v->gateway))
                        p->source = v->gateway;
        return 0;
}

/* RFC 4291, appendix A */
static IPAddress link_local(const MACAddress *mac) {
        IPAddress a = { .family = AF_INET6, .bytes = { 0xfe, 0x80, [8] = mac->bytes[0] ^ 2, mac->bytes[1], mac->bytes[2], 0xff, 0xfe,
                                                       mac->bytes[3], mac->bytes[4], mac->bytes[5] } };

        return a;
}

static int except_answers(Probe *p, NetError *e) {
        const uint8_t *mac = p->own_mac.bytes;
        const TcKey to_us[] = {
                { -14, UINT32_MAX, read_be32(mac) },
                { -10, UINT32_C(0xffff0000), (uint32_t) mac[4] << 24 | (uint32_t) mac[5] << 16 },
        };
        const TcKey echo[] = {
                { 8, UINT32_C(0x00ff0000), IPPROTO_ICMP << 16 },
                { 20, UINT32_C(0xff000000), ICMP_ECHOREPLY << 24 },
                { 24, UINT32_MAX, p->magic },
        };
        int r;

        r = tc_exception_set(p->nl, p->ifindex, p->hook, EXCEPTION_MAC, to_us, ELEMENTSOF(to_us));
        if (r >= 0)
                r = tc_exception_set(p->nl, p->ifindex, p->hook, EXCEPTION_ECHO, echo, ELEMENTSOF(echo));
        return r < 0 ? netlink_fail(p->nl, e, r, "except the probe's answers from the redirect of '%s'", TUNNEL_DEVICE) : 0;
}

int probe_new(Manager *m, Tunnel *t, ProbeDone done, void *userdata, Probe **ret, NetError *e) {
        _cleanup_(close_fdp) int netns_fd = -EBADF;
        _cleanup_(probe_freep) Probe *p = new(Probe);
        Link l;
        int r;

        if (!p)
                return net_error_set(e, -ENOMEM, "out of memory");
        *p = (Probe) { .tunnel = t, .fd = -EBADF, .done = done, .userdata = userdata,
                        .timeout_usec = m->settings->probe_timeout_usec };
        if (getrandom(&p->magic, sizeof(p->magic), 0) != sizeof(p->magic))
                return net_error_set(e, -EIO, "no random number");
        r = read_pod(t, p, e);
        if (r < 0)
                return r;

        r = tunnel_open_netns(m, t, &netns_fd, &p->nl, e);
        if (r < 0)
                return r;
        r = link_get(p->nl, TUNNEL_DEVICE, &l);
        if (r < 0)
                return netlink_fail(p->nl, e, r, "look at '%s'", TUNNEL_DEVICE);
        r = tc_get_ingress(p->nl, l.ifindex, &p->hook);
        if (r < 0)
                return netlink_fail(p->nl, e, r, "look at the ingress hook of '%s'", TUNNEL_DEVICE);
        if (p->hook == INGRESS_NONE)
                return net_error_set(e, -ENOTCONN, "tunnel is not set up");
        p->ifindex = l.ifindex;
        p->own_mac = l.mac;
        if (p->pod_ip.family == AF_INET6)
                p->source = link_local(&l.mac);
        p->report.mtu = MIN(l.mtu, SIZE_MAX_PROBED);

        r = open_socket(p, netns_fd);
        if (r < 0)
                return net_error_set(e, r, "open a packet socket on '%s': %s", TUNNEL_DEVICE, strerror(-r));
        r = except_answers(p, e);
        if (r < 0)
                return r;

        p->began = now_usec(CLOCK_MONOTONIC);
        r = sd_event_add_io(m->event, &p->io, p->fd, EPOLLIN, on_frame, p);
        if (r >= 0)
                r = sd_event_add_time_relative(m->event, &p->timer, CLOCK_MONOTONIC, 0, USEC_PER_MSEC, on_timer, p);
        if (r < 0)
                return net_error_set(e, r, "wait for the probe's answer: %s", strerror(-r));
        *ret = TAKE_PTR(p);
        return 0;
}
