/* SPDX-License-Identifier: Apache-2.0 */
/* The connections to libvirt: made when needed, kept, and made again when they were lost. */
#pragma once

#include "libvirt-provider.h"

/* libvirt_loop_start() - libvirt's event loop in a thread of its own; it drives keep-alive, and the embedded driver's monitors.
 * Once in a process. Returns 0 or -errno. */
int libvirt_loop_start(Libvirt *l);
void libvirt_loop_stop(Libvirt *l);

/* One that several calls share; they keep it for as long as they use handles that came from it. */
typedef struct LibvirtConnection {
        virConnectPtr handle;           /* borrowed */
        Libvirt *libvirt;
        struct LibvirtConnection *next;
        unsigned n_calls;               /* that have it; atomic */
        bool lost;                      /* atomic */
} LibvirtConnection;

/* libvirt_connect() - an open connection; libvirt_release() it. Returns 0, or negative with @error. */
int libvirt_connect(Libvirt *l, const PeerpodCall *call, LibvirtConnection **ret, PeerpodError *error);
void libvirt_release(LibvirtConnection *c);

DEFINE_CLEANUP(LibvirtConnection*, libvirt_release);

/* libvirt_disconnect() - when no call has one any more. Returns false if a thread still waits for one that is being made: @l must stay then. */
bool libvirt_disconnect(Libvirt *l);
