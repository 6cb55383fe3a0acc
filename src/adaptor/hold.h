/* SPDX-License-Identifier: Apache-2.0 */
/* Keeping a pod VM that is to be deleted, for a bounded time, so that a person can look inside.
 *
 * A hold is a time in the record. It may be set at any moment of a sandbox's life and changes nothing before the sandbox is being deleted:
 * then no step is taken until the time is over or the hold is released. So the instance, its tunnel's id, its proxy and its keys stay
 * together, and 'peerpodctl agent' still reaches the agent if it answers. Whoever waits for the end is told at once that it is put off. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

typedef struct Manager Manager;
typedef struct Sandbox Sandbox;

#define HOLD_FAILED_MAX 4U              /* so that pods that fail again and again do not fill a quota */

/**
 * sandbox_hold() - set, change or (0) release the hold
 * @usec: from now on
 *
 * Returns 0 once it is on disk; negative with @error: it is too long, or too late.
 */
int sandbox_hold(Sandbox *s, uint64_t usec, sd_bus_error *error);

/* sandbox_hold_failed() - a start has failed: hold it, if the settings say so. Before the state changes, which writes it down. */
void sandbox_hold_failed(Sandbox *s);

/* sandbox_hold_recover() - take up what the record says after a restart */
void sandbox_hold_recover(Sandbox *s);

/* sandbox_is_held() - is its deletion put off now */
bool sandbox_is_held(const Sandbox *s);

/* hold_count() - how many have a hold, in whatever state */
unsigned hold_count(const Manager *m);
