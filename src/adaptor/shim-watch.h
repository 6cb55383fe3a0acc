/* SPDX-License-Identifier: Apache-2.0 */
/* Is the shim of a sandbox still there? One that was killed never sends StopVM, and neither does who cleans up after it
 * (kata-containers: src/runtime/virtcontainers: the configuration that "delete" loads has no socket of ours).
 *
 * Two signs, each of which has to hold for the whole grace time without a break:
 *
 *   - The pod's network namespace is gone, as it is when the pod's sandbox was removed from the node, and no shim is known to live.
 *     What we see of the path is not enough, as paths in /proc are hidden from us: the tunnel service, which is root, has the last word.
 *
 *   - The shim is known to have ended, and nobody is connected to the agent proxy. The shim is the process that asked for StartVM, if it
 *     was still there one grace time after the answer: a shim lives as long as its pod, a tool that plays the shim for one call
 *     does not, and what it started is not taken from it.
 *
 * Whatever cannot be told (an older kernel, a proxy that says nothing) counts as: it is there. */
#pragma once

#include <stdint.h>

#include "basic/process-id.h"

typedef struct Manager Manager;
typedef struct Sandbox Sandbox;
typedef struct ServiceCall ServiceCall;

typedef struct ShimWatch {
        ProcessId caller;               /* of StartVM */
        ProcessId shim;                 /* the same, once it is known to be the shim */
        uint64_t missing_usec;          /* CLOCK_MONOTONIC, since when; 0: it is there */
        ServiceCall *call;              /* the tunnel service is asked */
} ShimWatch;

/* shim_watch_set_caller() - StartVM was asked for by this process */
void shim_watch_set_caller(Sandbox *s, pid_t pid);

/* shim_watch_recover() - after a restart: what was known before it */
void shim_watch_recover(Sandbox *s);

/* shim_watch_reset() - for a new state of the sandbox, and its end */
void shim_watch_reset(Sandbox *s);

/* shim_watch_start() - look at all sandboxes from now on, unless the settings say never */
int shim_watch_start(Manager *m);
