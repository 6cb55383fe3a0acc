/* SPDX-License-Identifier: Apache-2.0 */
/* The pod networks that CNIs make (cni/fixtures.sh): what Inspect says of each, what the pod VM makes of it, and traffic. */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/util.h"
#include "netlab.h"
#include "tunnel-rig.h"

static const char *fixtures_dir;

/* Addresses, as pods and hosts see one another. */
typedef struct Fixture {
        const char *name;
        const char *pod, *peer, *outside;       /* the node is 10.10.0.1 */
        const char *pod6, *peer6;               /* NULL: IPv4 only; outside is fd00:10::9, the node fd00:10::1 */
        const char *second;                     /* one more address of the pod */
        const char *left_out;                   /* lines of the pod's network that are not for the VM */
} Fixture;

static const Fixture fixtures[] = {
        { "calico-vxlan",      "192.168.77.5",  "192.168.77.6",  "192.168.78.0", NULL, NULL },
        { "calico-ipip",       "192.168.77.5",  "192.168.77.6",  "10.10.1.9",    "fd00:77::5", "fd00:77::6" },
        { "cilium",            "10.0.1.5",      "10.0.1.6",      "10.10.1.9",    "fd02::5", "fd02::6" },
        { "ovn-kubernetes",    "10.244.0.5",    "10.244.0.6",    "10.10.1.9",    "fd00:10:244:1::5", "fd00:10:244:1::6" },
        { "aws-vpc-cni",       "192.168.40.15", "192.168.40.16", "10.10.1.9",    NULL, NULL },
        { "aws-vpc-cni-ipv6",  NULL,            NULL,            NULL,           "2001:db8:40::15", "2001:db8:40::16" },
        { "azure-transparent", "10.240.0.15",   "10.240.0.16",   "10.10.1.9",    NULL, NULL },
        { "azure-bridge",      "10.10.0.15",    "10.10.0.16",    "10.10.1.9",    NULL, NULL },
        { "gke-ptp",           "10.48.0.5",     "10.48.0.6",     "10.10.1.9",    "fd00:48::5", "fd00:48::6" },
        { "flannel",           "10.244.1.5",    "10.244.1.6",    "10.244.2.0",   NULL, NULL },
        { "multus",            "10.244.1.5",    "10.244.1.6",    "10.244.2.0",   NULL, NULL },
        { "policy-routing",    "10.244.1.5",    "10.244.1.6",    "10.244.2.0",   NULL, NULL, "10.244.1.50",
          "^100:|^140:|tos" },
};

static int fixture_setup(void **state) {
        const Fixture *f = *state;

        lab_up_hosts();
        lab_sh("sh %s/fixtures.sh %s", fixtures_dir, f->name);
        return rig_setup();
}

static json_object* parse(const char *text, size_t size) {
        json_object *o = NULL;

        assert_int_equal(json_parse(text, size, &o, NULL), 0);
        return o;
}

/* The whole of it: one VXLAN id is left to choose from. */
static void expect_golden(const Fixture *f, const char *pod_network, uint64_t *ret_mtu) {
        _cleanup_(json_object_putp) json_object *got = parse(pod_network, strlen(pod_network)), *expected = NULL;
        char path[512], *text;
        size_t size;

        (void) snprintf(path, sizeof(path), "%s/%s.json", fixtures_dir, f->name);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 65536, &text, &size), 0);
        expected = parse(text, size);
        free(text);
        if (!json_object_equal(got, expected)) {
                print_error("Inspect's answer is not that of %s:\n%s\n", path,
                            json_object_to_json_string_ext(got, JSON_C_TO_STRING_PRETTY|JSON_C_TO_STRING_NOSLASHESCAPE));
                fail();
        }
        assert_int_equal(json_get_u64(got, "mtu", UINT16_MAX, ret_mtu, NULL), 1);
}

/* What a program in the pod can see of its network, one command a line. */
static char* network_of(const char *ns, const char *left_out) {
        return lab_output("for what in '-4 route show table all dev eth0' '-6 route show table all dev eth0' "
                          "'-4 route show table all type blackhole' '-4 neigh show dev eth0 nud permanent' "
                          "'-6 neigh show dev eth0 nud permanent' '-4 rule' '-6 rule'; do echo \"$what:\"; ip -n %s $what; done | "
                          "grep -v -E 'table local|^fe80::/64|%s'; "
                          "ip -n %s -o addr show dev eth0 scope global | awk '{print $3, $4}'; "
                          "ip -n %s -o link show dev eth0 | grep -o 'link/ether [0-9a-f:]*'", ns, left_out ?: "^$", ns, ns);
}

static void expect_udp_both_ways(const char *host, const char *host_address, const char *pod_address, size_t size) {
        assert_true(lab_udp_passes(host, "podns", pod_address, size));
        assert_true(lab_udp_passes("podns", host, host_address, size));
}

/* The daemon's own look at the tunnel, before StartVM is answered: no CNI's network is in its way, nor it in theirs. */
static void expect_probe_passes(const char *id) {
        sd_bus_message *reply;
        const char *report;
        int ok;

        expect_success(call("Probe", &reply, "s", id));
        assert_true(sd_bus_message_read(reply, "bs", &ok, &report) >= 0);
        if (!ok)
                print_error("%s\n", report);
        assert_true(ok);
        sd_bus_message_unref(reply);
}

static void pod_vm_stands_in_for_the_pod(void **state) {
        static const char *const one_id[] = { "--vxlan-min-id", "16777215", NULL };
        const Fixture *f = *state;
        _cleanup_(freep) char *pn = NULL, *before = network_of("wpod", f->left_out), *in_vm = NULL, *mtu = NULL, *after = NULL;
        char expected[32];
        uint64_t value;
        size_t largest;

        start_daemon(one_id);
        pn = inspect("s1");
        expect_golden(f, pn, &value);
        setup("s1");
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);

        in_vm = network_of("podns", f->left_out);
        assert_string_equal(in_vm, before);
        mtu = lab_output("ip -n podns -o link show dev eth0 | grep -o 'mtu [0-9]*'");
        (void) snprintf(expected, sizeof(expected), "mtu %" PRIu64 "\n", value);
        assert_string_equal(mtu, expected);

        expect_probe_passes("s1");
        /* with the node, a second pod, and somebody beyond the node; the smallest MTU on any way is 1400 */
        if (f->pod) {
                largest = 1400 - 28;
                expect_udp_both_ways("worker", "10.10.0.1", f->pod, largest);
                expect_udp_both_ways("peer", f->peer, f->pod, largest);
                expect_udp_both_ways("other", f->outside, f->pod, largest);
        }
        if (f->second)
                assert_true(lab_udp_passes("peer", "podns", f->second, 1000));
        if (f->pod6) {
                largest = 1280 - 48;
                expect_udp_both_ways("worker", "fd00:10::1", f->pod6, largest);
                expect_udp_both_ways("peer", f->peer6, f->pod6, largest);
                expect_udp_both_ways("other", "fd00:10::9", f->pod6, largest);
        }
        assert_true(lab_tcp("peer", "podns", f->pod ?: f->pod6, 1 << 20, LAB_PATIENCE_MSEC) > 0);
        assert_true(lab_tcp("podns", "other", f->pod ? f->outside : "fd00:10::9", 1 << 20, LAB_PATIENCE_MSEC) > 0);
        /* by the tunnel, and not by the pod's stack on the worker */
        lab_sh("ip -n vm link set enc0 down");
        assert_false(lab_udp("peer", "podns", f->pod ?: f->pod6, 100, true, 100));

        teardown("s1");
        expect_nothing_left();
        after = network_of("wpod", f->left_out);
        assert_string_equal(after, before);

        /* and the VM's end leaves a namespace as it was */
        assert_int_equal(pod_network("teardown"), 0);
        expect_empty("the VM's rules", lab_output("ip -n podns -4 rule | tail -n +4; ip -n podns -4 route show table all type blackhole"));
        assert_int_equal(stop_daemon(SIGTERM), 0);
}

int main(int argc, char *argv[]) {
        struct CMUnitTest tests[ELEMENTSOF(fixtures)];

        if (argc < 4)
                return 2;
        tunneld_program = argv[1];
        pod_network_program = argv[2];
        fixtures_dir = argv[3];
        if (argc > 4)
                cmocka_set_test_filter(argv[4]);
        if (!lab_enter()) {
                (void) fprintf(stderr, "Needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN.\n");
                return 77;
        }

        for (size_t i = 0; i < ELEMENTSOF(fixtures); i++)
                tests[i] = (struct CMUnitTest) { fixtures[i].name, pod_vm_stands_in_for_the_pod, fixture_setup, lab_teardown,
                                                 (void*) &fixtures[i] };
        return cmocka_run_group_tests_name("CNIs", tests, NULL, NULL) > 0;
}
