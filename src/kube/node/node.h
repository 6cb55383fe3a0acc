/* SPDX-License-Identifier: Apache-2.0 */
/* What peerpod-node has: the sandboxes of this machine, and the ways to the adaptor and to the API server. */
#pragma once

#include <stdbool.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/json.h"
#include "kube/node/settings.h"

typedef struct AdaptorWatch AdaptorWatch;
typedef struct Capacity Capacity;
typedef struct KubeClient KubeClient;
typedef struct KubeConfig KubeConfig;
typedef struct KubeReply KubeReply;
typedef struct KubeWatch KubeWatch;
typedef struct Node Node;
typedef struct SandboxStore SandboxStore;
typedef struct Track Track;

/* Requests for records that are under way at a time; the rest waits for its turn. */
#define NODE_REQUESTS_MAX 32U

struct Node {
        const Settings *settings;       /* borrowed */
        sd_event *event;
        sd_bus *bus;                    /* system bus */
        KubeClient *kube;
        SandboxStore *store;
        AdaptorWatch *adaptor;
        Capacity *capacity;
        KubeWatch *peerpods;            /* those of this node */

        TAILQ_HEAD(, Track) tracks;     /* in the order of their coming */
        Track *by_id;
        unsigned n_tracks, n_requests;
        sd_event_source *kick;          /* all tracks are to look what they can do */

        bool away;                      /* the API server does not answer, or not us */
        unsigned n_failures;            /* in a row */
        sd_event_source *pause;         /* until it is asked again */

        bool stopping;
        sd_bus_slot *jobs;              /* systemd is asked whether this is a restart */
};

/* node_new() - all but the buses. Logs its failures. */
int node_new(const Settings *settings, const KubeConfig *config, sd_event *event, Node **ret);
Node* node_free(Node *n);
DEFINE_CLEANUP(Node*, node_free);

/* Each logs its failures. */
int node_load(Node *n);                                 /* reads the records */
int node_start(Node *n);                                /* connects to the bus, and begins to work */

/* node_stop() - withdraw what is offered, unless the service is being started again; then the loop ends */
void node_stop(Node *n);

/* node_update_status() - what systemd and the bus show of us */
void node_update_status(Node *n);

Track* node_find_track(Node *n, const char *id);
unsigned node_count_pending(const Node *n);             /* records that the API server does not have as they are */

/* node_make_room() - for one more record: one that only waits to tell its end is given up for it. Returns 0, -E2BIG. */
int node_make_room(Node *n);

/* node_adaptor_synced() - what the adaptor does not have does not exist */
void node_adaptor_synced(Node *n);

/* For tracks. */
int node_add_track(Node *n, Track *t);                  /* -ENOMEM: it is in no table */
void node_remove_track(Node *n, Track *t);
void node_kick(Node *n);                                /* a place has become free, or the API server is back */
bool node_may_ask(const Node *n);                       /* may one more request begin now? */
/* node_api_answered() - notes what a request says of the server. Returns true if nobody is to be asked for a while: node_kick() comes. */
bool node_api_answered(Node *n, const KubeReply *reply);
