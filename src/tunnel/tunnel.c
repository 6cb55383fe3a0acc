/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/tunnel.h"

#include <limits.h>
#include <sys/random.h>

#include "basic/messages.h"
#include "basic/parse.h"
#include "net/link.h"
#include "net/tc.h"
#include "tunnel/inspect.h"

/* Each failed attempt means that a random number of 16 million was in use; so many in a row mean that the range is full. */
#define VNI_ATTEMPTS 4096

int tunnel_new(const char *sandbox_id, const char *netns_path, Tunnel **ret) {
        _cleanup_(tunnel_freep) Tunnel *t = new(Tunnel);

        if (!t)
                return -ENOMEM;
        *t = (Tunnel) { .sandbox_id = strdup(sandbox_id), .netns_path = strdup(netns_path) };
        if (!t->sandbox_id || !t->netns_path || log_context_add(&t->log, "PEERPOD_SANDBOX_ID", sandbox_id) < 0)
                return -ENOMEM;

        *ret = TAKE_PTR(t);
        return 0;
}

Tunnel* tunnel_free(Tunnel *t) {
        if (t) {
                log_context_done(&t->log);
                free(t->sandbox_id);
                free(t->netns_path);
                free(t->pod_network);
                free(t);
        }
        return NULL;
}

/* A pod's network namespace, opened. */
typedef struct PodNetns {
        int fd;
        uint64_t cookie;
        Netlink *nl;
} PodNetns;

#define POD_NETNS_NULL ((PodNetns) { .fd = -EBADF })

static void pod_netns_done(PodNetns *n) {
        n->nl = netlink_free(n->nl);
        n->fd = close_fd(n->fd);
}

static int pod_netns_open(Manager *m, const char *path, PodNetns *ret, NetError *e) {
        _cleanup_(pod_netns_done) PodNetns n = POD_NETNS_NULL;
        int r;

        if (isempty(path) || path[0] != '/' || !text_is_plain(path, PATH_MAX))
                return net_error_set(e, -EINVAL, "path of the network namespace is not an absolute path");
        r = netns_open(path, &n.fd);
        if (r == -EMEDIUMTYPE)
                return net_error_set(e, r, "'%.128s' is not a network namespace", path);
        if (r < 0)
                return net_error_set(e, r, "open network namespace '%.128s': %s", path, strerror(-r));

        r = netns_same(n.fd, m->host_netns_fd);
        if (r > 0)
                return net_error_set(e, -EINVAL, "'%.128s' is the host's own network namespace", path);
        if (r == 0)
                r = netns_cookie(n.fd, &n.cookie);
        if (r >= 0)
                r = netlink_open(n.fd, NETLINK_ROUTE, &n.nl);
        if (r < 0)
                return net_error_set(e, r, "enter network namespace '%.128s': %s", path, strerror(-r));

        *ret = n;
        n = POD_NETNS_NULL;
        return 0;
}

static bool device_is_ours(const Tunnel *t, const Link *l) {
        return link_is_vxlan(l) && l->vni == t->vni && l->port == t->port;
}

/* A reserved or working device of an earlier call or process that lost its record. Anything else of the name is not ours. */
static int remove_device(PodNetns *n, NetError *e) {
        Link l;
        int r = link_get(n->nl, TUNNEL_DEVICE, &l);

        if (r == -ENODEV)
                return 0;
        if (r < 0)
                return netlink_fail(n->nl, e, r, "look at '%s'", TUNNEL_DEVICE);
        if (!link_is_vxlan(&l))
                return net_error_set(e, -EEXIST, "pod has an interface '%s' that is not a tunnel's", TUNNEL_DEVICE);

        r = link_delete(n->nl, l.ifindex);
        return r < 0 && r != -ENODEV ? netlink_fail(n->nl, e, r, "delete '%s'", TUNNEL_DEVICE) : 0;
}

/* The redirect on the pod's interface, and the qdisc if it came with it. */
static int remove_redirect(PodNetns *n, const char *interface, bool own_ingress, NetError *e) {
        IngressHook hook;
        int target = 0, r;
        Link l;

        r = link_get(n->nl, interface, &l);
        if (r == -ENODEV)
                return 0;
        if (r >= 0)
                r = tc_get_ingress(n->nl, l.ifindex, &hook);
        if (r == -EBUSY || (r >= 0 && hook == INGRESS_NONE))
                return 0;
        if (r >= 0 && own_ingress && hook == INGRESS_QDISC) {
                r = tc_delete_ingress(n->nl, l.ifindex);
                return r < 0 && r != -ENOENT ? netlink_fail(n->nl, e, r, "delete the ingress qdisc of '%s'", interface) : 0;
        }
        if (r >= 0)
                r = tc_redirect_get(n->nl, l.ifindex, hook, &target);
        if (r >= 0 && target != 0)
                r = tc_redirect_delete(n->nl, l.ifindex, hook);
        return r < 0 && r != -ENOENT ? netlink_fail(n->nl, e, r, "delete the redirect of '%s'", interface) : 0;
}

/* Make vxlan1, down and without remote end, which reserves its VNI on this host. */
static int create_device(Manager *m, const Tunnel *t, PodNetns *n, const PodNetwork *pn, NetError *e) {
        VxlanSettings s = {
                .name = TUNNEL_DEVICE, .netns_fd = n->fd, .vni = t->vni, .port = t->port, .mtu = pn->mtu,
                /* The VM's guard takes frames from this address only. Without it the kernel takes one by the route, which is another
                 * one where the VM is not reached by the host's primary interface (a libvirt network on this host). */
                .local = pn->worker_ip.address,
        };
        Link l;
        int r;

        r = vxlan_create(m->host, &s);
        if (r < 0)
                return netlink_fail(m->host, e, r, "create '%s' with VXLAN id %u", TUNNEL_DEVICE, t->vni);

        r = link_get(n->nl, TUNNEL_DEVICE, &l);
        if (r >= 0)
                r = link_set_no_address_generation(n->nl, l.ifindex);
        if (r < 0) {
                (void) netlink_fail(n->nl, e, r, "set up '%s'", TUNNEL_DEVICE);
                (void) remove_device(n, NULL);
        }
        return r;
}

/*
 * Any number within the range may be in use: by tunnels of before a restart, by the cluster's network, by another program. The
 * kernel knows, so the device itself is the reservation. The start is random, not the lowest free number: a sender who wants
 * to forge frames has to know it.
 */
static int reserve_vni(Manager *m, Tunnel *t, PodNetns *n, const PodNetwork *pn, NetError *e) {
        uint32_t min = m->settings->vxlan_min_id, range = VXLAN_VNI_MAX - min + 1, start;
        int r;

        if (getrandom(&start, sizeof(start), 0) != sizeof(start))
                return net_error_set(e, -EIO, "no random number");

        for (uint32_t i = 0; i < MIN((uint32_t) VNI_ATTEMPTS, range); i++) {
                t->vni = min + (start % range + i) % range;
                r = tunnel_save(m, t, e);
                if (r < 0)
                        return r;
                r = create_device(m, t, n, pn, e);
                if (r != -EEXIST || !vxlan_vni_is_taken(m->host))
                        return r;
        }
        return net_error_set(e, -ENOSPC, "no free VXLAN id between %u and %u on UDP port %u", min, VXLAN_VNI_MAX, t->port);
}

static int inspect_new(Manager *m, Tunnel *t, PodNetns *n, NetError *e) {
        _cleanup_(pod_network_done) PodNetwork pn = POD_NETWORK_NULL;
        IngressHook hook;
        Link l;
        int r, target = 0;

        r = inspect_pod_network(m, n->nl, &t->log, &pn, e);
        if (r < 0)
                return r;
        memcpy(t->interface, pn.interface, sizeof(t->interface));
        t->dedicated = pn.dedicated;
        t->port = pn.vxlan_port;

        r = link_get(n->nl, t->interface, &l);
        if (r >= 0)
                r = tc_get_ingress(n->nl, l.ifindex, &hook);
        if (r >= 0 && hook != INGRESS_NONE)
                r = tc_redirect_get(n->nl, l.ifindex, hook, &target);
        if (r < 0)
                return netlink_fail(n->nl, e, r, "look at the ingress hook of '%s'", t->interface);
        /* With our filter in it, the qdisc is a leftover of ours too. */
        t->own_ingress = hook == INGRESS_NONE || (hook == INGRESS_QDISC && target != 0);

        r = tunnel_save(m, t, e);
        if (r < 0)
                return r;
        r = remove_redirect(n, t->interface, t->own_ingress, e);
        if (r < 0)
                return r;
        r = remove_device(n, e);
        if (r < 0)
                return r;
        r = reserve_vni(m, t, n, &pn, e);
        if (r < 0)
                return r;

        pn.vxlan_id = t->vni;
        pn.index = t->vni - m->settings->vxlan_min_id;
        r = pod_network_to_text(&pn, &t->pod_network);
        if (r < 0)
                return net_error_set(e, r, "write the pod's network as JSON: %s", strerror(-r));
        return tunnel_save(m, t, e);
}

/* Is the reserved device still there? It goes when somebody deletes it by hand. */
static int ensure_device(Manager *m, Tunnel *t, PodNetns *n, Link *ret, NetError *e) {
        _cleanup_(pod_network_done) PodNetwork pn = POD_NETWORK_NULL;
        _cleanup_(json_object_putp) json_object *o = NULL;
        Link l;
        int r;

        r = link_get(n->nl, TUNNEL_DEVICE, &l);
        if (r >= 0 && device_is_ours(t, &l)) {
                *ret = l;
                return 0;
        }
        if (r >= 0)
                r = remove_device(n, e);
        else if (r != -ENODEV)
                (void) netlink_fail(n->nl, e, r, "look at '%s'", TUNNEL_DEVICE);
        if (r < 0 && r != -ENODEV)
                return r;

        r = json_parse(t->pod_network, strlen(t->pod_network), &o, NULL);
        if (r >= 0)
                r = pod_network_from_json(o, &pn, NULL);
        if (r < 0)
                return net_error_set(e, r, "record of the pod's network is unreadable");
        r = create_device(m, t, n, &pn, e);
        if (r < 0)
                return r;
        r = link_get(n->nl, TUNNEL_DEVICE, ret);
        return r < 0 ? netlink_fail(n->nl, e, r, "look at '%s'", TUNNEL_DEVICE) : 0;
}

int tunnel_inspect(Manager *m, const char *sandbox_id, const char *netns_path, char **ret_pod_network, NetError *e) {
        _cleanup_(pod_netns_done) PodNetns n = POD_NETNS_NULL;
        _cleanup_(tunnel_freep) Tunnel *new = NULL;
        Tunnel *t, *other;
        char *text;
        Link l;
        int r;

        r = pod_netns_open(m, netns_path, &n, e);
        if (r < 0)
                return r;

        t = manager_find(m, sandbox_id);
        if (t && t->netns_cookie == n.cookie && t->pod_network) {
                r = ensure_device(m, t, &n, &l, e);
                if (r < 0)
                        return r;
                text = strdup(t->pod_network);
                if (!text)
                        return net_error_set(e, -ENOMEM, "out of memory");
                *ret_pod_network = text;
                return 0;
        }
        other = manager_find_netns(m, n.cookie);
        if (other && other != t)
                return net_error_set(e, -EEXIST, "network namespace '%.128s' belongs to sandbox '%s'", netns_path, other->sandbox_id);
        if (t) {                        /* half inspected, or of another namespace */
                r = tunnel_teardown(m, sandbox_id, t->netns_path, e);
                if (r < 0)
                        return r;
        }

        r = tunnel_new(sandbox_id, netns_path, &new);
        if (r < 0)
                return net_error_set(e, r, "out of memory");
        new->netns_cookie = n.cookie;
        r = inspect_new(m, new, &n, e);
        if (r >= 0) {
                text = strdup(new->pod_network);
                r = text ? manager_add(m, new) : -ENOMEM;
                if (r < 0) {
                        free(text);
                        (void) net_error_set(e, r, "out of memory");
                }
        }
        if (r < 0) {
                (void) remove_device(&n, NULL);
                (void) tunnel_unlink(m, sandbox_id, NULL);
                return r;
        }

        (void) log_full(&new->log, LOG_INFO, NULL, 0, "Reserved VXLAN id %u for the pod's interface '%s'.", new->vni, new->interface);
        TAKE_PTR(new);
        *ret_pod_network = text;
        return 0;
}

static int choose_peer(const Tunnel *t, char *const *addresses, IPAddress *ret, NetError *e) {
        size_t i = t->dedicated ? 1 : 0, n = 0;
        IPAddress a;

        while (addresses && addresses[n])
                n++;
        if (n <= i)
                return net_error_set(e, -EINVAL, n == 0 ? "instance has no address" :
                                     "instance has no second address for the dedicated interface");
        if (ip_address_parse(addresses[i], &a) < 0)
                return net_error_set(e, -EINVAL, "'%s' is not an IP address", text_is_plain(addresses[i], 64) ? addresses[i] : "?");
        if (a.family != AF_INET)
                return net_error_set(e, -EINVAL, "'%s' is not an IPv4 address, and tunnels are IPv4 only", FORMAT_IP_ADDRESS(&a));
        if (!ip_address_is_host(&a))
                return net_error_set(e, -EINVAL, "'%s' cannot be the address of an instance", FORMAT_IP_ADDRESS(&a));
        *ret = a;
        return 0;
}

/* What Setup did, in the order it was done, so that it can be undone in reverse. */
typedef struct Done {
        bool peer, group, up, device_ingress, device_redirect, pod_ingress, pod_redirect;
        IPAddress old_peer, old_group;
        IngressHook device_hook, pod_hook;
} Done;

/* A wire from one device to another: qdisc if there is none, filter if it is not there. */
static int connect_devices(PodNetns *n, const Link *from, const Link *to, IngressHook *ret_hook,
                           bool *ret_ingress, bool *ret_redirect, NetError *e) {
        int r, target = 0;

        r = tc_get_ingress(n->nl, from->ifindex, ret_hook);
        if (r < 0)
                return netlink_fail(n->nl, e, r, "look at the ingress hook of '%s'", from->name);
        if (*ret_hook == INGRESS_NONE) {
                r = tc_add_ingress(n->nl, from->ifindex);
                *ret_ingress = r != -EEXIST;
                if (r < 0)
                        return netlink_fail(n->nl, e, r, "add an ingress qdisc to '%s'", from->name);
                *ret_hook = INGRESS_QDISC;
        }

        r = tc_redirect_get(n->nl, from->ifindex, *ret_hook, &target);
        if (r < 0)
                return netlink_fail(n->nl, e, r, "list the filters of '%s'", from->name);
        if (target == to->ifindex)
                return 0;
        if (target != 0) {              /* to a device that was deleted since */
                r = tc_redirect_delete(n->nl, from->ifindex, *ret_hook);
                if (r < 0 && r != -ENOENT)
                        return netlink_fail(n->nl, e, r, "delete an old redirect of '%s'", from->name);
        }
        r = tc_redirect_add(n->nl, from->ifindex, *ret_hook, to->ifindex);
        *ret_redirect = r != -EEXIST;
        return r < 0 ? netlink_fail(n->nl, e, r, "redirect '%s' to '%s'", from->name, to->name) : 0;
}

static int set_up(Manager *m, Tunnel *t, PodNetns *n, const IPAddress *peer, const Link *device, const Link *pod, Done *done,
                  NetError *e) {
        int r;

        done->old_peer = t->peer;
        done->old_group = device->group;
        t->peer = *peer;
        done->peer = true;
        r = tunnel_save(m, t, e);
        if (r < 0)
                return r;
        /* The guard stands before the first frame can come. */
        r = manager_sync_nft(m, e);
        if (r < 0)
                return r;

        if (!ip_address_equal(&device->group, peer)) {
                done->group = true;
                r = vxlan_set_group(n->nl, device->ifindex, t->vni, peer);
                if (r < 0)
                        return netlink_fail(n->nl, e, r, "set the remote end of '%s' to %s", device->name, FORMAT_IP_ADDRESS(peer));
        }
        if (!(device->flags & IFF_UP)) {
                done->up = true;
                r = link_set_up(n->nl, device->ifindex, true);
                if (r == -EADDRINUSE)
                        return net_error_set(e, r, "UDP port %u is in use on the host by something else than plain VXLAN devices "
                                             "(a collect-metadata tunnel such as Open vSwitch's, or a program): "
                                             "set VXLAN_PORT to a free one", t->port);
                if (r < 0)
                        return netlink_fail(n->nl, e, r, "set '%s' up", device->name);
        }

        /* The pod's side last: frames leave it only when the way is complete. */
        r = connect_devices(n, device, pod, &done->device_hook, &done->device_ingress, &done->device_redirect, e);
        if (r < 0)
                return r;
        return connect_devices(n, pod, device, &done->pod_hook, &done->pod_ingress, &done->pod_redirect, e);
}

static void undo_set_up(Manager *m, Tunnel *t, PodNetns *n, const Link *device, const Link *pod, const Done *done) {
        static const IPAddress nobody = { .family = AF_INET };
        NetError e = {};
        int r;

        /* A failed call may still have had its effect, so a step counts as done from the moment it was begun; undoing what was
         * not done fails, and that is fine. */
        if (done->pod_redirect)
                (void) tc_redirect_delete(n->nl, pod->ifindex, done->pod_hook);
        if (done->pod_ingress)
                (void) tc_delete_ingress(n->nl, pod->ifindex);
        if (done->device_redirect)
                (void) tc_redirect_delete(n->nl, device->ifindex, done->device_hook);
        if (done->device_ingress)
                (void) tc_delete_ingress(n->nl, device->ifindex);
        if (done->up)
                (void) link_set_up(n->nl, device->ifindex, false);
        if (done->group)
                (void) vxlan_set_group(n->nl, device->ifindex, t->vni,
                                       ip_address_is_set(&done->old_group) ? &done->old_group : &nobody);
        if (done->peer) {
                t->peer = done->old_peer;
                r = manager_sync_nft(m, &e);
                if (r < 0)
                        log_full(&t->log, LOG_WARNING, NULL, r, "Failed to undo a firewall change, ignoring: %s", net_error_text(&e, r));
                r = tunnel_save(m, t, &e);
                if (r < 0)
                        log_full(&t->log, LOG_WARNING, NULL, r, "Failed to undo a change of the record, ignoring: %s",
                                 net_error_text(&e, r));
        }
}

/* Returns 1 if anything had to be done, 0 if the tunnel was there. */
static int set_up_or_undo(Manager *m, Tunnel *t, PodNetns *n, const IPAddress *peer, NetError *e) {
        Done done = {};
        Link device, pod;
        int r;

        r = link_get(n->nl, t->interface, &pod);
        if (r < 0)
                return netlink_fail(n->nl, e, r, "look at the pod's interface '%s'", t->interface);
        r = ensure_device(m, t, n, &device, e);
        if (r < 0)
                return r;
        r = set_up(m, t, n, peer, &device, &pod, &done, e);
        if (r < 0) {
                undo_set_up(m, t, n, &device, &pod, &done);
                return r;
        }

        return done.group || done.up || done.device_ingress || done.device_redirect || done.pod_ingress || done.pod_redirect;
}

int tunnel_setup(Manager *m, const char *sandbox_id, const char *netns_path, char *const *addresses, NetError *e) {
        _cleanup_(pod_netns_done) PodNetns n = POD_NETNS_NULL;
        IPAddress peer;
        Tunnel *t;
        int r;

        t = manager_find(m, sandbox_id);
        if (!t)
                return net_error_set(e, -ENOTCONN, "sandbox was never inspected, or its tunnel is torn down already");
        r = choose_peer(t, addresses, &peer, e);
        if (r < 0)
                return r;
        r = pod_netns_open(m, isempty(netns_path) ? t->netns_path : netns_path, &n, e);
        if (r < 0)
                return r;
        if (n.cookie != t->netns_cookie)
                return net_error_set(e, -ESTALE, "'%.128s' names another network namespace than when the sandbox was inspected",
                                     netns_path);

        r = set_up_or_undo(m, t, &n, &peer, e);
        if (r < 0)
                return r;
        /* The adaptor asks again when it was restarted. */
        (void) log_full(&t->log, r > 0 ? LOG_NOTICE : LOG_DEBUG, r > 0 ? MSG_TUNNEL_UP : NULL, 0,
                        "Tunnel with VXLAN id %u from the pod's interface '%s' to %s is up.", t->vni, t->interface,
                        FORMAT_IP_ADDRESS(&peer));
        return 0;
}

/* Keeps the first error of several steps, all of which were taken. */
static void keep_error(int r, const NetError *step, int *result, NetError *e) {
        if (r >= 0 || *result < 0)
                return;
        *result = r;
        if (e)
                *e = *step;
}

int tunnel_has_netns(Manager *m, const char *sandbox_id, const char *netns_path, NetError *e) {
        _cleanup_(pod_netns_done) PodNetns n = POD_NETNS_NULL;
        const Tunnel *t = manager_find(m, sandbox_id);
        int r;

        r = pod_netns_open(m, netns_path, &n, e);
        if (r == -ENOENT || r == -EMEDIUMTYPE)
                return 0;
        if (r < 0)
                return r;

        return !t || t->netns_cookie == n.cookie;
}

int tunnel_teardown(Manager *m, const char *sandbox_id, const char *netns_path, NetError *e) {
        _cleanup_(pod_netns_done) PodNetns n = POD_NETNS_NULL;
        Tunnel *t = manager_find(m, sandbox_id);
        const char *path = t ? t->netns_path : netns_path;
        NetError step = {};
        int r, result = 0;

        r = isempty(path) ? -ENOENT : pod_netns_open(m, path, &n, &step);
        if (r == -ENOENT || r == -EMEDIUMTYPE || (r >= 0 && t && n.cookie != t->netns_cookie))
                ;                       /* it is gone, and all that was in it; what has its name now is somebody else's */
        else if (r < 0)
                keep_error(r, &step, &result, e);
        else {
                /* Without a record there is nothing that we know of; a tunnel's device of the name can only be ours. */
                if (t)
                        keep_error(remove_redirect(&n, t->interface, t->own_ingress, &step), &step, &result, e);
                if (t || !manager_find_netns(m, n.cookie))
                        keep_error(remove_device(&n, &step), &step, &result, e);
        }

        if (!t)
                return result;

        if (ip_address_is_set(&t->peer)) {
                IPAddress peer = t->peer;

                t->peer = IP_ADDRESS_NULL;
                r = manager_sync_nft(m, &step);
                if (r < 0) {
                        t->peer = peer;
                        keep_error(r, &step, &result, e);
                }
        }
        if (result < 0)
                return result;          /* the record is what a second attempt goes by */

        keep_error(tunnel_unlink(m, sandbox_id, &step), &step, &result, e);
        if (result < 0)
                return result;
        (void) log_full(&t->log, LOG_INFO, NULL, 0, "Tunnel with VXLAN id %u is torn down.", t->vni);
        manager_remove(m, t);
        return 0;
}

int tunnel_recover(Manager *m, Tunnel *t, NetError *e) {
        _cleanup_(pod_netns_done) PodNetns n = POD_NETNS_NULL;
        IPAddress peer = t->peer;
        Link l;
        int r;

        r = pod_netns_open(m, t->netns_path, &n, e);
        if (r == -ENOENT || r == -EMEDIUMTYPE || (r >= 0 && n.cookie != t->netns_cookie))
                return 0;
        if (r < 0)
                return r;
        if (!t->pod_network) {          /* we were stopped within Inspect; nobody has got an answer */
                (void) remove_device(&n, NULL);
                return 0;
        }
        r = ip_address_is_set(&peer) ? set_up_or_undo(m, t, &n, &peer, e) : ensure_device(m, t, &n, &l, e);
        return r < 0 ? r : 1;
}
