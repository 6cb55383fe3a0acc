/* SPDX-License-Identifier: Apache-2.0 */
/* Dumps of nf_tables, and the walk through them. Seeds are the kernel's own messages for the rules of tunnel-probe-test.c. */
#include "basic/strv.h"
#include "net/firewall.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(char **findings) {
        for (char **f = findings; f && *f; f++)
                for (const char *c = *f; *c; c++)
                        assert(*c >= ' ' && *c <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(firewall_ruleset_freep) FirewallRuleset *s = NULL;
        _cleanup_(freep) uint8_t *copy = NULL;
        FirewallPacket p = { .port = 4789, .vni = 555000, .ifindex = 2, .device = "enc0" };
        int r, left = (int) size;

        if (size > 65536)
                return 0;
        copy = malloc(size + 1);
        assert(copy);
        memcpy(copy, data, size);
        r = firewall_ruleset_new(&s);
        assert(r >= 0);
        for (struct nlmsghdr *h = (struct nlmsghdr*) copy; nlmsg_ok(h, left); h = nlmsg_next(h, &left)) {
                r = firewall_ruleset_add(s, h);
                if (r < 0) {
                        assert(r == -EBADMSG || r == -E2BIG);
                        break;
                }
        }

        for (int incoming = 0; incoming <= 1; incoming++) {
                _cleanup_(strv_freep) char **found = NULL, **possible = NULL;

                p.incoming = incoming;
                r = ip_address_parse("10.10.1.2", incoming ? &p.source : &p.destination);
                assert(r >= 0);
                r = firewall_find_drops(s, &p, &found, &possible);
                assert(r >= 0);
                check(found);
                check(possible);
        }
        return 0;
}
