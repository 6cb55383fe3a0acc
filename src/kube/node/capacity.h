/* SPDX-License-Identifier: Apache-2.0 */
/* The extended resource kata.peerpods.io/vm of our Node: how many pod VMs the scheduler may put here.
 *
 * The kubelet sets it to zero when it registers the node anew, and people edit objects; so the Node is watched and the capacity put right. Who
 * advertises it says so in an annotation, with a name that only this start of this service has: another one that writes its own name there has
 * taken over, and is not fought with. */
#pragma once

#include "basic/cleanup.h"

typedef struct Capacity Capacity;
typedef struct Node Node;

/* capacity_new() - begin. Returns 0 or -errno. */
int capacity_new(Node *n, Capacity **ret);
Capacity* capacity_free(Capacity *c);                   /* takes NULL */
DEFINE_CLEANUP(Capacity*, capacity_free);

/* capacity_withdraw() - the node has no pod VMs to offer any more, if it is we who offer them. Returns 1: @done is called once, after a few seconds at
 * the latest; 0: there is nothing to withdraw; negative (logged). */
int capacity_withdraw(Capacity *c, void (*done)(void *userdata), void *userdata);
