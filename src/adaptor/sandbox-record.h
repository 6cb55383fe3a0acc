/* SPDX-License-Identifier: Apache-2.0 */
/* What has to be remembered of one sandbox across a crash of the adaptor, and its JSON form on disk. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

typedef enum SandboxState {
        SANDBOX_PLANNED,        /* CreateVM: the record exists, the cloud knows nothing */
        SANDBOX_CREATING,       /* StartVM runs; the cloud may know the instance */
        SANDBOX_RUNNING,        /* StartVM was answered, or is about to be */
        SANDBOX_DELETING,       /* everything goes, until the cloud says that the instance is gone */
        SANDBOX_GONE,           /* no record on disk any more; the object is about to be freed */
        _SANDBOX_STATE_MAX,
        _SANDBOX_STATE_INVALID = -EINVAL,
} SandboxState;

const char* sandbox_state_to_string(SandboxState state);
SandboxState sandbox_state_from_string(const char *s);

/* sandbox_state_may_follow() - the one table of legal moves */
bool sandbox_state_may_follow(SandboxState from, SandboxState to);

#define SANDBOX_RECORD_VERSION 1
#define SANDBOX_RECORD_SIZE_MAX (UINT32_C(256) << 10)
#define SANDBOX_ADDRESSES_MAX 64U

/* All strings are owned; NULL is "not known (yet)". */
typedef struct SandboxRecord {
        SandboxState state;

        char *id;                       /* the shim's; never NULL in a record that was parsed */
        char *pod_name, *pod_namespace;
        char *pod_uid;                  /* only CRI-O tells it */
        char *netns_path;

        /* what the shim asked for; 0 and NULL leave it to the provider */
        char *machine_type, *image, *gpu_model;
        uint32_t vcpus, gpus;
        uint64_t memory_mib;

        char *node;                     /* owner tag, as it was when the instance was made */
        char *instance_name;            /* fixed before the first cloud call */
        char *instance_id, *instance_type;
        char **addresses;
        char *pod_network;              /* JSON text of tunneld's answer to Inspect */

        char *volumes;                  /* JSON text, an array; NULL for none: see volumes.h */
        char **volumes_elsewhere;       /* digests of paths */

        /* what the pod VM was told of TLS: a reload or a restart with other settings does not change it. NULL in older records */
        char *tls_profile;              /* "none", "VersionTLS12", "VersionTLS13" */
        char *tls_server_name;
        char **tls_cipher_suites;

        char *last_error;
        uint64_t hold_until_usec;       /* CLOCK_REALTIME: not deleted before; 0: no hold. Records from before it had none. */
        uint64_t state_usec[_SANDBOX_STATE_MAX];        /* CLOCK_REALTIME of each state's begin, 0 = not yet */
} SandboxRecord;

#define SANDBOX_RECORD_NULL ((SandboxRecord) { .state = SANDBOX_PLANNED })

void sandbox_record_done(SandboxRecord *record);

/**
 * sandbox_record_parse() - read a record back
 * @ret:       filled on success only; sandbox_record_done()
 * @ret_error: what is wrong, for people, newly allocated
 *
 * Refuses what no version of ours can have written: records are input like any other. Returns 0, -EBADMSG (corrupt),
 * -EPROTONOSUPPORT (written by a newer version), -EFBIG, -ENOMEM.
 */
int sandbox_record_parse(const char *text, size_t size, SandboxRecord *ret, char **ret_error);

/** sandbox_record_format() - @ret_text is newly allocated and ends with a newline. Returns 0, -EFBIG, -EINVAL, -ENOMEM. */
int sandbox_record_format(const SandboxRecord *record, char **ret_text);
