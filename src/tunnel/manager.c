/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/manager.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#include "basic/crash-point.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/strv.h"
#include "net/link.h"
#include "net/nft.h"
#include "tunnel/tunnel.h"

static int parse_pod_subnets(Manager *m) {
        size_t n = strv_length(m->settings->pod_subnet_cidrs);

        m->pod_subnets = new0(IPPrefix, n + 1);
        if (!m->pod_subnets)
                return log_oom();
        for (size_t i = 0; i < n; i++) {
                IPPrefix p;

                if (ip_prefix_parse(m->settings->pod_subnet_cidrs[i], &p) < 0) {
                        log_error("'%.64s' in variable 'POD_SUBNET_CIDRS' or flag '-pod-subnet-cidrs' is not a network prefix.",
                                  m->settings->pod_subnet_cidrs[i]);
                        return -EINVAL;
                }
                m->pod_subnets[m->n_pod_subnets++] = ip_prefix_masked(&p);
        }
        return 0;
}

static int check_settings(const Settings *s) {
        if (!streq(s->tunnel_type, POD_NETWORK_TUNNEL_VXLAN)) {
                log_error("Unknown tunnel type '%.64s' in variable 'TUNNEL_TYPE' or flag '-tunnel-type', only 'vxlan' is known.",
                          s->tunnel_type);
                return -EINVAL;
        }
        if (!isempty(s->host_interface) && !link_name_is_valid(s->host_interface)) {
                log_error("'%.64s' of flag '-host-interface' is not an interface name.", s->host_interface);
                return -EINVAL;
        }
        return 0;
}

int manager_new(const Settings *settings, sd_event *event, Manager **ret) {
        _cleanup_(manager_freep) Manager *m = new(Manager);
        int r;

        if (!m)
                return log_oom();
        *m = (Manager) { .settings = settings, .event = event, .host_netns_fd = -EBADF, .runtime_dir_fd = -EBADF, .firewall_fd = -EBADF };

        r = check_settings(settings);
        if (r < 0)
                return r;
        r = parse_pod_subnets(m);
        if (r < 0)
                return r;

        r = netns_open_own(&m->host_netns_fd);
        if (r < 0)
                return log_error_errno(r, "Failed to open the host's network namespace: %m");
        r = netlink_open(-EBADF, NETLINK_ROUTE, &m->host);
        if (r < 0)
                return log_error_errno(r, "Failed to open a routing socket: %m");
        r = netlink_open(-EBADF, NETLINK_NETFILTER, &m->nft);
        if (r < 0)
                return log_error_errno(r, "Failed to open a firewall socket: %m");

        *ret = TAKE_PTR(m);
        return 0;
}

Manager* manager_free(Manager *m) {
        if (!m)
                return NULL;

        for (size_t i = 0; i < m->n_tunnels; i++)
                tunnel_free(m->tunnels[i]);
        free(m->tunnels);
        free(m->pod_subnets);
        sd_event_source_disable_unref(m->firewall_io);
        sd_event_source_disable_unref(m->firewall_timer);
        sd_event_source_disable_unref(m->verify_timer);
        close_fd(m->firewall_fd);
        netlink_free(m->host);
        netlink_free(m->nft);
        close_fd(m->host_netns_fd);
        close_fd(m->runtime_dir_fd);
        free(m);
        return NULL;
}

Tunnel* manager_find(Manager *m, const char *sandbox_id) {
        for (size_t i = 0; i < m->n_tunnels; i++)
                if (streq(m->tunnels[i]->sandbox_id, sandbox_id))
                        return m->tunnels[i];
        return NULL;
}

Tunnel* manager_find_netns(Manager *m, uint64_t netns_cookie) {
        for (size_t i = 0; i < m->n_tunnels; i++)
                if (m->tunnels[i]->netns_cookie == netns_cookie)
                        return m->tunnels[i];
        return NULL;
}

int manager_add(Manager *m, Tunnel *t) {
        Tunnel **p = reallocarray(m->tunnels, m->n_tunnels + 1, sizeof(*p));

        if (!p)
                return -ENOMEM;
        m->tunnels = p;
        m->tunnels[m->n_tunnels++] = t;
        return 0;
}

void manager_remove(Manager *m, Tunnel *t) {
        for (size_t i = 0; i < m->n_tunnels; i++)
                if (m->tunnels[i] == t) {
                        m->tunnels[i] = m->tunnels[--m->n_tunnels];
                        tunnel_free(t);
                        return;
                }
}

static NftTunnel nft_tunnel(const Tunnel *t) {
        return (NftTunnel) { .peer = t->peer, .port = t->port, .vni = t->vni };
}

int manager_sync_nft(Manager *m, NetError *e) {
        _cleanup_(freep) NftTunnel *l = new0(NftTunnel, m->n_tunnels + 1);
        size_t n = 0;
        int r;

        if (m->defer_nft)
                return 0;
        if (!l)
                return net_error_set(e, -ENOMEM, "out of memory");
        for (size_t i = 0; i < m->n_tunnels; i++)
                if (ip_address_is_set(&m->tunnels[i]->peer))
                        l[n++] = nft_tunnel(m->tunnels[i]);
        r = nft_set_tunnels(m->nft, l, n);
        if (r < 0)
                return netlink_fail(m->nft, e, r, "write the firewall's table 'peerpod'");

        m->nft_table = (NftTable) {};
        if (n > 0 && nft_look(m->nft, &m->nft_table) < 0)
                m->nft_table = (NftTable) { .n_rules = SIZE_MAX };      /* equal to nothing: written again when it is verified */
        return 0;
}

int manager_guard(Manager *m, const Tunnel *t, NetError *e) {
        NftTunnel n = nft_tunnel(t);
        int r = m->defer_nft ? 0 : nft_add_tunnel(m->nft, &n);

        if (r == -ENOENT)               /* no table: this is the first tunnel, or somebody has flushed it */
                return manager_sync_nft(m, e);
        return r < 0 ? netlink_fail(m->nft, e, r, "write the firewall's table 'peerpod'") : 0;
}

int manager_unguard(Manager *m, Tunnel *t, NetError *e) {
        NftTunnel n = nft_tunnel(t);
        bool last = true, shared = false;
        int r = -ENOENT;

        if (m->defer_nft) {
                t->peer = IP_ADDRESS_NULL;
                return 0;
        }
        for (size_t i = 0; i < m->n_tunnels; i++) {
                const Tunnel *other = m->tunnels[i];

                if (other == t || !ip_address_is_set(&other->peer))
                        continue;
                last = false;
                if (other->port == t->port && ip_address_equal(&other->peer, &t->peer))
                        shared = true;
        }

        t->peer = IP_ADDRESS_NULL;
        if (!last)
                r = nft_remove_tunnel(m->nft, &n, shared);
        if (r == -ENOENT)
                r = manager_sync_nft(m, e);
        else if (r < 0)
                (void) netlink_fail(m->nft, e, r, "write the firewall's table 'peerpod'");
        if (r < 0)
                t->peer = n.peer;
        return r;
}

/* Keep the bytes of a record that nobody can read, out of the way. */
static void set_aside(int dir_fd, const char *name, int error, const char *text) {
        char aside[NAME_MAX + 1];

        if (snprintf(aside, sizeof(aside), "%s.corrupt", name) >= (int) sizeof(aside) ||
            renameat(dir_fd, name, dir_fd, aside) < 0)
                log_warning_errno(errno, "Failed to set record '%s' aside, ignoring: %m", name);
        else
                (void) log_full(NULL, LOG_ERR, MSG_RECORD_CORRUPT, 0, "Record '%s' is unreadable, set aside as '%s': %s", name, aside,
                                text ?: strerror(-error));
}

static int load_one(Manager *m, int dir_fd, const char *name) {
        _cleanup_(tunnel_freep) Tunnel *t = NULL;
        _cleanup_(freep) char *text = NULL;
        int r = tunnel_load(dir_fd, name, &t, &text);

        if (r == -EBADMSG || r == -EFBIG)
                set_aside(dir_fd, name, r, text);
        else if (r < 0)
                log_warning_errno(r, "Failed to read record '%s', ignoring: %m", name);
        else if ((r = manager_add(m, t)) < 0)
                return log_oom();
        else
                TAKE_PTR(t);
        return 0;
}

static int load_records(Manager *m) {
        _cleanup_(closedirp) DIR *dir = NULL;
        struct dirent *de;

        dir = opendir(m->settings->runtime_dir);
        if (!dir)
                return log_error_errno(errno, "Failed to open directory '%s': %m", m->settings->runtime_dir);
        while ((de = readdir(dir))) {
                const char *dot = strrchr(de->d_name, '.');
                int r;

                if (de->d_name[0] == '.' || !dot || !streq(dot, ".json"))
                        continue;
                r = load_one(m, dirfd(dir), de->d_name);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void recover_all(Manager *m) {
        for (size_t i = 0; i < m->n_tunnels;) {
                Tunnel *t = m->tunnels[i];
                NetError e = {};
                int r = tunnel_recover(m, t, &e);

                crash_point("recovered");
                if (r < 0)
                        (void) log_full(&t->log, LOG_WARNING, MSG_TUNNEL_FAILED, r, "Tunnel found after the restart cannot be mended: %s",
                                        net_error_text(&e, r));
                if (r != 0) {
                        i++;
                        continue;
                }
                (void) log_full(&t->log, LOG_INFO, NULL, 0, "Network namespace '%s' is gone, forgetting its tunnel.", t->netns_path);
                (void) tunnel_unlink(m, t->sandbox_id, NULL);
                manager_remove(m, t);   /* the last one takes its place */
        }
}

int manager_load(Manager *m) {
        NetError e = {};
        int r;

        r = mkdir_p(m->settings->runtime_dir, 0700);
        if (r < 0)
                return log_error_errno(r, "Failed to make directory '%s': %m", m->settings->runtime_dir);
        m->runtime_dir_fd = open(m->settings->runtime_dir, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (m->runtime_dir_fd < 0)
                return log_error_errno(errno, "Failed to open directory '%s': %m", m->settings->runtime_dir);
        r = remove_temporary_files_at(m->runtime_dir_fd);
        if (r < 0)
                log_warning_errno(r, "Failed to remove temporary files from '%s', ignoring: %m", m->settings->runtime_dir);
        r = load_records(m);
        if (r < 0)
                return r;

        /* The table of before the restart guards until the new one, without the tunnels that are no more, takes its place. */
        m->defer_nft = true;
        recover_all(m);
        m->defer_nft = false;
        r = manager_sync_nft(m, &e);
        if (r < 0)
                (void) log_full(NULL, LOG_ERR, MSG_TUNNEL_FAILED, r, "Failed to %s", net_error_text(&e, r));
        return 0;
}
