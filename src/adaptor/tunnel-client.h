/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to peerpod-tunneld. Strings are borrowed until the call has ended. */
#pragma once

#include "adaptor/link.h"

/* Reply "s": JSON text of the pod network (apf.json, "pod-network"). */
int tunnel_inspect(Link *tunnel, const char *sandbox_id, const char *netns_path, LinkHandler handler, void *userdata,
                   LinkCall **ret);

/* Reply "". The first address is the tunnel's peer. */
int tunnel_setup(Link *tunnel, const char *sandbox_id, const char *netns_path, char *const *addresses, LinkHandler handler,
                 void *userdata, LinkCall **ret);

/* Reply "". */
int tunnel_teardown(Link *tunnel, const char *sandbox_id, const char *netns_path, LinkHandler handler, void *userdata,
                    LinkCall **ret);

/* Reply "as": sandbox ids. */
int tunnel_list(Link *tunnel, LinkHandler handler, void *userdata, LinkCall **ret);
