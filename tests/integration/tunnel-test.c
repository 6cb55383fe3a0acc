/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-tunneld and pod-network, the programs, on real namespaces: traffic, repetition, failure, restart. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "net/netlink.h"
#include "net/pod-network.h"
#include "netlab.h"
#include "tunnel-rig.h"

static const char *faulty_program;

/* -- the tests -- */

static void traffic_passes_both_ways(void **state) {
        char *s;

        start_daemon(NULL);
        connect_pod();
        expect_traffic();

        /* the pod's stack on the worker gets nothing of it */
        assert_true(lab_udp("worker", "podns", "10.128.0.2", 100, true, 2000));
        assert_true(lab_udp("podns", "worker", "10.128.0.1", 100, true, 2000));
        lab_sh("ip netns exec peer ping -c 3 -i 0.05 -W 2 -q 10.128.0.2 >/dev/null");
        lab_sh("ip netns exec podns ping -c 3 -i 0.05 -W 2 -q 10.128.0.9 >/dev/null");

        /* full frames unfragmented: 1450 is what a 1500-byte underlay carries */
        assert_true(lab_udp("peer", "podns", "10.128.0.2", 1450 - 28, true, 2000));
        assert_true(lab_udp("podns", "peer", "10.128.0.9", 1450 - 28, true, 2000));
        assert_false(lab_udp("podns", "peer", "10.128.0.9", 1451 - 28, true, 100));
        s = lab_output("ip netns exec worker nstat -az IpFragCreates | awk '/FragCreates/ {print $2}'");
        assert_string_equal(s, "0\n");
        free(s);
        /* larger ones in pieces */
        assert_true(lab_udp("peer", "podns", "10.128.0.2", 8000, false, 2000));
        assert_true(lab_udp("podns", "peer", "10.128.0.9", 8000, false, 2000));

        assert_true(lab_tcp("peer", "podns", "10.128.0.2", 8 << 20, 10000) > 0);
        assert_true(lab_tcp("podns", "peer", "10.128.0.9", 8 << 20, 10000) > 0);

        /* and it is the tunnel that carries it */
        lab_sh("ip -n vm link set enc0 down");
        assert_false(lab_udp("peer", "podns", "10.128.0.2", 100, true, 100));

        teardown("s1");
        expect_nothing_left();
        assert_int_equal(pod_network("teardown"), 0);
        expect_empty("VM's devices", lab_output("ip -n podns -o link show type vxlan; ip netns exec vm nft list ruleset"));
        assert_int_equal(pod_network("teardown"), 0);
        assert_int_equal(stop_daemon(SIGTERM), 0);
}

static void calls_can_be_repeated(void **state) {
        char *a, *b;
        size_t n_fds;

        start_daemon(NULL);
        n_fds = count_fds(daemon_pid);
        a = inspect("s1");
        b = inspect("s1");
        assert_string_equal(a, b);
        free(b);
        setup("s1");
        setup("s1");
        b = inspect("s1");
        assert_string_equal(a, b);
        free(b);
        write_apf(a);
        free(a);
        assert_int_equal(pod_network("setup"), 0);
        expect_traffic();
        assert_int_equal(pod_network("setup"), 0);
        expect_log("pod-network.log", "Adopted 'eth0'");
        setup("s1");
        expect_traffic();
        b = lab_output("grep -c '<5>Tunnel with VXLAN id .* is up' /run/lab/tunneld.log");
        assert_string_equal(b, "1\n");          /* once, however often it is asked for */
        free(b);
        b = lab_output("tc -n wpod filter show dev eth0 ingress | grep -c mirred; tc -n wpod filter show dev vxlan1 ingress | grep -c mirred");
        assert_string_equal(b, "1\n1\n");
        free(b);

        teardown("s1");
        teardown("s1");
        expect_nothing_left();
        assert_int_equal(count_fds(daemon_pid), n_fds);

        /* and all over again in the same namespace */
        connect_pod();
        expect_traffic();
        teardown("s1");
        expect_nothing_left();
}

static void tunnel_outlives_daemon(void **state) {
        char *a, *b;

        start_daemon(NULL);
        a = inspect("s1");
        assert_int_equal(stop_daemon(SIGKILL), 128 + SIGKILL);
        start_daemon(NULL);
        b = inspect("s1");
        assert_string_equal(a, b);
        free(a);
        free(b);
        connect_pod();
        assert_int_equal(stop_daemon(SIGKILL), 128 + SIGKILL);
        expect_traffic();

        /* what somebody broke meanwhile is mended */
        lab_sh("ip netns exec worker nft flush ruleset && tc -n wpod qdisc del dev eth0 ingress");
        start_daemon(NULL);
        expect_traffic();
        lab_sh("ip netns exec worker nft list table ip peerpod >/dev/null");

        sd_bus_message *reply;
        char **ids;
        expect_success(call("List", &reply, ""));
        assert_true(sd_bus_message_read_strv(reply, &ids) >= 0);
        assert_int_equal(strv_length(ids), 1);
        assert_string_equal(ids[0], "s1");
        strv_free(ids);
        sd_bus_message_unref(reply);

        teardown("s1");
        expect_nothing_left();
}

static void vanished_namespace_is_forgotten(void **state) {
        char *pn;

        start_daemon(NULL);
        connect_pod();
        lab_sh("ip netns del wpod");
        teardown("s1");
        expect_empty("firewall", lab_output("ip netns exec worker nft list ruleset"));
        expect_empty("records", lab_output("ls -A /run/lab/tunnel"));

        /* the same while the daemon is down; its name means another namespace afterwards */
        lab_add_wpod();
        pn = inspect("s1");
        free(pn);
        setup("s1");
        assert_int_equal(stop_daemon(SIGTERM), 0);
        lab_sh("ip netns del wpod && ip netns add wpod");
        assert_int_equal(write_file_atomic("/run/lab/tunnel/junk.json", "{\"sandbox-id\": ", 15, 0600), 0);
        start_daemon(NULL);
        expect_log("tunneld.log", "is gone, forgetting");
        expect_log("tunneld.log", "set aside");
        expect_empty("firewall", lab_output("ip netns exec worker nft list ruleset"));
        expect_empty("records", lab_output("ls /run/lab/tunnel/*.json 2>/dev/null"));
}

static int has_netns(const char *id, const char *path) {
        sd_bus_message *reply;
        int there;

        expect_success(call("HasNetworkNamespace", &reply, "ss", id, path));
        assert_true(sd_bus_message_read(reply, "b", &there) >= 0);
        sd_bus_message_unref(reply);
        return there;
}

static void it_is_told_whether_a_namespace_is_there(void **state) {
        char *pn;

        start_daemon(NULL);
        assert_true(has_netns("s1", "/run/netns/wpod"));
        pn = inspect("s1");
        free(pn);
        assert_true(has_netns("s1", "/run/netns/wpod"));
        assert_false(has_netns("s1", "/run/netns/peer"));       /* another one than when it was inspected */
        assert_false(has_netns("s2", "/run/netns/none"));
        assert_false(has_netns("s2", "/etc/passwd"));           /* what is left of a mount point */
        expect_error(call("HasNetworkNamespace", NULL, "ss", "s1", "netns/wpod"), "InvalidArgument", "not an absolute path");
        expect_error(call("HasNetworkNamespace", NULL, "ss", "../s1", "/run/netns/wpod"), "InvalidArgument", "sandbox id");
        lab_sh("ip netns del wpod");
        assert_false(has_netns("s1", "/run/netns/wpod"));
        teardown("s1");
}

static void namespace_path_is_not_trusted(void **state) {
        static const struct {
                const char *path, *error, *text;
        } cases[] = {
                { "", "InvalidArgument", "not an absolute path" },
                { "netns/wpod", "InvalidArgument", "not an absolute path" },
                { "/run/netns/none", "NotFound", "No such file" },
                { "/etc/passwd", "InvalidArgument", "not a network namespace" },
                { "/run/lab/fifo", "InvalidArgument", "not a network namespace" },
                { "/dev/tty", "InvalidArgument", "not a network namespace" },
                { "/proc/self/ns/uts", "InvalidArgument", "not a network namespace" },
                { "/proc/self/ns/net", "InvalidArgument", "host's own" },
                { "/run/netns/worker", "InvalidArgument", "host's own" },
        };
        char *s;

        start_daemon(NULL);
        lab_sh("mkfifo /run/lab/fifo");
        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                expect_error(call("Inspect", NULL, "ss", "s1", cases[i].path), cases[i].error, cases[i].text);
        expect_error(call("Inspect", NULL, "ss", "../s1", "/run/netns/wpod"), "InvalidArgument", "sandbox id");
        expect_error(try_setup("s1", "10.10.1.2"), "FailedPrecondition", "never inspected");
        s = inspect("s1");
        free(s);
        expect_error(call("Inspect", NULL, "ss", "s2", "/run/netns/wpod"), "AlreadyExists", "belongs to sandbox 's1'");
        expect_error(call("Setup", NULL, "ssas", "s1", "/run/netns/peer", 1, "10.10.1.2"), "FailedPrecondition", "another network namespace");
        expect_error(call("Setup", NULL, "ssas", "s1", "/run/netns/wpod", 0), "InvalidArgument", "no address");
        expect_error(try_setup("s1", "fe80::1"), "InvalidArgument", "not an IPv4");
        expect_error(try_setup("s1", "224.0.0.1"), "InvalidArgument", "cannot be");
        expect_error(try_setup("s1", "127.0.0.1"), "InvalidArgument", "cannot be");
        expect_error(try_setup("s1", "podvm.example"), "InvalidArgument", "not an IP");
        teardown("unknown");
        teardown("s1");
        expect_nothing_left();
}

static void clashes_of_vni_and_port_are_told_apart(void **state) {
        static const char *const two_ids[] = { "--vxlan-min-id", "16777214", NULL };
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(4789) };
        char *s;
        int fd;

        start_daemon(two_ids);
        lab_sh("ip -n worker link add cluster type vxlan id 16777215 dstport 4789 && ip -n worker link set cluster up");
        s = inspect("s1");
        assert_non_null(strstr(s, "\"vxlan-id\":16777214"));
        assert_non_null(strstr(s, "\"index\":0"));
        free(s);
        expect_error(call("Inspect", NULL, "ss", "s2", "/run/netns/peer"), "Exhausted", "no free VXLAN id");
        /* a plain VXLAN device of the cluster may have the port too */
        setup("s1");
        teardown("s1");

        lab_sh("ip -n worker link del cluster");
        s = inspect("s1");
        free(s);
        fd = lab_socket("worker", AF_INET, SOCK_DGRAM, 0);
        assert_int_equal(bind(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        expect_error(try_setup("s1", "10.10.1.2"), "FailedPrecondition", "UDP port 4789 is in use");
        expect_empty("ingress hooks", lab_output("tc -n wpod qdisc show dev eth0 | grep ingress"));
        expect_empty("firewall", lab_output("ip netns exec worker nft list ruleset"));
        close_fd(fd);
        setup("s1");
        teardown("s1");
        expect_nothing_left();
}

static void put16(uint8_t *p, unsigned v) {
        p[0] = (uint8_t) (v >> 8);
        p[1] = (uint8_t) v;
}

/* A VXLAN packet (RFC 7348) with a UDP datagram for the pod in it: from the IPv4 header's payload on. Returns its size. */
static size_t forge(uint32_t vni, uint16_t inner_port, const char *dst_mac, uint8_t *p) {
        static const uint8_t inner_ip[20] = { 0x45, 0, 0, 29, 0, 1, 0, 0, 64, 17, 0, 0, 10, 128, 0, 9, 10, 128, 0, 2 };
        uint8_t *f = p + 16, *ip = f + 14, *udp = ip + 20;
        MACAddress mac;
        uint32_t sum = 0;

        memset(p, 0, 128);
        put16(p, 40000);
        put16(p + 2, 4789);
        p[8] = 8;                               /* the VNI is valid */
        p[12] = (uint8_t) (vni >> 16);
        put16(p + 13, vni & 0xffff);
        assert_int_equal(mac_address_parse(dst_mac, &mac), 0);
        memcpy(f, mac.bytes, 6);
        f[6] = 2;
        put16(f + 12, 0x0800);
        memcpy(ip, inner_ip, sizeof(inner_ip));
        for (size_t i = 0; i < 20; i += 2)
                sum += (uint32_t) ip[i] << 8 | ip[i + 1];
        put16(ip + 10, ~((sum & 0xffff) + (sum >> 16)) & 0xffff);
        put16(udp, 5000);
        put16(udp + 2, inner_port);
        put16(udp + 4, 9);
        udp[8] = 'x';
        put16(p + 4, (unsigned) (udp + 9 - p));
        return (size_t) (udp + 9 - p);
}

/* Send it from a namespace as its own host, whole or with a first fragment of 8 bytes. Did it reach a socket of the pod? */
static bool forged_frame_arrives(const char *from, const char *worker_or_vm, uint32_t vni, bool fragments, const char *to) {
        static uint16_t id = 100, port = 6000;
        struct sockaddr_in sa = { .sin_family = AF_INET }, in = { .sin_family = AF_INET, .sin_port = htons(++port) };
        _cleanup_(close_fdp) int raw = lab_socket(from, AF_INET, SOCK_RAW, IPPROTO_RAW);
        _cleanup_(close_fdp) int pod = lab_socket(to, AF_INET, SOCK_DGRAM, 0);
        struct pollfd p = { .fd = pod, .events = POLLIN };
        uint8_t payload[128], packet[160];
        size_t size = forge(vni, port, LAB_POD_MAC, payload), cut = fragments ? 8 : size;

        assert_int_equal(bind(pod, (struct sockaddr*) &in, sizeof(in)), 0);
        assert_int_equal(inet_pton(AF_INET, worker_or_vm, &sa.sin_addr), 1);
        id++;
        for (size_t at = 0; at < size; at += cut, cut = size - at) {
                struct iphdr ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .id = htons(id), .daddr = sa.sin_addr.s_addr };

                ip.frag_off = htons((uint16_t) (at / 8 | (at + cut < size ? 0x2000 : 0)));
                memcpy(packet, &ip, sizeof(ip));
                memcpy(packet + sizeof(ip), payload + at, cut);
                assert_true(sendto(raw, packet, sizeof(ip) + cut, 0, (struct sockaddr*) &sa, sizeof(sa)) > 0);
                if (at + cut >= size)
                        break;
        }
        return poll(&p, 1, 300) == 1;
}

static void forged_frames_are_dropped(void **state) {
        _cleanup_(freep) char *pn = NULL;
        uint64_t vni = 0;
        json_object *o;

        start_daemon(NULL);
        connect_pod();
        expect_traffic();
        pn = inspect("s1");
        assert_int_equal(json_parse(pn, strlen(pn), &o, NULL), 0);
        assert_int_equal(json_get_u64(o, "vxlan-id", UINT32_MAX, &vni, NULL), 1);
        json_object_put(o);

        /* the true peer's frames arrive, whole and in pieces: the forgery itself is sound */
        assert_true(forged_frame_arrives("worker", "10.10.1.2", (uint32_t) vni, false, "podns"));
        assert_true(forged_frame_arrives("worker", "10.10.1.2", (uint32_t) vni, true, "podns"));
        /* a third host's do not */
        assert_false(forged_frame_arrives("other", "10.10.1.2", (uint32_t) vni, false, "podns"));
        assert_false(forged_frame_arrives("other", "10.10.1.2", (uint32_t) vni, true, "podns"));

        /* nft can print what we wrote */
        {
                char vni_text[32];
                char *list = lab_output("ip netns exec worker nft list table ip peerpod");

                (void) snprintf(vni_text, sizeof(vni_text), "4789 . 0x%x . 10.10.1.2", (unsigned) vni);
                assert_non_null(strstr(list, vni_text));
                assert_non_null(strstr(list, "typeof udp dport . @th,96,24 . ip saddr"));
                assert_non_null(strstr(list, "10.10.1.2 . 4789"));
                assert_non_null(strstr(list, "ip saddr . udp dport @peers notrack"));
                assert_non_null(strstr(list, "udp dport . @th,96,24 . ip saddr != @tunnels counter packets"));
                free(list);
        }

        /* on the worker likewise: counted by the guard, and without it delivered */
        char *s = lab_output("ip netns exec worker nft list chain ip peerpod input");
        assert_non_null(strstr(s, "packets 0"));
        free(s);
        (void) forged_frame_arrives("other", "10.10.0.1", (uint32_t) vni, true, "podns");
        s = lab_output("ip netns exec worker nft list chain ip peerpod input");
        assert_non_null(strstr(s, "packets 1"));
        free(s);
        lab_sh("ip netns exec vm nft delete table ip peerpod");
        assert_true(forged_frame_arrives("other", "10.10.1.2", (uint32_t) vni, true, "podns"));
        teardown("s1");
}

static void existing_clsact_is_kept(void **state) {
        char *s;

        lab_sh("tc -n wpod qdisc add dev eth0 clsact && "
               "tc -n wpod filter add dev eth0 ingress prio 7 protocol all u32 match u32 0 0 flowid 1:1");
        start_daemon(NULL);
        connect_pod();
        expect_traffic();
        teardown("s1");
        s = lab_output("tc -n wpod qdisc show dev eth0 | grep -c clsact; tc -n wpod filter show dev eth0 ingress | grep -c 'pref 7 .*flowid'; "
                       "tc -n wpod filter show dev eth0 ingress | grep -c mirred");
        assert_string_equal(s, "1\n1\n0\n");
        free(s);
}

static void second_address_serves_a_dedicated_interface(void **state) {
        static const char *const dedicated[] = { "--host-interface", "enc1", NULL };
        _cleanup_(freep) char *pn = NULL, *s = NULL;

        lab_sh("ip -n fab link add f-w2 type veth peer name enc1 netns worker && ip -n fab link set f-w2 master br0 up && "
               "ip -n worker addr add 10.11.0.1/16 dev enc1 && ip -n worker link set enc1 up");
        start_daemon(dedicated);
        pn = inspect("s1");
        assert_non_null(strstr(pn, "\"worker-node-ip\":\"10.11.0.1/16\""));
        assert_non_null(strstr(pn, "\"dedicated\":true"));
        expect_error(try_setup("s1", "10.10.1.2"), "InvalidArgument", "second address");
        expect_success(call("Setup", NULL, "ssas", "s1", "/run/netns/wpod", 2, "10.10.1.2", "10.11.1.2"));
        s = lab_output("ip -n wpod -d link show vxlan1 | grep -o 'remote 10.11.1.2'");
        assert_string_equal(s, "remote 10.11.1.2\n");
}

/* As with libvirt's networks: the worker sends to its VM from another address than that of its primary interface. */
static void vm_behind_a_bridge_of_the_worker(void **state) {
        _cleanup_(freep) char *pn = NULL;

        lab_sh("ip -n worker link add virbr0 type bridge && ip -n worker addr add 10.89.0.1/24 dev virbr0 && ip -n worker link set virbr0 up && "
               "ip -n worker link add vnet0 type veth peer name enc1 netns vm && ip -n worker link set vnet0 master virbr0 up && "
               "ip -n vm link del enc0 && ip -n vm addr add 10.89.0.7/24 dev enc1 && ip -n vm link set enc1 up && "
               "ip -n vm route add default via 10.89.0.1");
        start_daemon(NULL);
        pn = inspect("s1");
        assert_non_null(strstr(pn, "\"worker-node-ip\":\"10.10.0.1/16\""));
        expect_success(try_setup("s1", "10.89.0.7"));
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
        expect_traffic();
}

static void ipv6_goes_through(void **state) {
        lab_sh("ip -n worker addr add fd00:128::1/64 dev cni0 nodad && ip -n wpod addr add fd00:128::2/64 dev eth0 nodad && "
               "ip -n wpod -6 route add default via fd00:128::1 && ip -n peer addr add fd00:128::9/64 dev eth0 nodad");
        start_daemon(NULL);
        connect_pod();
        expect_traffic();
        assert_true(lab_udp("peer", "podns", "fd00:128::2", 1000, true, 3000));
        assert_true(lab_udp("podns", "peer", "fd00:128::9", 1000, true, 3000));
        teardown("s1");
        expect_nothing_left();
}

/* The pod's address is announced: a pod on the same bridge hears it without having asked. */
static void pod_address_is_announced(void **state) {
        _cleanup_(close_fdp) int fd = lab_socket("peer", AF_PACKET, SOCK_DGRAM, htons(ETH_P_ARP));
        _cleanup_(freep) char *pn = NULL;
        uint8_t arp[64];
        bool heard = false;

        start_daemon(NULL);
        pn = inspect("s1");
        setup("s1");
        write_apf(pn);
        for (int i = 0; i < 2; i++) {           /* a fresh device, and an adopted one */
                assert_int_equal(pod_network("setup"), 0);
                heard = false;
                for (;;) {
                        struct pollfd p = { .fd = fd, .events = POLLIN };

                        if (heard || poll(&p, 1, 2000) != 1)
                                break;
                        /* sender and target are 10.128.0.2 (RFC 5227, section 3) */
                        if (recv(fd, arp, sizeof(arp), 0) >= 28 && memcmp(arp + 14, "\x0a\x80\x00\x02", 4) == 0 &&
                            memcmp(arp + 24, "\x0a\x80\x00\x02", 4) == 0)
                                heard = true;
                }
                assert_true(heard);
                while (recv(fd, arp, sizeof(arp), MSG_DONTWAIT) > 0)
                        ;
        }
}

typedef struct RouteCase {
        const char *name;
        const char *make;               /* changes of the pod's namespace on the worker */
        const char *routes;             /* of podns afterwards */
        const char *neighbours;
} RouteCase;

static const RouteCase route_cases[] = {
        { "routes of flannel", ":",
          "default via 10.128.0.1 \n10.128.0.0/24 proto kernel scope link src 10.128.0.2 \n", "" },
        { "routes of Calico: on-link gateway 169.254.1.1",
          "ip -n wpod addr flush dev eth0 && ip -n wpod addr add 10.128.0.2/32 dev eth0 && "
          "ip -n wpod route add 169.254.1.1 dev eth0 scope link && ip -n wpod route add default via 169.254.1.1 dev eth0",
          "default via 169.254.1.1 \n169.254.1.1 scope link \n", "" },
        { "routes of the ptp plugin: connected prefix through the gateway",
          "ip -n wpod route flush dev eth0 && ip -n wpod route add 10.128.0.1 dev eth0 scope link src 10.128.0.2 && "
          "ip -n wpod route add 10.128.0.0/24 via 10.128.0.1 dev eth0 src 10.128.0.2 && ip -n wpod route add default via 10.128.0.1 dev eth0",
          "default via 10.128.0.1 \n10.128.0.0/24 via 10.128.0.1 src 10.128.0.2 \n10.128.0.1 scope link src 10.128.0.2 \n", "" },
        { "routes of the AWS VPC CNI: permanent neighbour",
          "ip -n wpod addr flush dev eth0 && ip -n wpod addr add 10.128.0.2/32 dev eth0 && "
          "ip -n wpod route add 169.254.1.1 dev eth0 scope link && ip -n wpod route add default via 169.254.1.1 dev eth0 && "
          "ip -n wpod neigh add 169.254.1.1 lladdr 02:00:00:00:00:01 nud permanent dev eth0",
          "default via 169.254.1.1 \n169.254.1.1 scope link \n", "169.254.1.1 lladdr 02:00:00:00:00:01 PERMANENT \n" },
        { "routes with metric, source, MTU, onlink gateway, and a routing daemon's",
          "ip -n wpod route add 10.20.0.0/16 via 10.128.0.1 metric 50 mtu 1300 src 10.128.0.2 && "
          "ip -n wpod route add 10.30.0.0/16 via 172.31.0.1 dev eth0 onlink proto bird",
          "default via 10.128.0.1 \n10.20.0.0/16 via 10.128.0.1 src 10.128.0.2 metric 50 mtu 1300 \n"
          "10.30.0.0/16 via 172.31.0.1 proto bird onlink \n10.128.0.0/24 proto kernel scope link src 10.128.0.2 \n", "" },
        { "second interface of Multus and a route with two next hops stay on the worker",
          "ip -n wpod link add net1 type veth peer name net1p && ip -n wpod addr add 172.16.0.2/24 dev net1 && ip -n wpod link set net1 up && "
          "ip -n wpod link set net1p up && ip -n wpod route add 10.40.0.0/16 nexthop via 10.128.0.1 nexthop via 172.16.0.1",
          "default via 10.128.0.1 \n10.128.0.0/24 proto kernel scope link src 10.128.0.2 \n", "" },
        { "lower metric decides which interface is primary",
          "ip -n wpod link add net1 type veth peer name net1p && ip -n wpod addr add 172.16.0.2/24 dev net1 && ip -n wpod link set net1 up && "
          "ip -n wpod link set net1p up && ip -n wpod route del default && ip -n wpod route add default via 10.128.0.1 metric 10 && "
          "ip -n wpod route add default via 172.16.0.1 metric 20",
          "default via 10.128.0.1 metric 10 \n10.128.0.0/24 proto kernel scope link src 10.128.0.2 \n", "" },
};

static void routes_reach_the_vm(void **state) {
        const RouteCase *c = *state;
        _cleanup_(freep) char *pn = NULL, *routes = NULL, *neighbours = NULL;

        start_daemon(NULL);
        lab_sh("%s", c->make);
        pn = inspect("s1");
        write_apf(pn);
        for (int i = 0; i < 2; i++) {
                if (pod_network("setup") != 0) {
                        (void) lab_sh_status("cat /run/lab/pod-network.log >&2");
                        print_error("%s\n", pn);
                        fail();
                }
                free(routes);
                routes = lab_output("ip -n podns route show dev eth0");
                assert_string_equal(routes, c->routes);
        }
        neighbours = lab_output("ip -n podns neigh show dev eth0 nud permanent");
        assert_string_equal(neighbours, c->neighbours);
}

static int route_setup(void **state) {
        return lab_setup(NULL);
}

static void pod_subnets_are_routed(void **state) {
        static const char *const subnets[] = { "--pod-subnet-cidrs", "10.128.0.0/16, 10.96.0.0/12,10.128.0.0/24", NULL };
        _cleanup_(freep) char *pn = NULL, *routes = NULL;

        start_daemon(subnets);
        pn = inspect("s1");
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
        routes = lab_output("ip -n podns route show dev eth0");
        assert_string_equal(routes, "default via 10.128.0.1 \n10.96.0.0/12 via 10.128.0.1 \n10.128.0.0/24 proto kernel scope link src 10.128.0.2 \n"
                            "10.128.0.0/16 via 10.128.0.1 \n");
}

static void mtu_follows_the_underlay(void **state) {
        _cleanup_(freep) char *pn = NULL, *s = NULL;

        lab_sh("ip -n worker link set enc0 mtu 1460 && ip -n vm link set enc0 mtu 1400");
        start_daemon(NULL);
        pn = inspect("s1");
        assert_non_null(strstr(pn, "\"mtu\":1410"));
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
        s = lab_output("cat /dev/null; ip -n podns -o link show eth0 | grep -o 'mtu [0-9]*'; ip -n wpod -o link show vxlan1 | grep -o 'mtu [0-9]*'");
        assert_string_equal(s, "mtu 1350\nmtu 1410\n");
}

static void leftovers_in_the_vm_are_replaced(void **state) {
        _cleanup_(freep) char *pn = NULL, *s = NULL;

        start_daemon(NULL);
        lab_sh("ip -n vm link add vxlan0 type vxlan id 42 remote 10.10.0.77 dstport 4789 && ip -n vm link set vxlan0 netns podns name eth0 && "
               "ip -n podns addr add 10.1.1.1/24 dev eth0 && ip -n podns link set eth0 up");
        pn = inspect("s1");
        setup("s1");
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
        expect_traffic();
        s = lab_output("ip -n podns -o -4 addr show dev eth0 | wc -l");
        assert_string_equal(s, "1\n");

        /* what is no tunnel's is not touched */
        lab_sh("ip -n podns link del eth0 && ip -n podns link add eth0 type veth peer name eth9");
        assert_int_equal(pod_network("setup"), 1);
        expect_log("pod-network.log", "not a tunnel");
        lab_sh("ip -n podns link show eth9 >/dev/null");
        expect_empty("devices", lab_output("ip -n podns -o link show type vxlan"));
        expect_empty("VM's firewall", lab_output("ip netns exec vm nft list ruleset"));
}

static void vm_waits_for_its_interface(void **state) {
        _cleanup_(freep) char *pn = NULL;
        struct pollfd none = { .fd = -1 };
        pid_t pid;
        int status;

        start_daemon(NULL);
        pn = inspect("s1");
        setup("s1");
        write_apf(pn);

        lab_sh("ip -n vm addr flush dev enc0 && ip -n vm link set enc0 down");
        assert_int_equal(lab_wait(spawn_pod_network("setup", "1s")), 1);
        expect_log("pod-network.log", "came up in 1.000s");
        expect_empty("firewall", lab_output("ip netns exec vm nft list ruleset"));

        pid = spawn_pod_network("setup", "10s");
        for (int i = 0; i < 100 && lab_sh_status("[ $(grep -c Waiting /run/lab/pod-network.log) = 2 ]") != 0; i++)
                (void) poll(&none, 1, 20);
        assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
        lab_sh("ip -n vm link set enc0 up && ip -n vm addr add 10.10.1.2/16 dev enc0");
        assert_int_equal(lab_wait(pid), 0);
        expect_traffic();
}

static void bad_configuration_is_refused(void **state) {
        static const struct {
                const char *config;
                int status;
                const char *log;
        } cases[] = {
                { "{}", 78, "has no 'pod-network'" },
                { "{\"pod-network\": []}", 78, "'pod-network' is not of type object" },
                { "{\"pod-network\": {\"podip\": 5}}", 78, "'podip'" },
                { "{\"pod-network\": {\"tunnel-type\": \"routing\"}}", 78, "only 'vxlan'" },
                { "{\"pod-network\": {\"tunnel-type\": \"vxlan\", \"interface\": \"eth0\"}}", 78, "'worker-node-ip' is missing" },
                { "{\"pod-network\": {\"tunnel-type\": \"vxlan\", \"interface\": \"eth0\", \"worker-node-ip\": \"10.10.1.2/16\", "
                  "\"podip\": \"10.128.0.2/24\", \"pod-hw-addr\": \"" LAB_POD_MAC "\", \"vxlan-id\": 5}}", 78, "address of this VM" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                assert_int_equal(write_file_atomic("/run/lab/apf.json", cases[i].config, strlen(cases[i].config), 0600), 0);
                assert_int_equal(pod_network("setup"), cases[i].status);
                expect_log("pod-network.log", cases[i].log);
                assert_int_equal(pod_network("teardown"), 0);
        }
        expect_empty("devices", lab_output("ip -n podns -o link show type vxlan; ip netns exec vm nft list ruleset"));
}

/* Each request to the kernel fails in turn, before or after it had its effect: the call says so and leaves what was before. */
static void failed_steps_are_undone(void **state) {
        const char *when = *state;
        size_t n_fds;
        char *error = NULL;
        int n, failures = 0;

        for (n = 1; n < 100; n++) {
                char *s = NULL;

                (void) setenv("PEERPOD_TEST_FAULT", when, 1);
                (void) setenv("PEERPOD_TEST_FAULT_FILE", "/run/lab/fault", 1);
                start_daemon_as(faulty_program, NULL);
                (void) unsetenv("PEERPOD_TEST_FAULT");
                n_fds = count_fds(daemon_pid);

                /* armed by a file that holds the number of the request that fails */
                lab_sh("echo %i > /run/lab/fault", n);
                error = call("Inspect", NULL, "ss", "s1", "/run/netns/wpod");
                if (error) {
                        free(error);
                        failures++;
                        (void) unlink("/run/lab/fault");
                        expect_nothing_left();
                        assert_int_equal(count_fds(daemon_pid), n_fds);
                } else {
                        error = try_setup("s1", "10.10.1.2");
                        if (error) {
                                failures++;
                                free(error);
                                (void) unlink("/run/lab/fault");
                                expect_empty("ingress hooks", lab_output("tc -n wpod qdisc show dev eth0 | grep -E 'ingress|clsact'"));
                                expect_empty("redirects", lab_output("tc -n wpod qdisc show dev vxlan1 2>/dev/null | grep ingress"));
                                expect_empty("firewall", lab_output("ip netns exec worker nft list ruleset"));
                                expect_empty("devices up", lab_output("ip -n wpod -o link show type vxlan up"));
                                assert_int_equal(count_fds(daemon_pid), n_fds);
                        } else
                                s = lab_output("cat /run/lab/fault");
                }
                /* and then it works */
                (void) unlink("/run/lab/fault");
                connect_pod();
                expect_traffic();
                teardown("s1");
                expect_nothing_left();
                assert_int_equal(stop_daemon(SIGTERM), 0);
                bus = sd_bus_flush_close_unref(bus);
                if (s && strtol(s, NULL, 10) > 0) {     /* it was not reached: that was all of them */
                        free(s);
                        break;
                }
                free(s);
        }
        print_message("%i steps failed in turn\n", failures);
        assert_true(failures > 15 && n < 100);
}

/* Killed before or after each request in turn; the next daemon finds its way. */
static void kill_at_any_step_leaks_nothing(void **state) {
        int n;

        for (n = 1; n < 100; n++) {
                char *error, *s;
                bool killed;

                (void) setenv("PEERPOD_TEST_FAULT", *state, 1);
                (void) setenv("PEERPOD_TEST_FAULT_FILE", "/run/lab/fault", 1);
                start_daemon_as(faulty_program, NULL);
                (void) unsetenv("PEERPOD_TEST_FAULT");
                lab_sh("echo %i > /run/lab/fault", n);
                error = call("Inspect", NULL, "ss", "s1", "/run/netns/wpod");
                if (!error)
                        error = try_setup("s1", "10.10.1.2");
                if (!error)
                        error = call("Teardown", NULL, "ss", "s1", "/run/netns/wpod");
                killed = error;
                free(error);
                (void) unlink("/run/lab/fault");
                (void) stop_daemon(SIGKILL);

                start_daemon(NULL);
                if (n % 2) {
                        s = inspect("s1");
                        free(s);
                        connect_pod();
                        expect_traffic();
                }
                teardown("s1");
                expect_nothing_left();
                assert_int_equal(stop_daemon(SIGTERM), 0);
                bus = sd_bus_flush_close_unref(bus);
                if (!killed)
                        break;
        }
        print_message("killed at %i steps\n", n - 1);
        assert_true(n > 20 && n < 100);
}

static void bad_settings_end_with_78(void **state) {
        static const char *const cases[][3] = {
                { "--tunnel-type", "routing", "unknown tunnel type" },
                { "--vxlan-port", "0", "port" },
                { "--vxlan-port", "4789x", "port" },
                { "--vxlan-min-id", "16777216", "between 1 and 16777215" },
                { "--pod-subnet-cidrs", "10.0.0.0/8,10.0.0.0/33", "POD_SUBNET_CIDRS" },
                { "--host-interface", "a/b", "interface name" },
                { "--user", "nobody-knows", "nobody-knows" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const char *const extra[] = { cases[i][0], cases[i][1], NULL };

                spawn_daemon(tunneld_program, extra);
                assert_int_equal(lab_wait(daemon_pid), i < 1 || i > 3 ? 78 : 2);
                daemon_pid = -1;
                lab_sh("grep -q -i -e '%s' /run/lab/tunneld.log", cases[i][2]);
        }
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(traffic_passes_both_ways, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(calls_can_be_repeated, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(tunnel_outlives_daemon, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(vanished_namespace_is_forgotten, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(it_is_told_whether_a_namespace_is_there, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(namespace_path_is_not_trusted, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(clashes_of_vni_and_port_are_told_apart, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(forged_frames_are_dropped, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(existing_clsact_is_kept, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(second_address_serves_a_dedicated_interface, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(vm_behind_a_bridge_of_the_worker, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(ipv6_goes_through, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(pod_address_is_announced, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(pod_subnets_are_routed, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(mtu_follows_the_underlay, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(leftovers_in_the_vm_are_replaced, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(vm_waits_for_its_interface, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(bad_configuration_is_refused, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(bad_settings_end_with_78, lab_setup, lab_teardown),
                { "a step that fails before its effect is undone", failed_steps_are_undone, lab_setup, lab_teardown, (void*) "fail-before" },
                { "a step that fails after its effect is undone", failed_steps_are_undone, lab_setup, lab_teardown, (void*) "fail-after" },
                { "killed before any step", kill_at_any_step_leaks_nothing, lab_setup, lab_teardown, (void*) "kill-before" },
                { "killed after any step", kill_at_any_step_leaks_nothing, lab_setup, lab_teardown, (void*) "kill-after" },
        };
        struct CMUnitTest route_tests[ELEMENTSOF(route_cases)];
        int r;

        if (argc < 4)
                return 2;
        tunneld_program = argv[1];
        faulty_program = argv[2];
        pod_network_program = argv[3];
        if (argc > 4)
                cmocka_set_test_filter(argv[4]);
        if (!lab_enter()) {
                (void) fprintf(stderr, "Needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN.\n");
                return 77;
        }

        for (size_t i = 0; i < ELEMENTSOF(route_cases); i++)
                route_tests[i] = (struct CMUnitTest) { route_cases[i].name, routes_reach_the_vm, route_setup, lab_teardown,
                                                       (void*) &route_cases[i] };
        r = cmocka_run_group_tests_name("tunnel", tests, NULL, NULL);
        r += cmocka_run_group_tests_name("routes", route_tests, NULL, NULL);
        return r > 0;
}
