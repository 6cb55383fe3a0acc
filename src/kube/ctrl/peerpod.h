/* SPDX-License-Identifier: Apache-2.0 */
/* One PeerPod object, as much of it as the controller needs, and where it stands. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "adaptor/service-link.h"
#include "basic/hash.h"
#include "basic/json.h"
#include "basic/util.h"
#include "kube/ctrl/group.h"
#include "kube/ctrl/provider-process.h"
#include "kube/kube-client.h"

typedef struct Controller Controller;
typedef struct Lane Lane;
typedef struct Provider Provider;

typedef enum PeerPodStep {
        STEP_NONE,                      /* nothing to do */
        STEP_QUEUED,                    /* waits in its lane */
        STEP_POD,                       /* is its pod alive? */
        STEP_REMOVE,                    /* its provider deletes the instance */
        STEP_FETCH,                     /* the object is read again */
        STEP_RELEASE,                   /* the finalizer is being removed */
        STEP_DELETE_OLD,                /* the object is being deleted: a newer one is there for the same pod */
        STEP_STATUS,                    /* trouble is being written into its status */
        STEP_PAUSE,                     /* until the next try */
        _STEP_MAX,
} PeerPodStep;

/* Why a PeerPod does not come to its end; a condition of its status. */
typedef struct Trouble {
        const char *type, *reason, *text;
        bool over;                      /* the condition's status is True */
} Trouble;

struct PeerPod {
        Controller *controller;         /* borrowed */
        UT_hash_handle hh;              /* by uid */
        char *ns, *name, *uid, *resource_version;
        char *provider_name, *instance_id, *instance_name, *node, *sandbox_id, *name_prefix;
        char *pod_name, *pod_uid;       /* of its owner; "": none */
        json_object *conditions;        /* or NULL */
        uint64_t created_usec;          /* CLOCK_REALTIME, whole seconds */
        uint64_t attempt;               /* 0: the object has none */
        bool deleting, has_finalizer, gone;
        Member owner, claim_by_id, claim_by_tag;

        PeerPodStep step;
        bool changed;                   /* while a step was under way */
        Lane *lane;                     /* it waits or works in; borrowed */
        PeerPod *prev, *next;           /* in lane->waiting */
        Provider *provider;             /* of the step; borrowed */
        ServiceCall *call;
        KubeRequest *request;
        sd_event_source *timer;
        unsigned n_failures;
        uint64_t pause_usec;            /* after STEP_STATUS */
        uint64_t deleting_since_usec;   /* CLOCK_MONOTONIC */
        bool held;
        char *told;                     /* the trouble that its status tells; NULL: none */
};

/* peerpod_new() - from an object that has a uid. Not in any table yet. Returns 0, -ENOMEM. */
int peerpod_new(Controller *c, const char *uid, PeerPod **ret);
PeerPod* peerpod_free(PeerPod *p);
DEFINE_CLEANUP(PeerPod*, peerpod_free);

/**
 * peerpod_read() - take over what an object says
 *
 * Returns 1 when something has changed that matters here, 0 when not, -ENOMEM. What makes no sense is taken as absent: peerpod_flaw() tells.
 */
int peerpod_read(PeerPod *p, json_object *object);

/* peerpod_flaw() - why the object names no instance that could be deleted, NULL if it does */
const char* peerpod_flaw(const PeerPod *p);
/* peerpod_is_tagged() - the instance has our owner tag: one of ours made it */
bool peerpod_is_tagged(const PeerPod *p);
/* peerpod_successor() - a newer one of the same pod, or NULL. @alive: one that is not being deleted */
const PeerPod* peerpod_successor(const PeerPod *p, bool alive);
/* peerpod_rival() - another one, not younger and not being deleted, that claims the same instance; NULL: none */
const PeerPod* peerpod_rival(const PeerPod *p);

int peerpod_say(const PeerPod *p, int level, const char *message_id, const char *format, ...) PRINTF(4, 5);
