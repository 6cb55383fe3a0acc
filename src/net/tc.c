/* SPDX-License-Identifier: Apache-2.0 */
#include "net/tc.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>

#define REDIRECT_PRIORITY 1U
/* Number of the filter within its u32 table. With a fixed one a repeat fails, where the kernel's choice would make a second
 * filter; without a table number it holds in whatever table the kernel gave to this priority. */
#define REDIRECT_NODE 16U
/* Lower numbers come first. */
#define EXCEPTION_NODE 1U

static uint32_t filter_parent(IngressHook hook) {
        return hook == INGRESS_CLSACT ? TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) : TC_H_MAKE(TC_H_INGRESS, 0);
}

typedef struct QdiscQuery {
        int ifindex;
        IngressHook hook;
        bool foreign;
} QdiscQuery;

static void reset_qdisc(void *userdata) {
        QdiscQuery *q = userdata;

        q->hook = INGRESS_NONE;
        q->foreign = false;
}

static int on_qdisc(const struct nlmsghdr *h, void *userdata) {
        const struct tcmsg *t = nlmsg_data(h);
        struct nlattr *a[TCA_MAX + 1];
        QdiscQuery *q = userdata;

        if (h->nlmsg_type != RTM_NEWQDISC)
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*t), a, TCA_MAX, NULL) < 0)
                return -EBADMSG;
        if (t->tcm_ifindex != q->ifindex || t->tcm_parent != TC_H_INGRESS || !a[TCA_KIND])
                return 0;

        if (nla_strcmp(a[TCA_KIND], "ingress") == 0)
                q->hook = INGRESS_QDISC;
        else if (nla_strcmp(a[TCA_KIND], "clsact") == 0)
                q->hook = INGRESS_CLSACT;
        else
                q->foreign = true;
        return 0;
}

int tc_get_ingress(Netlink *nl, int ifindex, IngressHook *ret) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct tcmsg t = { .tcm_family = AF_UNSPEC, .tcm_ifindex = ifindex };
        QdiscQuery q = { .ifindex = ifindex };
        int r;

        r = netlink_message(RTM_GETQDISC, 0, &t, sizeof(t), &m);
        if (r < 0)
                return r;
        r = netlink_dump(nl, m, reset_qdisc, on_qdisc, &q);
        if (r < 0)
                return r;
        if (q.foreign)
                return -EBUSY;

        *ret = q.hook;
        return 0;
}

static int qdisc_message(uint16_t type, uint16_t flags, int ifindex, struct nl_msg **ret) {
        struct tcmsg t = { .tcm_family = AF_UNSPEC, .tcm_ifindex = ifindex, .tcm_parent = TC_H_INGRESS,
                           .tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0) };
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r;

        r = netlink_message(type, flags, &t, sizeof(t), &m);
        if (r < 0)
                return r;
        if (nla_put_string(m, TCA_KIND, "ingress") < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(m);
        return 0;
}

int tc_add_ingress(Netlink *nl, int ifindex) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = qdisc_message(RTM_NEWQDISC, NLM_F_CREATE|NLM_F_EXCL, ifindex, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

int tc_delete_ingress(Netlink *nl, int ifindex) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = qdisc_message(RTM_DELQDISC, 0, ifindex, &m);

        if (r < 0)
                return r;
        r = netlink_request(nl, m, NULL, NULL);
        return r == -EINVAL ? -ENOENT : r;      /* linux: net/sched/sch_api.c says EINVAL for a hook that is empty */
}

typedef struct FilterQuery {
        int ifindex, target;
} FilterQuery;

static void reset_filter(void *userdata) {
        ((FilterQuery*) userdata)->target = 0;
}

/* TCA_U32_ACT holds a list of actions; ours has one. */
static int target_of(struct nlattr *actions) {
        struct nlattr *a[TCA_ACT_MAX + 1], *p[TCA_MIRRED_MAX + 1], *first;
        struct tc_mirred parms;

        first = nla_find(nla_data(actions), nla_len(actions), 1);
        if (!first || nla_parse_nested(a, TCA_ACT_MAX, first, NULL) < 0 ||
            !a[TCA_ACT_KIND] || nla_strcmp(a[TCA_ACT_KIND], "mirred") != 0 ||
            !a[TCA_ACT_OPTIONS] || nla_parse_nested(p, TCA_MIRRED_MAX, a[TCA_ACT_OPTIONS], NULL) < 0 ||
            !p[TCA_MIRRED_PARMS] || nla_len(p[TCA_MIRRED_PARMS]) < (int) sizeof(parms))
                return -1;
        memcpy(&parms, nla_data(p[TCA_MIRRED_PARMS]), sizeof(parms));
        return parms.eaction == TCA_EGRESS_REDIR && parms.ifindex > 0 ? (int) parms.ifindex : -1;
}

static int on_filter(const struct nlmsghdr *h, void *userdata) {
        struct nlattr *a[TCA_MAX + 1], *u[TCA_U32_MAX + 1];
        const struct tcmsg *t = nlmsg_data(h);
        FilterQuery *q = userdata;

        if (h->nlmsg_type != RTM_NEWTFILTER)
                return 0;
        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*t), a, TCA_MAX, NULL) < 0)
                return -EBADMSG;
        if (t->tcm_ifindex != q->ifindex || TC_H_MAJ(t->tcm_info) >> 16 != REDIRECT_PRIORITY ||
            !a[TCA_KIND] || nla_strcmp(a[TCA_KIND], "u32") != 0 || !a[TCA_OPTIONS])
                return 0;
        if (nla_parse_nested(u, TCA_U32_MAX, a[TCA_OPTIONS], NULL) < 0)
                return -EBADMSG;
        /* Not the entries for the table itself, nor our exceptions. */
        if (u[TCA_U32_SEL] && TC_U32_NODE(t->tcm_handle) >= EXCEPTION_NODE + TC_EXCEPTIONS_MAX)
                q->target = u[TCA_U32_ACT] ? target_of(u[TCA_U32_ACT]) : -1;
        return 0;
}

int tc_redirect_get(Netlink *nl, int ifindex, IngressHook hook, int *ret_target) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct tcmsg t = { .tcm_family = AF_UNSPEC, .tcm_ifindex = ifindex, .tcm_parent = filter_parent(hook) };
        FilterQuery q = { .ifindex = ifindex };
        int r;

        r = netlink_message(RTM_GETTFILTER, 0, &t, sizeof(t), &m);
        if (r < 0)
                return r;
        r = netlink_dump(nl, m, reset_filter, on_filter, &q);
        if (r < 0)
                return r;
        *ret_target = q.target;
        return 0;
}

static int filter_message(uint16_t type, uint16_t flags, int ifindex, IngressHook hook, uint32_t node,
                          struct nl_msg **ret) {
        struct tcmsg t = {
                .tcm_family = AF_UNSPEC,
                .tcm_ifindex = ifindex,
                .tcm_parent = filter_parent(hook),
                .tcm_handle = node,
                .tcm_info = TC_H_MAKE(REDIRECT_PRIORITY << 16, htons(ETH_P_ALL)),
        };
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r;

        r = netlink_message(type, flags, &t, sizeof(t), &m);
        if (r < 0)
                return r;
        if (nla_put_string(m, TCA_KIND, "u32") < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(m);
        return 0;
}

int tc_redirect_add(Netlink *nl, int ifindex, IngressHook hook, int target) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct tc_u32_sel selector = { .flags = TC_U32_TERMINAL, .nkeys = 1 };
        uint8_t match_all[sizeof(selector) + sizeof(struct tc_u32_key)] = {};   /* its key: mask 0, value 0, offset 0 */
        struct tc_mirred parms = { .action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = (uint32_t) target };
        struct nlattr *options, *actions, *action, *action_options;
        int r;

        memcpy(match_all, &selector, sizeof(selector));
        r = filter_message(RTM_NEWTFILTER, NLM_F_CREATE|NLM_F_EXCL, ifindex, hook, REDIRECT_NODE, &m);
        if (r < 0)
                return r;
        if (!(options = nla_nest_start(m, TCA_OPTIONS)) ||
            nla_put(m, TCA_U32_SEL, sizeof(match_all), match_all) < 0 ||
            !(actions = nla_nest_start(m, TCA_U32_ACT)) ||
            !(action = nla_nest_start(m, 1)) ||
            nla_put_string(m, TCA_ACT_KIND, "mirred") < 0 ||
            !(action_options = nla_nest_start(m, TCA_ACT_OPTIONS)) ||
            nla_put(m, TCA_MIRRED_PARMS, sizeof(parms), &parms) < 0)
                return -ENOMEM;
        nla_nest_end(m, action_options);
        nla_nest_end(m, action);
        nla_nest_end(m, actions);
        nla_nest_end(m, options);

        r = netlink_request(nl, m, NULL, NULL);
        return r == -ENOSPC ? -EEXIST : r;      /* the number is taken: linux: net/sched/cls_u32.c, u32_change() */
}

int tc_redirect_delete(Netlink *nl, int ifindex, IngressHook hook) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = filter_message(RTM_DELTFILTER, 0, ifindex, hook, /* node= */ 0, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

typedef struct NodeQuery {
        int ifindex;
        uint32_t node, handle;          /* what is looked for; its full number, with the table's */
} NodeQuery;

static void reset_node(void *userdata) {
        ((NodeQuery*) userdata)->handle = 0;
}

static int on_node(const struct nlmsghdr *h, void *userdata) {
        const struct tcmsg *t = nlmsg_data(h);
        NodeQuery *q = userdata;

        if (h->nlmsg_type == RTM_NEWTFILTER && nlmsg_datalen(h) >= (int) sizeof(*t) && t->tcm_ifindex == q->ifindex &&
            TC_H_MAJ(t->tcm_info) >> 16 == REDIRECT_PRIORITY && TC_U32_NODE(t->tcm_handle) == q->node)
                q->handle = t->tcm_handle;
        return 0;
}

static int find_node(Netlink *nl, int ifindex, IngressHook hook, uint32_t node, uint32_t *ret_handle) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct tcmsg t = { .tcm_family = AF_UNSPEC, .tcm_ifindex = ifindex, .tcm_parent = filter_parent(hook) };
        NodeQuery q = { .ifindex = ifindex, .node = node };
        int r;

        r = netlink_message(RTM_GETTFILTER, 0, &t, sizeof(t), &m);
        if (r < 0)
                return r;
        r = netlink_dump(nl, m, reset_node, on_node, &q);
        if (r < 0)
                return r;
        if (q.handle == 0)
                return -ENOENT;
        *ret_handle = q.handle;
        return 0;
}

int tc_exception_delete(Netlink *nl, int ifindex, IngressHook hook, unsigned number) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        uint32_t node = 0;
        int r;

        assert(number < TC_EXCEPTIONS_MAX);
        r = find_node(nl, ifindex, hook, EXCEPTION_NODE + number, &node);
        if (r < 0)
                return r;
        r = filter_message(RTM_DELTFILTER, 0, ifindex, hook, node, &m);
        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

int tc_exception_set(Netlink *nl, int ifindex, IngressHook hook, unsigned number, const TcKey *keys, size_t n_keys) {
        struct tc_u32_sel selector = { .flags = TC_U32_TERMINAL, .nkeys = (unsigned char) n_keys };
        uint8_t match[sizeof(selector) + TC_EXCEPTION_KEYS_MAX * sizeof(struct tc_u32_key)] = {};
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct nlattr *options;
        int r;

        assert(number < TC_EXCEPTIONS_MAX && n_keys <= TC_EXCEPTION_KEYS_MAX);

        r = tc_exception_delete(nl, ifindex, hook, number);
        if (r < 0 && r != -ENOENT)
                return r;

        memcpy(match, &selector, sizeof(selector));
        for (size_t i = 0; i < n_keys; i++) {
                struct tc_u32_key k = { .mask = htonl(keys[i].mask), .val = htonl(keys[i].value), .off = keys[i].offset };

                memcpy(match + sizeof(selector) + i * sizeof(k), &k, sizeof(k));
        }
        r = filter_message(RTM_NEWTFILTER, NLM_F_CREATE|NLM_F_EXCL, ifindex, hook, EXCEPTION_NODE + number, &m);
        if (r < 0)
                return r;
        if (!(options = nla_nest_start(m, TCA_OPTIONS)) ||
            nla_put(m, TCA_U32_SEL, (int) (sizeof(selector) + n_keys * sizeof(struct tc_u32_key)), match) < 0)
                return -ENOMEM;
        nla_nest_end(m, options);
        return netlink_request(nl, m, NULL, NULL);
}
