/* SPDX-License-Identifier: Apache-2.0 */
/* Does a tunnel carry frames? Asked of the pod VM's kernel, through the tunnel itself. */
#pragma once

#include "tunnel/tunnel.h"

typedef struct Probe Probe;

typedef struct ProbeReport {
        bool ok;                        /* nothing that was tried speaks against it */
        bool arp;                       /* the VM has answered at all */
        uint32_t mtu;                   /* that was tried, */
        uint32_t carried;               /* and the largest packet that came back; 0 if none did */
        uint64_t usec;                  /* how long the first answer took */
} ProbeReport;

/* Runs once; the probe is over. */
typedef void (*ProbeDone)(Tunnel *t, const ProbeReport *report, void *userdata);

/**
 * probe_new() - begin
 * @t:    has a peer; borrowed, and free the probe before it
 * @done: not called before this returns
 *
 * Returns 0 or -errno with @e; -EAFNOSUPPORT for a pod that has no IPv4 address to be asked for.
 */
int probe_new(Manager *m, Tunnel *t, ProbeDone done, void *userdata, Probe **ret, NetError *e);
/* @done is not called. */
Probe* probe_free(Probe *p);
DEFINE_CLEANUP(Probe*, probe_free);

/* How long after a VM's first answer, for which it has the setting's time, packets of the full size may take. */
#define PROBE_SIZE_USEC (4 * USEC_PER_SEC)
