/* SPDX-License-Identifier: Apache-2.0 */
/* Which rules of the older iptables ("iptables-legacy") would drop a packet. They are no part of nf_tables: each table is one block of the
 * kernel's memory, which is walked here as net/firewall.h walks nf_tables. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "net/firewall.h"

#define IPTABLES_HOOKS 5U

typedef struct IptablesTable {
        char name[32];
        uint32_t hooks;                         /* bits, of those that it is at */
        uint32_t hook_entry[IPTABLES_HOOKS];    /* offset of the first rule there */
        uint32_t underflow[IPTABLES_HOOKS];     /* and of its policy */
        const uint8_t *entries;                 /* linux: include/uapi/linux/netfilter_ipv4/ip_tables.h, struct ipt_entry */
        size_t size;
} IptablesTable;

/**
 * iptables_find_drops_in() - what one table does with @p
 * @certain, @possible: strvs that a sentence for each finding is added to
 *
 * Returns 0, -EBADMSG (no table of rules), -E2BIG, -ENOMEM.
 */
int iptables_find_drops_in(const IptablesTable *t, const FirewallPacket *p, char ***certain, char ***possible);

/* iptables_find_drops() - the same for all tables of the calling thread's network namespace; none where the kernel has no such tables */
int iptables_find_drops(const FirewallPacket *p, char ***certain, char ***possible);
