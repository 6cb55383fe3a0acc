/* SPDX-License-Identifier: Apache-2.0 */
/* How large packets may be, and who is told. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "netlab.h"
#include "tunnel-rig.h"

/* An interface of the CNI's, at both ends. */
static void set_cni_mtu(unsigned mtu) {
        lab_sh("for p in peer wpod; do ip -n worker link set v-$p mtu %u && ip -n $p link set eth0 mtu %u || exit 1; done && "
               "ip -n worker link set cni0 mtu %u", mtu, mtu, mtu);
}

/* Path MTU discovery (RFC 1191) as programs do it: send what the kernel says fits, until one arrives. Returns the MTU of then, 0 if
 * none ever does. */
static int discover_mtu(const char *from, const char *to, const char *to_address, int family) {
        static uint16_t port = 7000;
        static const uint8_t data[65536];
        uint64_t deadline = now_usec(CLOCK_MONOTONIC) + 30 * USEC_PER_SEC;
        _cleanup_(close_fdp) int out = lab_socket(from, family, SOCK_DGRAM, 0), in = lab_socket(to, family, SOCK_DGRAM, 0);
        bool v4 = family == AF_INET;
        int mode = v4 ? IP_PMTUDISC_DO : IPV6_PMTUDISC_DO, headers = v4 ? 28 : 48, mtu = 0;
        struct sockaddr_in6 any6 = { .sin6_family = AF_INET6 };
        struct sockaddr_in any = { .sin_family = AF_INET };
        struct pollfd p = { .fd = in, .events = POLLIN };
        socklen_t size = sizeof(mtu);

        any.sin_port = any6.sin6_port = htons(++port);
        assert_int_equal(bind(in, v4 ? (struct sockaddr*) &any : (struct sockaddr*) &any6, v4 ? sizeof(any) : sizeof(any6)), 0);
        assert_int_equal(inet_pton(family, to_address, v4 ? (void*) &any.sin_addr : (void*) &any6.sin6_addr), 1);
        assert_int_equal(v4 ? setsockopt(out, IPPROTO_IP, IP_MTU_DISCOVER, &mode, sizeof(mode))
                            : setsockopt(out, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &mode, sizeof(mode)), 0);
        assert_int_equal(connect(out, v4 ? (struct sockaddr*) &any : (struct sockaddr*) &any6, v4 ? sizeof(any) : sizeof(any6)), 0);

        while (now_usec(CLOCK_MONOTONIC) < deadline) {
                assert_int_equal(v4 ? getsockopt(out, IPPROTO_IP, IP_MTU, &mtu, &size) : getsockopt(out, IPPROTO_IPV6, IPV6_MTU, &mtu, &size), 0);
                if (send(out, data, (size_t) (mtu - headers), 0) == mtu - headers && poll(&p, 1, 100) == 1)
                        return mtu;
        }
        return 0;
}

static void sender_of_too_large_packets_is_told(void **state) {
        set_cni_mtu(1500);
        lab_sh("ip -n worker addr add fd00:128::1/64 dev cni0 nodad && ip -n wpod addr add fd00:128::2/64 dev eth0 nodad && "
               "ip -n wpod -6 route add default via fd00:128::1 && ip -n peer addr add fd00:128::9/64 dev eth0 nodad");
        start_daemon(NULL);
        connect_pod();

        expect_log("tunneld.log", "<4>MTU of the pod's interface 'eth0' is 1500, and the tunnel carries 1450");
        assert_int_equal(discover_mtu("peer", "podns", "10.128.0.2", AF_INET), 1450);
        assert_int_equal(discover_mtu("worker", "podns", "10.128.0.2", AF_INET), 1450);
        assert_int_equal(discover_mtu("peer", "podns", "fd00:128::2", AF_INET6), 1450);
        assert_int_equal(discover_mtu("podns", "peer", "10.128.0.9", AF_INET), 1450);
        assert_true(lab_tcp("peer", "podns", "10.128.0.2", 8 << 20, 20000) > 0);
        /* who allows fragments is served by them */
        assert_true(lab_udp("peer", "podns", "10.128.0.2", 1472, false, 5000));

        teardown("s1");
        expect_nothing_left();
}

static void jumbo_underlay_carries_jumbo_frames(void **state) {
        set_cni_mtu(8950);
        lab_sh("for h in worker vm; do ip -n fab link set f-$h mtu 9001 && ip -n $h link set enc0 mtu 9001 || exit 1; done");
        start_daemon(NULL);
        connect_pod();
        assert_int_equal(discover_mtu("peer", "podns", "10.128.0.2", AF_INET), 8950);
        assert_int_equal(discover_mtu("podns", "peer", "10.128.0.9", AF_INET), 8950);
}

static void mtu_of_the_route_to_the_vm_counts(void **state) {
        _cleanup_(freep) char *s = NULL;

        lab_sh("ip -n worker route add 10.10.1.2 dev enc0 mtu 1400");
        start_daemon(NULL);
        connect_pod();
        s = lab_output("ip -n wpod -o link show vxlan1 | grep -o 'mtu [0-9]*'");
        assert_string_equal(s, "mtu 1350\n");
        expect_log("tunneld.log", "carries packets of 1350 bytes in the tunnel, not the 1450");
        assert_int_equal(discover_mtu("peer", "podns", "10.128.0.2", AF_INET), 1350);
}

/* A router between worker and VM has a link with a smaller MTU, which no interface of either shows. */
static void mtu_behind_a_router_is_learned(void **state) {
        _cleanup_(freep) char *pn = NULL;

        lab_sh("ip netns exec other sysctl -q net.ipv4.ip_forward=1 && ip -n vm link del enc0 && "
               "ip -n other link add f-vm type veth peer name enc0 netns vm && ip -n other link set f-vm mtu 1300 up && "
               "ip -n other addr add 10.12.0.1/24 dev f-vm && ip -n vm link set enc0 mtu 1300 up && ip -n vm addr add 10.12.0.2/24 dev enc0 && "
               "ip -n vm route add default via 10.12.0.1 && ip -n worker route add 10.12.0.0/24 via 10.10.1.9");
        start_daemon(NULL);
        pn = inspect("s1");
        assert_non_null(strstr(pn, "\"mtu\":1450"));
        expect_success(try_setup("s1", "10.12.0.2"));
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);

        assert_int_equal(discover_mtu("peer", "podns", "10.128.0.2", AF_INET), 1250);
        assert_int_equal(discover_mtu("podns", "peer", "10.128.0.9", AF_INET), 1250);
        assert_true(lab_tcp("peer", "podns", "10.128.0.2", 1 << 20, 20000) > 0);
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

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(sender_of_too_large_packets_is_told, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(jumbo_underlay_carries_jumbo_frames, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(mtu_of_the_route_to_the_vm_counts, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(mtu_behind_a_router_is_learned, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(mtu_follows_the_underlay, lab_setup, lab_teardown),
        };

        return rig_main(argc, argv, "tunnel-mtu", tests, ELEMENTSOF(tests));
}
