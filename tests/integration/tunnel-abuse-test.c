/* SPDX-License-Identifier: Apache-2.0 */
/* What a cluster does to tunnels: policies, fragments, forgeries, namespaces that vanish, many of them, and several callers. */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/util.h"
#include "net/address.h"
#include "netlab.h"
#include "tunnel-rig.h"

static const char *fixtures_dir;
/* With it a tunnel that did not give its VXLAN id back is found by the next one. */
static const char *const one_id[] = { "--vxlan-min-id", "16777215", NULL };

/* -- policies on the host's side of the veth -- */

static int calico_setup(void **state) {
        lab_up_hosts();
        lab_sh("sh %s/fixtures.sh calico-vxlan", fixtures_dir);
        return rig_setup();
}

/* As Felix does it for a pod that may be reached by, and reach, one address: all else is dropped, answers pass. */
static void isolate(const char *veth, const char *friend) {
        lab_sh("ip netns exec worker nft -f - <<-END\n"
               "table inet netpolicy {\n"
               "  chain forward { type filter hook forward priority 0; policy accept;\n"
               "    ct state established,related accept\n"
               "    iifname %s ip daddr != %s counter drop\n"
               "    oifname %s ip saddr != %s counter drop\n"
               "  }\n"
               "}\nEND", veth, friend, veth, friend);
}

static void network_policy_holds_for_the_vm_as_for_a_pod(void **state) {
        static const struct {
                const char *ns, *veth, *address, *friend, *friend_address;
        } pods[] = {
                { "podns", "cali0", "192.168.77.5", "peer", "192.168.77.6" },    /* the VM */
                { "peer", "cali1", "192.168.77.6", "podns", "192.168.77.5" },    /* an ordinary pod */
        };

        start_daemon(NULL);
        connect_pod();
        for (size_t i = 0; i < ELEMENTSOF(pods); i++) {
                const char *ns = pods[i].ns, *address = pods[i].address;
                char *s;

                assert_true(lab_udp_passes("other", ns, address, 1000));
                assert_true(lab_udp_passes(ns, "other", "192.168.78.0", 1000));

                isolate(pods[i].veth, pods[i].friend_address);
                assert_true(lab_udp_passes(pods[i].friend, ns, address, 1000));
                assert_true(lab_udp_passes(ns, pods[i].friend, pods[i].friend_address, 1000));
                assert_true(lab_tcp(pods[i].friend, ns, address, 100000, LAB_PATIENCE_MSEC) > 0);
                assert_false(lab_udp("other", ns, address, 1000, true, 300));
                assert_false(lab_udp(ns, "other", "192.168.78.0", 1000, true, 300));
                /* it is the policy that dropped them, one each way */
                s = lab_output("ip netns exec worker nft list table inet netpolicy | grep -c 'counter packets 1 bytes 1028 drop'");
                assert_string_equal(s, "2\n");
                free(s);

                lab_sh("ip netns exec worker nft delete table inet netpolicy");
                assert_true(lab_udp_passes("other", ns, address, 1000));
        }
        teardown("s1");
}

/* -- fragments -- */

static uint16_t sum16(const uint8_t *p, size_t size) {
        uint32_t sum = 0;

        for (size_t i = 0; i + 1 < size; i += 2)
                sum += (uint32_t) p[i] << 8 | p[i + 1];
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return (uint16_t) ~sum;
}

static void put16(uint8_t *p, size_t v) {
        p[0] = (uint8_t) (v >> 8);
        p[1] = (uint8_t) v;
}

typedef struct Host {
        const char *ns, *device;
        uint8_t ip[4];
} Host;

static void get_mac(const Host *h, uint8_t ret[static 6]) {
        char *s = lab_output("ip -n %s -o link show dev %s | grep -o 'ether [0-9a-f:]*' | cut -c7- | tr -d '\\n'", h->ns, h->device);
        MACAddress mac;

        assert_int_equal(mac_address_parse(s, &mac), 0);
        memcpy(ret, mac.bytes, 6);
        free(s);
}

#define FRAME_HEADERS 34U

/* Ethernet and IPv4 around a piece of a packet that is @total long. Returns the frame's size. */
static size_t put_frame(uint8_t *frame, const Host *from, const Host *to, uint8_t protocol, uint16_t id,
                        const uint8_t *piece, size_t at, size_t size, size_t total) {
        uint8_t *ip = frame + 14;

        memset(frame, 0, FRAME_HEADERS);
        get_mac(to, frame);
        get_mac(from, frame + 6);
        put16(frame + 12, ETH_P_IP);
        ip[0] = 0x45;
        put16(ip + 2, 20 + size);
        put16(ip + 4, id);
        put16(ip + 6, at / 8 | (at + size < total ? 0x2000 : 0));
        ip[8] = 64;
        ip[9] = protocol;
        memcpy(ip + 12, from->ip, 4);
        memcpy(ip + 16, to->ip, 4);
        put16(ip + 10, sum16(ip, 20));
        memcpy(ip + 20, piece, size);
        return FRAME_HEADERS + size;
}

static const Host the_pod = { "podns", "eth0", { 10, 128, 0, 2 } }, the_peer = { "peer", "eth0", { 10, 128, 0, 9 } },
                  the_node = { "worker", "cni0", { 10, 128, 0, 1 } };

#define FRAGMENTS_DATA 2000U            /* of UDP, its header included */

/* A UDP datagram between the lab's two pods, cut at 1000; its pieces leave by eth0 in the order of @offsets. */
static bool pieces_arrive(const Host *from, const Host *to, const size_t *offsets, size_t n_offsets) {
        static uint16_t port = 7000, id = 1;
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(++port) };
        _cleanup_(close_fdp) int raw = lab_socket(from->ns, AF_PACKET, SOCK_RAW, 0);
        _cleanup_(close_fdp) int s = lab_socket(to->ns, AF_INET, SOCK_DGRAM, 0);
        struct pollfd p = { .fd = s, .events = POLLIN };
        struct sockaddr_ll ll = { .sll_family = AF_PACKET, .sll_halen = 6 };
        uint8_t udp[FRAGMENTS_DATA] = {}, got[FRAGMENTS_DATA];
        struct ifreq ifr = { .ifr_name = "eth0" };

        for (size_t i = 8; i < sizeof(udp); i++)
                udp[i] = (uint8_t) (i * 11);
        put16(udp, 5000);
        put16(udp + 2, port);
        put16(udp + 4, sizeof(udp));
        id++;
        assert_int_equal(bind(s, (struct sockaddr*) &in, sizeof(in)), 0);
        assert_int_equal(ioctl(raw, SIOCGIFINDEX, &ifr), 0);
        ll.sll_ifindex = ifr.ifr_ifindex;

        for (size_t i = 0; i < n_offsets; i++) {
                size_t at = offsets[i], size = MIN(FRAGMENTS_DATA - at, (size_t) 1000);
                uint8_t frame[FRAME_HEADERS + 1000];
                size_t frame_size = put_frame(frame, from, to, IPPROTO_UDP, id, udp + at, at, size, FRAGMENTS_DATA);

                memcpy(ll.sll_addr, frame, 6);
                assert_int_equal(sendto(raw, frame, frame_size, 0, (struct sockaddr*) &ll, sizeof(ll)), frame_size);
        }
        return poll(&p, 1, n_offsets == 2 ? LAB_PATIENCE_MSEC : 300) == 1 && recv(s, got, sizeof(got), 0) == sizeof(udp) - 8 &&
                memcmp(got, udp + 8, sizeof(udp) - 8) == 0;
}

static void fragments_pass_both_ways(void **state) {
        static const size_t ordered[] = { 0, 1000 }, reversed[] = { 1000, 0 }, one[] = { 1000 };

        start_daemon(NULL);
        connect_pod();
        expect_traffic();
        assert_true(lab_udp("peer", "podns", "10.128.0.2", 60000, false, LAB_PATIENCE_MSEC));
        assert_true(lab_udp("podns", "peer", "10.128.0.9", 60000, false, LAB_PATIENCE_MSEC));
        /* who may not fragment is told so, and not served in pieces */
        assert_true(lab_udp("podns", "peer", "10.128.0.9", 1450 - 28, true, LAB_PATIENCE_MSEC));
        assert_false(lab_udp("podns", "peer", "10.128.0.9", 1451 - 28, true, 300));

        assert_true(pieces_arrive(&the_peer, &the_pod, ordered, ELEMENTSOF(ordered)));
        assert_true(pieces_arrive(&the_peer, &the_pod, reversed, ELEMENTSOF(reversed)));
        assert_true(pieces_arrive(&the_pod, &the_peer, ordered, ELEMENTSOF(ordered)));
        assert_true(pieces_arrive(&the_pod, &the_peer, reversed, ELEMENTSOF(reversed)));
        assert_false(pieces_arrive(&the_peer, &the_pod, one, ELEMENTSOF(one)));
        teardown("s1");
}

/* -- forged VXLAN packets (RFC 7348) -- */

/* The frame of a datagram with one byte, in VXLAN. Returns the size of the outer UDP's payload. */
static size_t put_vxlan(uint8_t *p, uint32_t vni, const Host *from, const Host *to, uint16_t port, char what) {
        uint8_t udp[9] = {};

        memset(p, 0, 8);
        p[0] = 8;                               /* the VNI is valid */
        put16(p + 4, vni >> 8);
        p[6] = (uint8_t) vni;
        put16(udp, 5000);
        put16(udp + 2, port);
        put16(udp + 4, sizeof(udp));
        udp[8] = (uint8_t) what;
        return 8 + put_frame(p + 8, from, to, IPPROTO_UDP, 1, udp, 0, sizeof(udp), sizeof(udp));
}

static void send_vxlan(const char *ns, const char *to_address, const uint8_t *p, size_t size) {
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(4789) };
        _cleanup_(close_fdp) int fd = lab_socket(ns, AF_INET, SOCK_DGRAM, 0);
        IPAddress a;

        assert_int_equal(ip_address_parse(to_address, &a), 0);
        sa.sin_addr = a.in;
        assert_int_equal(sendto(fd, p, size, 0, (struct sockaddr*) &sa, sizeof(sa)), size);
}

static uint32_t vni_of(const char *pod_network) {
        json_object *o = NULL;
        uint64_t vni = 0;

        assert_int_equal(json_parse(pod_network, strlen(pod_network), &o, NULL), 0);
        assert_int_equal(json_get_u64(o, "vxlan-id", UINT32_MAX, &vni, NULL), 1);
        json_object_put(o);
        return (uint32_t) vni;
}

/* Nothing but the one byte, however much is sent before: what comes in by one device keeps its order. */
static void expect_only(int fd, char what) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        char got[64] = {};

        assert_int_equal(poll(&p, 1, LAB_PATIENCE_MSEC), 1);
        assert_int_equal(recv(fd, got, sizeof(got), 0), 1);
        assert_int_equal(got[0], what);
        assert_int_equal(recv(fd, got, sizeof(got), MSG_DONTWAIT), -1);
}

static unsigned long n_guarded(const char *ns) {
        char *s = lab_output("ip netns exec %s nft list table ip peerpod | grep -o 'counter packets [0-9]*' | cut -c17-", ns);
        unsigned long n = strtoul(s, NULL, 10);

        assert_true(s[0]);
        free(s);
        return n;
}

/* Everything that is not sent by the tunnel's other end, with its VNI, whole: sent from "vm" to the worker, and the other way round. */
static void forged_packets_reach_nobody(void **state) {
        static const struct {
                const Host *from, *to;          /* inside */
                const char *sender, *address;   /* outside */
                const char *guard;
        } ways[] = {
                { &the_peer, &the_pod, "worker", "10.10.1.2", "vm" },
                { &the_pod, &the_node, "vm", "10.10.0.1", "worker" },
        };
        uint32_t vni, other_vni;
        char *s;

        start_daemon(NULL);
        connect_pod();
        expect_traffic();
        s = inspect("s1");
        vni = vni_of(s);
        free(s);
        /* a second pod, whose VM is "other": it has a tunnel to the worker, and means harm to the first */
        s = inspect_path("s2", "/run/netns/peer");
        other_vni = vni_of(s);
        free(s);
        expect_success(call("Setup", NULL, "ssas", "s2", "/run/netns/peer", 1, "10.10.1.9"));

        for (size_t i = 0; i < ELEMENTSOF(ways); i++) {
                uint16_t port = (uint16_t) (8000 + i);
                struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
                _cleanup_(close_fdp) int fd = lab_socket(ways[i].to->ns, AF_INET, SOCK_DGRAM, 0);
                uint64_t deadline = now_usec(CLOCK_MONOTONIC) + RIG_PATIENCE_USEC;
                unsigned long before = n_guarded(ways[i].guard);
                struct pollfd none = { .fd = -1 };
                uint8_t p[128];
                size_t size;

                assert_int_equal(bind(fd, (struct sockaddr*) &in, sizeof(in)), 0);
                /* the forgery is sound: from the true sender it arrives */
                size = put_vxlan(p, vni, ways[i].from, ways[i].to, port, '1');
                send_vxlan(ways[i].sender, ways[i].address, p, size);
                expect_only(fd, '1');

                /* cut anywhere, or without the flag that the VNI is valid, or with another VNI */
                size = put_vxlan(p, vni, ways[i].from, ways[i].to, port, 'x');
                for (size_t cut = 0; cut < size; cut++)
                        send_vxlan(ways[i].sender, ways[i].address, p, cut);
                p[0] = 0;
                send_vxlan(ways[i].sender, ways[i].address, p, size);
                size = put_vxlan(p, (vni ^ 1) == other_vni ? vni ^ 2 : vni ^ 1, ways[i].from, ways[i].to, port, 'x');
                send_vxlan(ways[i].sender, ways[i].address, p, size);
                size = put_vxlan(p, vni, ways[i].from, ways[i].to, port, '2');
                send_vxlan(ways[i].sender, ways[i].address, p, size);
                expect_only(fd, '2');
                assert_int_equal(n_guarded(ways[i].guard), before);

                /* whole, with the right VNI, from the address of another VM */
                size = put_vxlan(p, vni, ways[i].from, ways[i].to, port, 'x');
                send_vxlan("other", ways[i].address, p, size);
                while (n_guarded(ways[i].guard) != before + 1) {
                        assert_true(now_usec(CLOCK_MONOTONIC) < deadline);
                        (void) poll(&none, 1, 20);
                }
                size = put_vxlan(p, vni, ways[i].from, ways[i].to, port, '3');
                send_vxlan(ways[i].sender, ways[i].address, p, size);
                expect_only(fd, '3');
        }

        /* that VM's own packets arrive, so it is the tunnel that it is shut out of */
        {
                struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(8002) };
                _cleanup_(close_fdp) int fd = lab_socket("worker", AF_INET, SOCK_DGRAM, 0);
                uint8_t p[128];

                assert_int_equal(bind(fd, (struct sockaddr*) &in, sizeof(in)), 0);
                send_vxlan("other", "10.10.0.1", p, put_vxlan(p, other_vni, &the_peer, &the_node, 8002, '4'));
                expect_only(fd, '4');
        }
        expect_success(call("Teardown", NULL, "ss", "s2", "/run/netns/peer"));
        teardown("s1");
        expect_nothing_left();
}

/* -- namespaces that go while we look -- */

/* The kernel gives the VXLAN id back when it has taken the namespace down, which it does in its own time. */
static char* inspect_when_possible(const char *id, const char *path) {
        uint64_t deadline = now_usec(CLOCK_MONOTONIC) + RIG_PATIENCE_USEC;
        struct pollfd none = { .fd = -1 };
        sd_bus_message *reply = NULL;
        const char *s;
        char *error, *copy;

        while ((error = call("Inspect", &reply, "ss", id, path))) {
                if (!strstr(error, "no free VXLAN id") || now_usec(CLOCK_MONOTONIC) > deadline)
                        expect_success(error);
                free(error);
                (void) poll(&none, 1, 20);
        }
        assert_true(sd_bus_message_read(reply, "s", &s) >= 0);
        copy = strdup(s);
        sd_bus_message_unref(reply);
        return copy;
}

static void expect_forgotten(void) {
        expect_empty("firewall", lab_output("ip netns exec worker nft list ruleset"));
        expect_empty("records", lab_output("ls -A /run/lab/tunnel"));
        expect_empty("links of the worker", lab_output("ip -n worker -o link show type vxlan"));
}

static void expect_whole_life(void) {
        char *pn;

        lab_add_wpod();
        pn = inspect_when_possible("s1", "/run/netns/wpod");
        setup("s1");
        write_apf(pn);
        free(pn);
        assert_int_equal(pod_network("setup"), 0);
        expect_traffic();
        teardown("s1");
        expect_nothing_left();
        assert_int_equal(pod_network("teardown"), 0);
}

static void namespace_may_vanish_between_any_two_calls(void **state) {
        size_t n_fds;

        start_daemon(one_id);
        n_fds = count_fds(daemon_pid);

        lab_sh("ip netns del wpod");
        expect_error(call("Inspect", NULL, "ss", "s1", "/run/netns/wpod"), "NotFound", "No such file");
        expect_forgotten();

        lab_add_wpod();
        free(inspect_when_possible("s1", "/run/netns/wpod"));
        lab_sh("ip netns del wpod");
        expect_error(try_setup("s1", "10.10.1.2"), "NotFound", "No such file");
        teardown("s1");
        expect_forgotten();

        lab_add_wpod();
        free(inspect_when_possible("s1", "/run/netns/wpod"));
        setup("s1");
        lab_sh("ip netns del wpod");
        expect_error(try_setup("s1", "10.10.1.2"), "NotFound", "No such file");
        teardown("s1");
        teardown("s1");
        expect_forgotten();

        /* nobody tears down, and the same sandbox comes again with a new namespace of the same name */
        lab_add_wpod();
        free(inspect_when_possible("s1", "/run/netns/wpod"));
        setup("s1");
        lab_sh("ip netns del wpod");
        expect_whole_life();

        assert_int_equal(count_fds(daemon_pid), n_fds);
        assert_int_equal(stop_daemon(SIGTERM), 0);
}

/* At each request to the kernel in turn, somebody else does @state. The daemon goes on, and all is as if nothing had been. */
static void pod_may_vanish_at_any_step(void **state) {
        size_t n_fds;
        int n, left = 0;

        (void) setenv("PEERPOD_TEST_FAULT", "run-before", 1);
        (void) setenv("PEERPOD_TEST_FAULT_FILE", "/run/lab/fault", 1);
        (void) setenv("PEERPOD_TEST_FAULT_COMMAND", *state, 1);
        start_daemon_as(faulty_program, one_id);
        (void) unsetenv("PEERPOD_TEST_FAULT");
        n_fds = count_fds(daemon_pid);

        for (n = 1; left == 0 && n < 100; n++) {
                char *s;

                lab_sh("echo %i > /run/lab/fault", n);
                free(call("Inspect", NULL, "ss", "s1", "/run/netns/wpod"));
                free(try_setup("s1", "10.10.1.2"));
                free(call("Teardown", NULL, "ss", "s1", "/run/netns/wpod"));
                s = lab_output("cat /run/lab/fault");
                left = atoi(s);
                free(s);

                (void) unlink("/run/lab/fault");
                teardown("s1");
                expect_forgotten();
                assert_int_equal(count_fds(daemon_pid), n_fds);
                (void) lab_sh_status("ip netns del wpod 2>/dev/null");
                lab_add_wpod();
        }
        print_message("gone at %i steps\n", n - 2);
        assert_true(n > 20 && n < 100);

        lab_sh("ip netns del wpod");
        expect_whole_life();
        assert_int_equal(stop_daemon(SIGTERM), 0);
}

/* -- many -- */

#define N_TUNNELS 200U
#define N_COMPARED 20U

/* Pods on the worker's bridge: namespaces p0, p1 … */
static void add_pods(unsigned n) {
        lab_sh("for i in $(seq 0 %u); do "
               "ip netns add p$i && echo link add w$i type veth peer name eth0 netns p$i >&3 && "
               "echo \"ip -n p$i -b - <<E\nlink set eth0 up\naddr add 10.128.$((i / 250 + 1)).$((i %% 250 + 1))/16 dev eth0\n"
               "route add default via 10.128.0.1 dev eth0 onlink\nE\"; done 3>/run/lab/links >/run/lab/pods && "
               "ip -n worker -b /run/lab/links && sh -e /run/lab/pods", n - 1);
}

static char* pod_path(unsigned i) {
        char *s;

        assert_true(asprintf(&s, "/run/netns/p%u", i) > 0);
        return s;
}

/* What the daemon has been on a processor, in ns (linux: Documentation/scheduler/sched-stats.rst). */
static uint64_t cpu_time(void) {
        char *s = lab_output("cat /proc/%i/schedstat", daemon_pid);
        uint64_t v = strtoull(s, NULL, 10);

        free(s);
        assert_true(v > 0);
        return v;
}

static uint64_t smallest(const uint64_t *values, size_t n) {
        uint64_t v = UINT64_MAX;

        for (size_t i = 0; i < n; i++)
                v = MIN(v, values[i]);
        return v;
}

/* The cheapest of the last against the cheapest of the first: a busy machine makes many dear, a cost that rises makes all of them. */
static void expect_no_rising_cost(const char *what, const uint64_t *cpu, const uint64_t *wall) {
        uint64_t first = smallest(cpu, N_COMPARED), last = smallest(cpu + N_TUNNELS - N_COMPARED, N_COMPARED);

        print_message("%s, ms for each of %u:", what, N_TUNNELS);
        for (size_t i = 0; i < N_TUNNELS; i++)
                print_message("%s%4" PRIu64 ".%02" PRIu64, i % 20 == 0 ? "\n " : "", wall[i] / 1000, wall[i] / 10 % 100);
        print_message("\n  processor time of the daemon for the cheapest: first %u %" PRIu64 " us, last %u %" PRIu64 " us\n",
                      N_COMPARED, first / 1000, N_COMPARED, last / 1000);
        assert_true(last < first * 5 / 2);
}

static void expect_count(const char *what, unsigned expected, char *output) {
        if (strtoul(output, NULL, 10) != expected)
                print_error("%s: %s", what, output);
        assert_int_equal(strtoul(output, NULL, 10), expected);
        free(output);
}

static void two_hundred_tunnels_leave_nothing_and_cost_the_same(void **state) {
        static uint64_t cpu[2][N_TUNNELS], wall[2][N_TUNNELS];
        size_t n_fds;

        add_pods(N_TUNNELS);
        start_daemon(NULL);
        n_fds = count_fds(daemon_pid);
        for (unsigned i = 0; i < N_TUNNELS; i++) {
                _cleanup_(freep) char *path = pod_path(i);
                uint64_t cpu_begin, begin;
                char id[16], address[32];

                if (i == N_TUNNELS / 2) {       /* killed in the middle of it all: the next one knows all there is */
                        assert_int_equal(stop_daemon(SIGKILL), 128 + SIGKILL);
                        start_daemon(NULL);
                }
                (void) snprintf(id, sizeof(id), "t%u", i);
                (void) snprintf(address, sizeof(address), "10.10.2.%u", i);
                cpu_begin = cpu_time();
                begin = now_usec(CLOCK_MONOTONIC);
                expect_success(call("Inspect", NULL, "ss", id, path));
                expect_success(call("Setup", NULL, "ssas", id, path, 1, address));
                wall[0][i] = now_usec(CLOCK_MONOTONIC) - begin;
                cpu[0][i] = cpu_time() - cpu_begin;
        }
        expect_no_rising_cost("Inspect and Setup", cpu[0], wall[0]);
        expect_count("records", N_TUNNELS, lab_output("ls /run/lab/tunnel/*.json | wc -l"));
        expect_count("firewall's guarded VNIs", N_TUNNELS,
                     lab_output("ip netns exec worker nft list table ip peerpod | grep -o '4789 \\. 0x[0-9a-f]* \\. 10\\.10\\.2\\.[0-9]*' | wc -l"));
        /* and one more of them works */
        connect_pod();
        expect_traffic();
        teardown("s1");

        for (unsigned i = 0; i < N_TUNNELS; i++) {
                _cleanup_(freep) char *path = pod_path(i);
                uint64_t cpu_begin = cpu_time(), begin = now_usec(CLOCK_MONOTONIC);
                char id[16];

                (void) snprintf(id, sizeof(id), "t%u", i);
                expect_success(call("Teardown", NULL, "ss", id, path));
                wall[1][i] = now_usec(CLOCK_MONOTONIC) - begin;
                cpu[1][i] = cpu_time() - cpu_begin;
        }
        expect_no_rising_cost("Teardown", cpu[1], wall[1]);

        expect_nothing_left();
        expect_empty("links of the pods", lab_output("for i in $(seq 0 %u); do ip -n p$i -o link; done | grep -v -e ' lo: ' -e ' eth0@'", N_TUNNELS - 1));
        expect_empty("hooks of the pods", lab_output("for i in $(seq 0 %u); do tc -n p$i qdisc show dev eth0; done | grep -E 'ingress|clsact'", N_TUNNELS - 1));
        assert_int_equal(count_fds(daemon_pid), n_fds);
        /* Nobody holds a namespace of theirs: without its name it goes, and the worker's end of the veth with it. */
        lab_sh("for i in $(seq 0 %u); do ip netns del p$i; done", N_TUNNELS - 1);
        for (uint64_t deadline = now_usec(CLOCK_MONOTONIC) + 2 * RIG_PATIENCE_USEC;;) {
                struct pollfd none = { .fd = -1 };

                if (lab_sh_status("ip -n worker -o link show type veth | grep -q ': w[0-9]'") != 0)
                        break;
                assert_true(now_usec(CLOCK_MONOTONIC) < deadline);
                (void) poll(&none, 1, 100);
        }
        assert_int_equal(stop_daemon(SIGTERM), 0);
}

/* -- two adaptors -- */

#define N_EACH 25U

typedef struct Job {
        sd_bus *link;
        char id[16], path[32];
        char *pod_network;
        bool ended;
} Job;

static unsigned n_ended;

static int on_done(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Job *j = userdata;

        if (sd_bus_message_is_method_error(m, NULL))
                print_error("%s: %s\n", j->id, sd_bus_message_get_error(m)->message);
        else
                j->ended = true;
        n_ended++;
        return 0;
}

static int on_inspected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Job *j = userdata;
        const char *s;

        if (sd_bus_message_read(m, "s", &s) < 0 ||
            sd_bus_call_method_async(j->link, NULL, NULL, RIG_OBJECT, RIG_INTERFACE, "Setup", on_done, j,
                                     "ssas", j->id, j->path, 1, "10.10.1.2") < 0)
                return on_done(m, userdata, error);
        j->pod_network = strdup(s);
        return 0;
}

static void two_adaptors_at_once_get_their_own(void **state) {
        static Job jobs[2 * N_EACH];
        sd_bus *links[2] = {};
        uint64_t deadline = now_usec(CLOCK_MONOTONIC) + 2 * RIG_PATIENCE_USEC;

        add_pods(2 * N_EACH);
        start_daemon(NULL);
        for (size_t i = 0; i < ELEMENTSOF(links); i++)
                links[i] = connect_another();
        n_ended = 0;
        for (unsigned i = 0; i < 2 * N_EACH; i++) {     /* all on their way before the first is answered */
                Job *j = jobs + i;

                *j = (Job) { .link = links[i % 2] };
                (void) snprintf(j->id, sizeof(j->id), "t%u", i);
                (void) snprintf(j->path, sizeof(j->path), "/run/netns/p%u", i);
                assert_true(sd_bus_call_method_async(j->link, NULL, NULL, RIG_OBJECT, RIG_INTERFACE, "Inspect", on_inspected, j,
                                                     "ss", j->id, j->path) >= 0);
        }
        while (n_ended < 2 * N_EACH) {
                assert_true(now_usec(CLOCK_MONOTONIC) < deadline);
                assert_true(sd_event_run(rig_event, USEC_PER_SEC) >= 0);
        }

        for (unsigned i = 0; i < 2 * N_EACH; i++) {
                assert_true(jobs[i].ended);
                for (unsigned k = 0; k < i; k++)        /* by their VXLAN ids, if nothing else */
                        assert_string_not_equal(jobs[i].pod_network, jobs[k].pod_network);
        }
        expect_count("devices that are up", 2 * N_EACH,
                     lab_output("for i in $(seq 0 %u); do ip -n p$i -o link show dev vxlan1 up; done | wc -l", 2 * N_EACH - 1));

        /* One namespace has one owner, whoever asks. */
        expect_error(call("Inspect", NULL, "ss", "t1", "/run/netns/p0"), "AlreadyExists", "belongs to sandbox 't0'");
        for (unsigned i = 0; i < 2 * N_EACH; i++) {
                expect_success(call("Teardown", NULL, "ss", jobs[i].id, jobs[i].path));
                free(jobs[i].pod_network);
        }
        for (size_t i = 0; i < ELEMENTSOF(links); i++)
                sd_bus_flush_close_unref(links[i]);
        expect_nothing_left();
        assert_int_equal(stop_daemon(SIGTERM), 0);
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(network_policy_holds_for_the_vm_as_for_a_pod, calico_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(fragments_pass_both_ways, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(forged_packets_reach_nobody, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(namespace_may_vanish_between_any_two_calls, lab_setup, lab_teardown),
                { "namespace is deleted at any step", pod_may_vanish_at_any_step, lab_setup, lab_teardown, (void*) "ip netns del wpod" },
                { "pod's interface is deleted at any step", pod_may_vanish_at_any_step, lab_setup, lab_teardown,
                  (void*) "ip -n worker link del v-wpod" },
                cmocka_unit_test_setup_teardown(two_hundred_tunnels_leave_nothing_and_cost_the_same, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(two_adaptors_at_once_get_their_own, lab_setup, lab_teardown),
        };

        if (argc < 5)
                return 2;
        tunneld_program = argv[1];
        faulty_program = argv[2];
        pod_network_program = argv[3];
        fixtures_dir = argv[4];
        if (argc > 5)
                cmocka_set_test_filter(argv[5]);
        if (!lab_enter()) {
                (void) fprintf(stderr, "Needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN.\n");
                return 77;
        }
        return cmocka_run_group_tests_name("tunnel abuse", tests, NULL, NULL) > 0;
}
