/* SPDX-License-Identifier: Apache-2.0 */
#include "net/nft.h"

#include <endian.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter_ipv4.h>
#include <netinet/in.h>

/*
 * As "nft list table ip peerpod" shows it:
 *
 *      set peers   { type ipv4_addr . inet_service; elements = { 10.10.1.2 . 4789 } }
 *      set vnis    { typeof udp dport . @th,96,24; elements = { 4789 . 555000 } }
 *      set tunnels { typeof udp dport . @th,96,24 . ip saddr; elements = { 4789 . 555000 . 10.10.1.2 } }
 *      chain prerouting { type filter hook prerouting priority raw; ip saddr . udp dport @peers notrack }
 *      chain output     { type filter hook output priority raw; ip daddr . udp dport @peers notrack }
 *      chain input      { type filter hook input priority raw;
 *                         udp dport . @th,96,24 @vnis udp dport . @th,96,24 . ip saddr != @tunnels counter drop }
 *
 * notrack: the outer source port varies with the inner flow and both directions have the same destination port, so that
 * connection tracking would see each packet as a new flow that is never answered.
 *
 * The guard compares port, VNI and source at the input hook and not at prerouting, because fragments are put together in
 * between: a first fragment of 8 bytes ends before the VNI, and no rule would match any of the pieces. VNIs of other tunnels on
 * the same port (those of the cluster's network) are not in "vnis" and pass.
 */
#define TABLE "peerpod"
#define PORT_OFFSET 2U                  /* in the UDP header */
#define VNI_OFFSET 12U                  /* UDP header 8, VXLAN flags 4 (RFC 7348, section 5) */
#define SADDR_OFFSET 12U
#define DADDR_OFFSET 16U
/* Elements of one message; each takes some 30 bytes in it. */
#define ELEMENTS_MAX 64U

enum { SET_PEERS = 1, SET_VNIS, SET_TUNNELS };

typedef struct Batch {
        uint8_t *data;
        size_t size, allocated;
        size_t last;                    /* offset of the last message */
        int error;
} Batch;

static void batch_done(Batch *b) {
        free(b->data);
}

static void batch_append(Batch *b, struct nl_msg *m) {
        size_t size = NLMSG_ALIGN(nlmsg_hdr(m)->nlmsg_len);

        if (b->error < 0)
                return;
        if (b->allocated - b->size < size) {
                size_t wanted = (b->allocated + size) * 2;
                uint8_t *p = realloc(b->data, wanted);

                if (!p) {
                        b->error = -ENOMEM;
                        return;
                }
                b->data = p;
                b->allocated = wanted;
        }
        memset(b->data + b->size, 0, size);
        memcpy(b->data + b->size, nlmsg_hdr(m), nlmsg_hdr(m)->nlmsg_len);
        b->last = b->size;
        b->size += size;
}

/* Start and end of the transaction. */
static void batch_mark(Batch *b, uint16_t type) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct nfgenmsg g = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(NFNL_SUBSYS_NFTABLES) };

        if (netlink_message(type, NLM_F_REQUEST, &g, sizeof(g), &m) < 0)
                b->error = -ENOMEM;
        else
                batch_append(b, m);
}

static struct nl_msg* table_message(uint16_t type, uint16_t flags, int table_attribute) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct nfgenmsg g = { .nfgen_family = NFPROTO_IPV4, .version = NFNETLINK_V0 };

        if (netlink_message((uint16_t) (NFNL_SUBSYS_NFTABLES << 8 | type), NLM_F_REQUEST|flags, &g, sizeof(g), &m) < 0 ||
            nla_put_string(m, table_attribute, TABLE) < 0)
                return NULL;
        return TAKE_PTR(m);
}

static void batch_add(Batch *b, struct nl_msg *m, int r) {
        if (!m || r < 0)
                b->error = -ENOMEM;
        else
                batch_append(b, m);
}

static void add_table(Batch *b, uint16_t type, uint16_t flags) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = table_message(type, flags, NFTA_TABLE_NAME);

        batch_add(b, m, 0);
}

static int put_be32(struct nl_msg *m, int type, uint32_t v) {
        return nla_put_u32(m, type, htonl(v));
}

/*
 * The types of the fields, which the kernel keeps for nft to print a set by (nftables: src/payload.c; libnftnl: src/udata.c):
 * type, length, value, nested, 32-bit values in the host's order. Taken from what nft 1.1.3 sends for the "typeof" lines above.
 */
#if __BYTE_ORDER == __LITTLE_ENDIAN
#define U32(v) (v), 0, 0, 0
#else
#define U32(v) 0, 0, 0, (v)
#endif
#define UDATA_KNOWN(i, protocol, field) (i), 20, 0, 4, U32(7), 1, 12, 0, 4, U32(protocol), 1, 4, U32(field)
#define UDATA_UDP_DPORT(i) UDATA_KNOWN(i, 6, 2)
#define UDATA_IP_SADDR(i) UDATA_KNOWN(i, 12, 11)
#define UDATA_VNI(i) \
        (i), 38, 0, 4, U32(7), 1, 30, 0, 4, U32(0), 1, 4, U32(2), 2, 4, U32(3), 3, 4, U32(VNI_OFFSET * 8), 4, 4, U32(24)
#define UDATA_CONCAT(size, ...) 0, 4, U32(0), 3, (size) + 8, 0, 4, U32(13), 1, (size), __VA_ARGS__

static const uint8_t vnis_user_data[] = { UDATA_CONCAT(62, UDATA_UDP_DPORT(0), UDATA_VNI(1)) };
static const uint8_t tunnels_user_data[] = { UDATA_CONCAT(84, UDATA_UDP_DPORT(0), UDATA_VNI(1), UDATA_IP_SADDR(2)) };

typedef struct SetType {
        const char *name;
        uint32_t id, key_type, key_size;
        const uint8_t *user_data;
        int user_data_size;
} SetType;

/* Key types: six bits for each field (nftables: include/datatype.h: integer 4, ipv4_addr 7, inet_service 13). Each field begins
 * a 32-bit register. */
static const SetType set_types[] = {
        { "peers",   SET_PEERS,   7 << 6 | 13,           8,  NULL,              0 },
        { "vnis",    SET_VNIS,    13 << 6 | 4,           8,  vnis_user_data,    sizeof(vnis_user_data) },
        { "tunnels", SET_TUNNELS, 13 << 12 | 4 << 6 | 7, 12, tunnels_user_data, sizeof(tunnels_user_data) },
};

static void add_set(Batch *b, const SetType *t) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = table_message(NFT_MSG_NEWSET, NLM_F_CREATE, NFTA_SET_TABLE);
        int r = 0;

        if (!m || nla_put_string(m, NFTA_SET_NAME, t->name) < 0 ||
            put_be32(m, NFTA_SET_FLAGS, 0) < 0 ||
            put_be32(m, NFTA_SET_KEY_TYPE, t->key_type) < 0 ||
            put_be32(m, NFTA_SET_KEY_LEN, t->key_size) < 0 ||
            put_be32(m, NFTA_SET_ID, t->id) < 0 ||
            (t->user_data && nla_put(m, NFTA_SET_USERDATA, t->user_data_size, t->user_data) < 0))
                r = -ENOMEM;
        batch_add(b, m, r);
}

static size_t write_key(const NftTunnel *t, uint32_t set, uint8_t *key) {
        uint8_t port[4] = { (uint8_t) (t->port >> 8), (uint8_t) t->port };
        uint8_t vni[4] = { (uint8_t) (t->vni >> 16), (uint8_t) (t->vni >> 8), (uint8_t) t->vni };

        if (set == SET_PEERS) {
                memcpy(key, t->peer.bytes, 4);
                memcpy(key + 4, port, 4);
                return 8;
        }

        memcpy(key, port, 4);
        memcpy(key + 4, vni, 4);
        if (set == SET_VNIS)
                return 8;
        memcpy(key + 8, t->peer.bytes, 4);
        return 12;
}

static int put_elements(struct nl_msg *m, const SetType *t, const NftTunnel *tunnels, size_t n) {
        struct nlattr *list, *element, *data;

        if (nla_put_string(m, NFTA_SET_ELEM_LIST_SET, t->name) < 0 ||
            !(list = nla_nest_start(m, NFTA_SET_ELEM_LIST_ELEMENTS)))
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                uint8_t key[12];
                size_t size = write_key(tunnels + i, t->id, key);

                if (!(element = nla_nest_start(m, NFTA_LIST_ELEM)) ||
                    !(data = nla_nest_start(m, NFTA_SET_ELEM_KEY)) ||
                    nla_put(m, NFTA_DATA_VALUE, (int) size, key) < 0)
                        return -ENOMEM;
                nla_nest_end(m, data);
                nla_nest_end(m, element);
        }
        nla_nest_end(m, list);
        return 0;
}

static void add_elements(Batch *b, uint16_t type, const SetType *t, const NftTunnel *tunnels, size_t n) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = table_message(type, type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0,
                                                                 NFTA_SET_ELEM_LIST_TABLE);

        batch_add(b, m, !m || put_be32(m, NFTA_SET_ELEM_LIST_SET_ID, t->id) < 0 || put_elements(m, t, tunnels, n) < 0 ? -ENOMEM : 0);
}

static void add_chain(Batch *b, const char *name, uint32_t hook) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = table_message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, NFTA_CHAIN_TABLE);
        struct nlattr *h = NULL;
        int r = 0;

        if (!m || nla_put_string(m, NFTA_CHAIN_NAME, name) < 0 ||
            nla_put_string(m, NFTA_CHAIN_TYPE, "filter") < 0 ||
            put_be32(m, NFTA_CHAIN_POLICY, NF_ACCEPT) < 0 ||
            !(h = nla_nest_start(m, NFTA_CHAIN_HOOK)) ||
            put_be32(m, NFTA_HOOK_HOOKNUM, hook) < 0 ||
            put_be32(m, NFTA_HOOK_PRIORITY, (uint32_t) NF_IP_PRI_RAW) < 0)
                r = -ENOMEM;
        else
                nla_nest_end(m, h);
        batch_add(b, m, r);
}

/* A rule under construction: its list of expressions. */
typedef struct Rule {
        struct nl_msg *m;
        struct nlattr *expressions, *expression, *data;
        int r;
} Rule;

static void rule_begin(Rule *rule, const char *chain) {
        *rule = (Rule) { .m = table_message(NFT_MSG_NEWRULE, NLM_F_CREATE|NLM_F_APPEND, NFTA_RULE_TABLE) };
        if (!rule->m || nla_put_string(rule->m, NFTA_RULE_CHAIN, chain) < 0 ||
            !(rule->expressions = nla_nest_start(rule->m, NFTA_RULE_EXPRESSIONS)))
                rule->r = -ENOMEM;
}

static void rule_end(Rule *rule, Batch *b) {
        if (rule->r >= 0)
                nla_nest_end(rule->m, rule->expressions);
        batch_add(b, rule->m, rule->r);
        if (rule->m)
                nlmsg_free(rule->m);
}

static bool expression_begin(Rule *rule, const char *name) {
        if (rule->r < 0)
                return false;
        if (!(rule->expression = nla_nest_start(rule->m, NFTA_LIST_ELEM)) ||
            nla_put_string(rule->m, NFTA_EXPR_NAME, name) < 0 ||
            !(rule->data = nla_nest_start(rule->m, NFTA_EXPR_DATA)))
                rule->r = -ENOMEM;
        return rule->r >= 0;
}

static void expression_end(Rule *rule, bool good) {
        if (!good)
                rule->r = -ENOMEM;
        if (rule->r < 0)
                return;
        nla_nest_end(rule->m, rule->data);
        nla_nest_end(rule->m, rule->expression);
}

static void match_udp(Rule *rule) {
        uint8_t udp = IPPROTO_UDP;
        struct nlattr *data;

        if (expression_begin(rule, "meta"))
                expression_end(rule, put_be32(rule->m, NFTA_META_DREG, NFT_REG_1) >= 0 &&
                               put_be32(rule->m, NFTA_META_KEY, NFT_META_L4PROTO) >= 0);
        if (expression_begin(rule, "cmp")) {
                bool good = put_be32(rule->m, NFTA_CMP_SREG, NFT_REG_1) >= 0 &&
                        put_be32(rule->m, NFTA_CMP_OP, NFT_CMP_EQ) >= 0 &&
                        (data = nla_nest_start(rule->m, NFTA_CMP_DATA)) &&
                        nla_put(rule->m, NFTA_DATA_VALUE, sizeof(udp), &udp) >= 0;

                if (good)
                        nla_nest_end(rule->m, data);
                expression_end(rule, good);
        }
}

/* A header field into the @i-th 32-bit register. */
static void load(Rule *rule, uint32_t i, uint32_t base, uint32_t offset, uint32_t size) {
        if (expression_begin(rule, "payload"))
                expression_end(rule, put_be32(rule->m, NFTA_PAYLOAD_DREG, NFT_REG32_00 + i) >= 0 &&
                               put_be32(rule->m, NFTA_PAYLOAD_BASE, base) >= 0 &&
                               put_be32(rule->m, NFTA_PAYLOAD_OFFSET, offset) >= 0 &&
                               put_be32(rule->m, NFTA_PAYLOAD_LEN, size) >= 0);
}

static void match_set(Rule *rule, const SetType *t, bool inverse) {
        if (expression_begin(rule, "lookup"))
                expression_end(rule, nla_put_string(rule->m, NFTA_LOOKUP_SET, t->name) >= 0 &&
                               put_be32(rule->m, NFTA_LOOKUP_SREG, NFT_REG32_00) >= 0 &&
                               put_be32(rule->m, NFTA_LOOKUP_SET_ID, t->id) >= 0 &&
                               put_be32(rule->m, NFTA_LOOKUP_FLAGS, inverse ? NFT_LOOKUP_F_INV : 0) >= 0);
}

static void act(Rule *rule, const char *name) {
        if (expression_begin(rule, name))
                expression_end(rule, true);
}

static void drop(Rule *rule) {
        struct nlattr *data, *verdict;

        if (expression_begin(rule, "immediate")) {
                bool good = put_be32(rule->m, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT) >= 0 &&
                        (data = nla_nest_start(rule->m, NFTA_IMMEDIATE_DATA)) &&
                        (verdict = nla_nest_start(rule->m, NFTA_DATA_VERDICT)) &&
                        put_be32(rule->m, NFTA_VERDICT_CODE, NF_DROP) >= 0;

                if (good) {
                        nla_nest_end(rule->m, verdict);
                        nla_nest_end(rule->m, data);
                }
                expression_end(rule, good);
        }
}

static void add_notrack(Batch *b, const char *chain, uint32_t address_offset) {
        Rule rule;

        rule_begin(&rule, chain);
        match_udp(&rule);
        load(&rule, 0, NFT_PAYLOAD_NETWORK_HEADER, address_offset, 4);
        load(&rule, 1, NFT_PAYLOAD_TRANSPORT_HEADER, PORT_OFFSET, 2);
        match_set(&rule, &set_types[0], false);
        act(&rule, "notrack");
        rule_end(&rule, b);
}

static void add_guard(Batch *b) {
        Rule rule;

        rule_begin(&rule, "input");
        match_udp(&rule);
        load(&rule, 0, NFT_PAYLOAD_TRANSPORT_HEADER, PORT_OFFSET, 2);
        load(&rule, 1, NFT_PAYLOAD_TRANSPORT_HEADER, VNI_OFFSET, 3);
        match_set(&rule, &set_types[1], false);
        load(&rule, 0, NFT_PAYLOAD_TRANSPORT_HEADER, PORT_OFFSET, 2);
        load(&rule, 1, NFT_PAYLOAD_TRANSPORT_HEADER, VNI_OFFSET, 3);
        load(&rule, 2, NFT_PAYLOAD_NETWORK_HEADER, SADDR_OFFSET, 4);
        match_set(&rule, &set_types[2], /* inverse= */ true);
        act(&rule, "counter");
        drop(&rule);
        rule_end(&rule, b);
}

static bool tunnel_is_valid(const NftTunnel *t) {
        return t->peer.family == AF_INET && t->vni <= 0xffffff;
}

static int batch_send(Batch *b, Netlink *nl) {
        if (b->error < 0)
                return b->error;
        ((struct nlmsghdr*) (b->data + b->last))->nlmsg_flags |= NLM_F_ACK;
        batch_mark(b, NFNL_MSG_BATCH_END);
        return b->error < 0 ? b->error : netlink_batch(nl, b->data, b->size);
}

int nft_set_tunnels(Netlink *nl, const NftTunnel *tunnels, size_t n_tunnels) {
        _cleanup_(batch_done) Batch b = {};

        for (size_t i = 0; i < n_tunnels; i++)
                if (!tunnel_is_valid(tunnels + i))
                        return -EINVAL;

        batch_mark(&b, NFNL_MSG_BATCH_BEGIN);
        add_table(&b, NFT_MSG_NEWTABLE, NLM_F_CREATE);          /* so that the next one finds it */
        add_table(&b, NFT_MSG_DELTABLE, 0);
        if (n_tunnels > 0) {
                add_table(&b, NFT_MSG_NEWTABLE, NLM_F_CREATE);
                for (size_t i = 0; i < ELEMENTSOF(set_types); i++) {
                        add_set(&b, set_types + i);
                        for (size_t k = 0; k < n_tunnels; k += ELEMENTS_MAX)
                                add_elements(&b, NFT_MSG_NEWSETELEM, set_types + i, tunnels + k, MIN(n_tunnels - k, (size_t) ELEMENTS_MAX));
                }
                add_chain(&b, "prerouting", NF_INET_PRE_ROUTING);
                add_chain(&b, "output", NF_INET_LOCAL_OUT);
                add_chain(&b, "input", NF_INET_LOCAL_IN);
                add_notrack(&b, "prerouting", SADDR_OFFSET);
                add_notrack(&b, "output", DADDR_OFFSET);
                add_guard(&b);
        }
        return batch_send(&b, nl);
}

int nft_add_tunnel(Netlink *nl, const NftTunnel *t) {
        _cleanup_(batch_done) Batch b = {};

        if (!tunnel_is_valid(t))
                return -EINVAL;
        batch_mark(&b, NFNL_MSG_BATCH_BEGIN);
        for (size_t i = 0; i < ELEMENTSOF(set_types); i++)
                add_elements(&b, NFT_MSG_NEWSETELEM, set_types + i, t, 1);
        return batch_send(&b, nl);
}

int nft_remove_tunnel(Netlink *nl, const NftTunnel *t, bool keep_peer) {
        _cleanup_(batch_done) Batch b = {};

        if (!tunnel_is_valid(t))
                return -EINVAL;
        batch_mark(&b, NFNL_MSG_BATCH_BEGIN);
        for (size_t i = 0; i < ELEMENTSOF(set_types); i++)
                if (!keep_peer || set_types[i].id != SET_PEERS)
                        add_elements(&b, NFT_MSG_DELSETELEM, set_types + i, t, 1);
        return batch_send(&b, nl);
}

static int on_element(const struct nlmsghdr *h, void *userdata) {
        if (h->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM))
                ++*(unsigned*) userdata;
        return 0;
}

int nft_has_tunnel(Netlink *nl, const NftTunnel *t) {
        if (!tunnel_is_valid(t))
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTSOF(set_types); i++) {
                _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
                unsigned found = 0;
                int r;

                m = table_message(NFT_MSG_GETSETELEM, 0, NFTA_SET_ELEM_LIST_TABLE);
                if (!m || put_elements(m, set_types + i, t, 1) < 0)
                        return -ENOMEM;
                r = netlink_request(nl, m, on_element, &found);
                if (r == -ENOENT)
                        return 0;
                if (r < 0)
                        return r;
                if (found == 0)
                        return 0;
        }
        return 1;
}

static void reset_table(void *userdata) {
        ((NftTable*) userdata)->n_rules = 0;
}

static int on_table_rule(const struct nlmsghdr *h, void *userdata) {
        struct nlattr *a[NFTA_RULE_MAX + 1];
        NftTable *t = userdata;
        uint64_t handle = 0;

        if (h->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE))
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(struct nfgenmsg), a, NFTA_RULE_MAX, NULL) < 0)
                return -EBADMSG;
        if (!a[NFTA_RULE_TABLE] || nla_strcmp(a[NFTA_RULE_TABLE], TABLE) != 0)
                return 0;
        if (a[NFTA_RULE_HANDLE] && nla_len(a[NFTA_RULE_HANDLE]) >= (int) sizeof(handle))
                memcpy(&handle, nla_data(a[NFTA_RULE_HANDLE]), sizeof(handle));
        if (t->n_rules < NFT_TABLE_RULES)
                t->rules[t->n_rules] = handle;
        t->n_rules++;
        return 0;
}

static int on_table(const struct nlmsghdr *h, void *userdata) {
        struct nlattr *a[NFTA_TABLE_MAX + 1];
        NftTable *t = userdata;

        if (h->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE))
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(struct nfgenmsg), a, NFTA_TABLE_MAX, NULL) < 0)
                return -EBADMSG;
        t->dormant = a[NFTA_TABLE_FLAGS] && nla_len(a[NFTA_TABLE_FLAGS]) >= (int) sizeof(uint32_t) &&
                (ntohl(nla_get_u32(a[NFTA_TABLE_FLAGS])) & NFT_TABLE_F_DORMANT);
        return 0;
}

static int on_chain(const struct nlmsghdr *h, void *userdata) {
        struct nlattr *a[NFTA_CHAIN_MAX + 1];
        NftTable *t = userdata;

        if (h->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN))
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(struct nfgenmsg), a, NFTA_CHAIN_MAX, NULL) < 0)
                return -EBADMSG;
        if (a[NFTA_CHAIN_POLICY] && nla_len(a[NFTA_CHAIN_POLICY]) >= (int) sizeof(uint32_t) &&
            ntohl(nla_get_u32(a[NFTA_CHAIN_POLICY])) == NF_ACCEPT)
                t->n_chains++;
        return 0;
}

int nft_look(Netlink *nl, NftTable *ret) {
        static const char *const chains[] = { "prerouting", "output", "input" };
        _cleanup_(nl_msg_freep) struct nl_msg *table = NULL, *rules = NULL;
        NftTable t = {};
        int r;

        table = table_message(NFT_MSG_GETTABLE, 0, NFTA_TABLE_NAME);
        rules = table_message(NFT_MSG_GETRULE, 0, NFTA_RULE_TABLE);
        if (!table || !rules)
                return -ENOMEM;
        r = netlink_request(nl, table, on_table, &t);
        if (r >= 0)
                r = netlink_dump(nl, rules, reset_table, on_table_rule, &t);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(chains); i++) {
                _cleanup_(nl_msg_freep) struct nl_msg *m = table_message(NFT_MSG_GETCHAIN, 0, NFTA_CHAIN_TABLE);

                if (!m || nla_put_string(m, NFTA_CHAIN_NAME, chains[i]) < 0)
                        return -ENOMEM;
                r = netlink_request(nl, m, on_chain, &t);
                if (r == -ENOENT)       /* this chain: a difference like another */
                        r = 0;
        }
        if (r < 0)
                return r;
        *ret = t;
        return 0;
}

bool nft_table_equal(const NftTable *a, const NftTable *b) {
        return a->n_rules == b->n_rules && a->n_chains == b->n_chains && a->dormant == b->dormant &&
                memcmp(a->rules, b->rules, sizeof(a->rules)) == 0;
}
