/* SPDX-License-Identifier: Apache-2.0 */
/* What the pod VM's end changes in requests on their way to the agent
 * (cloud-api-adaptor: src/cloud-api-adaptor/pkg/forwarder/interceptor/interceptor.go). */
#pragma once

#include "ttrpc/relay.h"

/* Where missing sources of bind mounts are made, and nowhere else: the worker, which is not trusted, names them before the
 * agent's policy has seen the request. */
#define BIND_SOURCE_ROOT "/run/kata-containers"

/* CreateContainer: the pod's network namespace is appended, missing sources of bind mounts below @bind_root are made. Requests
 * with volumes are refused. */
void edit_create_container(const char *pod_namespace, const char *bind_root, const TtrpcRequest *request, RelayEdit *edit);

/* CreateSandbox: no DNS servers, so that the agent leaves the VM's own resolv.conf alone. */
void edit_create_sandbox(const TtrpcRequest *request, RelayEdit *edit);

/* mkdir -p of @path, which must lie below @root; no symlink is followed below it. Returns 1 if it was made, 0 if something is
 * there already, -EPERM (outside), or another -errno. */
int make_bind_source(const char *root, const char *path);
