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

/* Reply "bs": does the tunnel carry packets, as far as can be told; and a sentence on it. */
int tunnel_probe(ServiceLink *tunnel, const char *sandbox_id, ServiceHandler handler, void *userdata, ServiceCall **ret);

/* Reply "as": sandbox ids. */
int tunnel_list(ServiceLink *tunnel, ServiceHandler handler, void *userdata, ServiceCall **ret);
