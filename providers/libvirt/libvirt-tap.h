/* SPDX-License-Identifier: Apache-2.0 */
/* Tap devices for the embedded driver, which has no network driver and, unprivileged, cannot make them itself.
 *
 * libvirt's own way would be qemu-bridge-helper, but it starts that with all capabilities cleared (libvirt 11.3, measured with an
 * ambient CAP_NET_ADMIN), so that only a setuid helper would work. A persistent tap that belongs to our user needs neither: making
 * it takes CAP_NET_ADMIN, opening it by libvirt and removing it takes nothing. */
#pragma once

#include <net/if.h>
#include <stdint.h>

#include "provider/peerpod-provider.h"

/* tap_name_make() - the same name for the same instance, always */
void tap_name_make(const char *instance_name, char ret[static IFNAMSIZ]);

/* tap_create() - a persistent tap of our user as port of @bridge, up. One left from before is taken over. @mac: the VM's; the
 * tap's own is made from it, high, so that the bridge does not take it for its own. */
int tap_create(const char *tap, const char *bridge, const uint8_t mac[static 6], PeerpodError *error);

/* tap_remove() - gone is success */
int tap_remove(const char *tap, PeerpodError *error);

/* tap_check() - can taps be made, and is @bridge a bridge? */
int tap_check(const char *bridge, PeerpodError *error);

/* capabilities_lower() - keep CAP_NET_ADMIN permitted but neither effective nor inheritable, for this thread and those that it
 * starts: tap_create() raises it while it needs it, and no child gets it. Nothing is changed for root. */
int capabilities_lower(void);
