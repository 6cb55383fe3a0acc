/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses does the VM with this hardware address have? */
#pragma once

#include "libvirt-provider.h"

/**
 * address_wait() - wait until the VM has an address
 * @domain: running; if it stops, the wait ends with an error
 * @ret:    addresses are filled in, IPv4 first, no link-local ones
 *
 * Asked in turn, twice a second: leases of libvirt's DHCP server (not for the embedded driver, which has none), the neighbour
 * table of this machine where the VM is on it, the guest agent.
 */
int address_wait(const Libvirt *l, const PeerpodCall *call, virDomainPtr domain, const uint8_t mac[static 6], PeerpodInstance *ret,
                 PeerpodError *error);

/* address_list_add() - add one if it is of use to reach the VM and not there yet; IPv4 goes before IPv6 */
void address_list_add(PeerpodInstance *i, const char *address);
