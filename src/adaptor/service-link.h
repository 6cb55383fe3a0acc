/* SPDX-License-Identifier: Apache-2.0 */
/* A lasting client of one private service: calls are made again when the service restarts.
 *
 * A service of the family may crash, be restarted or be upgraded while a call is under way; its socket, which systemd holds, stays.
 * All methods of these services are idempotent for that reason, so a call whose link broke is simply put to the next
 * incarnation, until its own deadline. A call ends in exactly one run of its handler, unless it is freed before. */
#pragma once

#include <stdint.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"

typedef struct ServiceLink ServiceLink;
typedef struct ServiceCall ServiceCall;
typedef struct UnitClient UnitClient;

typedef struct ServiceMethod {
        const char *path, *interface, *member;
        /* Appends the arguments; run once for each attempt. Negative ends the call with that error. */
        int (*append)(sd_bus_message *m, const void *arguments);
} ServiceMethod;

/* @reply: NULL on failure. @error: set on failure only, borrowed. The call may be freed here. */
typedef void (*ServiceHandler)(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata);

/**
 * service_link_new() - nothing is connected before the first call
 * @name: for people: "tunnel service"; borrowed, like @path
 */
int service_link_new(sd_event *event, const char *name, const char *path, ServiceLink **ret);
ServiceLink* service_link_free(ServiceLink *link);            /* no call may be left */
DEFINE_CLEANUP(ServiceLink*, service_link_free);

/**
 * service_link_watch() - say once, in the journal and to calls whose time is over, that the service cannot start
 * @units: borrowed; outlives the link
 * @unit:  the service's; borrowed for the link's life
 *
 * systemd starts again whatever has failed at run time: a unit that stays failed has refused its settings, and its callers
 * (daemon_refuse_callers()). It is tried less often then. Returns 0, -ENOMEM.
 */
int service_link_watch(ServiceLink *link, UnitClient *units, const char *unit);

/**
 * service_link_call() - make a call
 * @method:       borrowed for the call's life
 * @arguments:    copied, @size bytes; what they point to is borrowed for the call's life
 * @timeout_usec: from now on, over all attempts
 * @ret:          free it in or after the handler, or any time before to forget the call; the service may go on with it
 *
 * The handler never runs before this returns. Returns 0, -ENOMEM.
 */
int service_link_call(ServiceLink *link, const ServiceMethod *method, const void *arguments, size_t size, uint64_t timeout_usec,
              ServiceHandler handler, void *userdata, ServiceCall **ret);
ServiceCall* service_call_free(ServiceCall *call);
DEFINE_CLEANUP(ServiceCall*, service_call_free);
