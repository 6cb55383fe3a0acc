/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox tells what happens to it. None of this changes what it does. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-bus.h>

#include "adaptor/sandbox.h"

/* sandbox_step_name() - for people and on the bus */
const char* sandbox_step_name(SandboxStep step);

/* sandbox_story_open() - begin it, or take up what was told before a restart. Returns 0, -ENOMEM. */
int sandbox_story_open(Sandbox *s);

/* sandbox_stories_flush() - write all that is not on disk yet, at the end of the process */
void sandbox_stories_flush(Manager *m);

/* sandbox_story_close() - the sandbox is gone, or (its file stays as it is) the process ends */
void sandbox_story_close(Sandbox *s);

/* A try of step s->step begins; goes on after the loop has turned; has ended (@error: NULL when it succeeded). */
void sandbox_story_step(Sandbox *s);
void sandbox_story_step_waits(Sandbox *s);
void sandbox_story_step_ended(Sandbox *s, SandboxStep step, const sd_bus_error *error);

/* sandbox_story_deadline() - a deadline has struck; @setting moves it, NULL: nothing does. Before the failure that it makes. */
void sandbox_story_deadline(Sandbox *s, const char *setting, uint64_t usec);

/* sandbox_story_caller_left() - likewise: it was the caller's own, or he has died */
void sandbox_story_caller_left(Sandbox *s);

/* Before the state changes: the start has failed; somebody has asked for the end. */
void sandbox_story_failed(Sandbox *s, const sd_bus_error *error);
void sandbox_story_stopped(Sandbox *s, const char *reason);

/* sandbox_story_ails() - it runs, and is of no use any more; @text says why */
void sandbox_story_ails(Sandbox *s, const char *text);

/* sandbox_story_state() - the state has changed */
void sandbox_story_state(Sandbox *s);
