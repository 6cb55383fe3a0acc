/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the firewall's diagnosis share: firewall-load.c reads nf_tables' messages, firewall.c walks what was read, firewall-xt.c
 * knows iptables' matches, and iptables.c walks the tables of the older iptables. */
#pragma once

#include <netlink/attr.h>
#include <stdbool.h>

#include "net/firewall.h"

#define FIREWALL_NAME_SIZE 128U         /* NFT_NAME_MAXLEN is 256; longer ones are cut in what is said */
#define FIREWALL_DEPTH_MAX 16U          /* linux: include/net/netfilter/nf_tables.h, NFT_JUMP_STACK_SIZE */
/* Rules and elements that one walk looks at: chains that jump to chains can be many more than there are rules. Then it gives up. */
#define FIREWALL_STEPS_MAX 20000000U
#define FIREWALL_FINDINGS_MAX 8U

typedef enum Match { NO, PERHAPS, YES } Match;

typedef struct Name {
        uint8_t family;
        char table[FIREWALL_NAME_SIZE], name[FIREWALL_NAME_SIZE];         /* of a chain or set */
} Name;

typedef struct Chain {
        Name name;
        bool base;
        uint32_t hook, policy;
        int32_t priority;
} Chain;

typedef struct Rule {
        Name chain;
        uint64_t handle;
        struct nlattr *expressions;     /* owned; the nest */
} Rule;

typedef struct Element {
        Name set;
        uint8_t key[64];
        size_t key_size;
        bool interval_end, catch_all, is_range;
        bool has_verdict;
        uint32_t verdict;
        char chain[FIREWALL_NAME_SIZE];
} Element;

struct FirewallRuleset {
        Chain *chains;
        Rule *rules;
        Element *elements;
        Name *dormant, *sets;           /* tables that are switched off; sets that rules ask */
        size_t n_chains, n_rules, n_elements, n_dormant, n_sets;
        size_t bytes;
};

/* GOES_ON_PERHAPS: something that is not understood may have accepted it before. */
typedef enum FirewallOutcome { GOES_ON, GOES_ON_PERHAPS, ACCEPTED, DROPPED } FirewallOutcome;

/* Attributes as they come from the kernel. False: not there, or not of that form. Texts are made printable. */
bool firewall_get_text(struct nlattr *a, char ret[static FIREWALL_NAME_SIZE]);
bool firewall_get_be32(struct nlattr *a, uint32_t *ret);
bool firewall_get_data(struct nlattr *nest, uint8_t *ret, size_t max, size_t *ret_size);
bool firewall_get_verdict(struct nlattr *nest, uint32_t *ret, char chain[static FIREWALL_NAME_SIZE]);

/* firewall_parse_expression() - name and attributes of one expression of a rule */
bool firewall_parse_expression(struct nlattr *e, char name[static FIREWALL_NAME_SIZE], struct nlattr **ret_data);

bool firewall_same(const Name *a, const Name *b);

/* firewall_xt_match() - what one of iptables' matches says of a packet; @info: its data, of @size bytes */
Match firewall_xt_match(const FirewallPacket *p, const char *name, const void *info, size_t size);
bool firewall_xt_target_drops(const char *name);
