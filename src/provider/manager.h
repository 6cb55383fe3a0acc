/* SPDX-License-Identifier: Apache-2.0 */
/* What peerpod-providerd is made of: one module, a worker pool, the jobs of its instances, and the links of its callers. */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "basic/bus-private.h"
#include "provider/module.h"
#include "provider/pool.h"

#define USER_DATA_SIZE_MAX (UINT64_C(16) << 20)         /* whatever a module says */

typedef struct Job Job;

typedef struct Manager {
        sd_event *event;
        sd_event_source *pool_source, *drain_source;
        BusServer *bus_server;
        Pool *pool;
        const PeerpodProvider *module;
        void *provider;                 /* the module's, from open() */
        Job *jobs;                      /* running and waiting ones */
        Job *creates, *deletes;         /* those of them that are of an instance, by its name */
        uint64_t create_timeout_usec, delete_timeout_usec, find_timeout_usec, stop_timeout_usec;
        bool stopping;
} Manager;

/* manager_user_data_size_max() - the module's limit or ours, whichever is less */
uint64_t manager_user_data_size_max(const Manager *m);

/* manager_log() - a PeerpodLog for what belongs to no job; @userdata is not used */
void manager_log(void *userdata, int level, const char *text);
