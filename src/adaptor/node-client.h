/* SPDX-License-Identifier: Apache-2.0 */
/* The way to peerpod-node, which tells the cluster of a sandbox before there is an instance, and knows what the cluster has for its pod.
 *
 * It need not be there: a sandbox then goes on at once. One that is being restarted while it works for us is waited for, but not for
 * long. */
#pragma once

#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "adaptor/sandbox-record.h"
#include "basic/cleanup.h"

typedef struct NodeCall NodeCall;
typedef struct NodeClient NodeClient;

/* What the cluster knows. */
typedef struct NodeAnswer {
        char *pod_uid;                  /* NULL: not known */
        char *auth;                     /* auth.json of the pod VM; secret; NULL: none */
        bool recorded;                  /* the API server has the PeerPod; else it is written down by peerpod-node only */
} NodeAnswer;

void node_answer_done(NodeAnswer *a);

/* node_client_new() - @bus is borrowed, and attached to an event loop. Returns 0 or -errno. */
int node_client_new(sd_bus *bus, NodeClient **ret);
NodeClient* node_client_free(NodeClient *c);            /* no call may be left; takes NULL */
DEFINE_CLEANUP(NodeClient*, node_client_free);

/* node_client_is_there() - false only if it is known to be absent, which is said once in the journal until it comes */
bool node_client_is_there(NodeClient *c);

/* @error: why there is no answer; borrowed, as @reply is: node_read_answer(). Runs once, from the loop. The call may be freed here. */
typedef void (*NodeHandler)(NodeCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata);

/* node_register() - tell of a sandbox. @record and @provider (may be NULL) are borrowed for the call's life. Returns 0 or -errno. */
int node_register(NodeClient *c, const SandboxRecord *record, const char *provider, NodeHandler handler, void *userdata, NodeCall **ret);
NodeCall* node_call_free(NodeCall *call);               /* at any time: to forget it; takes NULL */

/* node_read_answer() - @ret is filled on success only. Returns 0, -EBADMSG (it says what cannot be), another -errno. */
int node_read_answer(sd_bus_message *reply, NodeAnswer *ret);
