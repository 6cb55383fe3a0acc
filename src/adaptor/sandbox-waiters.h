/* SPDX-License-Identifier: Apache-2.0 */
/* Who waits for a sandbox: shims' CreateVM, StartVM and StopVM, and callers on the bus. */
#pragma once

#include <stdbool.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>

typedef struct Sandbox Sandbox;
typedef struct SandboxWaiter SandboxWaiter;

/* What somebody waits for. */
typedef enum SandboxGoal {
        GOAL_PLANNED,           /* CreateVM can be answered */
        GOAL_RUNNING,           /* StartVM can be answered */
        GOAL_GONE,              /* nothing is left */
        _SANDBOX_GOAL_MAX,
} SandboxGoal;

/* @error: NULL when the goal is reached, else why it never will be, or (GOAL_GONE) is not yet. Runs once; the waiter is freed after
 * it. */
typedef void (*SandboxDone)(Sandbox *s, const sd_bus_error *error, void *userdata);

typedef TAILQ_HEAD(SandboxWaiters, SandboxWaiter) SandboxWaiters;

/**
 * sandbox_wait() - be told when a goal is reached, or never will be
 * @done: not called before this returns
 * @ret:  valid until @done is called
 */
int sandbox_wait(Sandbox *s, SandboxGoal goal, SandboxDone done, void *userdata, SandboxWaiter **ret);

/* sandbox_waiter_cancel() - nobody waits here any more; a start that nobody waits for is given up. @done is not called. */
void sandbox_waiter_cancel(SandboxWaiter *w);

/* sandbox_waiter_forget() - the same, but what it waited for goes on */
void sandbox_waiter_forget(SandboxWaiter *w);

/* For the sandbox itself. Handlers may do anything to the list, and to the sandbox but free it. */
bool waiters_has(const Sandbox *s, SandboxGoal goal);
/* All that wait for @goal are told, in their order, and are no more. */
void waiters_notify(Sandbox *s, SandboxGoal goal, const sd_bus_error *error);
/* Likewise, all there are, whatever they wait for. */
void waiters_dismiss(Sandbox *s, const sd_bus_error *error);
