/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kernel-check.h"

#include <linux/netlink.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/link.h"
#include "net/nft.h"
#include "net/tc.h"

typedef enum Feature {
        FEATURE_NAMESPACE,
        FEATURE_VXLAN,
        FEATURE_INGRESS,
        FEATURE_REDIRECT,
        FEATURE_NFTABLES,
        _FEATURE_MAX,
} Feature;

static const struct {
        const char *name, *remedy;
} features[_FEATURE_MAX] = {
        [FEATURE_NAMESPACE] = { "network namespaces",        "Use a kernel with CONFIG_NET_NS." },
        [FEATURE_VXLAN]     = { "VXLAN devices",             "modprobe vxlan, or use a kernel with CONFIG_VXLAN." },
        [FEATURE_INGRESS]   = { "ingress queueing",          "modprobe sch_ingress, or use a kernel with CONFIG_NET_SCH_INGRESS." },
        [FEATURE_REDIRECT]  = { "u32 filters with mirred",   "modprobe cls_u32 act_mirred, or use a kernel with CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED." },
        [FEATURE_NFTABLES]  = { "nf_tables",                 "modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET." },
};

static int make_vxlan(Netlink *nl, const char *name, uint32_t vni, int *ret_ifindex) {
        const VxlanSettings s = { .name = name, .netns_fd = -EBADF, .vni = vni, .port = 4789 };
        Link link;
        int r;

        r = vxlan_create(nl, &s);
        if (r < 0)
                return r;
        r = link_get(nl, name, &link);
        if (r < 0)
                return r;
        *ret_ifindex = link.ifindex;
        return 0;
}

/* In the child: results[i] is 0, or -errno of the first thing that failed; what comes behind it is not tried. */
static void try_all(int results[]) {
        _cleanup_(netlink_freep) Netlink *route = NULL, *filter = NULL;
        NftTunnel tunnel = { .port = 4789, .vni = 1 };
        int one, two, r;

        if (unshare(CLONE_NEWNET) < 0) {
                results[FEATURE_NAMESPACE] = -errno;
                return;
        }
        results[FEATURE_NAMESPACE] = netlink_open(-EBADF, NETLINK_ROUTE, &route);
        if (results[FEATURE_NAMESPACE] < 0)
                return;

        r = make_vxlan(route, "check1", 1, &one);
        if (r >= 0)
                r = make_vxlan(route, "check2", 2, &two);
        results[FEATURE_VXLAN] = r;
        if (r >= 0)
                r = results[FEATURE_INGRESS] = tc_add_ingress(route, one);
        if (r >= 0)
                results[FEATURE_REDIRECT] = tc_redirect_add(route, one, INGRESS_QDISC, two);

        r = netlink_open(-EBADF, NETLINK_NETFILTER, &filter);
        if (r >= 0)
                r = ip_address_parse("192.0.2.1", &tunnel.peer);
        if (r >= 0)
                r = nft_set_tunnels(filter, &tunnel, 1);
        results[FEATURE_NFTABLES] = r;
}

int kernel_check(Findings *f) {
        int results[_FEATURE_MAX], fds[2], status;
        ssize_t n;
        pid_t pid;

        if (geteuid() != 0) {
                finding_add(f, SEVERITY_SKIPPED, "kernel", "Run the check as root.", "Only root can try what the kernel has.");
                return f->out_of_memory ? -ENOMEM : 0;
        }

        for (Feature i = 0; i < _FEATURE_MAX; i++)
                results[i] = -ENODATA;          /* not tried */

        /* A namespace of its own, so that nothing is changed here and nothing is left. */
        if (pipe(fds) < 0)
                return -errno;
        pid = fork();
        if (pid == 0) {
                try_all(results);
                n = write(fds[1], results, sizeof(results));
                _exit(n == (ssize_t) sizeof(results) ? 0 : 1);
        }
        close_fd(fds[1]);
        n = pid < 0 ? -1 : read(fds[0], results, sizeof(results));
        close_fd(fds[0]);
        if (pid > 0)
                (void) waitpid(pid, &status, 0);
        if (n != (ssize_t) sizeof(results)) {
                finding_add(f, SEVERITY_ERROR, "kernel", NULL, "Cannot try what the kernel has.");
                return f->out_of_memory ? -ENOMEM : 0;
        }

        for (Feature i = 0; i < _FEATURE_MAX; i++)
                if (results[i] >= 0)
                        finding_add(f, SEVERITY_OK, "kernel", NULL, "Has %s.", features[i].name);
                else if (results[i] == -ENODATA)
                        finding_add(f, SEVERITY_SKIPPED, "kernel", NULL, "Could not try %s.", features[i].name);
                else
                        finding_add(f, SEVERITY_ERROR, "kernel", features[i].remedy, "Has no %s: %s", features[i].name, strerror(-results[i]));

        return f->out_of_memory ? -ENOMEM : 0;
}
