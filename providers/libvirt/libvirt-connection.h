/* SPDX-License-Identifier: Apache-2.0 */
/* The connection to libvirt: made when needed, kept, and made again when it was lost. */
#pragma once

#include "libvirt-provider.h"

/* libvirt_loop_start() - libvirt's event loop in a thread of its own; it drives keep-alive, and the embedded driver's monitors.
 * Once in a process. Returns 0 or -errno. */
int libvirt_loop_start(Libvirt *l);
void libvirt_loop_stop(Libvirt *l);

/* libvirt_connect() - a reference to the open connection; virConnectClose() it. Returns 0, or negative with @error. */
int libvirt_connect(Libvirt *l, const PeerpodCall *call, virConnectPtr *ret, PeerpodError *error);

/* libvirt_disconnect() - drop the module's own reference */
void libvirt_disconnect(Libvirt *l);
