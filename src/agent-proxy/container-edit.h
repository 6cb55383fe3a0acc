/* SPDX-License-Identifier: Apache-2.0 */
/* What the worker's end adds to CreateContainer: annotations that tell the pod VM about volumes and GPUs. */
#pragma once

#include "agent-proxy/proxy-config.h"
#include "ttrpc/relay.h"

/* container_check_volumes() - refuse the request if it mounts a volume that was not attached, as whose it is was not known; @digests
 * are of ProxyConfig. Returns whether it may go on. */
bool container_check_volumes(char *const *digests, const TtrpcRequest *request, RelayEdit *edit);

/* A rule's work for grpc.AgentService/CreateContainer (cloud-api-adaptor: pkg/adaptor/proxy/service.go). */
void container_edit(const ProxyVolume *volumes, size_t n_volumes, const TtrpcRequest *request, RelayEdit *edit);
