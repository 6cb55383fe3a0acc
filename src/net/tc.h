/* SPDX-License-Identifier: Apache-2.0 */
/* Redirect of all that arrives at one device to another: what makes a wire of two devices. */
#pragma once

#include "net/netlink.h"

typedef enum IngressHook {
        INGRESS_NONE,
        INGRESS_QDISC,          /* "ingress" */
        INGRESS_CLSACT,         /* "clsact", whose ingress side does the same */
} IngressHook;

/* tc_get_ingress() - what is at the device's ingress hook; there is place for one. -EBUSY for something else. Returns 0, -errno. */
int tc_get_ingress(Netlink *nl, int ifindex, IngressHook *ret);
/* tc_add_ingress() - -EEXIST if the hook is taken */
int tc_add_ingress(Netlink *nl, int ifindex);
/* tc_delete_ingress() - an "ingress" qdisc with all its filters; -ENOENT */
int tc_delete_ingress(Netlink *nl, int ifindex);

/**
 * tc_redirect_get() - where our filter on @ifindex sends frames
 * @ret_target: ifindex, 0 where there is no filter of ours, -1 where one leads to a device that is gone or is no redirect
 */
int tc_redirect_get(Netlink *nl, int ifindex, IngressHook hook, int *ret_target);
/**
 * tc_redirect_add() - send every frame that arrives at @ifindex out of @target
 *
 * u32 with one key that matches all, and mirred: matchall and flower are missing in small kernels. Priority 1: whoever put
 * filters there already does not see the frames first. Returns 0, -EEXIST (repeated), -errno.
 */
int tc_redirect_add(Netlink *nl, int ifindex, IngressHook hook, int target);
/* tc_redirect_delete() - with all exceptions; -ENOENT */
int tc_redirect_delete(Netlink *nl, int ifindex, IngressHook hook);

/* Four bytes of a frame, counted from the network header. */
typedef struct TcKey {
        int offset;
        uint32_t mask, value;           /* in the host's order */
} TcKey;

/*
 * tc_exception_set() - frames that match all keys are not redirected, but go on to the device's own network stack
 * @number: 0 … TC_EXCEPTIONS_MAX - 1; replaces what has it
 */
#define TC_EXCEPTIONS_MAX 2U
#define TC_EXCEPTION_KEYS_MAX 4U
int tc_exception_set(Netlink *nl, int ifindex, IngressHook hook, unsigned number, const TcKey *keys, size_t n_keys);
int tc_exception_delete(Netlink *nl, int ifindex, IngressHook hook, unsigned number);
