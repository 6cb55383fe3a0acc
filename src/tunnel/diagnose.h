/* SPDX-License-Identifier: Apache-2.0 */
/* What on this host may stand in a tunnel's way, and the words for it. */
#pragma once

#include "tunnel/probe.h"

/**
 * diagnose() - look for it
 * @t:   a tunnel with a peer, or NULL for tunnels in general
 * @ret: strv; a sentence without its end for each finding
 *
 * Who else has the UDP port (VXLAN devices, sockets), which firewall rules drop the tunnel's packets, whether there is a route. Changes
 * nothing. What cannot be looked at is a finding too. Returns 0, -ENOMEM.
 */
int diagnose(Manager *m, const Tunnel *t, char ***ret);

/* diagnose_at_start() - the journal is told of what will be in the way of any tunnel */
void diagnose_at_start(Manager *m);

/* diagnose_port() - why the port cannot be had: " (…)" for the end of an error text, newly allocated, or NULL */
char* diagnose_port(Manager *m, uint16_t port);

/* diagnose_probe() - a probe's result in words, with what diagnose() found where it failed. Newly allocated, or NULL. */
char* diagnose_probe(Manager *m, const Tunnel *t, const ProbeReport *r);
