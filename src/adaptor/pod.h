/* SPDX-License-Identifier: Apache-2.0 */
/* All that the adaptor has under one pod's name: its sandboxes, and who waits for one of them. */
#pragma once

#include <stddef.h>
#include <sys/queue.h>

#include "basic/hash.h"

typedef struct InfoWaiter InfoWaiter;
typedef struct Pod Pod;
typedef struct Sandbox Sandbox;

struct Pod {
        UT_hash_handle hh;
        TAILQ_HEAD(, Sandbox) sandboxes;
        LIST_HEAD(, InfoWaiter) waiters;
        char key[];                     /* namespace, NUL, name */
};

/* pod_find() - NULL if nothing is known under that name */
Pod* pod_find(Pod *table, const char *pod_namespace, const char *pod_name);

/* pod_get() - the same, made where it is missing; the caller adds something to it at once. NULL: no memory. */
Pod* pod_get(Pod **table, const char *pod_namespace, const char *pod_name);

/* pod_drop_if_empty() - to be called whenever something was taken out of it */
void pod_drop_if_empty(Pod **table, Pod *pod);
