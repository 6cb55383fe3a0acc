/* SPDX-License-Identifier: Apache-2.0 */
/* Leader election by a Lease object (kubernetes/client-go: tools/leaderelection): of several processes, at most one leads.
 *
 * The times in the object are never compared with our clock: a lease is over when it has not changed for its duration by our own monotonic
 * clock. Who cannot renew in time is told so before another can have taken over, and must stop what only a leader may do. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/cleanup.h"

typedef struct KubeClient KubeClient;
typedef struct KubeLease KubeLease;

typedef struct KubeLeaseSpec {
        const char *ns, *name;          /* copied */
        const char *identity;           /* copied; NULL: HOSTNAME_UUID, a new one for each process */
        uint64_t duration_usec;         /* 0: 15 s; whole seconds */
        uint64_t renew_deadline_usec;   /* 0: 10 s; less than the duration */
        uint64_t retry_usec;            /* 0: 2 s */

        void (*on_acquired)(KubeLease *l, void *userdata);
        /* Not leader any more, and not for this process's choice: others may lead from now on. @why is for people. The lease goes on trying to
         * get it back, unless it is freed (which is allowed here); most daemons end with a failure instead. */
        void (*on_lost)(KubeLease *l, const char *why, void *userdata);
        /* Another one leads, or leads no more ("" then). NULL: not wanted. */
        void (*on_leader)(KubeLease *l, const char *identity, void *userdata);
} KubeLeaseSpec;

/* kube_lease_new() - begin to try. @client is borrowed and outlives the lease. Returns 0, -EINVAL (durations), -ENOMEM. */
int kube_lease_new(KubeClient *client, const KubeLeaseSpec *spec, void *userdata, KubeLease **ret);

/**
 * kube_lease_release() - let go, so that a successor need not wait
 * @done: called once from the loop, when the server has it, or has not answered within 5 s, or there is nothing to let go of; may free the lease
 *
 * From here on this process does not lead and does not try. Returns 0, -ENOMEM.
 */
int kube_lease_release(KubeLease *l, void (*done)(KubeLease *l, void *userdata), void *userdata);

/* kube_lease_free() - stop without letting go. Takes NULL, returns NULL. */
KubeLease* kube_lease_free(KubeLease *l);
DEFINE_CLEANUP(KubeLease*, kube_lease_free);

bool kube_lease_is_held(const KubeLease *l);
const char* kube_lease_identity(const KubeLease *l);
