/* SPDX-License-Identifier: Apache-2.0 */
/* The PeerPod object of one sandbox: how it is made, and what is to be changed in it.
 *
 * Upstream's resource definition knows spec.cloudProvider and spec.instanceID only; where it is installed the API server drops the rest. */
#pragma once

#include "basic/json.h"
#include "kube/node/track-record.h"

/* peerpod_name_make() - "POD-resource-HASH", the same for the same sandbox, at most 253 bytes. Returns 0, -ENOMEM, -EIO. */
int peerpod_name_make(const char *pod_name, const char *sandbox_id, char **ret);

/* peerpod_object_make() - for POST: without instance id and status, with the finalizer, owned by the pod. Returns 0, -ENOMEM. */
int peerpod_object_make(const TrackRecord *record, const char *node, json_object **ret);

/* peerpod_is_of() - is this the object of that sandbox on that node? */
bool peerpod_is_of(json_object *object, const TrackRecord *record, const char *node);

/* peerpod_spec_patch() - a JSON patch that sets what was not known when it was made, guarded by its uid. What is set is never changed.
 * Returns 1, 0 (nothing to set), -EEXIST (it names another instance), -EBADMSG, -ENOMEM. */
int peerpod_spec_patch(json_object *object, const TrackRecord *record, json_object **ret);

/* peerpod_status_patch() - a JSON patch for the status, guarded by its uid and version, that keeps what others have put there. Returns 1, 0
 * (it is so already), -EBADMSG, -ENOMEM. */
int peerpod_status_patch(json_object *object, const TrackRecord *record, uint64_t now_realtime_usec, json_object **ret);
