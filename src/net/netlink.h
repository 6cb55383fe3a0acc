/* SPDX-License-Identifier: Apache-2.0 */
/* A netlink socket that lives in a chosen network namespace, and requests on it that are waited for. */
#pragma once

#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdbool.h>
#include <stdint.h>

#include "basic/util.h"

/* Text for people beside a negative return: made where the fact is known, widened outwards. */
typedef struct NetError {
        char text[384];
} NetError;

/* Set or widen the text; both take NULL and return @r. net_error_prefix() puts "…: " in front of what is there. */
int net_error_set(NetError *e, int r, const char *format, ...) PRINTF(3, 4);
int net_error_prefix(NetError *e, int r, const char *format, ...) PRINTF(3, 4);
const char* net_error_text(const NetError *e, int r);   /* the text, or strerror(r) where there is none */

/*
 * libnl-3 core builds and takes apart the messages; sending and receiving is ours, since libnl 3.7 folds EEXIST and EADDRINUSE
 * into one error and drops the kernel's extended acknowledgement, and since a wait needs an end. One request is under way at
 * a time, and its answer is there when send() returns, so that a caller in an event loop blocks for the kernel's work only.
 */
typedef struct Netlink Netlink;

/**
 * netns_open() - open a network namespace by a path that is not trusted
 * @path: opened without side effects first (O_PATH) and used only if it lies on nsfs: neither a FIFO can block
 *        us nor a device be touched
 *
 * Returns 0, -EMEDIUMTYPE if it is something else than a network namespace, -errno.
 */
int netns_open(const char *path, int *ret_fd);
/* netns_open_own() - the calling thread's */
int netns_open_own(int *ret_fd);
/* netns_same() - do two descriptors name one namespace? 1, 0, -errno */
int netns_same(int fd_a, int fd_b);
/* netns_cookie() - its number, never used twice between two boots of the kernel (linux: net/core/net_namespace.c) */
int netns_cookie(int netns_fd, uint64_t *ret);
/**
 * netns_socket() - socket() in another namespace
 * @netns_fd: -EBADF for the calling thread's own
 *
 * The thread is in the other namespace for the one call. If the way back fails, the process is aborted: it would act on the
 * wrong network from then on.
 */
int netns_socket(int netns_fd, int family, int type, int protocol);

/* netlink_open() - @protocol NETLINK_ROUTE or NETLINK_NETFILTER; @netns_fd borrowed, -EBADF for the own one. Returns 0, -errno. */
int netlink_open(int netns_fd, int protocol, Netlink **ret);
Netlink* netlink_free(Netlink *nl);
DEFINE_CLEANUP(Netlink*, netlink_free);

/* netlink_message() - a message of up to a page. @header: the family's header. Returns 0, -ENOMEM. */
int netlink_message(uint16_t type, uint16_t flags, const void *header, size_t size, struct nl_msg **ret);
static inline void nl_msg_freep(struct nl_msg **m) {
        if (*m)
                nlmsg_free(*m);
}

/* Gets each answer. A negative return ends the request with it. */
typedef int (*netlink_handler_t)(const struct nlmsghdr *h, void *userdata);

/**
 * netlink_request() - send, wait for the acknowledgement
 * @m:       borrowed; gets NLM_F_REQUEST, NLM_F_ACK and a number
 * @handler: gets answers that come before the acknowledgement; may be NULL
 *
 * Returns 0, the kernel's -errno, -ETIMEDOUT after NETLINK_TIMEOUT_SEC, -EBADMSG for an answer that makes no sense.
 */
int netlink_request(Netlink *nl, struct nl_msg *m, netlink_handler_t handler, void *userdata);
#define NETLINK_TIMEOUT_SEC 10

/* netlink_dump() - the same for NLM_F_DUMP. @reset is called before each attempt, since a dump that the kernel calls inconsistent
 * is asked for again (-EAGAIN after some attempts). */
int netlink_dump(Netlink *nl, struct nl_msg *m, void (*reset)(void *userdata), netlink_handler_t handler, void *userdata);

/**
 * netlink_batch() - send a nfnetlink transaction: BATCH_BEGIN, messages, BATCH_END, all or nothing
 * @data: the messages one behind the other; numbered here. Exactly one, the last but BATCH_END, asks for an acknowledgement:
 *        the kernel answers when all is done, errors first, so that the first answer is the result (linux:
 *        net/netfilter/nfnetlink.c, nfnetlink_rcv_batch()).
 */
int netlink_batch(Netlink *nl, uint8_t *data, size_t size);

/* netlink_text() - the kernel's own words on the last error (extended acknowledgement), "" if it had none */
const char* netlink_text(const Netlink *nl);
/* netlink_fail() - put "@format: error (kernel's words)" into @e; returns @r */
int netlink_fail(const Netlink *nl, NetError *e, int r, const char *format, ...) PRINTF(4, 5);

/* netlink_subscribe() - a socket that is readable when one of @groups (RTNLGRP_*, NFNLGRP_*, ends with 0) has news. The news
 * themselves are to be thrown away by netlink_drain(): one looks at the state again. Returns the descriptor or -errno. */
int netlink_subscribe(int netns_fd, int protocol, const int *groups);
void netlink_drain(int fd);
