/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nf_tables' rules are small programs: expressions load parts of the packet into registers and compare them, the first that does not
 * match ends the rule, a verdict ends more. They are run here on a packet of which some bytes are known and some are not, so each
 * comparison has three results, and a rule matches certainly, perhaps, or not at all. What is not understood matches perhaps.
 */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <stdio.h>

#include "basic/strv.h"
#include "net/firewall-internal.h"

#define REGISTER_BYTES 80U              /* verdict's 16 and 16 of 4 bytes: linux: include/uapi/linux/netfilter/nf_tables.h */

typedef struct Bytes {
        uint8_t value[REGISTER_BYTES];
        bool known[REGISTER_BYTES];
} Bytes;

typedef struct Walk {
        const FirewallRuleset *set;
        const FirewallPacket *packet;
        const Chain *base;
        uint8_t network[20], transport[16];
        bool network_known[20], transport_known[16];
        Bytes registers;
        size_t steps;
        char ***certain, ***possible;
        int error;
} Walk;

/* A register number as in messages, to its place: 0 … 4 are of 16 bytes, 8 … of 4 (linux: net/netfilter/nf_tables_api.c). */
static bool register_place(uint32_t number, size_t size, size_t *ret) {
        size_t at;

        if (number <= NFT_REG_4)
                at = number * 16;
        else if (number >= NFT_REG32_00 && number <= NFT_REG32_15)
                at = 16 + (number - NFT_REG32_00) * 4;
        else
                return false;
        if (size > REGISTER_BYTES - at)
                return false;
        *ret = at;
        return true;
}

static bool get_register(struct nlattr *a, size_t size, size_t *ret) {
        uint32_t number;

        return firewall_get_be32(a, &number) && register_place(number, size, ret);
}

static void set_bytes(Walk *w, size_t at, const void *value, size_t size) {
        memcpy(w->registers.value + at, value, size);
        memset(w->registers.known + at, true, size);
}

static void set_unknown(Walk *w, size_t at, size_t size) {
        memset(w->registers.known + at, false, MIN(size, REGISTER_BYTES - at));
}

static Match run_payload(Walk *w, struct nlattr *data) {
        struct nlattr *a[NFTA_PAYLOAD_MAX + 1];
        uint32_t base, offset, size;
        const uint8_t *from;
        const bool *known;
        size_t at, limit;

        if (nla_parse_nested(a, NFTA_PAYLOAD_MAX, data, NULL) < 0 || !firewall_get_be32(a[NFTA_PAYLOAD_BASE], &base) ||
            !firewall_get_be32(a[NFTA_PAYLOAD_OFFSET], &offset) || !firewall_get_be32(a[NFTA_PAYLOAD_LEN], &size))
                return PERHAPS;
        if (!a[NFTA_PAYLOAD_DREG])
                return YES;             /* it writes to the packet */
        if (size > 16 || !get_register(a[NFTA_PAYLOAD_DREG], size, &at))
                return PERHAPS;

        from = base == NFT_PAYLOAD_NETWORK_HEADER ? w->network : w->transport;
        known = base == NFT_PAYLOAD_NETWORK_HEADER ? w->network_known : w->transport_known;
        limit = base == NFT_PAYLOAD_NETWORK_HEADER ? sizeof(w->network) : sizeof(w->transport);
        if (base != NFT_PAYLOAD_NETWORK_HEADER && base != NFT_PAYLOAD_TRANSPORT_HEADER)
                limit = 0;
        for (size_t i = 0; i < size; i++) {
                bool inside = offset < limit && offset + i < limit;

                w->registers.value[at + i] = inside ? from[offset + i] : 0;
                w->registers.known[at + i] = inside && known[offset + i];
        }
        return YES;
}

static Match run_meta(Walk *w, struct nlattr *data) {
        const FirewallPacket *p = w->packet;
        struct nlattr *a[NFTA_META_MAX + 1];
        uint8_t byte;
        uint32_t key, word;
        uint16_t half;
        size_t at;

        if (nla_parse_nested(a, NFTA_META_MAX, data, NULL) < 0 || !firewall_get_be32(a[NFTA_META_KEY], &key))
                return PERHAPS;
        if (!a[NFTA_META_DREG])
                return YES;
        if (!get_register(a[NFTA_META_DREG], IFNAMSIZ, &at))
                return PERHAPS;

        set_unknown(w, at, IFNAMSIZ);
        switch (key) {
        case NFT_META_L4PROTO:
                byte = IPPROTO_UDP;
                set_bytes(w, at, &byte, sizeof(byte));
                return YES;
        case NFT_META_NFPROTO:
                byte = NFPROTO_IPV4;
                set_bytes(w, at, &byte, sizeof(byte));
                return YES;
        case NFT_META_PROTOCOL:
                half = htons(ETH_P_IP);
                set_bytes(w, at, &half, sizeof(half));
                return YES;
        case NFT_META_MARK:             /* until somebody sets it, which the tables of containers do later */
                word = 0;
                set_bytes(w, at, &word, sizeof(word));
                return YES;
        case NFT_META_IIF:
        case NFT_META_OIF:
                word = (key == NFT_META_IIF) == p->incoming ? (uint32_t) p->ifindex : 0;
                if (p->ifindex > 0)
                        set_bytes(w, at, &word, sizeof(word));
                return YES;
        case NFT_META_IIFNAME:
        case NFT_META_OIFNAME: {
                char name[IFNAMSIZ] = {};

                if ((key == NFT_META_IIFNAME) == p->incoming)
                        memcpy(name, p->device, sizeof(name));
                if (p->device[0])
                        set_bytes(w, at, name, sizeof(name));
                return YES;
        }
        default:
                return YES;             /* with bytes that are not known */
        }
}

static Match run_ct(Walk *w, struct nlattr *data) {
        struct nlattr *a[NFTA_CT_MAX + 1];
        /* linux: include/uapi/linux/netfilter/nf_conntrack_common.h; our own rules switch tracking off at priority raw */
        uint32_t key, untracked = NF_CT_STATE_UNTRACKED_BIT;
        size_t at;

        if (nla_parse_nested(a, NFTA_CT_MAX, data, NULL) < 0 || !firewall_get_be32(a[NFTA_CT_KEY], &key))
                return PERHAPS;
        if (!a[NFTA_CT_DREG])
                return YES;
        if (key != NFT_CT_STATE)
                return NO;              /* there is no connection to have it: linux: net/netfilter/nft_ct.c, nft_ct_get_eval() */
        if (!get_register(a[NFTA_CT_DREG], sizeof(untracked), &at))
                return PERHAPS;
        set_bytes(w, at, &untracked, sizeof(untracked));
        return YES;
}

/* memcmp() where all that it depends on is known. */
static Match compare(const Walk *w, size_t at, const uint8_t *value, size_t size, uint32_t op) {
        bool all_known = true;
        int d;

        for (size_t i = 0; i < size; i++) {
                if (!w->registers.known[at + i]) {
                        all_known = false;
                        continue;
                }
                if (w->registers.value[at + i] != value[i] && (op == NFT_CMP_EQ || op == NFT_CMP_NEQ))
                        return op == NFT_CMP_EQ ? NO : YES;
        }
        if (!all_known)
                return PERHAPS;
        d = memcmp(w->registers.value + at, value, size);
        switch (op) {
        case NFT_CMP_EQ:  return d == 0 ? YES : NO;
        case NFT_CMP_NEQ: return d != 0 ? YES : NO;
        case NFT_CMP_LT:  return d < 0 ? YES : NO;
        case NFT_CMP_LTE: return d <= 0 ? YES : NO;
        case NFT_CMP_GT:  return d > 0 ? YES : NO;
        case NFT_CMP_GTE: return d >= 0 ? YES : NO;
        default:          return PERHAPS;
        }
}

static Match run_cmp(Walk *w, struct nlattr *data) {
        struct nlattr *a[NFTA_CMP_MAX + 1];
        uint8_t value[64];
        size_t at, size;
        uint32_t op;

        if (nla_parse_nested(a, NFTA_CMP_MAX, data, NULL) < 0 || !firewall_get_be32(a[NFTA_CMP_OP], &op) ||
            !firewall_get_data(a[NFTA_CMP_DATA], value, sizeof(value), &size) || !get_register(a[NFTA_CMP_SREG], size, &at))
                return PERHAPS;
        return compare(w, at, value, size, op);
}

static Match run_range(Walk *w, struct nlattr *data) {
        struct nlattr *a[NFTA_RANGE_MAX + 1];
        uint8_t from[64], to[64];
        size_t at, from_size, to_size;
        Match low, high, inside;
        uint32_t op;

        if (nla_parse_nested(a, NFTA_RANGE_MAX, data, NULL) < 0 || !firewall_get_be32(a[NFTA_RANGE_OP], &op) ||
            !firewall_get_data(a[NFTA_RANGE_FROM_DATA], from, sizeof(from), &from_size) ||
            !firewall_get_data(a[NFTA_RANGE_TO_DATA], to, sizeof(to), &to_size) || from_size != to_size ||
            !get_register(a[NFTA_RANGE_SREG], from_size, &at))
                return PERHAPS;
        low = compare(w, at, from, from_size, NFT_CMP_GTE);
        high = compare(w, at, to, to_size, NFT_CMP_LTE);
        inside = MIN(low, high);
        return op == NFT_RANGE_NEQ ? (Match) (YES - inside) : inside;
}

static Match run_bitwise(Walk *w, struct nlattr *data) {
        struct nlattr *a[NFTA_BITWISE_MAX + 1];
        uint8_t mask[64], xor[64];
        size_t from, to, size, xor_size;
        uint32_t op = NFT_BITWISE_BOOL;

        if (nla_parse_nested(a, NFTA_BITWISE_MAX, data, NULL) < 0)
                return PERHAPS;
        (void) firewall_get_be32(a[NFTA_BITWISE_OP], &op);
        if (op != NFT_BITWISE_BOOL || !firewall_get_data(a[NFTA_BITWISE_MASK], mask, sizeof(mask), &size) ||
            !firewall_get_data(a[NFTA_BITWISE_XOR], xor, sizeof(xor), &xor_size) || xor_size != size ||
            !get_register(a[NFTA_BITWISE_SREG], size, &from) || !get_register(a[NFTA_BITWISE_DREG], size, &to))
                return PERHAPS;
        for (size_t i = 0; i < size; i++) {
                bool known = w->registers.known[from + i] || mask[i] == 0;

                w->registers.value[to + i] = (uint8_t) ((w->registers.value[from + i] & mask[i]) ^ xor[i]);
                w->registers.known[to + i] = known;
        }
        return YES;
}

/* An element of a map may be a verdict. */
typedef struct Verdict {
        bool set;
        uint32_t code;
        char chain[FIREWALL_NAME_SIZE];
} Verdict;

static void take_verdict(const Element *e, Verdict *ret) {
        if (e->has_verdict) {
                *ret = (Verdict) { .set = true, .code = e->verdict };
                memcpy(ret->chain, e->chain, sizeof(ret->chain));
        }
}

/* Sets of intervals hold the first of each and the first behind it; the last element that is not above the key decides. */
static Match find_element(Walk *w, const Name *set, size_t at, Verdict *ret) {
        const Element *best = NULL, *catch_all = NULL;
        bool intervals = false;

        for (size_t i = 0; i < w->set->n_elements; i++) {
                const Element *e = w->set->elements + i;

                if (++w->steps > FIREWALL_STEPS_MAX)
                        return PERHAPS;
                if (!firewall_same(&e->set, set))
                        continue;
                if (e->is_range || e->key_size > REGISTER_BYTES - at)
                        return PERHAPS;
                if (e->catch_all) {
                        catch_all = e;
                        continue;
                }
                for (size_t k = 0; k < e->key_size; k++)
                        if (!w->registers.known[at + k])
                                return PERHAPS;
                intervals = intervals || e->interval_end;
                if (memcmp(e->key, w->registers.value + at, e->key_size) <= 0 &&
                    (!best || memcmp(e->key, best->key, e->key_size) >= 0))
                        best = e;
        }
        if (best && (intervals ? !best->interval_end : memcmp(best->key, w->registers.value + at, best->key_size) == 0)) {
                take_verdict(best, ret);
                return YES;
        }
        if (catch_all) {
                take_verdict(catch_all, ret);
                return YES;
        }
        return NO;
}

static Match run_lookup(Walk *w, const Rule *rule, struct nlattr *data, Verdict *ret) {
        struct nlattr *a[NFTA_LOOKUP_MAX + 1];
        Name set = { .family = rule->chain.family };
        uint32_t flags = 0, dreg = 0;
        size_t at;
        Match m;

        memcpy(set.table, rule->chain.table, sizeof(set.table));
        if (nla_parse_nested(a, NFTA_LOOKUP_MAX, data, NULL) < 0 || !firewall_get_text(a[NFTA_LOOKUP_SET], set.name) ||
            !get_register(a[NFTA_LOOKUP_SREG], 1, &at))
                return PERHAPS;
        (void) firewall_get_be32(a[NFTA_LOOKUP_FLAGS], &flags);
        m = find_element(w, &set, at, ret);
        if (firewall_get_be32(a[NFTA_LOOKUP_DREG], &dreg) && register_place(dreg, 1, &at) && dreg != NFT_REG_VERDICT)
                set_unknown(w, at, 64);
        return flags & NFT_LOOKUP_F_INV ? (Match) (YES - m) : m;
}

static Match run_immediate(Walk *w, struct nlattr *data, Verdict *ret) {
        struct nlattr *a[NFTA_IMMEDIATE_MAX + 1];
        uint8_t value[64];
        uint32_t number;
        size_t at, size;

        if (nla_parse_nested(a, NFTA_IMMEDIATE_MAX, data, NULL) < 0 || !firewall_get_be32(a[NFTA_IMMEDIATE_DREG], &number))
                return PERHAPS;
        if (number == NFT_REG_VERDICT) {
                ret->set = firewall_get_verdict(a[NFTA_IMMEDIATE_DATA], &ret->code, ret->chain);
                return YES;
        }
        if (!firewall_get_data(a[NFTA_IMMEDIATE_DATA], value, sizeof(value), &size) || !register_place(number, size, &at))
                return PERHAPS;
        set_bytes(w, at, value, size);
        return YES;
}

/* A match of iptables that nf_tables carries as it is. */
static Match run_xt_match(Walk *w, struct nlattr *data) {
        struct nlattr *a[NFTA_MATCH_MAX + 1];
        char name[FIREWALL_NAME_SIZE];

        if (nla_parse_nested(a, NFTA_MATCH_MAX, data, NULL) < 0 || !firewall_get_text(a[NFTA_MATCH_NAME], name) || !a[NFTA_MATCH_INFO])
                return PERHAPS;
        return firewall_xt_match(w->packet, name, nla_data(a[NFTA_MATCH_INFO]), (size_t) nla_len(a[NFTA_MATCH_INFO]));
}

static bool is_rejecting_target(struct nlattr *data) {
        struct nlattr *a[NFTA_TARGET_MAX + 1];
        char name[FIREWALL_NAME_SIZE];

        return nla_parse_nested(a, NFTA_TARGET_MAX, data, NULL) >= 0 && firewall_get_text(a[NFTA_TARGET_NAME], name) &&
                firewall_xt_target_drops(name);
}

/* Expressions that let every packet pass on, whatever else they do. */
static bool is_neutral(const char *name) {
        static const char *const names[] = { "counter", "log", "notrack", "objref", "dup", "nat", "masq", "redir", "last", "target" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (streq(name, names[i]))
                        return true;
        return false;
}

static Match run_rule(Walk *w, const Rule *rule, Verdict *ret) {
        struct nlattr *e, *data;
        char name[FIREWALL_NAME_SIZE];
        Match all = YES;
        int left;

        nla_for_each_nested(e, rule->expressions, left) {
                Match m = PERHAPS;

                if (!firewall_parse_expression(e, name, &data))
                        return PERHAPS;
                if (streq(name, "reject") || (streq(name, "target") && data && is_rejecting_target(data))) {
                        *ret = (Verdict) { .set = true, .code = NF_DROP };
                        return all;
                }
                if (is_neutral(name))
                        continue;
                if (!data)
                        m = PERHAPS;
                else if (streq(name, "payload"))
                        m = run_payload(w, data);
                else if (streq(name, "meta"))
                        m = run_meta(w, data);
                else if (streq(name, "ct"))
                        m = run_ct(w, data);
                else if (streq(name, "cmp"))
                        m = run_cmp(w, data);
                else if (streq(name, "range"))
                        m = run_range(w, data);
                else if (streq(name, "bitwise"))
                        m = run_bitwise(w, data);
                else if (streq(name, "lookup"))
                        m = run_lookup(w, rule, data, ret);
                else if (streq(name, "immediate"))
                        m = run_immediate(w, data, ret);
                else if (streq(name, "match"))
                        m = run_xt_match(w, data);
                else
                        memset(w->registers.known, false, sizeof(w->registers.known));
                all = MIN(all, m);
                if (all == NO)
                        return NO;
        }
        return all;
}

static const char* family_name(uint8_t family) {
        return family == NFPROTO_INET ? "inet" : "ip";
}

static const char* hook_name(uint32_t hook) {
        static const char *const names[] = { "prerouting", "input", "forward", "output", "postrouting" };

        return hook < ELEMENTSOF(names) ? names[hook] : "?";
}

static void add_finding(Walk *w, bool certain, const Name *chain, uint64_t handle) {
        char text[512];
        int r;

        if (strv_length(certain ? *w->certain : *w->possible) >= FIREWALL_FINDINGS_MAX)
                return;
        if (handle == 0)
                (void) snprintf(text, sizeof(text), "nftables: policy of table %s '%s', chain '%s' (hook %s) %s", family_name(chain->family),
                                chain->table, chain->name, hook_name(w->base->hook), certain ? "drops them, and no rule accepts them"
                                : "may drop them");
        else
                (void) snprintf(text, sizeof(text), "nftables: rule with handle %llu of table %s '%s', chain '%s' (hook %s) %s them",
                                (unsigned long long) handle, family_name(chain->family), chain->table, chain->name,
                                hook_name(w->base->hook), certain ? "drops" : "may drop");
        r = strv_extend(certain ? w->certain : w->possible, text);
        if (r < 0)
                w->error = r;
}

/* @sure: we got here for certain. */
static FirewallOutcome run_chain(Walk *w, const Name *chain, bool sure, unsigned depth) {
        FirewallOutcome end = GOES_ON;

        for (size_t i = 0; i < w->set->n_rules; i++) {
                const Rule *rule = w->set->rules + i;
                Verdict v = {};
                Name target;
                FirewallOutcome o;
                Match m;

                if (++w->steps > FIREWALL_STEPS_MAX)
                        return GOES_ON_PERHAPS;
                if (!firewall_same(&rule->chain, chain))
                        continue;
                memset(w->registers.known, false, sizeof(w->registers.known));
                m = run_rule(w, rule, &v);
                if (m == NO || !v.set)
                        continue;

                switch ((int32_t) v.code) {
                case NF_DROP:
                        add_finding(w, sure && end == GOES_ON && m == YES, chain, rule->handle);
                        if (m == YES)
                                return DROPPED;
                        break;
                case NF_ACCEPT:
                case NF_STOLEN:
                case NF_QUEUE:
                        if (m == YES)
                                return ACCEPTED;
                        end = GOES_ON_PERHAPS;
                        break;
                case NFT_RETURN:
                        if (m == YES)
                                return end;
                        end = GOES_ON_PERHAPS;
                        break;
                case NFT_JUMP:
                case NFT_GOTO:
                        target = *chain;
                        memcpy(target.name, v.chain, sizeof(target.name));
                        o = depth >= FIREWALL_DEPTH_MAX ? GOES_ON_PERHAPS : run_chain(w, &target, sure && end == GOES_ON && m == YES, depth + 1);
                        if (m == YES && (o == ACCEPTED || o == DROPPED))
                                return o;
                        if (o == ACCEPTED || o == GOES_ON_PERHAPS)
                                end = GOES_ON_PERHAPS;
                        if ((int32_t) v.code == NFT_GOTO && m == YES)
                                return end;
                        break;
                default:
                        break;
                }
        }
        return end;
}

static void prepare(Walk *w) {
        const FirewallPacket *p = w->packet;

        w->network[0] = 0x45;
        w->network_known[0] = true;
        w->network[9] = IPPROTO_UDP;
        w->network_known[9] = true;
        if (ip_address_is_set(&p->source)) {
                memcpy(w->network + 12, p->source.bytes, 4);
                memset(w->network_known + 12, true, 4);
        }
        if (ip_address_is_set(&p->destination)) {
                memcpy(w->network + 16, p->destination.bytes, 4);
                memset(w->network_known + 16, true, 4);
        }
        w->transport[2] = (uint8_t) (p->port >> 8);
        w->transport[3] = (uint8_t) p->port;
        w->transport[8] = 8;            /* RFC 7348, section 5 */
        w->transport[12] = (uint8_t) (p->vni >> 16);
        w->transport[13] = (uint8_t) (p->vni >> 8);
        w->transport[14] = (uint8_t) p->vni;
        for (size_t i = 2; i < sizeof(w->transport); i++)
                w->transport_known[i] = i < 4 || i >= 8;
}

static bool is_dormant(const FirewallRuleset *s, const Name *chain) {
        FOREACH_ELEMENT(const Name, n, s->dormant, s->n_dormant)
                if (n->family == chain->family && streq(n->table, chain->table))
                        return true;
        return false;
}

int firewall_find_drops(const FirewallRuleset *s, const FirewallPacket *p, char ***certain, char ***possible) {
        const uint32_t hooks = p->incoming ? BIT(NF_INET_PRE_ROUTING) | BIT(NF_INET_LOCAL_IN) :
                                             BIT(NF_INET_LOCAL_OUT) | BIT(NF_INET_POST_ROUTING);
        Walk w = { .set = s, .packet = p, .certain = certain, .possible = possible };

        prepare(&w);
        FOREACH_ELEMENT(const Chain, c, s->chains, s->n_chains) {
                FirewallOutcome o;

                if (!c->base || c->hook >= NF_INET_NUMHOOKS || !(hooks & BIT(c->hook)) || streq(c->name.table, "peerpod") ||
                    (c->name.family != NFPROTO_IPV4 && c->name.family != NFPROTO_INET) || is_dormant(s, &c->name))
                        continue;
                w.base = c;
                o = run_chain(&w, &c->name, true, 0);
                if (c->policy == NF_DROP && (o == GOES_ON || o == GOES_ON_PERHAPS))
                        add_finding(&w, o == GOES_ON, &c->name, 0);
        }
        return w.error;
}
