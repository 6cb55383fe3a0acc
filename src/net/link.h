/* SPDX-License-Identifier: Apache-2.0 */
/* Network interfaces: look, change, delete; VXLAN devices. */
#pragma once

#include <net/if.h>

#include "net/address.h"
#include "net/netlink.h"

#define VXLAN_VNI_MAX UINT32_C(0xffffff)
/* Outer IPv4, UDP and VXLAN headers and the inner Ethernet header (RFC 7348, section 5). */
#define VXLAN_OVERHEAD_IPV4 50U

typedef struct Link Link;

struct Link {
        int ifindex, master;            /* 0: none */
        char name[IFNAMSIZ];
        char kind[16];                  /* "vxlan", "veth", … or "" */
        unsigned flags;                 /* IFF_* */
        uint32_t mtu;
        MACAddress mac;
        bool has_mac;                   /* an Ethernet address */
        uint32_t vni;                   /* these of a VXLAN device */
        uint16_t port;
        IPAddress group, local;         /* the remote end, and the address of ours; "none" where not set */
        bool collect_metadata;          /* it takes the port's frames whatever their VNI */
};

/* All return 0 or -errno, with the kernel's words kept in the socket (netlink_text()). */
int link_get(Netlink *nl, const char *name, Link *ret);                 /* -ENODEV */
int link_get_by_index(Netlink *nl, int ifindex, Link *ret);             /* -ENODEV */
/* All, or those of one kind, newly allocated; -E2BIG for more than some thousand. */
int link_list(Netlink *nl, const char *kind, Link **ret, size_t *ret_n);
bool link_name_is_valid(const char *name);
bool link_is_vxlan(const Link *l);
int link_set_up(Netlink *nl, int ifindex, bool up);
int link_set_mtu(Netlink *nl, int ifindex, uint32_t mtu);
int link_set_mac(Netlink *nl, int ifindex, const MACAddress *mac);
/* No IPv6 link-local address and so no chatter of our own; must come before "up" to have an effect on it. */
int link_set_no_address_generation(Netlink *nl, int ifindex);
/* Each change of link or address state is announced by gratuitous ARP (the sysctl arp_notify, without the need to write to /proc). */
int link_set_arp_notify(Netlink *nl, int ifindex);
/* Into another namespace, under @spare if its name is taken there. It loses its addresses and is down. */
int link_move(Netlink *nl, int ifindex, int netns_fd, const char *spare);
/* Make @ifindex a port of the bridge @master. */
int link_set_master(Netlink *nl, int ifindex, int master);
int link_delete(Netlink *nl, int ifindex);                              /* -ENODEV */
/* A bridge, down, in the socket's own namespace. */
int bridge_create(Netlink *nl, const char *name);

typedef struct VxlanSettings {
        const char *name;
        int netns_fd;                   /* where the device appears; -EBADF for the socket's own */
        uint32_t vni;
        uint16_t port;
        IPAddress group;                /* the remote end, or "none" */
        IPAddress local;                /* source of the outer packets, or "none": as the route says */
        uint32_t mtu;                   /* 0: the kernel's */
        const MACAddress *mac;          /* NULL: random */
        bool inherit_df;                /* outer packets carry the inner ones' "don't fragment" */
} VxlanSettings;

/**
 * vxlan_create() - make a VXLAN device in another namespace in one step, down
 * @nl: socket of the namespace whose UDP socket and routes carry the tunnel
 *
 * The device keeps the namespace it was asked for in as its underlay for life (linux: drivers/net/vxlan/vxlan_core.c, vxlan->net),
 * but is seen only in the target: no name to race for, no uevent on the host, nothing left if it fails. Of the errors, -EEXIST
 * has two meanings that vxlan_vni_is_taken() tells apart.
 */
int vxlan_create(Netlink *nl, const VxlanSettings *s);
/* After -EEXIST: a device with this VNI and port has the same underlay already (else: the name is taken in the target). */
bool vxlan_vni_is_taken(const Netlink *nl);
/* The remote end of an existing device; zero (0.0.0.0) takes it away. The port cannot be changed. */
int vxlan_set_group(Netlink *nl, int ifindex, uint32_t vni, const IPAddress *group);
