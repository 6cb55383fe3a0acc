/* SPDX-License-Identifier: Apache-2.0 */
/* The tunnel proves itself, and says what stands in its way. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "basic/strv.h"
#include "netlab.h"
#include "tunnel-rig.h"

static bool probe(char **ret_report) {
        sd_bus_message *reply;
        const char *text;
        int ok;

        expect_success(call("Probe", &reply, "s", "s1"));
        assert_true(sd_bus_message_read(reply, "bs", &ok, &text) >= 0);
        *ret_report = strdup(text);
        sd_bus_message_unref(reply);
        return ok;
}

static void expect_probe(bool ok, const char *first, const char *second) {
        _cleanup_(freep) char *report = NULL;
        bool result = probe(&report);

        if (result != ok || !strstr(report, first) || !strstr(report, second))
                print_error("probe says %s: %s\n", result ? "yes" : "no", report);
        assert_int_equal(result, ok);
        assert_non_null(strstr(report, first));
        assert_non_null(strstr(report, second));
}

static char** diagnose(const char *id) {
        sd_bus_message *reply;
        char **l;

        expect_success(call("Diagnose", &reply, "s", id));
        assert_true(sd_bus_message_read_strv(reply, &l) >= 0);
        sd_bus_message_unref(reply);
        return l;
}

static void probe_shows_that_full_frames_pass_both_ways(void **state) {
        _cleanup_(freep) char *s = NULL;

        start_daemon(NULL);
        connect_pod();
        expect_probe(true, "carries packets of 1450 bytes both ways", "from 10.10.0.1 to 10.10.1.2 by UDP port 4789");
        expect_probe(true, "carries packets of 1450 bytes both ways", "first answer after");
        s = lab_output("tc -n wpod filter show dev vxlan1 ingress | grep -c 'order 2048\\|order [0-9]* key'; "
                       "tc -n wpod filter show dev vxlan1 ingress | grep -c mirred");
        assert_string_equal(s, "1\n1\n");       /* what it put there for its time is gone */
        expect_traffic();
        teardown("s1");
        expect_nothing_left();
}

/* Of the probe's packets none comes out at the pod's interface. */
static void cluster_sees_nothing_of_a_probe(void **state) {
        _cleanup_(close_fdp) int fd = lab_socket("worker", AF_PACKET, SOCK_RAW, 0);
        struct sockaddr_ll sa = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
        _cleanup_(freep) char *index = lab_output("cat /dev/null; ip netns exec worker cat /sys/class/net/v-wpod/ifindex");
        _cleanup_(freep) char *mac = NULL;
        uint8_t frame[2048], own[6];
        size_t n = 0;

        start_daemon(NULL);
        connect_pod();
        expect_traffic();                       /* the VM knows its gateway */
        lab_sh("ip netns exec podns ping -c 1 -W 5 -q 10.128.0.1 >/dev/null");
        mac = lab_output("ip -n wpod -o link show vxlan1 | sed 's/.*ether \\([^ ]*\\).*/\\1/'");
        assert_int_equal(sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", own, own + 1, own + 2, own + 3, own + 4, own + 5), 6);
        sa.sll_ifindex = (int) strtol(index, NULL, 10);
        assert_int_equal(bind(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        expect_probe(true, "1450", "4789");

        for (ssize_t size; (size = recv(fd, frame, sizeof(frame), MSG_DONTWAIT)) >= 0; n++) {
                bool echo = size > 34 && frame[12] == 8 && frame[13] == 0 && frame[23] == IPPROTO_ICMP && frame[34] == 0;

                assert_false(echo);
                assert_int_not_equal(memcmp(frame, own, 6), 0);
                assert_int_not_equal(memcmp(frame + 6, own, 6), 0);
        }
        print_message("%zu other frames seen\n", n);
        expect_traffic();
        assert_true(recv(fd, frame, sizeof(frame), MSG_DONTWAIT) > 0);  /* we would have seen some */
}

/* For probes that are to fail. */
static const char *const soon[] = { "--probe-timeout", "2s", NULL };

static void silent_vm_is_told_from_a_slow_one(void **state) {
        _cleanup_(freep) char *pn = NULL;

        start_daemon(soon);
        expect_error(call("Probe", NULL, "s", "s1"), "FailedPrecondition", "no tunnel");
        pn = inspect("s1");
        expect_error(call("Probe", NULL, "s", "s1"), "FailedPrecondition", "no tunnel");
        setup("s1");
        expect_probe(false, "No answer from the pod VM", "from 10.10.0.1 to 10.10.1.2 within 2.000s: UDP port 4789 must be open");
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
        assert_int_equal(stop_daemon(SIGTERM), 0);
        start_daemon(NULL);
        expect_probe(true, "1450", "both ways");
}

static void hole_for_large_packets_is_measured(void **state) {
        start_daemon(NULL);
        connect_pod();
        /* a switch that loses large frames and tells nobody */
        lab_sh("ip -n fab link set f-vm mtu 1420");
        expect_probe(false, "carries packets of 1350 bytes and not those of 1450", "set the pod network's MTU to at most 1350");
}

static void vm_that_answers_no_ping_is_no_failure(void **state) {
        start_daemon(NULL);
        connect_pod();
        lab_sh("ip netns exec podns sysctl -q net.ipv4.icmp_echo_ignore_all=1");
        expect_probe(true, "answers ARP through the tunnel", "not proven");
}

static void pod_with_ipv6_only_is_probed_by_its_means(void **state) {
        lab_sh("ip -n worker addr add fd00:128::1/64 dev cni0 nodad && ip -n wpod addr flush dev eth0 && "
               "ip -n wpod addr add fd00:128::2/64 dev eth0 nodad && ip -n wpod -6 route add default via fd00:128::1 && "
               "ip -n peer addr add fd00:128::9/64 dev eth0 nodad");
        start_daemon(NULL);
        connect_pod();
        assert_true(lab_udp("peer", "podns", "fd00:128::2", 1000, true, LAB_PATIENCE_MSEC));
        expect_probe(true, "carries packets of 1450 bytes both ways", "UDP port 4789");
        lab_sh("ip -n fab link set f-vm mtu 1420");
        expect_probe(false, "carries packets of 1350 bytes and not those of 1450", "at most 1350");
}

static void teardown_ends_a_probe(void **state) {
        _cleanup_(freep) char *pn = NULL;
        sd_bus_message *m = NULL;
        size_t n_fds;

        start_daemon(NULL);
        pn = inspect("s1");
        setup("s1");
        n_fds = count_fds(daemon_pid);
        assert_int_equal(sd_bus_message_new_method_call(bus, &m, NULL, "/org/confidentialcontainers/PeerPod1/Tunnel",
                                                        "org.confidentialcontainers.PeerPod1.Tunnel", "Probe"), 0);
        assert_true(sd_bus_message_append(m, "s", "s1") >= 0);
        assert_true(sd_bus_send(bus, m, NULL) >= 0);
        /* the same link serves its calls in order, so the probe has begun */
        teardown("s1");
        expect_nothing_left();
        assert_int_equal(count_fds(daemon_pid), n_fds);
        sd_bus_message_unref(m);
}

typedef struct RuleCase {
        const char *name;
        const char *rules;              /* for "nft", in the table "t" of the worker */
        const char *finding;            /* NULL: none */
} RuleCase;

#define INPUT "add table inet t; add chain inet t c { type filter hook input priority 0; }; "
#define IN "packets to this host's UDP port 4789 from 10.10.1.2: nftables: "
#define OUT "packets from this host to UDP port 4789 of 10.10.1.2: nftables: "

static const RuleCase rule_cases[] = {
        { "no rules", "", NULL },
        { "drop by port", INPUT "add rule inet t c udp dport 4789 drop",
          IN "rule with handle 2 of table inet 't', chain 'c' (hook input) drops them" },
        { "drop of another port", INPUT "add rule inet t c udp dport 4790 drop", NULL },
        { "drop of TCP", INPUT "add rule inet t c tcp dport 4789 drop; add rule inet t c meta l4proto tcp drop", NULL },
        { "reject", INPUT "add rule inet t c udp dport 4789 reject", "drops them" },
        { "drop by a set of ports", INPUT "add rule inet t c udp dport { 53, 4789, 8472 } drop", "drops them" },
        { "drop by a range of ports", INPUT "add rule inet t c udp dport 4000-5000 drop", "drops them" },
        { "drop by ranges in a set", INPUT "add rule inet t c udp dport { 53, 4000-5000, 9000-9999 } drop", "drops them" },
        { "accepted between ranges", INPUT "add rule inet t c udp dport { 53, 4000-4788, 4790-9999 } drop", NULL },
        { "drop of unknown senders, as Calico does it",
          "add table ip t; add set ip t hosts { type ipv4_addr; elements = { 10.10.0.1, 10.10.0.7 }; }; "
          "add chain ip t c { type filter hook input priority 0; }; "
          "add rule ip t c udp dport 4789 ip saddr @hosts accept; add rule ip t c udp dport 4789 counter drop",
          IN "rule with handle 4 of table ip 't', chain 'c' (hook input) drops them" },
        { "the VM is a known sender",
          "add table ip t; add set ip t hosts { type ipv4_addr; elements = { 10.10.0.1, 10.10.1.2 }; }; "
          "add chain ip t c { type filter hook input priority 0; }; "
          "add rule ip t c udp dport 4789 ip saddr @hosts accept; add rule ip t c udp dport 4789 counter drop", NULL },
        { "drop by network", INPUT "add rule inet t c ip saddr 10.10.0.0/16 drop", "drops them" },
        { "drop of another host", INPUT "add rule inet t c ip saddr 10.10.1.9 drop", NULL },
        { "policy", "add table ip t; add chain ip t c { type filter hook input priority 0; policy drop; }; add rule ip t c tcp dport 22 accept",
          IN "policy of table ip 't', chain 'c' (hook input) drops them, and no rule accepts them" },
        { "policy with an exception", "add table ip t; add chain ip t c { type filter hook input priority 0; policy drop; }; "
          "add rule ip t c udp dport 4789 accept", NULL },
        { "established connections are not ours, which are untracked",
          "add table ip t; add chain ip t c { type filter hook input priority 0; policy drop; }; "
          "add rule ip t c ct state established,related accept", "policy of table ip 't'" },
        { "invalid connections are not ours", INPUT "add rule inet t c ct state invalid drop", NULL },
        { "drop in a chain that is jumped to", INPUT "add chain inet t d; add rule inet t d udp dport 4789 drop; "
          "add rule inet t c iifname \"enc0\" jump d", "chain 'd' (hook input) drops them" },
        { "return from a chain", INPUT "add chain inet t d; add rule inet t d ip saddr 10.10.1.2 return; add rule inet t d drop; "
          "add rule inet t c jump d", NULL },
        { "map of verdicts", INPUT "add rule inet t c iifname vmap { \"lo\" : accept, \"enc0\" : drop }", "drops them" },
        { "drop at another interface", INPUT "add rule inet t c iifname \"enc7\" drop", NULL },
        { "limit", INPUT "add rule inet t c udp dport 4789 limit rate over 10/second drop", "may drop them" },
        { "drop on the way out", "add table ip t; add chain ip t c { type filter hook output priority 0; }; add rule ip t c ip daddr 10.10.1.2 drop",
          OUT "rule with handle 2 of table ip 't', chain 'c' (hook output) drops them" },
        { "drop at prerouting", "add table ip t; add chain ip t c { type filter hook prerouting priority -300; }; "
          "add rule ip t c meta l4proto udp th dport 4789 drop", "(hook prerouting) drops them" },
        { "table that is switched off", "add table ip t { flags dormant; }; add chain ip t c { type filter hook input priority 0; policy drop; }",
          NULL },
        { "forwarded packets are not ours", "add table ip t; add chain ip t c { type filter hook forward priority 0; policy drop; }", NULL },
};

/* Each case alone: @set takes its rules as one argument of a shell, @clear removes all of them. */
static void assert_named(const RuleCase *cases, size_t n_cases, const char *set, const char *clear) {
        _cleanup_(freep) char *pn = NULL;
        int n_failed = 0;

        start_daemon(NULL);
        pn = inspect("s1");
        setup("s1");
        FOREACH_ELEMENT(const RuleCase, c, cases, n_cases) {
                char **l, *all;
                bool good;

                lab_sh("ip netns exec worker bash -ec '%s' _ '%s'", set, c->rules);
                l = diagnose("s1");
                assert_int_equal(strv_join(l, "\n", &all), 0);
                good = c->finding ? strv_length(l) == 1 && strstr(all, c->finding) : strv_length(l) == 0;
                if (!good)
                        print_error("%s: expected '%s', got '%s'\n", c->name, strempty(c->finding), all);
                n_failed += !good;
                strv_free(l);
                free(all);
                lab_sh("ip netns exec worker bash -ec '%s'", clear);
        }
        assert_int_equal(n_failed, 0);
}

static void rules_that_drop_the_tunnel_are_named(void **state) {
        assert_named(rule_cases, ELEMENTSOF(rule_cases), "nft \"$1\"",
                     "nft delete table inet t 2>/dev/null || :; nft delete table ip t 2>/dev/null || :");
}

static const RuleCase legacy_cases[] = {
        { "drop", "-A INPUT -p udp --dport 4789 -j DROP", "UDP port 4789 from 10.10.1.2: iptables-legacy: rule 1 of table 'filter', chain 'INPUT' "
          "(hook INPUT) drops them" },
        { "another port", "-A INPUT -p udp --dport 4790 -j DROP", NULL },
        { "reject behind others", "-A OUTPUT -p tcp -j DROP; -A OUTPUT -d 10.10.1.0/24 -j REJECT",
          "iptables-legacy: rule 2 of table 'filter', chain 'OUTPUT' (hook OUTPUT) drops them" },
        { "another address", "-A OUTPUT -d 10.10.2.0/24 -j DROP", NULL },
        { "all but one address", "-A INPUT ! -s 10.10.9.9 -p udp -j DROP", "rule 1 of table 'filter', chain 'INPUT'" },
        { "accepted before", "-A INPUT -s 10.10.1.2 -j ACCEPT; -A INPUT -p udp --dport 4789 -j DROP", NULL },
        { "policy", "-P INPUT DROP", "iptables-legacy: policy of table 'filter', chain 'INPUT' drops them, and no rule accepts them" },
        { "policy and an exception", "-P INPUT DROP; -A INPUT -p udp -m udp --dport 4000:5000 -j ACCEPT", NULL },
        { "chain", "-N cni; -A cni -p udp -m multiport --dports 80,4789 -j DROP; -A INPUT -j cni",
          "rule 1 of table 'filter', chain 'cni' (hook INPUT) drops them" },
        { "return", "-N cni; -A cni -s 10.10.1.2 -j RETURN; -A cni -j DROP; -A INPUT -j cni", NULL },
        { "goto", "-N cni; -A cni -j RETURN; -A INPUT -g cni; -A INPUT -j DROP", NULL },
        { "return to a policy", "-P INPUT DROP; -A INPUT -j RETURN; -A INPUT -j ACCEPT", "policy of table 'filter', chain 'INPUT' drops them" },
        { "device", "-A INPUT -i enc0 -p udp -j DROP", "rule 1 of table 'filter', chain 'INPUT'" },
        { "another device", "-A INPUT -i enc1 -p udp -j DROP", NULL },
        { "devices of a kind", "-A OUTPUT -o enc+ -p udp -j DROP", "rule 1 of table 'filter', chain 'OUTPUT'" },
        { "raw table", "-t raw -A PREROUTING -p udp --dport 4789 -j DROP", "rule 1 of table 'raw', chain 'PREROUTING' (hook PREROUTING) drops them" },
        { "untracked packets are not invalid", "-A INPUT -m conntrack --ctstate INVALID -j DROP", NULL },
        { "other states only", "-A INPUT -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP", "rule 1 of table 'filter', chain 'INPUT'" },
        { "what is not understood", "-A INPUT -p udp -m ttl --ttl-lt 3 -j DROP", "rule 1 of table 'filter', chain 'INPUT' (hook INPUT) may drop them" },
        { "nothing of it is certain", "-A INPUT -m ttl --ttl-gt 3 -j ACCEPT; -A INPUT -j DROP",
          "rule 2 of table 'filter', chain 'INPUT' (hook INPUT) may drop them" },
        { "comments and logs drop nothing", "-A INPUT -p udp -m comment --comment x; -A INPUT -j NFLOG", NULL },
};

static void rules_of_the_older_iptables_are_named(void **state) {
        assert_named(legacy_cases, ELEMENTSOF(legacy_cases), "IFS=\";\"; for rule in $1; do IFS=\" \"; iptables-legacy $rule; done",
                     "for t in filter raw; do iptables-legacy -t $t -F; iptables-legacy -t $t -X; done; iptables-legacy -P INPUT ACCEPT");
}

static void what_drops_any_tunnel_is_said_at_start(void **state) {
        lab_sh("ip netns exec worker nft 'add table ip filter; add chain ip filter INPUT { type filter hook input priority 0; }; "
               "add rule ip filter INPUT udp dport 4789 drop'");
        start_daemon(NULL);
        expect_log("tunneld.log", "<4>Tunnels may carry no packets: packets to this host's UDP port 4789: nftables: rule with handle 2 of table "
                   "ip 'filter', chain 'INPUT' (hook input) drops them.");
        assert_int_equal(stop_daemon(SIGTERM), 0);
        lab_sh("ip netns exec worker nft delete table ip filter && : > /run/lab/tunneld.log");
        start_daemon(NULL);
        expect_empty("warnings", lab_output("grep -F '<4>' /run/lab/tunneld.log"));
}

static void failed_probe_names_the_rule(void **state) {
        start_daemon(soon);
        connect_pod();
        lab_sh("ip netns exec worker nft 'add table ip filter; add chain ip filter INPUT { type filter hook input priority 0; }; "
               "add rule ip filter INPUT udp dport 4789 drop'");
        expect_probe(false, "Found on this host: packets to this host's UDP port 4789 from 10.10.1.2: nftables: rule with handle",
                     "of table ip 'filter', chain 'INPUT'");
        lab_sh("ip netns exec worker nft delete table ip filter");
        lab_sh("ip -n worker link set enc0 down");
        expect_probe(false, "no route to 10.10.1.2", "UDP port 4789");
}

static void foreign_users_of_the_port_are_named(void **state) {
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(4789) };
        _cleanup_(freep) char *pn = NULL;
        char **l;
        int fd;

        start_daemon(NULL);
        lab_sh("ip -n worker link add ovs_sys_4789 type vxlan external dstport 4789 && ip -n worker link set ovs_sys_4789 up && "
               "ip -n worker link add flannel.1 type vxlan id 1 dstport 4789 dev enc0");
        pn = inspect("s1");
        expect_error(try_setup("s1", "10.10.1.2"), "FailedPrecondition",
                     "(interface 'ovs_sys_4789' is a VXLAN device in collect-metadata mode on UDP port 4789, which takes all");
        l = diagnose("");
        assert_int_equal(strv_length(l), 1);
        assert_non_null(strstr(l[0], "'ovs_sys_4789'"));
        strv_free(l);
        lab_sh("ip -n worker link del ovs_sys_4789");

        fd = lab_socket("worker", AF_INET, SOCK_DGRAM, 0);
        assert_int_equal(bind(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        expect_error(try_setup("s1", "10.10.1.2"), "FailedPrecondition", "(a UDP socket of the user with id 0 has port 4789)");
        close_fd(fd);
        setup("s1");
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(probe_shows_that_full_frames_pass_both_ways, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(cluster_sees_nothing_of_a_probe, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(silent_vm_is_told_from_a_slow_one, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(hole_for_large_packets_is_measured, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(vm_that_answers_no_ping_is_no_failure, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(pod_with_ipv6_only_is_probed_by_its_means, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(teardown_ends_a_probe, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(rules_that_drop_the_tunnel_are_named, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(rules_of_the_older_iptables_are_named, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(what_drops_any_tunnel_is_said_at_start, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(failed_probe_names_the_rule, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(foreign_users_of_the_port_are_named, lab_setup, lab_teardown),
        };

        return rig_main(argc, argv, "tunnel-probe", tests, ELEMENTSOF(tests));
}
