/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that volumes hold up: CreateContainer until its volumes are there, DestroySandbox until they are gone. */
#pragma once

#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/log.h"
#include "podvm/forwarder/edits.h"
#include "podvm/forwarder/volumes-client.h"

typedef struct VolumeJobs VolumeJobs;

#define TARGET_PAUSE_USEC (100 * USEC_PER_MSEC)         /* cloud-api-adaptor: pkg/forwarder/interceptor/interceptor.go */
#define TARGET_PAUSE_MAX_USEC (5 * USEC_PER_SEC)
#define TARGET_WAIT_USEC (180 * USEC_PER_SEC)

typedef struct VolumeJobSettings {
        const char *pod_namespace, *bind_root;  /* as edit_create_container() */
        const char *mount_root;                 /* there are volumes if there is this directory */
        uint64_t target_wait_usec;              /* 0: TARGET_WAIT_USEC */
} VolumeJobSettings;

/* All is borrowed and outlives the jobs. */
int volume_jobs_new(sd_event *event, VolumesClient *client, const VolumeJobSettings *settings, const LogContext *log, VolumeJobs **ret);
VolumeJobs* volume_jobs_free(VolumeJobs *j);
DEFINE_CLEANUP(VolumeJobs*, volume_jobs_free);

/* The rules' handlers. */
void volume_jobs_create_container(VolumeJobs *j, Relay *relay, const TtrpcRequest *request, RelayEdit *edit);
void volume_jobs_remove_container(VolumeJobs *j, const TtrpcRequest *request, RelayEdit *edit);
void volume_jobs_destroy_sandbox(VolumeJobs *j, Relay *relay, const TtrpcRequest *request, RelayEdit *edit);
