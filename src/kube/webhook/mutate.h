/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of a pod whose containers run in a VM of their own.
 *
 * On the worker, such a pod takes one VM out of those that the node may have, and what its RuntimeClass says as overhead. So what its
 * containers ask for is taken away, and goes as annotations to Kata's shim, and from there to the cloud (cloud-api-adaptor:
 * src/webhook/pkg/mutating_webhook/remove-resourcespec.go).
 *
 * The API server calls again when a later webhook has changed the pod (reinvocationPolicy IfNeeded), and then has our own output. What
 * was asked for before is therefore kept, container by container, in the annotation MUTATE_RECORD. With it, the sum is always that of
 * all containers, and a size that we have set can be told from one that the pod's author has set, which stays as it is. */
#pragma once

#include "basic/cleanup.h"
#include "basic/json.h"

typedef struct WebhookSettings WebhookSettings;

#define MUTATE_RECORD "kata.peerpods.io/asked-for"

typedef struct Mutation {
        json_object *patch;     /* operations (RFC 6902), the same for the same pod; NULL: the pod stays as it is */
        char **warnings;        /* for who creates the pod */
} Mutation;

/**
 * mutate_pod() - find what must change
 * @pod:    a v1 Pod as the API server sends it; not changed
 * @ret:    mutation_done() frees it
 * @reterr: names the field that is wrong
 *
 * Returns 0, -EBADMSG (not a pod), -EINVAL (a value that Kubernetes would have refused, had it got to see it), -ENOMEM.
 */
int mutate_pod(const WebhookSettings *settings, json_object *pod, Mutation *ret, char **reterr);
void mutation_done(Mutation *m);
