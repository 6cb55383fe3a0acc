/* SPDX-License-Identifier: Apache-2.0 */
/* The units of one sandbox's agent proxy: starting, stopping and watching them through systemd's manager on the bus. */
#pragma once

#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "basic/cleanup.h"

typedef struct UnitClient UnitClient;
typedef struct UnitJob UnitJob;
typedef struct UnitWatch UnitWatch;

/**
 * unit_client_new() - listen for the ends of systemd's jobs
 * @bus: borrowed for the client's life; attached to the loop
 */
int unit_client_new(sd_bus *bus, UnitClient **ret);
UnitClient* unit_client_free(UnitClient *c);            /* no job and no watch may be left */
DEFINE_CLEANUP(UnitClient*, unit_client_free);

/* Run once, from the loop. @error: NULL on success, borrowed. The job may be freed here. */
typedef void (*UnitJobHandler)(UnitJob *job, const sd_bus_error *error, void *userdata);

/* Both follow the job to its end. A unit that systemd does not know is stopped already. The @unit's name is copied. */
int unit_client_start(UnitClient *c, const char *unit, UnitJobHandler handler, void *userdata, UnitJob **ret);
int unit_client_stop(UnitClient *c, const char *unit, UnitJobHandler handler, void *userdata, UnitJob **ret);

/* unit_client_allow_addresses() - IPAddressAllow= of a unit, until the next boot (or until the units' own clean-up) */
int unit_client_allow_addresses(UnitClient *c, const char *unit, char *const *addresses, UnitJobHandler handler, void *userdata,
                                UnitJob **ret);

/* Free it to forget the job; systemd goes on with it. */
UnitJob* unit_job_free(UnitJob *job);
DEFINE_CLEANUP(UnitJob*, unit_job_free);

/* Run whenever the unit enters the state "failed", or is about to be started again. The watch may not be freed here. */
typedef void (*UnitFailedHandler)(UnitWatch *watch, void *userdata);

int unit_client_watch(UnitClient *c, const char *unit, UnitFailedHandler handler, void *userdata, UnitWatch **ret);
UnitWatch* unit_watch_free(UnitWatch *watch);
DEFINE_CLEANUP(UnitWatch*, unit_watch_free);

/* unit_watch_has_failed() - it is in the state "failed", as far as systemd has told since the watch was made, and is not about to be started
 * again */
bool unit_watch_has_failed(const UnitWatch *watch);

/* unit_watch_want_status() - ask for it, if the service has not said anything since the watch was made; the answer comes later, if at
 * all, since one question is under way at a time */
void unit_watch_want_status(UnitWatch *watch);

/* unit_watch_get_status() - the last STATUS= text that the service has sent (sd_notify(3)), "" for none; borrowed */
const char* unit_watch_get_status(const UnitWatch *watch);
