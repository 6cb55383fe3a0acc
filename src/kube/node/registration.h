/* SPDX-License-Identifier: Apache-2.0 */
/* One call of Register(): the pod is read, its pull secrets are gathered, the PeerPod is made; the answer has what there is when all is done
 * or time is over. */
#pragma once

#include <systemd/sd-bus.h>

#include "basic/cleanup.h"

typedef struct Registration Registration;
typedef struct Track Track;

/**
 * registration_begin() - for a track that has none
 * @call:    referenced; answered sooner or later, also when the registration is freed before its end
 * @pod_uid: as the runtime told it, "" if it did not
 *
 * It frees itself when it has answered. Returns 0, -ENOMEM, -errno.
 */
int registration_begin(Track *t, sd_bus_message *call, const char *pod_uid);
Registration* registration_free(Registration *r);       /* takes NULL; the call is answered with an error */

/* For the track: the PeerPod is there, or will not be for now. May free the registration. */
void registration_recorded(Registration *r);
void registration_not_recorded(Registration *r);
