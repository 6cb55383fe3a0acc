/* SPDX-License-Identifier: Apache-2.0 */
/* pod-network: what the pod VM makes of what it is told. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "basic/io.h"
#include "netlab.h"
#include "tunnel-rig.h"

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

static void pod_subnets_of_both_families_are_routed(void **state) {
        static const char *const subnets[] = { "--pod-subnet-cidrs", "10.96.0.0/12,fd00:96::/108,fd00:128::/64,fd00::/32", NULL };
        _cleanup_(freep) char *pn = NULL, *routes = NULL;

        lab_sh("ip -n worker addr add fd00:128::1/64 dev cni0 nodad && ip -n wpod addr add fd00:128::2/64 dev eth0 nodad && "
               "ip -n wpod -6 route add default via fd00:128::1");
        start_daemon(subnets);
        pn = inspect("s1");
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
        routes = lab_output("ip -n podns route show 10.96.0.0/12; ip -n podns -6 route show dev eth0 | grep ^fd00 | sed 's/ metric.*//'");
        assert_string_equal(routes, "10.96.0.0/12 via 10.128.0.1 dev eth0 \nfd00::/32 via fd00:128::1\nfd00:96::/108 via fd00:128::1\n"
                            "fd00:128::/64 proto kernel\n");
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

int main(int argc, char *argv[]) {
        struct CMUnitTest tests[ELEMENTSOF(route_cases) + 6] = {
                cmocka_unit_test_setup_teardown(pod_address_is_announced, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(pod_subnets_are_routed, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(pod_subnets_of_both_families_are_routed, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(leftovers_in_the_vm_are_replaced, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(vm_waits_for_its_interface, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(bad_configuration_is_refused, lab_setup, lab_teardown),
        };

        for (size_t i = 0; i < ELEMENTSOF(route_cases); i++)
                tests[6 + i] = (struct CMUnitTest) { route_cases[i].name, routes_reach_the_vm, lab_setup, lab_teardown,
                                                     (void*) &route_cases[i] };
        return rig_main(argc, argv, "tunnel-vm", tests, ELEMENTSOF(tests));
}
