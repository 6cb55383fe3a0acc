/* SPDX-License-Identifier: Apache-2.0 */
/* What the adaptor of this node knows of a pod's VM; node role only. */
#pragma once

#include <stdbool.h>

typedef struct Task Task;
typedef struct Wrapper Wrapper;

/* vm_find() - the instance that a pod runs in (podvminfo.PodVMInfo, over the shim's socket). @found gets its id, or NULL with a reason. */
void vm_find(Task *t, const char *pod_namespace, const char *pod_name, void (*found)(Task *t, const char *vm_id, const char *reason));

/* vm_look() - is there such an instance, even one that is still being deleted (GetManagedObjects, over the system bus)? @seen gets 1, 0, or -errno
 * with a reason. PodVMInfo says "not found" already when a delete begins, and then tells the next VM of the pod. */
void vm_look(Task *t, const char *vm_id, void (*seen)(Task *t, int exists, const char *reason));

void vm_disconnect(Wrapper *w);
