/* SPDX-License-Identifier: Apache-2.0 */
/* A VM and what comes with it (network interfaces, public addresses, disk), as Azure shows them. */
#pragma once

#include "azure.h"

#define VM_TYPE "Microsoft.Compute/virtualMachines"
#define NIC_TYPE "Microsoft.Network/networkInterfaces"
#define ADDRESS_TYPE "Microsoft.Network/publicIPAddresses"
#define DISK_TYPE "Microsoft.Compute/disks"

/* azure_vm_get() - 1 and the VM; 0: there is none; or a negative errno with *error set */
int azure_vm_get(Azure *a, const PeerpodCall *call, const char *name, json_object **ret, PeerpodError *error);

/* azure_vm_is_owned_by() - by its tags; @node may be NULL */
bool azure_vm_is_owned_by(json_object *vm, const char *sandbox_id, const char *node);

/* azure_vm_wait_ready() - until provisioningState is Succeeded; @ret as last seen. A VM that is not seen yet is waited for until
 * @seen_until_usec (CLOCK_MONOTONIC), then -ENOENT. */
int azure_vm_wait_ready(Azure *a, const PeerpodCall *call, const char *name, uint64_t seen_until_usec, json_object **ret, PeerpodError *error);

/* azure_vm_fill() - wait until each interface has its address, and fill in *ret */
int azure_vm_fill(Azure *a, const PeerpodCall *call, json_object *vm, PeerpodInstance *ret, PeerpodError *error);

/**
 * azure_vm_remove() - delete the VM of @name and all that came with it; returns when they are gone
 *
 * Nothing there is success; a VM of another sandbox is left alone (PEERPOD_E_FAILED_PRECONDITION).
 */
int azure_vm_remove(Azure *a, const PeerpodCall *call, const char *name, const char *sandbox_id, PeerpodError *error);
