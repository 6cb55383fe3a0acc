/* SPDX-License-Identifier: Apache-2.0 */
/* Follows all PeerPods of a cluster and sees to it that what is deleted there is deleted at its cloud.
 *
 * A PeerPod that is being deleted is taken through the same steps by whoever leads, from the first one on: is its pod alive, delete the
 * instance, remove the finalizer. Each can be done twice, and what it has come to stands in the API server and at the cloud, nowhere
 * else; so a controller that is killed loses nothing, and there is nothing to recover.
 *
 * What is under way is bounded: each provider has a lane of so many, and what concerns living objects has one. The others wait in them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "kube/ctrl/peerpod.h"

typedef struct CloudSettings CloudSettings;
typedef struct KubeEvents KubeEvents;
typedef struct KubeWatch KubeWatch;

struct Lane {
        PeerPod *waiting;
        size_t n_active, n_max;
};

struct Provider {
        Controller *controller;         /* borrowed */
        UT_hash_handle hh;              /* by name */
        ProviderProcess *process;
        Lane lane;
        uint64_t n_deleted, n_failed;
};

typedef struct ControllerSpec {
        ProviderSpec provider;
        bool delete_untagged;           /* instances that upstream made, which have no owner tag */
        uint64_t backoff_usec, backoff_max_usec;
        uint64_t recheck_usec;          /* of a pod that holds up a deletion */
        const char *default_provider;   /* started at once; "": none */
} ControllerSpec;

struct Controller {
        sd_event *event;                /* borrowed, as all of these */
        KubeClient *client;
        KubeEvents *events;
        const ControllerSpec *spec;
        CloudSettings *settings;        /* borrowed; NULL: nothing may begin yet */

        KubeWatch *watch;
        PeerPod *peerpods;              /* by uid */
        Group *owners, *claims;
        Provider *providers;
        Lane upkeep;                    /* what concerns objects alone */
        sd_event_source *kick;
        bool synced, stopping, crd_missing;
        uint64_t n_released, n_superseded;

        void (*on_stopped)(Controller *c, void *userdata);
        void *userdata;
};

/* controller_init() - @c is zeroed and has its borrowed members set. Returns 0 or -errno. */
int controller_init(Controller *c);
void controller_done(Controller *c);

/* controller_lead() - begin: called once, when this process leads and the settings are known. Returns 0 or -errno (logged). */
int controller_lead(Controller *c);

/* controller_settings_changed() - providers begin anew with the settings as they are now */
void controller_settings_changed(Controller *c);

/* controller_stop() - nothing new begins; what is under way may end; on_stopped() is called from the loop then */
void controller_stop(Controller *c);

/* controller_get_provider() - the provider of a name, started if need be. Returns 0, -ENOENT: there is no such module; other -errno. */
int controller_get_provider(Controller *c, const char *name, Provider **ret);

/* lane_enter() - to wait for one's turn: peerpod_begin() is called then, from the loop */
void lane_enter(Lane *lane, PeerPod *p);
/* lane_leave() - from waiting or from work; may be in none */
void lane_leave(PeerPod *p);

typedef struct ControllerCounts {
        size_t n, n_deleting, n_held;
        uint64_t oldest_delete_usec;    /* how long it is under way */
} ControllerCounts;

void controller_count(const Controller *c, ControllerCounts *ret);
