/* SPDX-License-Identifier: Apache-2.0 */
#include "net/netlink.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>

#include "basic/log.h"

/* The kernel builds parts of a dump of at most 32 KiB (linux: net/netlink/af_netlink.c, netlink_dump()). */
#define RECEIVE_SIZE (32U * 1024U)
#define DUMP_ATTEMPTS 8

struct Netlink {
        int fd;
        uint32_t sequence;
        char text[192];
        uint8_t buffer[RECEIVE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
};

int net_error_set(NetError *e, int r, const char *format, ...) {
        if (e) {
                va_list ap;

                va_start(ap, format);
                (void) vsnprintf(e->text, sizeof(e->text), format, ap);
                va_end(ap);
        }

        return r;
}

int net_error_prefix(NetError *e, int r, const char *format, ...) {
        if (e) {
                char front[sizeof(e->text)], back[sizeof(e->text)];
                va_list ap;

                va_start(ap, format);
                (void) vsnprintf(front, sizeof(front), format, ap);
                va_end(ap);
                (void) snprintf(back, sizeof(back), "%s", net_error_text(e, r));
                (void) snprintf(e->text, sizeof(e->text), "%.150s: %.220s", front, back);
        }

        return r;
}

const char* net_error_text(const NetError *e, int r) {
        return e && e->text[0] ? e->text : strerror(-r);
}

int netns_open(const char *path, int *ret_fd) {
        _cleanup_(close_fdp) int probe = -EBADF, fd = -EBADF;
        char self[64];
        struct statfs fs;
        int type;

        probe = open(path, O_PATH|O_CLOEXEC);
        if (probe < 0)
                return -errno;
        if (fstatfs(probe, &fs) < 0)
                return -errno;
        if ((unsigned long) fs.f_type != NSFS_MAGIC)
                return -EMEDIUMTYPE;

        (void) snprintf(self, sizeof(self), "/proc/self/fd/%i", probe);
        fd = open(self, O_RDONLY|O_CLOEXEC);
        if (fd < 0)
                return -errno;

        type = ioctl(fd, NS_GET_NSTYPE);
        if (type < 0)
                return -errno;
        if (type != CLONE_NEWNET)
                return -EMEDIUMTYPE;

        *ret_fd = TAKE_FD(fd);
        return 0;
}

int netns_open_own(int *ret_fd) {
        int fd = open("/proc/thread-self/ns/net", O_RDONLY|O_CLOEXEC);

        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

int netns_same(int fd_a, int fd_b) {
        struct stat a, b;

        if (fstat(fd_a, &a) < 0 || fstat(fd_b, &b) < 0)
                return -errno;
        return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int netns_cookie(int netns_fd, uint64_t *ret) {
        _cleanup_(close_fdp) int fd = -EBADF;
        uint64_t cookie;
        socklen_t size = sizeof(cookie);

        fd = netns_socket(netns_fd, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
        if (fd < 0)
                return fd;
        if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size) < 0)
                return -errno;

        *ret = cookie;
        return 0;
}

int netns_socket(int netns_fd, int family, int type, int protocol) {
        _cleanup_(close_fdp) int own = -EBADF;
        int fd, r;

        if (netns_fd < 0) {
                fd = socket(family, type|SOCK_CLOEXEC, protocol);
                return fd < 0 ? -errno : fd;
        }

        r = netns_open_own(&own);
        if (r < 0)
                return r;
        if (setns(netns_fd, CLONE_NEWNET) < 0)
                return -errno;

        fd = socket(family, type|SOCK_CLOEXEC, protocol);
        r = fd < 0 ? -errno : fd;

        if (setns(own, CLONE_NEWNET) < 0) {
                log_error_errno(errno, "Failed to return to the network namespace of the host, aborting: %m");
                abort();
        }
        return r;
}

int netlink_open(int netns_fd, int protocol, Netlink **ret) {
        static const struct timeval timeout = { .tv_sec = NETLINK_TIMEOUT_SEC };
        static const struct sockaddr_nl any = { .nl_family = AF_NETLINK };
        static const int one = 1;
        _cleanup_(netlink_freep) Netlink *nl = NULL;

        nl = new(Netlink);
        if (!nl)
                return -ENOMEM;
        nl->fd = netns_socket(netns_fd, AF_NETLINK, SOCK_RAW, protocol);
        nl->sequence = 0;
        nl->text[0] = '\0';
        if (nl->fd < 0)
                return nl->fd;

        if (setsockopt(nl->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
            setsockopt(nl->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0 ||
            setsockopt(nl->fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one)) < 0 ||
            setsockopt(nl->fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one)) < 0 ||
            /* Makes the kernel take our filters on dumps seriously, or refuse them. */
            (protocol == NETLINK_ROUTE &&
             setsockopt(nl->fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one)) < 0) ||
            bind(nl->fd, (const struct sockaddr*) &any, sizeof(any)) < 0)
                return -errno;

        *ret = TAKE_PTR(nl);
        return 0;
}

Netlink* netlink_free(Netlink *nl) {
        if (nl) {
                close_fd(nl->fd);
                free(nl);
        }
        return NULL;
}

int netlink_message(uint16_t type, uint16_t flags, const void *header, size_t size, struct nl_msg **ret) {
        _cleanup_(nl_msg_freep) struct nl_msg *m = nlmsg_alloc_simple(type, flags);

        if (!m || nlmsg_append(m, (void*) header, size, NLMSG_ALIGNTO) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(m);
        return 0;
}

/* The acknowledgement's error, and the kernel's words where it has some. */
static int take_acknowledgement(Netlink *nl, const struct nlmsghdr *h) {
        const struct nlmsgerr *ack = nlmsg_data(h);
        size_t size = (size_t) nlmsg_datalen(h), skip = sizeof(*ack);
        struct nlattr *a;

        if (size < sizeof(*ack) || ack->error > 0)
                return -EBADMSG;
        if (ack->error == 0 || !(h->nlmsg_flags & NLM_F_ACK_TLVS))
                return ack->error;

        if (!(h->nlmsg_flags & NLM_F_CAPPED)) {         /* the whole request comes back before the attributes */
                if (ack->msg.nlmsg_len < sizeof(ack->msg) || NLMSG_ALIGN(ack->msg.nlmsg_len) - sizeof(ack->msg) > size - skip)
                        return ack->error;
                skip += NLMSG_ALIGN(ack->msg.nlmsg_len) - sizeof(ack->msg);
        }
        a = nla_find((struct nlattr*) ((uint8_t*) nlmsg_data(h) + skip), (int) (size - skip), NLMSGERR_ATTR_MSG);
        if (a)
                (void) nla_strlcpy(nl->text, a, sizeof(nl->text));
        return ack->error;
}

/* One datagram from the kernel. Returns its size or -errno. */
static ssize_t receive(Netlink *nl) {
        for (;;) {
                struct sockaddr_nl from = {};
                struct iovec iov = { nl->buffer, sizeof(nl->buffer) };
                struct msghdr mh = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1 };
                ssize_t n = recvmsg(nl->fd, &mh, 0);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return errno == EAGAIN ? -ETIMEDOUT : -errno;
                }
                if (from.nl_pid != 0)           /* another process may send to us; nobody but the kernel is heard */
                        continue;
                if (mh.msg_flags & MSG_TRUNC)
                        return -EMSGSIZE;
                return n;
        }
}

static int send_all(Netlink *nl, const void *data, size_t size) {
        static const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        ssize_t n;

        nl->text[0] = '\0';
        do
                n = sendto(nl->fd, data, size, 0, (const struct sockaddr*) &kernel, sizeof(kernel));
        while (n < 0 && errno == EINTR);
        return n < 0 ? (errno == EAGAIN ? -ETIMEDOUT : -errno) : 0;
}

/* Read until the request ended: by an acknowledgement, an error, or the end of a dump. */
static int wait_for_end(Netlink *nl, bool *ret_inconsistent, netlink_handler_t handler, void *userdata) {
        bool ended = false;
        int result = 0;

        while (!ended) {
                ssize_t n = receive(nl);
                int left;

                if (n < 0)
                        return (int) n;
                left = (int) n;
                for (struct nlmsghdr *h = (struct nlmsghdr*) nl->buffer; nlmsg_ok(h, left); h = nlmsg_next(h, &left)) {
                        int r = 0;

                        if (h->nlmsg_seq != nl->sequence)       /* to a request that timed out */
                                continue;
                        if (ret_inconsistent && (h->nlmsg_flags & NLM_F_DUMP_INTR))
                                *ret_inconsistent = true;

                        if (h->nlmsg_type == NLMSG_ERROR) {
                                r = take_acknowledgement(nl, h);
                                ended = true;
                        } else if (h->nlmsg_type == NLMSG_DONE) {
                                if (nlmsg_datalen(h) >= (int) sizeof(int))
                                        memcpy(&r, nlmsg_data(h), sizeof(int));
                                ended = true;
                        } else if (handler && result == 0)
                                r = handler(h, userdata);
                        if (r < 0 && result == 0)
                                result = r;
                }
        }

        return result;
}

int netlink_request(Netlink *nl, struct nl_msg *m, netlink_handler_t handler, void *userdata) {
        struct nlmsghdr *h = nlmsg_hdr(m);
        bool inconsistent = false;
        int r;

        h->nlmsg_flags |= NLM_F_REQUEST | ((h->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP ? 0 : NLM_F_ACK);
        h->nlmsg_seq = ++nl->sequence;
        h->nlmsg_pid = 0;

        r = send_all(nl, h, h->nlmsg_len);
        if (r < 0)
                return r;
        r = wait_for_end(nl, &inconsistent, handler, userdata);
        return r < 0 ? r : inconsistent ? -EAGAIN : 0;
}

int netlink_dump(Netlink *nl, struct nl_msg *m, void (*reset)(void *userdata), netlink_handler_t handler, void *userdata) {
        int r = -EAGAIN;

        nlmsg_hdr(m)->nlmsg_flags |= NLM_F_DUMP;
        for (int i = 0; i < DUMP_ATTEMPTS && r == -EAGAIN; i++) {
                reset(userdata);
                r = netlink_request(nl, m, handler, userdata);
        }
        return r;
}

int netlink_batch(Netlink *nl, uint8_t *data, size_t size) {
        int left = (int) size, r;

        nl->sequence++;
        for (struct nlmsghdr *h = (struct nlmsghdr*) data; nlmsg_ok(h, left); h = nlmsg_next(h, &left)) {
                h->nlmsg_seq = nl->sequence;
                h->nlmsg_pid = 0;
        }

        r = send_all(nl, data, size);
        if (r < 0)
                return r;
        return wait_for_end(nl, NULL, NULL, NULL);
}

const char* netlink_text(const Netlink *nl) {
        return nl->text;
}

int netlink_fail(const Netlink *nl, NetError *e, int r, const char *format, ...) {
        if (e) {
                char what[160];
                va_list ap;

                va_start(ap, format);
                (void) vsnprintf(what, sizeof(what), format, ap);
                va_end(ap);
                (void) net_error_set(e, r, nl->text[0] ? "%s: %s (%s)" : "%s: %s", what, strerror(-r), nl->text);
        }

        return r;
}

int netlink_subscribe(int netns_fd, int protocol, const int *groups) {
        static const struct sockaddr_nl any = { .nl_family = AF_NETLINK };
        _cleanup_(close_fdp) int fd = -EBADF;

        fd = netns_socket(netns_fd, AF_NETLINK, SOCK_RAW|SOCK_NONBLOCK, protocol);
        if (fd < 0)
                return fd;
        if (bind(fd, (const struct sockaddr*) &any, sizeof(any)) < 0)
                return -errno;
        for (; *groups != 0; groups++)
                if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, groups, sizeof(*groups)) < 0)
                        return -errno;
        return TAKE_FD(fd);
}

void netlink_drain(int fd) {
        char c;

        /* ENOBUFS only says that news were lost, which does not matter to somebody who throws them away. */
        while (recv(fd, &c, sizeof(c), MSG_TRUNC) >= 0 || errno == ENOBUFS || errno == EINTR)
                ;
}
