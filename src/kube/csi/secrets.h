/* SPDX-License-Identifier: Apache-2.0 */
/* A request's secrets are never stored: that there were some is, and they are read again where the PersistentVolume says, when they are needed. */
#pragma once

#include "kube/csi/task.h"

#define SECRET_CONTROLLER_PUBLISH "controllerPublishSecretRef"
#define SECRET_NODE_STAGE "nodeStageSecretRef"
#define SECRET_NODE_PUBLISH "nodePublishSecretRef"

/* secrets_strip() - take them out of t->request, and note in a patch of the volume's object that there were some. Tokens of the pod's account are
 * taken out for good. Returns 0, -ENOMEM. */
int secrets_strip(Task *t, const char *ref, json_object **patch);

/* secrets_fetch() - put them into t->request again, if there were some, and go on with @next; the task fails if they cannot be had. @ref is static. */
void secrets_fetch(Task *t, const char *ref, TaskStep next);
