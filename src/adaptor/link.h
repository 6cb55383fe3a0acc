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

typedef struct Link Link;
typedef struct LinkCall LinkCall;

typedef struct LinkMethod {
        const char *path, *interface, *member;
        /* Appends the arguments; run once for each attempt. Negative ends the call with that error. */
        int (*append)(sd_bus_message *m, const void *arguments);
} LinkMethod;

/* @reply: NULL on failure. @error: set on failure only, borrowed. The call may be freed here. */
typedef void (*LinkHandler)(LinkCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata);

/**
 * link_new() - nothing is connected before the first call
 * @name: for people: "tunnel service"; borrowed, like @path
 */
int link_new(sd_event *event, const char *name, const char *path, Link **ret);
Link* link_free(Link *link);            /* no call may be left */
DEFINE_CLEANUP(Link*, link_free);

/**
 * link_call() - make a call
 * @method:       borrowed for the call's life
 * @arguments:    copied, @size bytes; what they point to is borrowed for the call's life
 * @timeout_usec: from now on, over all attempts
 * @ret:          free it in or after the handler, or any time before to forget the call; the service may go on with it
 *
 * The handler never runs before this returns. Returns 0, -ENOMEM.
 */
int link_call(Link *link, const LinkMethod *method, const void *arguments, size_t size, uint64_t timeout_usec,
              LinkHandler handler, void *userdata, LinkCall **ret);
LinkCall* link_call_free(LinkCall *call);
DEFINE_CLEANUP(LinkCall*, link_call_free);
