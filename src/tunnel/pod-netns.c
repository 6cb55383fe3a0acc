/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/pod-netns.h"

#include <limits.h>
#include <linux/rtnetlink.h>

#include "basic/parse.h"

void pod_netns_done(PodNetns *n) {
        n->nl = netlink_free(n->nl);
        n->fd = close_fd(n->fd);
}

int pod_netns_open(Manager *m, const char *path, PodNetns *ret, NetError *e) {
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
