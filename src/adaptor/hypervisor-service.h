/* SPDX-License-Identifier: Apache-2.0 */
/* What kata's shim calls: hypervisor.Hypervisor and podvminfo.PodVMInfo, on ttrpc. */
#pragma once

#include "basic/cleanup.h"

typedef struct HypervisorService HypervisorService;
typedef struct Manager Manager;
typedef struct Sandbox Sandbox;

/**
 * hypervisor_service_new() - serve both services
 * @m:         borrowed; outlives the service
 * @listen_fd: taken, on failure too; only root and our own user may call
 */
int hypervisor_service_new(Manager *m, int listen_fd, HypervisorService **ret);

/* hypervisor_service_free() - calls that still wait are cut off */
HypervisorService* hypervisor_service_free(HypervisorService *h);
DEFINE_CLEANUP(HypervisorService*, hypervisor_service_free);

/* hypervisor_service_sandbox_changed() - answer those who wait for the instance of its pod */
void hypervisor_service_sandbox_changed(HypervisorService *h, Sandbox *s);
