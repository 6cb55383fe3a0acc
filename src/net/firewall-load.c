/* SPDX-License-Identifier: Apache-2.0 */
/* nf_tables' rules as the kernel's messages have them. */
#include <arpa/inet.h>
#include <endian.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "net/firewall-internal.h"

/* Node agents write some ten thousand rules; more than this is not read, and said. */
#define ITEMS_MAX 100000U
#define BYTES_MAX (64U << 20)

int firewall_ruleset_new(FirewallRuleset **ret) {
        FirewallRuleset *s = new(FirewallRuleset);

        if (!s)
                return -ENOMEM;
        *s = (FirewallRuleset) {};
        *ret = s;
        return 0;
}

FirewallRuleset* firewall_ruleset_free(FirewallRuleset *s) {
        if (!s)
                return NULL;
        FOREACH_ELEMENT(Rule, r, s->rules, s->n_rules)
                free(r->expressions);
        free(s->chains);
        free(s->rules);
        free(s->elements);
        free(s->dormant);
        free(s->sets);
        free(s);
        return NULL;
}

bool firewall_get_text(struct nlattr *a, char ret[static FIREWALL_NAME_SIZE]) {
        if (!a)
                return false;
        (void) nla_strlcpy(ret, a, FIREWALL_NAME_SIZE);
        for (char *p = ret; *p; p++)
                if (*p < ' ' || *p > '~')
                        *p = '?';
        return true;
}

bool firewall_get_be32(struct nlattr *a, uint32_t *ret) {
        if (!a || nla_len(a) < (int) sizeof(uint32_t))
                return false;
        *ret = ntohl(nla_get_u32(a));
        return true;
}

bool firewall_same(const Name *a, const Name *b) {
        return a->family == b->family && streq(a->table, b->table) && streq(a->name, b->name);
}

bool firewall_parse_expression(struct nlattr *e, char name[static FIREWALL_NAME_SIZE], struct nlattr **ret_data) {
        struct nlattr *a[NFTA_EXPR_MAX + 1];

        if (nla_parse_nested(a, NFTA_EXPR_MAX, e, NULL) < 0 || !firewall_get_text(a[NFTA_EXPR_NAME], name))
                return false;
        *ret_data = a[NFTA_EXPR_DATA];
        return true;
}

bool firewall_get_data(struct nlattr *nest, uint8_t *ret, size_t max, size_t *ret_size) {
        struct nlattr *a[NFTA_DATA_MAX + 1];

        if (!nest || nla_parse_nested(a, NFTA_DATA_MAX, nest, NULL) < 0 || !a[NFTA_DATA_VALUE] ||
            (size_t) nla_len(a[NFTA_DATA_VALUE]) > max)
                return false;
        *ret_size = (size_t) nla_len(a[NFTA_DATA_VALUE]);
        memcpy(ret, nla_data(a[NFTA_DATA_VALUE]), *ret_size);
        return true;
}

bool firewall_get_verdict(struct nlattr *nest, uint32_t *ret, char chain[static FIREWALL_NAME_SIZE]) {
        struct nlattr *a[NFTA_DATA_MAX + 1], *v[NFTA_VERDICT_MAX + 1];

        if (!nest || nla_parse_nested(a, NFTA_DATA_MAX, nest, NULL) < 0 || !a[NFTA_DATA_VERDICT] ||
            nla_parse_nested(v, NFTA_VERDICT_MAX, a[NFTA_DATA_VERDICT], NULL) < 0 || !firewall_get_be32(v[NFTA_VERDICT_CODE], ret))
                return false;
        (void) firewall_get_text(v[NFTA_VERDICT_CHAIN], chain);
        return true;
}

static int add_table(FirewallRuleset *s, uint8_t family, struct nlattr *a[]) {
        Name n = { .family = family };
        uint32_t flags = 0;
        int r;

        if (!firewall_get_text(a[NFTA_TABLE_NAME], n.table) || !firewall_get_be32(a[NFTA_TABLE_FLAGS], &flags) || !(flags & NFT_TABLE_F_DORMANT))
                return 0;
        r = grow_array(&s->dormant, s->n_dormant, ITEMS_MAX, sizeof(n));
        if (r >= 0)
                s->dormant[s->n_dormant++] = n;
        return r;
}

static int add_chain(FirewallRuleset *s, uint8_t family, struct nlattr *a[]) {
        Chain c = { .name.family = family, .policy = NF_ACCEPT };
        struct nlattr *h[NFTA_HOOK_MAX + 1];
        uint32_t priority = 0;
        int r;

        if (!firewall_get_text(a[NFTA_CHAIN_TABLE], c.name.table) || !firewall_get_text(a[NFTA_CHAIN_NAME], c.name.name))
                return 0;
        if (a[NFTA_CHAIN_HOOK] && nla_parse_nested(h, NFTA_HOOK_MAX, a[NFTA_CHAIN_HOOK], NULL) >= 0 &&
            firewall_get_be32(h[NFTA_HOOK_HOOKNUM], &c.hook)) {
                c.base = true;
                (void) firewall_get_be32(h[NFTA_HOOK_PRIORITY], &priority);
                c.priority = (int32_t) priority;
                (void) firewall_get_be32(a[NFTA_CHAIN_POLICY], &c.policy);
        }
        r = grow_array(&s->chains, s->n_chains, ITEMS_MAX, sizeof(c));
        if (r >= 0)
                s->chains[s->n_chains++] = c;
        return r;
}

/* Remember each set that is asked, once. */
static int note_sets(FirewallRuleset *s, const Rule *rule) {
        struct nlattr *e, *data, *a[NFTA_LOOKUP_MAX + 1];
        char name[FIREWALL_NAME_SIZE];
        int left, r;

        nla_for_each_nested(e, rule->expressions, left) {
                Name set = { .family = rule->chain.family };
                bool known = false;

                if (!firewall_parse_expression(e, name, &data) || !streq(name, "lookup") || !data ||
                    nla_parse_nested(a, NFTA_LOOKUP_MAX, data, NULL) < 0 || !firewall_get_text(a[NFTA_LOOKUP_SET], set.name))
                        continue;
                memcpy(set.table, rule->chain.table, sizeof(set.table));
                for (size_t i = s->n_sets; !known && i > 0; i--)        /* mostly the last one */
                        known = firewall_same(s->sets + i - 1, &set);
                if (known)
                        continue;
                r = grow_array(&s->sets, s->n_sets, ITEMS_MAX, sizeof(set));
                if (r < 0)
                        return r;
                s->sets[s->n_sets++] = set;
        }
        return 0;
}

static int add_rule(FirewallRuleset *s, uint8_t family, struct nlattr *a[]) {
        Rule rule = { .chain.family = family };
        size_t size;
        int r;

        if (!firewall_get_text(a[NFTA_RULE_TABLE], rule.chain.table) || !firewall_get_text(a[NFTA_RULE_CHAIN], rule.chain.name) ||
            !a[NFTA_RULE_EXPRESSIONS] || streq(rule.chain.table, "peerpod"))
                return 0;
        if (a[NFTA_RULE_HANDLE] && nla_len(a[NFTA_RULE_HANDLE]) >= (int) sizeof(uint64_t)) {
                uint64_t v;

                memcpy(&v, nla_data(a[NFTA_RULE_HANDLE]), sizeof(v));
                rule.handle = be64toh(v);
        }
        size = a[NFTA_RULE_EXPRESSIONS]->nla_len;
        s->bytes += size;
        if (s->bytes > BYTES_MAX)
                return -E2BIG;
        r = grow_array(&s->rules, s->n_rules, ITEMS_MAX, sizeof(rule));
        if (r < 0)
                return r;
        rule.expressions = malloc(size);
        if (!rule.expressions)
                return -ENOMEM;
        memcpy(rule.expressions, a[NFTA_RULE_EXPRESSIONS], size);
        s->rules[s->n_rules++] = rule;
        return note_sets(s, s->rules + s->n_rules - 1);
}

static int add_elements(FirewallRuleset *s, uint8_t family, struct nlattr *a[]) {
        Name set = { .family = family };
        struct nlattr *i;
        int left, r;

        if (!firewall_get_text(a[NFTA_SET_ELEM_LIST_TABLE], set.table) || !firewall_get_text(a[NFTA_SET_ELEM_LIST_SET], set.name) ||
            !a[NFTA_SET_ELEM_LIST_ELEMENTS])
                return 0;
        nla_for_each_nested(i, a[NFTA_SET_ELEM_LIST_ELEMENTS], left) {
                struct nlattr *v[NFTA_SET_ELEM_MAX + 1];
                Element e = { .set = set };
                uint32_t flags = 0;

                if (nla_parse_nested(v, NFTA_SET_ELEM_MAX, i, NULL) < 0)
                        return -EBADMSG;
                (void) firewall_get_be32(v[NFTA_SET_ELEM_FLAGS], &flags);
                e.interval_end = flags & NFT_SET_ELEM_INTERVAL_END;
                e.catch_all = flags & NFT_SET_ELEM_CATCHALL;
                e.is_range = v[NFTA_SET_ELEM_KEY_END];
                e.has_verdict = firewall_get_verdict(v[NFTA_SET_ELEM_DATA], &e.verdict, e.chain);
                if (!e.catch_all && !firewall_get_data(v[NFTA_SET_ELEM_KEY], e.key, sizeof(e.key), &e.key_size))
                        continue;
                r = grow_array(&s->elements, s->n_elements, ITEMS_MAX, sizeof(e));
                if (r < 0)
                        return r;
                s->elements[s->n_elements++] = e;
        }
        return 0;
}

int firewall_ruleset_add(FirewallRuleset *s, const struct nlmsghdr *h) {
        static const struct {
                uint16_t type;
                int max;
                int (*add)(FirewallRuleset *s, uint8_t family, struct nlattr *a[]);
        } kinds[] = {
                { NFT_MSG_NEWTABLE,   NFTA_TABLE_MAX,         add_table },
                { NFT_MSG_NEWCHAIN,   NFTA_CHAIN_MAX,         add_chain },
                { NFT_MSG_NEWRULE,    NFTA_RULE_MAX,          add_rule },
                { NFT_MSG_NEWSETELEM, NFTA_SET_ELEM_LIST_MAX, add_elements },
        };
        const struct nfgenmsg *g = nlmsg_data(h);
        struct nlattr *a[32];

        if (nlmsg_datalen(h) < (int) sizeof(*g) || h->nlmsg_type >> 8 != NFNL_SUBSYS_NFTABLES)
                return 0;
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++) {
                assert((size_t) kinds[i].max < ELEMENTSOF(a));
                if ((h->nlmsg_type & 0xff) != kinds[i].type)
                        continue;
                if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*g), a, kinds[i].max, NULL) < 0)
                        return -EBADMSG;
                return kinds[i].add(s, g->nfgen_family, a);
        }
        return 0;
}

/* ---- from the kernel ---- */

static int on_message(const struct nlmsghdr *h, void *userdata) {
        return firewall_ruleset_add(userdata, h);
}

static void keep_all(void *userdata) {
        /* A dump that is taken again adds what it had once more, which finds the same drops. */
}

static int dump(FirewallRuleset *s, Netlink *nft, uint16_t type, const Name *set) {
        struct nfgenmsg g = { .nfgen_family = set ? set->family : NFPROTO_UNSPEC, .version = NFNETLINK_V0 };
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r;

        r = netlink_message((uint16_t) (NFNL_SUBSYS_NFTABLES << 8 | type), 0, &g, sizeof(g), &m);
        if (r < 0)
                return r;
        if (set && (nla_put_string(m, NFTA_SET_ELEM_LIST_TABLE, set->table) < 0 || nla_put_string(m, NFTA_SET_ELEM_LIST_SET, set->name) < 0))
                return -ENOMEM;
        return netlink_dump(nft, m, keep_all, on_message, s);
}

int firewall_ruleset_load(FirewallRuleset *s, Netlink *nft) {
        static const uint16_t types[] = { NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE };

        for (size_t i = 0; i < ELEMENTSOF(types); i++) {
                int r = dump(s, nft, types[i], NULL);

                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < s->n_sets; i++) {
                int r = dump(s, nft, NFT_MSG_GETSETELEM, s->sets + i);

                if (r < 0 && r != -ENOENT)      /* it went meanwhile */
                        return r;
        }
        return 0;
}
