/* SPDX-License-Identifier: Apache-2.0 */
/* Are the tunnels still as they were made? Others on this host flush firewalls and delete interfaces. */
#pragma once

#include "tunnel/tunnel.h"

/**
 * verify_tunnel() - compare one with its record
 * @findings: gets a text for each difference
 *
 * Returns 0, -ENOMEM, or what kept it from looking, with @e: -ENOENT, -ESTALE: the namespace is gone.
 */
int verify_tunnel(Manager *m, const Tunnel *t, char ***findings, NetError *e);

/* verify_firewall() - the same for the table that all tunnels share */
int verify_firewall(Manager *m, char ***findings, NetError *e);

/* verify_and_mend() - one tunnel, or the table where @t is NULL; the journal is told. @findings may be NULL. Returns 0 or -errno (logged),
 * but for a namespace that is gone, which is the adaptor's business. */
int verify_and_mend(Manager *m, Tunnel *t, char ***findings);

/* verify_start() - do that from now on: all in turn at the setting's interval, the table also when somebody changes the firewall */
int verify_start(Manager *m);
