/* SPDX-License-Identifier: Apache-2.0 */
/* The older iptables' tables, as getsockopt() gives them: struct ipt_getinfo and what lies behind it in struct ipt_get_entries. Seeds are a
 * kernel's own, for the rules of tunnel-probe-test.c. */
#include <net/if.h>
#include <netinet/in.h>
#include <linux/netfilter_ipv4/ip_tables.h>

#include "basic/strv.h"
#include "net/iptables.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(char **findings) {
        for (char **f = findings; f && *f; f++)
                for (const char *c = *f; *c; c++)
                        assert(*c >= ' ' && *c <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        FirewallPacket p = { .port = 4789, .vni = 555000, .ifindex = 2, .device = "enc0" };
        _cleanup_(freep) uint8_t *copy = NULL;
        struct ipt_getinfo info;
        IptablesTable t = { .name = "filter" };

        if (size < sizeof(info) || size > 65536)
                return 0;
        memcpy(&info, data, sizeof(info));
        size -= sizeof(info);
        copy = malloc(size + 1);                /* of its own, so that a sanitizer sees what is behind it */
        assert(copy);
        memcpy(copy, data + sizeof(info), size);
        t.hooks = info.valid_hooks;
        memcpy(t.hook_entry, info.hook_entry, sizeof(t.hook_entry));
        memcpy(t.underflow, info.underflow, sizeof(t.underflow));
        t.entries = copy;
        t.size = size;

        for (int incoming = 0; incoming <= 1; incoming++) {
                _cleanup_(strv_freep) char **found = NULL, **possible = NULL;
                int r;

                p.incoming = incoming;
                r = ip_address_parse("10.10.1.2", incoming ? &p.source : &p.destination);
                assert(r >= 0);
                r = iptables_find_drops_in(&t, &p, &found, &possible);
                assert(r >= 0 || r == -EBADMSG || r == -E2BIG);
                check(found);
                check(possible);
        }
        return 0;
}
