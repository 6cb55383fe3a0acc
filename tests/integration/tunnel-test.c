/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-tunneld and pod-network, the programs, on real namespaces: traffic, repetition, restart, clashes. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "basic/io.h"
#include "basic/strv.h"
#include "netlab.h"
#include "tunnel-rig.h"

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
                cmocka_unit_test_setup_teardown(namespace_path_is_not_trusted, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(clashes_of_vni_and_port_are_told_apart, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(existing_clsact_is_kept, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(second_address_serves_a_dedicated_interface, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(vm_behind_a_bridge_of_the_worker, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(ipv6_goes_through, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(bad_settings_end_with_78, lab_setup, lab_teardown),
        };

        return rig_main(argc, argv, "tunnel", tests, ELEMENTSOF(tests));
}
