/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to peerpod-tunneld. Strings are borrowed until the call has ended. */
#pragma once

#include "adaptor/service-link.h"

/* Reply "s": JSON text of the pod network (apf.json, "pod-network"). */
int tunnel_inspect(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, ServiceHandler handler, void *userdata,
                   ServiceCall **ret);

/* Reply "". The first address is the tunnel's peer. */
int tunnel_setup(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, char *const *addresses, ServiceHandler handler,
                 void *userdata, ServiceCall **ret);

/* Reply "". */
int tunnel_teardown(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, ServiceHandler handler, void *userdata,
                    ServiceCall **ret);

/* Reply "as": sandbox ids. */
/* Answer "b": is that path still the network namespace that the sandbox was inspected with */
int tunnel_has_netns(ServiceLink *tunnel, const char *sandbox_id, const char *netns_path, ServiceHandler handler, void *userdata,
                     ServiceCall **ret);
int tunnel_list(ServiceLink *tunnel, ServiceHandler handler, void *userdata, ServiceCall **ret);
