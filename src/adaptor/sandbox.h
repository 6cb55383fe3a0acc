/* SPDX-License-Identifier: Apache-2.0 */
/* One pod VM as the adaptor knows it, from CreateVM until its instance is gone. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "adaptor/request.h"
#include "adaptor/sandbox-record.h"
#include "adaptor/sandbox-waiters.h"
#include "adaptor/shim-watch.h"
#include "adaptor/story.h"
#include "basic/cleanup.h"
#include "basic/hash.h"
#include "basic/log.h"

typedef struct ServiceCall ServiceCall;
typedef struct Manager Manager;
typedef struct NodeCall NodeCall;
typedef struct Pod Pod;
typedef struct Sandbox Sandbox;
typedef struct TunnelCheck TunnelCheck;
typedef struct UnitJob UnitJob;
typedef struct UnitWatch UnitWatch;

/* Steps in the order in which they are taken. Which of them a state calls for is in sandbox.c. */
typedef enum SandboxStep {
        STEP_REGISTER,                  /* with peerpod-node, where there is one: it may tell whose the volumes are */
        STEP_READ_VOLUMES,
        STEP_INSPECT_NETWORK,
        STEP_PREPARE_FILES,
        STEP_CREATE_INSTANCE,
        STEP_SET_UP_TUNNEL,
        STEP_START_SOCKET,              /* before the addresses: the drop-in that these make goes when the socket stops */
        STEP_ALLOW_ADDRESSES,
        STEP_START_PROXY,
        STEP_PROBE_TUNNEL,
        STEP_STOP_SOCKET,
        STEP_STOP_PROXY,
        STEP_REMOVE_FILES,
        STEP_DELETE_INSTANCE,
        STEP_TEAR_DOWN_TUNNEL,
        _SANDBOX_STEP_MAX,
        _SANDBOX_STEP_INVALID = -EINVAL,
} SandboxStep;

struct Sandbox {
        Manager *manager;               /* borrowed */
        UT_hash_handle hh;              /* in manager->by_id; the next two likewise, while it is in the manager's tables */
        TAILQ_ENTRY(Sandbox) sandboxes;
        TAILQ_ENTRY(Sandbox) of_pod;
        Pod *pod;                       /* borrowed; NULL where the pod is not known */
        bool in_tables;
        unsigned listed;                /* number of the last list of the cloud that had its instance */

        SandboxRecord record;           /* as on disk, but for last_error, which is saved with the next change */
        bool unsaved;                   /* "deleting" could not be written down */
        char *initdata;                 /* from CreateVM until the user data is written */
        char *auth;                     /* auth.json, likewise; secret */

        char *path;                     /* of the bus object */
        char *agent_socket, *socket_unit, *proxy_unit, *user_data_path;
        char *tunnel_type;              /* from the pod network */
        uint64_t tunnel_id;
        LogContext log;

        uint32_t todo, tried;           /* bits of SandboxStep: what the state still calls for, and what failed in this pass */
        SandboxStep step;               /* under way, or _SANDBOX_STEP_INVALID */
        uint64_t step_usec;             /* CLOCK_MONOTONIC when it began */
        ServiceCall *call;              /* … of which one of these three is the other end */
        UnitJob *job;
        NodeCall *node_call;
        UnitWatch *watch;               /* of the proxy, from its first start on */
        ShimWatch shim;
        sd_event_source *deadline;      /* of the state */
        sd_event_source *retry;         /* pause between two passes */
        sd_event_source *patience;      /* of those who wait for a failed start to be undone */
        sd_event_source *hold;          /* the end of a hold */
        unsigned n_retries;

        sd_bus_error failure;           /* why the start has failed */
        Story story;
        TAILQ_ENTRY(Sandbox) untold;
        bool is_untold;                 /* the story on disk is older */
        SandboxWaiters waiters;
        TAILQ_HEAD(, TunnelCheck) checks;       /* of the tunnel, asked for on the bus */
};

/**
 * sandbox_new() - enter a planned sandbox into the manager's table
 * @id:      the shim's; valid; copied
 * @request: its strings are taken on success
 * @ret:     borrowed: the sandbox frees itself, from the loop, some time after it is gone
 *
 * Writes nothing to disk yet. Returns 0, -EEXIST, -ENOMEM. Loop thread only.
 */
int sandbox_new(Manager *m, const char *id, const char *netns_path, CreateRequest *request, Sandbox **ret);

/**
 * sandbox_new_from_record() - the same for a record from disk, or one made up for an instance that was found
 * @record: taken on success
 */
int sandbox_new_from_record(Manager *m, SandboxRecord *record, Sandbox **ret);

/* sandbox_free() - forget it, as at the end of the process: nothing out there changes; who still waits is told. Takes it out of the
 * table. */
Sandbox* sandbox_free(Sandbox *s);
DEFINE_CLEANUP(Sandbox*, sandbox_free);

/**
 * sandbox_advance() - do what the record calls for next
 *
 * The one place where steps begin; called whenever something has changed. May end in anything, also in waiters' handlers, but not in
 * the sandbox being freed.
 */
void sandbox_advance(Sandbox *s);

/* sandbox_plan() - begin a new sandbox: write the first record. Returns negative with @error set: sandbox_stop() it. */
int sandbox_plan(Sandbox *s, sd_bus_error *error);

/* sandbox_recover() - take up a record after a restart */
void sandbox_recover(Sandbox *s);

/**
 * sandbox_stop() - delete it, whatever it is doing
 * @reason: for those who wait for its start
 *
 * Returns 0 once this is on disk, so that it will happen even if we crash now; negative if it goes on, but is not on disk.
 */
int sandbox_stop(Sandbox *s, const char *reason);

/* sandbox_fail() - the same because something went wrong: @error is copied for those who wait, the bus and the journal */
void sandbox_fail(Sandbox *s, const sd_bus_error *error);

/* sandbox_fail_made() - an instance of a sandbox that is only planned has been found: its disk has forgotten the start */
void sandbox_fail_made(Sandbox *s);

/* sandbox_abandoned() - nobody waits for that goal any more, and nobody was told: a start is given up */
void sandbox_abandoned(Sandbox *s, SandboxGoal goal);

/* sandbox_save() - write the record as it is. Returns 0 or -errno. */
int sandbox_save(Sandbox *s);

/* sandbox_set_last_error() - show it on the bus; nothing else changes */
void sandbox_set_last_error(Sandbox *s, const char *text);

/* sandbox_matches() - is this the sandbox that such a CreateVM would make */
bool sandbox_matches(const Sandbox *s, const char *netns_path, const CreateRequest *request);

#define log_sandbox(s, level, message_id, ...) ((void) log_full(&(s)->log, (level), (message_id), 0, __VA_ARGS__))
#define log_sandbox_errno(s, level, message_id, error, ...) log_full(&(s)->log, (level), (message_id), (error), __VA_ARGS__)
