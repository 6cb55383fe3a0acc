/* SPDX-License-Identifier: Apache-2.0 */
/* How large packets may be, and who is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "netlab.h"
#include "tunnel-rig.h"

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
                cmocka_unit_test_setup_teardown(mtu_follows_the_underlay, lab_setup, lab_teardown),
        };

        return rig_main(argc, argv, "tunnel-mtu", tests, ELEMENTSOF(tests));
}
