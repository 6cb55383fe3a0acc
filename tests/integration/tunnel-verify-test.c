/* SPDX-License-Identifier: Apache-2.0 */
/* What somebody breaks is found, said and mended. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <cmocka.h>

#include "basic/strv.h"
#include "netlab.h"
#include "tunnel-rig.h"

static const char *const by_hand[] = { "--verify-interval", "0", NULL };

/* What Verify has mended, in one text, to be freed. */
static char* verify(const char *id) {
        sd_bus_message *reply;
        char **l, *all;

        expect_success(call("Verify", &reply, "s", id));
        assert_true(sd_bus_message_read_strv(reply, &l) >= 0);
        assert_int_equal(strv_join(l, "; ", &all), 0);
        strv_free(l);
        sd_bus_message_unref(reply);
        return all;
}

typedef struct BreakCase {
        const char *name, *command, *finding;
        const char *id;
} BreakCase;

#define NFT "ip netns exec worker nft "

static const BreakCase break_cases[] = {
        { "redirect of the pod's interface deleted", "tc -n wpod qdisc del dev eth0 ingress", "redirect of 'eth0' to 'vxlan1' was missing", "s1" },
        { "redirect of the tunnel's device deleted", "tc -n wpod qdisc del dev vxlan1 ingress", "redirect of 'vxlan1' to 'eth0' was missing", "s1" },
        { "only the filter deleted", "tc -n wpod filter del dev eth0 parent ffff:", "redirect of 'eth0' to 'vxlan1' was missing", "s1" },
        { "device deleted", "ip -n wpod link del vxlan1", "'vxlan1' was gone", "s1" },
        { "device set down", "ip -n wpod link set vxlan1 down", "'vxlan1' was down", "s1" },
        { "device taken from its bridge", "ip -n wpod link set vxlan1 nomaster", "'vxlan1' was no port of 'vxlan1-br'", "s1" },
        { "bridge deleted", "ip -n wpod link del vxlan1-br", "'vxlan1' was no port of 'vxlan1-br'", "s1" },
        { "remote end changed", "ip -n wpod link set vxlan1 type vxlan id $(ip -n wpod -d -o link show vxlan1 | sed 's/.*vxlan id \\([0-9]*\\).*/\\1/') "
          "remote 10.10.1.77", "'vxlan1' had another remote end", "s1" },
        { "element deleted", NFT "flush set ip peerpod tunnels", "it was missing in the firewall's table 'peerpod'", "s1" },
        { "table deleted", NFT "delete table ip peerpod", "the firewall's table 'peerpod' was gone", "" },
        { "guard deleted", NFT "flush chain ip peerpod input", "the firewall's table 'peerpod' had been changed", "" },
        { "rule added", NFT "insert rule ip peerpod input udp dport 4789 drop", "the firewall's table 'peerpod' had been changed", "" },
        { "policy changed", NFT "'add chain ip peerpod input { policy drop; }'", "the firewall's table 'peerpod' had been changed", "" },
        { "table switched off", NFT "'add table ip peerpod { flags dormant; }'", "the firewall's table 'peerpod' had been changed", "" },
};

static void what_is_broken_is_mended(void **state) {
        const BreakCase *c = *state;
        char *mended, *log;

        start_daemon(by_hand);
        connect_pod();
        mended = verify("");
        assert_string_equal(mended, "");
        free(mended);

        lab_sh("%s", c->command);
        mended = verify(c->id);
        if (!strstr(mended, c->finding))
                print_error("expected '%s', got '%s'\n", c->finding, mended);
        assert_non_null(strstr(mended, c->finding));
        free(mended);
        log = lab_output("grep '<4>Mended' /run/lab/tunneld.log");
        assert_non_null(strstr(log, c->finding));
        free(log);

        mended = verify("");
        assert_string_equal(mended, "");        /* all of it */
        free(mended);
        expect_traffic();
        lab_sh(NFT "list chain ip peerpod input | grep -q 'counter packets'");
        teardown("s1");
        expect_nothing_left();
}

static void wait_for_log(const char *text) {
        uint64_t deadline = now_usec(CLOCK_MONOTONIC) + RIG_PATIENCE_USEC;
        struct pollfd none = { .fd = -1 };

        while (lab_sh_status("grep -q \"%s\" /run/lab/tunneld.log", text) != 0) {
                assert_true(now_usec(CLOCK_MONOTONIC) < deadline);
                (void) poll(&none, 1, 50);
        }
}

static void tunnels_are_verified_from_time_to_time(void **state) {
        static const char *const often[] = { "--verify-interval", "1s", NULL };

        start_daemon(often);
        connect_pod();
        lab_sh("ip -n wpod link del vxlan1");
        wait_for_log("Mended the tunnel with VXLAN id .*: 'vxlan1' was gone");
        expect_traffic();
        teardown("s1");
        expect_nothing_left();
}

static void flushed_firewall_is_mended_at_once(void **state) {
        static const char *const seldom[] = { "--verify-interval", "1h", NULL };

        start_daemon(seldom);
        connect_pod();
        lab_sh(NFT "flush ruleset");
        wait_for_log("Mended what all tunnels share: the firewall's table 'peerpod' was gone");
        lab_sh(NFT "list chain ip peerpod input | grep -q 'counter packets'");
        expect_traffic();
        /* changes by others of what is others' are no reason for anything */
        lab_sh(NFT "'add table ip other; add chain ip other c { type filter hook input priority 0; }' && : > /run/lab/tunneld.log");
        free(verify(""));
        expect_empty("log", lab_output("grep Mended /run/lab/tunneld.log"));
}

static void reserved_tunnel_is_kept_too(void **state) {
        _cleanup_(freep) char *pn = NULL, *mended = NULL;

        start_daemon(by_hand);
        pn = inspect("s1");
        lab_sh("ip -n wpod link del vxlan1");
        mended = verify("s1");
        assert_string_equal(mended, "'vxlan1' was gone");
        setup("s1");
        write_apf(pn);
        assert_int_equal(pod_network("setup"), 0);
        expect_traffic();
}

static void vanished_namespace_is_no_fault(void **state) {
        _cleanup_(freep) char *mended = NULL;

        start_daemon(by_hand);
        connect_pod();
        expect_error(call("Verify", NULL, "s", "s2"), "NotFound", "no tunnel");
        lab_sh("ip netns del wpod");
        expect_error(call("Verify", NULL, "s", "s1"), "NotFound", "namespace is gone");
        mended = verify("");
        assert_string_equal(mended, "");
        teardown("s1");
}

int main(int argc, char *argv[]) {
        struct CMUnitTest tests[ELEMENTSOF(break_cases) + 4] = {
                cmocka_unit_test_setup_teardown(tunnels_are_verified_from_time_to_time, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(flushed_firewall_is_mended_at_once, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(reserved_tunnel_is_kept_too, lab_setup, lab_teardown),
                cmocka_unit_test_setup_teardown(vanished_namespace_is_no_fault, lab_setup, lab_teardown),
        };

        for (size_t i = 0; i < ELEMENTSOF(break_cases); i++)
                tests[4 + i] = (struct CMUnitTest) { break_cases[i].name, what_is_broken_is_mended, lab_setup, lab_teardown,
                                                     (void*) &break_cases[i] };
        return rig_main(argc, argv, "tunnel-verify", tests, ELEMENTSOF(tests));
}
