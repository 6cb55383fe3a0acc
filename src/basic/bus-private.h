/* SPDX-License-Identifier: Apache-2.0 */
/* sd-bus straight over a UNIX socket, no broker between: the links adaptor → tunnel and adaptor → provider. */
#pragma once

#include <sys/types.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"

#define PEERPOD_ERROR_PREFIX "org.confidentialcontainers.PeerPod1.Error."
#define PEERPOD_ERROR_INVALID_ARGUMENT PEERPOD_ERROR_PREFIX "InvalidArgument"
#define PEERPOD_ERROR_NOT_FOUND PEERPOD_ERROR_PREFIX "NotFound"
#define PEERPOD_ERROR_ALREADY_EXISTS PEERPOD_ERROR_PREFIX "AlreadyExists"
#define PEERPOD_ERROR_EXHAUSTED PEERPOD_ERROR_PREFIX "Exhausted"
#define PEERPOD_ERROR_FAILED_PRECONDITION PEERPOD_ERROR_PREFIX "FailedPrecondition"
#define PEERPOD_ERROR_UNAVAILABLE PEERPOD_ERROR_PREFIX "Unavailable"
#define PEERPOD_ERROR_TIMED_OUT PEERPOD_ERROR_PREFIX "TimedOut"
#define PEERPOD_ERROR_CANCELLED PEERPOD_ERROR_PREFIX "Cancelled"
#define PEERPOD_ERROR_UNAUTHENTICATED PEERPOD_ERROR_PREFIX "Unauthenticated"
#define PEERPOD_ERROR_INTERNAL PEERPOD_ERROR_PREFIX "Internal"
#define PEERPOD_ERROR_THROTTLED PEERPOD_ERROR_PREFIX "Throttled"

typedef struct BusServer BusServer;

/* Called for each new link, before it takes messages: add vtables here. A negative return refuses the peer. */
typedef int (*BusServerSetup)(sd_bus *bus, void *userdata);

/**
 * bus_server_new() - serve private links on a listening socket
 * @listen_fd: a listening AF_UNIX stream socket; taken over when the call succeeds
 * @user:      the one user, besides root and our own, whose processes may connect (SO_PEERCRED); (uid_t) -1 = nobody else
 *
 * A peer of another user is closed and logged. At most 64 links at once; accepting pauses for a second when descriptors are
 * short. Links end with the server. Returns 0 or -errno. Loop thread only.
 */
int bus_server_new(sd_event *event, int listen_fd, uid_t user, BusServerSetup setup, void *userdata, BusServer **ret);
BusServer* bus_server_free(BusServer *s);
DEFINE_CLEANUP(BusServer*, bus_server_free);

/**
 * bus_private_connect() - connect to such a server
 *
 * connect() waits in the socket's backlog while the service starts, so this does not block on it. The returned bus is attached
 * to @event; a "Disconnected" signal of org.freedesktop.DBus.Local ends it. File descriptors can be passed, but not before the
 * "Connected" signal from there: sd-bus waits inside sd_bus_send() until it knows that the peer takes them. Returns 0 or -errno.
 */
int bus_private_connect(sd_event *event, const char *path, sd_bus **ret);
