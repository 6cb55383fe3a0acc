/* SPDX-License-Identifier: Apache-2.0 */
/* The volumes of a sandbox's pod, which become disks of its VM.
 *
 * They are looked up once, when the sandbox is planned, and are then part of its record: so the provider, which attaches the disks, and
 * the agent proxy, which tells the VM what each is for, go by one list, whose order is that of the disks at the VM.
 *
 * Whose a volume is can be told by the pod's UID only, which not every runtime tells. Without it nothing is attached, as what is
 * there may be other pods'. A pod that then mounts one of them all the same is told so by its proxy, which knows them by digests: their
 * paths are none of its business. */
#pragma once

#include <json-c/json_object.h>
#include <systemd/sd-bus.h>

#include "adaptor/sandbox-record.h"
#include "adaptor/service-link.h"

/* Reply "a(sssss)" to volumes_plan(). @pod_uid is borrowed until the call has ended. */
int volumes_read(ServiceLink *tunnel, const char *pod_uid, ServiceHandler handler, void *userdata, ServiceCall **ret);

/* volumes_plan() - put what the answer says into the record. Returns 0, or negative with @error set. */
int volumes_plan(sd_bus_message *reply, SandboxRecord *record, sd_bus_error *error);

/* volumes_check() - is this the JSON text of a list as volumes_plan() makes them? Returns 0, -EBADMSG, -ENOMEM. */
int volumes_check(json_object *array);

/* volumes_get_disks() - ids of those that have a disk, in order; newly allocated, NULL if there are none. Returns 0, -ENOMEM. */
int volumes_get_disks(const SandboxRecord *record, char ***ret);
