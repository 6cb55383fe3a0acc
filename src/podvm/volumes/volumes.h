/* SPDX-License-Identifier: Apache-2.0 */
/* The pod's volumes: which are mounted, for which containers. Each has at most one process at work on it. */
#pragma once

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "podvm/volumes/volume-work.h"

#define VOLUMES_PATH "/org/confidentialcontainers/PeerPod1/CloudVolumes"
#define VOLUMES_INTERFACE "org.confidentialcontainers.PeerPod1.CloudVolumes"

#define VOLUME_MOUNT_USEC (240 * USEC_PER_SEC)  /* then its process is ended */
#define VOLUME_RELEASE_USEC (60 * USEC_PER_SEC)

typedef struct Volumes Volumes;

/**
 * volumes_new() - with what the process before has left
 * @settings:  borrowed
 * @state_dir: directory of the records, one JSON file for each mounted volume; exists
 *
 * A mount below the mount root without a record is one that was cut off: it is undone. Returns 0, or -errno (logged).
 */
int volumes_new(sd_event *event, const WorkSettings *settings, const char *state_dir, Volumes **ret);
Volumes* volumes_free(Volumes *m);      /* ends what is at work; what is mounted stays */
DEFINE_CLEANUP(Volumes*, volumes_free);

/**
 * volumes_mount() - answers @message with the mount point when the volume is mounted
 * @message:   referenced
 * @container: counts as one that uses it; any number of times
 * @v:         checked; copied
 *
 * Returns 1 (will be or is answered), or negative with @error set.
 */
int volumes_mount(Volumes *m, sd_bus_message *message, const char *container, const VolumeSpec *v, sd_bus_error *error);

/* Takes back a container's use ("": of all), unmounts what nobody uses, and answers @message then. */
int volumes_release(Volumes *m, sd_bus_message *message, const char *container, sd_bus_error *error);

size_t volumes_get_n(const Volumes *m);

/* volumes-bus.c: for bus_server_new() */
int volumes_setup_bus(sd_bus *bus, void *userdata);
