/* SPDX-License-Identifier: Apache-2.0 */
/* A second interface: one of the tunnel's own at both ends, or one for the pod's external traffic in the VM. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "netlab.h"
#include "tunnel-rig.h"

static const char *const dedicated[] = { "--host-interface", "enc1", NULL };
static const char *const external[] = { "--ext-network-via-podvm", "--pod-subnet-cidrs", "10.96.0.0/12", NULL };

static void wait_for_log(const char *text) {
        uint64_t deadline = now_usec(CLOCK_MONOTONIC) + RIG_PATIENCE_USEC;
        struct pollfd none = { .fd = -1 };

        while (lab_sh_status("grep -q \"%s\" /run/lab/pod-network.log", text) != 0) {
                assert_true(now_usec(CLOCK_MONOTONIC) < deadline);
                (void) poll(&none, 1, 20);
        }
}

/* Both ends have two, on the same cloud network; the VM's second one comes late. */
static void dedicated_interface_carries_the_tunnel(void **state) {
        _cleanup_(freep) char *pn = NULL;
        pid_t pid;
        int status;

        lab_sh("ip -n fab link add f-w2 type veth peer name enc1 netns worker && ip -n fab link set f-w2 master br0 up && "
               "ip -n worker addr add 10.11.0.1/16 dev enc1 && ip -n worker link set enc1 up");
        start_daemon(dedicated);
        pn = inspect("s1");
        assert_non_null(strstr(pn, "\"worker-node-ip\":\"10.11.0.1/16\""));
        assert_non_null(strstr(pn, "\"dedicated\":true"));
        expect_error(try_setup("s1", "10.10.1.2"), "InvalidArgument", "second address");
        expect_success(call("Setup", NULL, "ssas", "s1", "/run/netns/wpod", 2, "10.10.1.2", "10.11.1.2"));
        write_apf(pn);

        /* the default route leads to the worker, too, but it is not the one */
        assert_int_equal(lab_wait(spawn_pod_network("setup", "1s")), 1);
        expect_log("pod-network.log", "no interface of the tunnel's own");
        pid = spawn_pod_network("setup", "60s");
        wait_for_log("Waiting for an interface");
        assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
        lab_sh("ip -n fab link add f-v2 type veth peer name enc1 netns vm && ip -n fab link set f-v2 master br0 up && "
               "ip -n vm link set enc1 up && ip -n vm addr add 10.11.1.2/16 dev enc1");
        assert_int_equal(lab_wait(pid), 0);
        expect_traffic();
        lab_sh("ip -n vm link set enc0 down && ip -n worker link set enc0 down");
        expect_traffic();
        teardown("s1");
        expect_nothing_left();
}

/* "other" is the way out of the VM's second interface, with a host behind it. It forwards nothing, so what comes by a wrong way is lost. */
static void add_external_interface(void) {
        lab_sh("ip -n other addr add 198.51.100.1/32 dev lo && ip -n other link add ext type veth peer name enc1 netns vm && "
               "ip -n other addr add 10.13.0.1/24 dev ext && ip -n other link set ext up && ip -n vm link set enc1 up && "
               "ip -n vm addr add 10.13.0.5/24 dev enc1 && ip -n vm route add default via 10.13.0.1 dev enc1 metric 1024");
}

static void expect_external_traffic(void) {
        assert_true(lab_udp("podns", "other", "198.51.100.1", 1000, true, LAB_PATIENCE_MSEC));
        expect_traffic();
        /* the node's own address, from which kubelet probes pods: the answer must not leave by the second interface */
        lab_sh("ip netns exec worker ping -I 10.10.0.1 -c 3 -i 0.05 -W 10 -q 10.128.0.2 >/dev/null");
}

static void external_traffic_leaves_by_the_second_interface(void **state) {
        _cleanup_(freep) char *pn = NULL, *s = NULL;
        pid_t pid;
        int status;

        start_daemon(external);
        pn = inspect("s1");
        assert_non_null(strstr(pn, "\"external-net-via-pod-vm\":true"));
        setup("s1");
        write_apf(pn);
        pid = spawn_pod_network("setup", "60s");
        wait_for_log("Waiting for a second interface");
        assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
        add_external_interface();
        assert_int_equal(lab_wait(pid), 0);
        expect_external_traffic();
        s = lab_output("ip -n podns route show table main; ip -n podns route get 10.100.1.1 | head -1; ip -n podns route get 10.10.0.1 from 10.128.0.2 | head -1");
        assert_string_equal(s, "default via 10.13.0.1 dev enc1 \n10.13.0.0/24 dev enc1 proto kernel scope link src 10.13.0.5 \n"
                            "10.96.0.0/12 via 10.128.0.1 dev eth0 \n10.128.0.0/24 dev eth0 proto kernel scope link src 10.128.0.2 \n"
                            "10.100.1.1 via 10.128.0.1 dev eth0 src 10.128.0.2 uid 0 \n10.10.0.1 from 10.128.0.2 via 10.128.0.1 dev eth0 table 4789 uid 0 \n");

        assert_int_equal(pod_network("setup"), 0);      /* again: a restart of the service */
        expect_log("pod-network.log", "Adopted 'enc1'");
        expect_external_traffic();
        s = (free(s), lab_output("ip -n podns rule show | grep -c 'from 10.128.0.2 lookup 4789'"));
        assert_string_equal(s, "1\n");

        assert_int_equal(pod_network("teardown"), 0);
        lab_sh("ip -n vm link show enc1 >/dev/null");
        expect_empty("rules", lab_output("ip -n podns rule show | grep 4789"));
}

static void missing_external_interface_is_an_error(void **state) {
        _cleanup_(freep) char *pn = NULL;

        start_daemon(external);
        pn = inspect("s1");
        setup("s1");
        write_apf(pn);
        lab_sh("ip -n vm link add veth9 type veth peer name veth8 && ip -n vm addr add 10.14.0.1/24 dev veth9 && ip -n vm link set veth9 up && "
               "ip -n vm link set veth8 up && ip -n vm route add default via 10.14.0.2 dev veth9 metric 2000");
        assert_int_equal(lab_wait(spawn_pod_network("setup", "1s")), 1);
        expect_log("pod-network.log", "no second interface with an address and a gateway came up in 1.000s");
        expect_empty("devices", lab_output("ip -n podns -o link show type vxlan; ip netns exec vm nft list ruleset; ip -n podns rule show | grep 4789"));
}

static void cut_off_move_of_the_interface_is_taken_up(void **state) {
        _cleanup_(freep) char *pn = NULL;
        pid_t pid;

        start_daemon(external);
        pn = inspect("s1");
        setup("s1");
        write_apf(pn);
        add_external_interface();
        lab_sh("ip -n vm link set enc1 netns podns");   /* and killed */
        pid = spawn_pod_network("setup", "60s");
        wait_for_log("Waiting for a second interface");
        /* what networkd does when it comes back */
        lab_sh("ip -n vm link set enc1 up && ip -n vm addr add 10.13.0.5/24 dev enc1 && ip -n vm route add default via 10.13.0.1 dev enc1 metric 1024");
        assert_int_equal(lab_wait(pid), 0);
        expect_external_traffic();
}

static void name_of_the_second_interface_may_be_taken(void **state) {
        _cleanup_(freep) char *pn = NULL;

        start_daemon(external);
        pn = inspect("s1");
        setup("s1");
        write_apf(pn);
        add_external_interface();
        lab_sh("ip -n vm link set enc1 down && ip -n vm link set enc1 name eth0 && ip -n vm link set eth0 up && "
               "ip -n vm route add default via 10.13.0.1 dev eth0 metric 1024");
        assert_int_equal(pod_network("setup"), 0);
        expect_log("pod-network.log", "by the VM's interface 'ext0' with 10.13.0.5/24");
        expect_external_traffic();
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(dedicated_interface_carries_the_tunnel, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(external_traffic_leaves_by_the_second_interface, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(missing_external_interface_is_an_error, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(name_of_the_second_interface_may_be_taken, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(cut_off_move_of_the_interface_is_taken_up, lab_setup, lab_teardown),
        };

        return rig_main(argc, argv, "tunnel-interfaces", tests, ELEMENTSOF(tests));
}
