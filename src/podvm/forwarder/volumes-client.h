/* SPDX-License-Identifier: Apache-2.0 */
/* The way to podvm-volumes, which mounts for us: nothing here waits. */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "podvm/volumes/volume-spec.h"

typedef struct VolumesClient VolumesClient;
typedef struct VolumesCall VolumesCall;

#define VOLUMES_CALL_USEC (300 * USEC_PER_SEC)  /* the service has its own, shorter ones */

/* @error: bus error name of the failure, or NULL; then @path is where the volume is (Mount). The call is over, its slot is not to be freed. */
typedef void (*VolumesHandler)(const char *error, const char *text, const char *path, void *userdata);

int volumes_client_new(sd_event *event, const char *socket, VolumesClient **ret);
VolumesClient* volumes_client_free(VolumesClient *c);   /* calls end without an answer */
DEFINE_CLEANUP(VolumesClient*, volumes_client_free);

/* Connect, if need be, and ask. Returns 0, or -errno: the handler is not called. @ret_call: volumes_call_free() forgets the answer. */
int volumes_client_mount(VolumesClient *c, const char *container, const VolumeSpec *v, VolumesHandler handler, void *userdata,
                         VolumesCall **ret_call);
int volumes_client_release(VolumesClient *c, const char *container, VolumesHandler handler, void *userdata, VolumesCall **ret_call);
VolumesCall* volumes_call_free(VolumesCall *call);
