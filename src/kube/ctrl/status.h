/* SPDX-License-Identifier: Apache-2.0 */
/* What is the matter with a PeerPod, told where people look: in its status, in events, in the journal. */
#pragma once

#include "kube/ctrl/peerpod.h"

#define CONDITION_GONE "InstanceGone"   /* False: it cannot be deleted, or not yet */
#define CONDITION_VALID "Valid"         /* False: the object makes no sense */

/**
 * status_tell() - write a condition, unless the object tells just that already
 *
 * Returns 1: a request is under way, for whose reply status_told() is to be called; 0: nothing to do; -errno.
 */
int status_tell(PeerPod *p, const Trouble *t, KubeReplyHandler handler, KubeRequest **ret);
void status_told(PeerPod *p, const KubeReply *reply);
/* status_tells() - has the last trouble that was told been of this type? */
bool status_tells(const PeerPod *p, const char *type);

/* status_has_flaw() - does the object say of itself that it makes no sense? */
bool status_has_flaw(const PeerPod *p);

void status_event(PeerPod *p, const char *type, const char *reason, const char *text);
