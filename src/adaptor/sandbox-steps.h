/* SPDX-License-Identifier: Apache-2.0 */
/* What a sandbox's steps do, one by one; which of them are taken, and when, is sandbox.c's. */
#pragma once

#include "adaptor/sandbox.h"
#include "adaptor/service-link.h"
#include "adaptor/unit-client.h"
#include "basic/crash-point.h"

typedef struct SandboxStepMethods {
        int (*start)(Sandbox *s, sd_bus_error *error);          /* 0 (under way), 1 (done), or negative with @error set */
        int (*finish)(Sandbox *s, sd_bus_message *reply, sd_bus_error *error);  /* reads the answer; 1: to be taken once more; NULL: nothing to read */
        CrashPoints points;
} SandboxStepMethods;

extern const SandboxStepMethods sandbox_steps[_SANDBOX_STEP_MAX];

/* sandbox_step_to_string() - what it does, for people */
const char* sandbox_step_to_string(SandboxStep step);

/* sandbox_read_pod_network() - what the bus shows of it. Returns 0, or negative with @ret_error newly allocated or NULL. */
int sandbox_read_pod_network(Sandbox *s, const char *text, char **ret_error);

/* sandbox_drop_step() - nobody waits for the one under way any more: its answer finds nobody */
void sandbox_drop_step(Sandbox *s);

/* In sandbox.c: how a step's answer comes back. */
void sandbox_on_answer(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata);
void sandbox_on_registered(NodeCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata);
void sandbox_on_job_done(UnitJob *job, const sd_bus_error *error, void *userdata);

/* In sandbox-object.c: the fields of what is logged, made anew. */
int sandbox_make_log_fields(Sandbox *s);
