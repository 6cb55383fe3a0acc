/* SPDX-License-Identifier: Apache-2.0 */
/* How large a VM the containers of a pod need. */
#pragma once

#include "basic/json.h"
#include "kube/webhook/quantity.h"

typedef struct WebhookSettings WebhookSettings;

typedef enum VmResource {
        VM_CPU,
        VM_MEMORY,
        VM_GPU,
        _VM_RESOURCE_MAX,
} VmResource;

/* "cpu", "memory", "gpu" */
const char* vm_resource_to_string(VmResource r);

typedef struct PodSize {
        Quantity of[_VM_RESOURCE_MAX];
} PodSize;

/* What a "resources" object asks for. */
typedef struct Asked {
        PodSize requests, limits;
        bool anything;          /* besides the extended resource that stands for a VM */
        char ***dropped;        /* borrowed strv: names of resources that mean nothing to a VM are added to it, each once, not more than a few */
} Asked;

/**
 * asked_read() - add up what an object of type ResourceRequirements asks for
 * @owner: whose "resources" they are
 * @ret:   .dropped is set by the caller, the rest here
 *
 * Returns 0, -EBADMSG (not of that type), -EINVAL (a value that Kubernetes would refuse; it does not get to see it any more), -ENOMEM.
 */
int asked_read(const WebhookSettings *settings, json_object *owner, Asked *ret, char **reterr);

/* pod_size_of() - a container gets the greater one of request and limit. Limits without requests are requests to Kubernetes, too. */
PodSize pod_size_of(const Asked *a);

/* The containers of a pod, added up in the order in which they run. Begins with zeroes. */
typedef struct PodSum {
        PodSize sidecars;       /* those that have been started so far */
        PodSize peak;           /* the most that was needed at once while init containers ran */
        PodSize apps;
} PodSum;

/* Init containers in their order; a sidecar is one with restartPolicy Always, which goes on when the next one runs
 * (kubernetes/kubernetes: pkg/api/v1/resource/helpers.go). */
void pod_sum_add_init(PodSum *s, const PodSize *size);
void pod_sum_add_sidecar(PodSum *s, const PodSize *size);
void pod_sum_add_app(PodSum *s, const PodSize *size);

/**
 * pod_sum_total() - the pod's effective size
 * @pod: what spec.resources asks for: a limit there is the limit of all together, a request a lower bound
 */
PodSize pod_sum_total(const PodSum *s, const PodSize *pod_requests, const PodSize *pod_limits);
