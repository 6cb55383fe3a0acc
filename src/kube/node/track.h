/* SPDX-License-Identifier: Apache-2.0 */
/* One sandbox and its PeerPod.
 *
 * The record says what is so on this machine; the API server is made to say the same, by one request after another, until it does. Nothing is
 * asked twice for the sake of a restart: what is left to do follows from the record and from the object as the server gave it last.
 *
 *      the pod is read (its uid; is it ours?) → POST → spec: instance id → status … → status Gone → finalizer removed → record removed
 *
 * Invariant: before the server can have the object, the record is on disk and says so (posted). */
#pragma once

#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/hash.h"
#include "basic/json.h"
#include "basic/log.h"
#include "kube/node/track-record.h"

typedef struct KubeRequest KubeRequest;
typedef struct Node Node;
typedef struct Registration Registration;
typedef struct Track Track;

struct Track {
        Node *node;                     /* borrowed */
        UT_hash_handle hh;              /* in node->by_id */
        TAILQ_ENTRY(Track) tracks;
        bool in_tables;

        TrackRecord record;             /* as on disk */
        LogContext log;
        bool absent;                    /* the adaptor has it no more, and is being asked why */

        Registration *registration;     /* borrowed; the adaptor waits for an answer */
        KubeRequest *request;           /* the one that is under way */
        json_object *object;            /* as the server gave it last; NULL: to be read */
        bool pod_read;                  /* the pod was there, and of this node, since we started */
        bool spec_told, status_told;    /* the server has taken what the record says */
        sd_event_source *retry;
        unsigned n_retries;
        char *trouble;                  /* as told in the journal */
};

/* What the adaptor knows of a sandbox; all borrowed. NULL or negative is "not known, or not changed". */
typedef struct TrackNews {
        TrackState state;
        const char *provider, *instance_name, *instance_id, *instance_type, *last_error;
        char *const *addresses;
} TrackNews;

#define TRACK_NEWS_NULL ((TrackNews) { .state = _TRACK_STATE_INVALID })

/**
 * track_new() - begin to keep track of a sandbox; the record is on disk when this returns
 * @created_usec: CLOCK_REALTIME
 *
 * Returns 0, -EINVAL (a name that no pod has), -E2BIG (records-max), -ENOMEM, -errno of the disk.
 */
int track_new(Node *n, const char *id, const char *pod_namespace, const char *pod_name, uint64_t created_usec, Track **ret);

/* track_new_from_record() - @record is taken on success */
int track_new_from_record(Node *n, TrackRecord *record, Track **ret);

/* track_free() - as at the end of the process: nothing out there changes */
Track* track_free(Track *t);
DEFINE_CLEANUP(Track*, track_free);

/* track_update() - the adaptor says something new. Failures to write it down are logged. */
void track_update(Track *t, const TrackNews *news);

/* track_take_pod() - the pod that the API server has under the sandbox's pod's name was read. Returns 0; -ENOENT: it is another one, @reason
 * (newly allocated, NULL when memory is short) says why; -errno where it cannot be written down. */
int track_take_pod(Track *t, json_object *pod, char **reason);

/* track_gone() - nothing is left of the sandbox: the PeerPod is released. May free the track. */
void track_gone(Track *t);

/* track_abandon() - nobody here can say what became of it: the PeerPod stays as it is, for peerpod-ctrl. Frees the track. */
void track_abandon(Track *t);

/* track_object_changed() - the server has a newer object, or (NULL) none any more. May free the track. */
void track_object_changed(Track *t, json_object *object);

/* track_advance() - begin the next request, if there is something to do and nothing in the way. May free the track. */
void track_advance(Track *t);

bool track_is_done(const Track *t);     /* the server says what the record says */

#define log_track(t, level, message_id, ...) ((void) log_full(&(t)->log, (level), (message_id), 0, __VA_ARGS__))
#define log_track_errno(t, level, message_id, error, ...) log_full(&(t)->log, (level), (message_id), (error), __VA_ARGS__)
