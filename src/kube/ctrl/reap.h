/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a PeerPod, from a change of the object to its end. */
#pragma once

#include "kube/ctrl/peerpod.h"

/* peerpod_changed() - look again what there is to do; what is under way is ended first, if it can be */
void peerpod_changed(PeerPod *p);
/* peerpod_wake() - its pause is over */
void peerpod_wake(PeerPod *p);
/* peerpod_rest() - end a pause, or the waiting in a lane, and do nothing */
void peerpod_rest(PeerPod *p);

/* peerpod_deleted() - the object is there no more; it is about to be freed */
void peerpod_deleted(PeerPod *p);

/* peerpod_begin() - it is its turn in its lane */
void peerpod_begin(PeerPod *p);

/* peerpod_provider_is_lost() - in STEP_REMOVE: there will be no answer */
void peerpod_provider_is_lost(PeerPod *p, ProviderState state);
