/* SPDX-License-Identifier: Apache-2.0 */
#include "net/link.h"

#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/rtnetlink.h>
#include <stdio.h>

#define LINKS_MAX 4096U

static struct nla_policy link_policy[IFLA_MAX + 1] = {
        [IFLA_IFNAME] = { .type = NLA_NUL_STRING, .maxlen = IFNAMSIZ },
        [IFLA_MTU] = { .type = NLA_U32 },
        [IFLA_MASTER] = { .type = NLA_U32 },
        [IFLA_LINKINFO] = { .type = NLA_NESTED },
};
static struct nla_policy info_policy[IFLA_INFO_MAX + 1] = {
        [IFLA_INFO_KIND] = { .type = NLA_NUL_STRING },
        [IFLA_INFO_DATA] = { .type = NLA_NESTED },
};
static struct nla_policy vxlan_policy[IFLA_VXLAN_MAX + 1] = {
        [IFLA_VXLAN_ID] = { .type = NLA_U32 },
        [IFLA_VXLAN_GROUP] = { .minlen = 4, .maxlen = 4 },
        [IFLA_VXLAN_GROUP6] = { .minlen = 16, .maxlen = 16 },
        [IFLA_VXLAN_LOCAL] = { .minlen = 4, .maxlen = 4 },
        [IFLA_VXLAN_PORT] = { .type = NLA_U16 },
};

static int parse_vxlan(struct nlattr *data, Link *l) {
        struct nlattr *a[IFLA_VXLAN_MAX + 1];

        if (nla_parse_nested(a, IFLA_VXLAN_MAX, data, vxlan_policy) < 0)
                return -EBADMSG;
        if (a[IFLA_VXLAN_ID])
                l->vni = nla_get_u32(a[IFLA_VXLAN_ID]);
        if (a[IFLA_VXLAN_PORT])
                l->port = ntohs(nla_get_u16(a[IFLA_VXLAN_PORT]));
        l->collect_metadata = a[IFLA_VXLAN_COLLECT_METADATA] && nla_len(a[IFLA_VXLAN_COLLECT_METADATA]) > 0 &&
                nla_get_u8(a[IFLA_VXLAN_COLLECT_METADATA]) != 0;
        if (a[IFLA_VXLAN_LOCAL]) {
                l->local.family = AF_INET;
                memcpy(l->local.bytes, nla_data(a[IFLA_VXLAN_LOCAL]), 4);
        }
        if (a[IFLA_VXLAN_GROUP]) {
                l->group.family = AF_INET;
                memcpy(l->group.bytes, nla_data(a[IFLA_VXLAN_GROUP]), 4);
        } else if (a[IFLA_VXLAN_GROUP6]) {
                l->group.family = AF_INET6;
                memcpy(l->group.bytes, nla_data(a[IFLA_VXLAN_GROUP6]), 16);
        }
        return 0;
}

static int parse_link(const struct nlmsghdr *h, Link *ret) {
        struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1];
        const struct ifinfomsg *i = nlmsg_data(h);
        Link l = {};

        if (nlmsg_parse((struct nlmsghdr*) h, sizeof(*i), a, IFLA_MAX, link_policy) < 0 || !a[IFLA_IFNAME])
                return -EBADMSG;

        l.ifindex = i->ifi_index;
        l.flags = i->ifi_flags;
        (void) nla_strlcpy(l.name, a[IFLA_IFNAME], sizeof(l.name));
        if (a[IFLA_MTU])
                l.mtu = nla_get_u32(a[IFLA_MTU]);
        if (a[IFLA_MASTER])
                l.master = (int) nla_get_u32(a[IFLA_MASTER]);
        if (i->ifi_type == ARPHRD_ETHER && a[IFLA_ADDRESS] && nla_len(a[IFLA_ADDRESS]) == sizeof(l.mac.bytes)) {
                memcpy(l.mac.bytes, nla_data(a[IFLA_ADDRESS]), sizeof(l.mac.bytes));
                l.has_mac = true;
        }
        if (a[IFLA_LINKINFO]) {
                if (nla_parse_nested(info, IFLA_INFO_MAX, a[IFLA_LINKINFO], info_policy) < 0)
                        return -EBADMSG;
                if (info[IFLA_INFO_KIND])
                        (void) nla_strlcpy(l.kind, info[IFLA_INFO_KIND], sizeof(l.kind));
                if (link_is_vxlan(&l) && info[IFLA_INFO_DATA]) {
                        int r = parse_vxlan(info[IFLA_INFO_DATA], &l);

                        if (r < 0)
                                return r;
                }
        }

        *ret = l;
        return 0;
}

static int on_link(const struct nlmsghdr *h, void *userdata) {
        return h->nlmsg_type == RTM_NEWLINK ? parse_link(h, userdata) : 0;
}

typedef struct LinkList {
        Link *links;
        size_t n;
        const char *kind;
} LinkList;

static void reset_list(void *userdata) {
        ((LinkList*) userdata)->n = 0;
}

static int on_listed_link(const struct nlmsghdr *h, void *userdata) {
        LinkList *list = userdata;
        Link l, *p;
        int r;

        if (h->nlmsg_type != RTM_NEWLINK)
                return 0;
        r = parse_link(h, &l);
        if (r < 0 || (list->kind && !streq(l.kind, list->kind)))
                return r;
        if (list->n >= LINKS_MAX)
                return -E2BIG;
        p = reallocarray(list->links, list->n + 1, sizeof(l));
        if (!p)
                return -ENOMEM;
        list->links = p;
        list->links[list->n++] = l;
        return 0;
}

int link_list(Netlink *nl, const char *kind, Link **ret, size_t *ret_n) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ifinfomsg i = {};
        LinkList list = { .kind = kind };
        int r;

        r = netlink_message(RTM_GETLINK, 0, &i, sizeof(i), &m);
        if (r >= 0)
                r = netlink_dump(nl, m, reset_list, on_listed_link, &list);
        if (r < 0) {
                free(list.links);
                return r;
        }
        *ret = list.links;
        *ret_n = list.n;
        return 0;
}

static int get(Netlink *nl, const char *name, int ifindex, Link *ret) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ifinfomsg i = { .ifi_index = ifindex };
        Link l = {};
        int r;

        r = netlink_message(RTM_GETLINK, 0, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        if (name && nla_put_string(m, IFLA_IFNAME, name) < 0)
                return -ENOMEM;
        r = netlink_request(nl, m, on_link, &l);
        if (r < 0)
                return r;
        if (l.ifindex <= 0)
                return -EBADMSG;

        *ret = l;
        return 0;
}

int link_get(Netlink *nl, const char *name, Link *ret) {
        return link_name_is_valid(name) ? get(nl, name, 0, ret) : -EINVAL;
}

int link_get_by_index(Netlink *nl, int ifindex, Link *ret) {
        return ifindex > 0 ? get(nl, NULL, ifindex, ret) : -ENODEV;
}

/* linux: net/core/dev.c, dev_valid_name(), without the "%" that asks for a number */
bool link_name_is_valid(const char *name) {
        size_t n = strlen(name);

        if (n == 0 || n >= IFNAMSIZ || streq(name, ".") || streq(name, ".."))
                return false;
        for (size_t i = 0; i < n; i++)
                if (name[i] <= ' ' || name[i] > '~' || strchr("/:%", name[i]))
                        return false;
        return true;
}

bool link_is_vxlan(const Link *l) {
        return streq(l->kind, "vxlan");
}

static int change_message(int ifindex, unsigned flags, unsigned mask, struct nl_msg **ret) {
        struct ifinfomsg i = { .ifi_index = ifindex, .ifi_flags = flags, .ifi_change = mask };

        return ifindex > 0 ? netlink_message(RTM_SETLINK, 0, &i, sizeof(i), ret) : -ENODEV;
}

int link_set_up(Netlink *nl, int ifindex, bool up) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = change_message(ifindex, up ? IFF_UP : 0, IFF_UP, &m);

        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

int link_set_mtu(Netlink *nl, int ifindex, uint32_t mtu) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = change_message(ifindex, 0, 0, &m);

        if (r < 0)
                return r;
        if (nla_put_u32(m, IFLA_MTU, mtu) < 0)
                return -ENOMEM;
        return netlink_request(nl, m, NULL, NULL);
}

int link_set_mac(Netlink *nl, int ifindex, const MACAddress *mac) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = change_message(ifindex, 0, 0, &m);

        if (r < 0)
                return r;
        if (nla_put(m, IFLA_ADDRESS, sizeof(mac->bytes), mac->bytes) < 0)
                return -ENOMEM;
        return netlink_request(nl, m, NULL, NULL);
}

int link_set_no_address_generation(Netlink *nl, int ifindex) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct nlattr *spec, *inet6;
        int r = change_message(ifindex, 0, 0, &m);

        if (r < 0)
                return r;
        if (!(spec = nla_nest_start(m, IFLA_AF_SPEC)) || !(inet6 = nla_nest_start(m, AF_INET6)) ||
            nla_put_u8(m, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE) < 0)
                return -ENOMEM;
        nla_nest_end(m, inet6);
        nla_nest_end(m, spec);

        r = netlink_request(nl, m, NULL, NULL);
        return r == -EAFNOSUPPORT ? 0 : r;      /* no IPv6 in this kernel or on this device: nothing to quieten */
}

int link_set_arp_notify(Netlink *nl, int ifindex) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct nlattr *spec, *inet, *conf;
        int r = change_message(ifindex, 0, 0, &m);

        if (r < 0)
                return r;
        if (!(spec = nla_nest_start(m, IFLA_AF_SPEC)) || !(inet = nla_nest_start(m, AF_INET)) ||
            !(conf = nla_nest_start(m, IFLA_INET_CONF)) || nla_put_u32(m, IPV4_DEVCONF_ARP_NOTIFY, 1) < 0)
                return -ENOMEM;
        nla_nest_end(m, conf);
        nla_nest_end(m, inet);
        nla_nest_end(m, spec);
        return netlink_request(nl, m, NULL, NULL);
}

int link_set_master(Netlink *nl, int ifindex, int master) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = change_message(ifindex, 0, 0, &m);

        if (r < 0)
                return r;
        if (nla_put_u32(m, IFLA_MASTER, (uint32_t) master) < 0)
                return -ENOMEM;
        return netlink_request(nl, m, NULL, NULL);
}

static int move_link(Netlink *nl, int ifindex, int netns_fd, const char *name) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        int r = change_message(ifindex, 0, 0, &m);

        if (r < 0)
                return r;
        if (nla_put_u32(m, IFLA_NET_NS_FD, (uint32_t) netns_fd) < 0 || (name && nla_put_string(m, IFLA_IFNAME, name) < 0))
                return -ENOMEM;
        return netlink_request(nl, m, NULL, NULL);
}

int link_move(Netlink *nl, int ifindex, int netns_fd, const char *spare) {
        int r = move_link(nl, ifindex, netns_fd, NULL);

        return r == -EEXIST ? move_link(nl, ifindex, netns_fd, spare) : r;
}

int bridge_create(Netlink *nl, const char *name) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ifinfomsg i = {};
        struct nlattr *info;
        int r;

        if (!link_name_is_valid(name))
                return -EINVAL;
        r = netlink_message(RTM_NEWLINK, NLM_F_CREATE|NLM_F_EXCL, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        if (nla_put_string(m, IFLA_IFNAME, name) < 0 ||
            !(info = nla_nest_start(m, IFLA_LINKINFO)) ||
            nla_put_string(m, IFLA_INFO_KIND, "bridge") < 0)
                return -ENOMEM;
        nla_nest_end(m, info);
        return netlink_request(nl, m, NULL, NULL);
}

int link_delete(Netlink *nl, int ifindex) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ifinfomsg i = { .ifi_index = ifindex };
        int r;

        if (ifindex <= 0)
                return -ENODEV;
        r = netlink_message(RTM_DELLINK, 0, &i, sizeof(i), &m);
        return r < 0 ? r : netlink_request(nl, m, NULL, NULL);
}

static int put_address(struct nl_msg *m, int type, int type6, const IPAddress *a) {
        if (!ip_address_is_set(a))
                return 0;
        return nla_put(m, a->family == AF_INET ? type : type6, (int) ip_address_size(a), a->bytes) < 0 ? -ENOMEM : 0;
}

int vxlan_create(Netlink *nl, const VxlanSettings *s) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ifinfomsg i = {};
        struct nlattr *info, *data;
        int r;

        if (s->vni > VXLAN_VNI_MAX || !link_name_is_valid(s->name))
                return -EINVAL;

        r = netlink_message(RTM_NEWLINK, NLM_F_CREATE|NLM_F_EXCL, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        if (nla_put_string(m, IFLA_IFNAME, s->name) < 0 ||
            (s->netns_fd >= 0 && nla_put_u32(m, IFLA_NET_NS_FD, (uint32_t) s->netns_fd) < 0) ||
            (s->mtu > 0 && nla_put_u32(m, IFLA_MTU, s->mtu) < 0) ||
            (s->mac && nla_put(m, IFLA_ADDRESS, sizeof(s->mac->bytes), s->mac->bytes) < 0) ||
            !(info = nla_nest_start(m, IFLA_LINKINFO)) ||
            nla_put_string(m, IFLA_INFO_KIND, "vxlan") < 0 ||
            !(data = nla_nest_start(m, IFLA_INFO_DATA)) ||
            nla_put_u32(m, IFLA_VXLAN_ID, s->vni) < 0 ||
            nla_put_u16(m, IFLA_VXLAN_PORT, htons(s->port)) < 0 ||
            /* One remote end, no bridge behind: there is nothing to learn, and a forged frame must not move the remote end. */
            nla_put_u8(m, IFLA_VXLAN_LEARNING, 0) < 0 ||
            (s->inherit_df && nla_put_u8(m, IFLA_VXLAN_DF, VXLAN_DF_INHERIT) < 0) ||
            put_address(m, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6, &s->group) < 0 ||
            put_address(m, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6, &s->local) < 0)
                return -ENOMEM;
        nla_nest_end(m, data);
        nla_nest_end(m, info);
        return netlink_request(nl, m, NULL, NULL);
}

bool vxlan_vni_is_taken(const Netlink *nl) {
        return strstr(netlink_text(nl), "VNI");         /* linux: drivers/net/vxlan/vxlan_core.c, vxlan_config_validate() */
}

int vxlan_set_group(Netlink *nl, int ifindex, uint32_t vni, const IPAddress *group) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = NULL;
        struct ifinfomsg i = { .ifi_index = ifindex };
        struct nlattr *info, *data;
        int r;

        if (ifindex <= 0)
                return -ENODEV;
        r = netlink_message(RTM_NEWLINK, 0, &i, sizeof(i), &m);
        if (r < 0)
                return r;
        if (!(info = nla_nest_start(m, IFLA_LINKINFO)) ||
            nla_put_string(m, IFLA_INFO_KIND, "vxlan") < 0 ||
            !(data = nla_nest_start(m, IFLA_INFO_DATA)) ||
            nla_put_u32(m, IFLA_VXLAN_ID, vni) < 0 ||
            put_address(m, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6, group) < 0)
                return -ENOMEM;
        nla_nest_end(m, data);
        nla_nest_end(m, info);
        return netlink_request(nl, m, NULL, NULL);
}
