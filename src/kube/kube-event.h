/* SPDX-License-Identifier: Apache-2.0 */
/* Events that "kubectl describe" shows beside an object (events.k8s.io/v1): a courtesy, never a record. What cannot be written is dropped and
 * counted; what repeats itself becomes one event with a count; a bucket of tokens bounds the rest. */
#pragma once

#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/json.h"

typedef struct KubeClient KubeClient;
typedef struct KubeEvents KubeEvents;

/* What an event is about. */
typedef struct KubeReference {
        const char *api_version, *kind, *ns, *name, *uid;       /* ns NULL: cluster-scoped; uid NULL: not known */
} KubeReference;

/**
 * kube_events_new() - a recorder
 * @client:     borrowed; outlives the recorder
 * @controller: who speaks, "confidentialcontainers.org/peerpod-ctrl"; copied
 * @instance:   which one of them, such as a node's name; copied
 *
 * Returns 0, -ENOMEM.
 */
int kube_events_new(KubeClient *client, const char *controller, const char *instance, KubeEvents **ret);
KubeEvents* kube_events_free(KubeEvents *e);
DEFINE_CLEANUP(KubeEvents*, kube_events_free);

/**
 * kube_event() - tell
 * @type:   "Normal" or "Warning"
 * @reason: one CamelCase word, for programs
 * @action: what was being done, one CamelCase word
 * @note:   a sentence for people; made plain and cut to 1 KiB
 *
 * Never fails as far as the caller is concerned.
 */
void kube_event(KubeEvents *e, const KubeReference *about, const char *type, const char *reason, const char *action, const char *note);

/* Reference to an object as the API server gave it; borrowed from it. Returns 0, -EBADMSG. */
int kube_reference_from_object(json_object *object, KubeReference *ret);

typedef struct KubeEventsStats {
        uint64_t n_written, n_merged, n_dropped, n_failed;
} KubeEventsStats;

void kube_events_stats(const KubeEvents *e, KubeEventsStats *ret);
