/* SPDX-License-Identifier: Apache-2.0 */
/* What the embedded driver's look at QEMU leaves when the process that it runs in is killed. */
#pragma once

#include "libvirt-provider.h"

/* libvirt_end_probes() - end QEMU processes, and remove directories, of probes that nobody waits for any more. Before the first
 * connection: afterwards there may be probes of our own. What cannot be removed is logged and left. */
void libvirt_end_probes(const Libvirt *l, const PeerpodCall *call);
