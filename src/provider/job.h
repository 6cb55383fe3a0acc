/* SPDX-License-Identifier: Apache-2.0 */
/* One call into the module, from the request on the bus to its answer.
 *
 * At most one job runs for an instance name. A second create of the same instance joins the first, a second delete likewise. A
 * delete that meets a create cancels it and begins when its undo has ended. A create that meets a delete is refused: its caller
 * has asked for both.
 *
 * A caller that goes away changes nothing: what was asked for is finished, and find() will tell about it. */
#pragma once

#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "provider/manager.h"

/* What the bus read; strings borrowed, checked by the bus face. */
typedef struct JobRequest {
        const char *name, *sandbox_id, *node, *id;
        const char *machine_type, *image, *pod_name, *pod_namespace, *gpu_model;
        uint32_t vcpus, gpus;
        int multi_nic;                  /* a boolean, as sd-bus has it */
        bool untagged;                  /* name is a prefix, and only id says which instance (PEERPOD_KEY_UNTAGGED) */
        uint64_t memory_mib;
        char **volumes;                 /* the bus face's, as the others; NULL: none */
        char *user_data;                /* taken, also on failure; erased */
        size_t user_data_size;
} JobRequest;

/**
 * job_create(), job_delete(), job_find(), job_verify() - begin, or join, the work that @message asks for
 *
 * @message is referenced and answered when the work has ended. Returns 0; on failure a negative errno with @error set, and
 * @message is the caller's to answer. Loop thread only.
 */
int job_create(Manager *m, JobRequest *request, sd_bus_message *message, sd_bus_error *error);
int job_delete(Manager *m, const JobRequest *request, sd_bus_message *message, sd_bus_error *error);
int job_find(Manager *m, const char *node, sd_bus_message *message, sd_bus_error *error);
int job_verify(Manager *m, sd_bus_message *message, sd_bus_error *error);

/* jobs_cancel_creates() - for the end of the process: no VM is left half-made */
void jobs_cancel_creates(Manager *m);
