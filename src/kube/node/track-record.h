/* SPDX-License-Identifier: Apache-2.0 */
/* What has to be remembered of one sandbox until the API server has been told of its end, and its JSON form on disk. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

typedef enum TrackState {
        TRACK_CREATING,         /* the adaptor plans or starts it */
        TRACK_RUNNING,
        TRACK_DELETING,
        TRACK_GONE,             /* the adaptor has said that nothing is left */
        _TRACK_STATE_MAX,
        _TRACK_STATE_INVALID = -EINVAL,
} TrackState;

#define TRACK_RECORD_VERSION 1
#define TRACK_RECORD_SIZE_MAX (UINT32_C(64) << 10)
#define TRACK_ADDRESSES_MAX 32U         /* as many as the resource definition allows */
#define TRACK_ERROR_MAX 2048U

/* All strings are owned; NULL is "not known (yet)". */
typedef struct TrackRecord {
        TrackState state;
        char *id;                       /* of the sandbox; never NULL in a record that was parsed */
        char *pod_namespace, *pod_name; /* likewise */
        char *pod_uid;
        char *provider;
        char *instance_name, *instance_id, *instance_type;
        char **addresses;
        char *last_error;

        char *name;                     /* of the PeerPod, fixed from the beginning; never NULL either */
        char *uid;                      /* of the PeerPod, once the API server has told it */
        bool posted;                    /* it may exist, whether we know its uid or not */
        uint64_t created_usec, instance_usec, gone_usec; /* CLOCK_REALTIME; 0: not yet */
} TrackRecord;

#define TRACK_RECORD_NULL ((TrackRecord) {})

void track_record_done(TrackRecord *record);

const char* track_state_to_string(TrackState state);
TrackState track_state_from_string(const char *s);

/**
 * track_record_parse() - read a record back
 * @ret:       filled on success only
 * @ret_error: what is wrong, for people, newly allocated
 *
 * Records are input like any other. Returns 0, -EBADMSG (corrupt), -EPROTONOSUPPORT (written by a newer version), -EFBIG, -ENOMEM.
 */
int track_record_parse(const char *text, size_t size, TrackRecord *ret, char **ret_error);

/* track_record_format() - @ret_text is newly allocated and ends with a newline. Returns 0, -EFBIG, -ENOMEM. */
int track_record_format(const TrackRecord *record, char **ret_text);
