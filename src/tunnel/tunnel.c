/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/tunnel.h"

#include <linux/rtnetlink.h>

#include "basic/crash-point.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "net/link.h"
#include "net/route.h"
#include "net/tc.h"
#include "tunnel/diagnose.h"
#include "tunnel/inspect.h"
#include "tunnel/pod-netns.h"
#include "tunnel/tunnel-device.h"

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
                tunnel_cancel_probe(t);
                log_context_done(&t->log);
                free(t->sandbox_id);
                free(t->netns_path);
                free(t->pod_network);
                free(t);
        }
        return NULL;
}

int tunnel_open_netns(Manager *m, const Tunnel *t, int *ret_fd, Netlink **ret_nl, NetError *e) {
        _cleanup_(pod_netns_done) PodNetns n = POD_NETNS_NULL;
        int r;

        r = pod_netns_open(m, t->netns_path, &n, e);
        if (r < 0)
                return r;
        if (n.cookie != t->netns_cookie)
                return net_error_set(e, -ESTALE, "'%.128s' names another network namespace than when the sandbox was inspected",
                                     t->netns_path);
        *ret_fd = TAKE_FD(n.fd);
        *ret_nl = TAKE_PTR(n.nl);
        return 0;
}

/* What Inspect answered, parsed. */
int tunnel_read_pod_network(const Tunnel *t, PodNetwork *ret, NetError *e) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r;

        r = json_parse(strempty(t->pod_network), strlen(strempty(t->pod_network)), &o, NULL);
        if (r >= 0)
                r = pod_network_from_json(o, ret, NULL);
        return r < 0 ? net_error_set(e, r, "record of the pod's network is unreadable") : 0;
}

IPAddress tunnel_local_address(const Tunnel *t) {
        _cleanup_(pod_network_done) PodNetwork pn = POD_NETWORK_NULL;

        return tunnel_read_pod_network(t, &pn, NULL) < 0 ? IP_ADDRESS_NULL : pn.worker_ip.address;
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
                crash_point("ingress-deleted");
                return r < 0 && r != -ENOENT ? netlink_fail(n->nl, e, r, "delete the ingress qdisc of '%s'", interface) : 0;
        }
        if (r >= 0)
                r = tc_redirect_get(n->nl, l.ifindex, hook, &target);
        if (r >= 0 && target != 0)
                r = tc_redirect_delete(n->nl, l.ifindex, hook);
        return r < 0 && r != -ENOENT ? netlink_fail(n->nl, e, r, "delete the redirect of '%s'", interface) : 0;
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
        r = tunnel_remove_devices(n, e);
        if (r < 0)
                return r;
        r = tunnel_reserve_vni(m, t, n, &pn, e);
        if (r < 0)
                return r;

        pn.vxlan_id = t->vni;
        pn.index = t->vni - m->settings->vxlan_min_id;
        r = pod_network_to_text(&pn, &t->pod_network);
        if (r < 0)
                return net_error_set(e, r, "write the pod's network as JSON: %s", strerror(-r));
        return tunnel_save(m, t, e);
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
                r = tunnel_ensure_device(m, t, &n, &l, e);
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
                (void) tunnel_remove_devices(&n, NULL);
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
        bool peer, mtu, group, up, device_ingress, device_redirect, pod_ingress, pod_redirect;
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
                crash_point("ingress-added");
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
        crash_point("redirect-added");
        *ret_redirect = r != -EEXIST;
        return r < 0 ? netlink_fail(n->nl, e, r, "redirect '%s' to '%s'", from->name, to->name) : 0;
}

/* What the way to the VM carries, by the host's routes and what they have learned; 0 where there is none (yet). */
static uint32_t path_mtu(Manager *m, const IPAddress *peer) {
        uint32_t mtu = 0;
        Route route;
        Link l;

        if (route_lookup(m->host, peer, &route) < 0 || route.type != RTN_UNICAST)
                return 0;
        if (link_get_by_index(m->host, route.ifindex, &l) >= 0)
                mtu = l.mtu;
        if (route.mtu > 0 && (mtu == 0 || route.mtu < mtu))
                mtu = route.mtu;
        return mtu > VXLAN_OVERHEAD_IPV4 ? mtu - VXLAN_OVERHEAD_IPV4 : 0;
}

/* The pod VM was told an MTU by the host's interface, before anybody knew where it would be. */
static int fit_mtu(Manager *m, const Tunnel *t, PodNetns *n, const IPAddress *peer, const Link *device, const Link *pod, Done *done,
                   NetError *e) {
        uint32_t fits = path_mtu(m, peer), mtu = fits > 0 ? MIN(fits, pod->mtu) : device->mtu;
        int r;

        if (mtu == device->mtu)
                return 0;
        if (mtu < device->mtu)
                (void) log_full(&t->log, LOG_WARNING, NULL, 0, "The way to the pod VM at %s carries packets of %u bytes in the tunnel, "
                                "not the %u of the host's interface: if the VM does not see that by its own interface, larger ones "
                                "from it are sent in fragments.", FORMAT_IP_ADDRESS(peer), mtu, device->mtu);
        done->mtu = true;
        r = link_set_mtu(n->nl, device->ifindex, mtu);
        return r < 0 ? netlink_fail(n->nl, e, r, "set the MTU of '%s' to %u", device->name, mtu) : 0;
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
        if (ip_address_is_set(&done->old_peer) && !ip_address_equal(&done->old_peer, peer))
                r = manager_sync_nft(m, e);
        else
                r = manager_guard(m, t, e);
        crash_point("guard-set");
        if (r < 0)
                return r;

        r = fit_mtu(m, t, n, peer, device, pod, done, e);
        if (r < 0)
                return r;
        if (!ip_address_equal(&device->group, peer)) {
                done->group = true;
                r = vxlan_set_group(n->nl, device->ifindex, t->vni, peer);
                crash_point("peer-set");
                if (r < 0)
                        return netlink_fail(n->nl, e, r, "set the remote end of '%s' to %s", device->name, FORMAT_IP_ADDRESS(peer));
        }
        if (!(device->flags & IFF_UP)) {
                done->up = true;
                r = link_set_up(n->nl, device->ifindex, true);
                crash_point("device-up");
                if (r == -EADDRINUSE) {
                        _cleanup_(freep) char *who = diagnose_port(m, t->port);

                        return net_error_set(e, r, "UDP port %u is in use on the host by something else than plain VXLAN devices%s: "
                                             "set VXLAN_PORT to a free one", t->port, who ?: "");
                }
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
        if (done->mtu)
                (void) link_set_mtu(n->nl, device->ifindex, device->mtu);
        if (done->peer) {
                r = ip_address_is_set(&done->old_peer) ? 0 : manager_unguard(m, t, &e);
                t->peer = done->old_peer;
                if (ip_address_is_set(&t->peer))
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
        r = tunnel_ensure_device(m, t, n, &device, e);
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
        if (t)
                tunnel_cancel_probe(t);
        if (r == -ENOENT || r == -EMEDIUMTYPE || (r >= 0 && t && n.cookie != t->netns_cookie))
                ;                       /* it is gone, and all that was in it; what has its name now is somebody else's */
        else if (r < 0)
                keep_error(r, &step, &result, e);
        else {
                /* Without a record there is nothing that we know of; a tunnel's device of the name can only be ours. */
                if (t)
                        keep_error(remove_redirect(&n, t->interface, t->own_ingress, &step), &step, &result, e);
                if (t || !manager_find_netns(m, n.cookie))
                        keep_error(tunnel_remove_devices(&n, &step), &step, &result, e);
        }

        if (!t)
                return result;

        if (ip_address_is_set(&t->peer))
                keep_error(manager_unguard(m, t, &step), &step, &result, e);
        crash_point("guard-removed");
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
                (void) tunnel_remove_devices(&n, NULL);
                return 0;
        }
        r = ip_address_is_set(&peer) ? set_up_or_undo(m, t, &n, &peer, e) : tunnel_ensure_device(m, t, &n, &l, e);
        return r < 0 ? r : 1;
}
