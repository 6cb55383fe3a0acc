/* SPDX-License-Identifier: Apache-2.0 */
/* A collection, seen as it changes: listed in pages, then watched, for ever.
 *
 * The user is told of each object as it comes and keeps what he needs; here only name, uid and resourceVersion of each are kept, so that what
 * vanished while nobody looked can be told, too. What the user sees is always a history that could have been: ADDED, any number of MODIFIED,
 * DELETED, for each uid; nothing twice. It goes on after lost connections, restarts of the server, compaction (410) and faults of all kinds,
 * with growing pauses. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/json.h"

typedef struct KubeClient KubeClient;
typedef struct KubeReply KubeReply;
typedef struct KubeWatch KubeWatch;

#define KUBE_WATCH_OBJECTS_MAX 250000U

typedef enum KubeChange {
        KUBE_ADDED,
        KUBE_MODIFIED,
        KUBE_DELETED,
} KubeChange;

typedef struct KubeWatchSpec {
        const char *path;               /* of the collection, without query: kube_path(); copied */
        const char *label_selector;     /* or NULL; copied */
        const char *field_selector;     /* or NULL; copied */

        /* An object has come, changed, or gone. @object is borrowed. A deletion that was not seen but found out by a list has only
         * metadata.name, .namespace, .uid and .resourceVersion. May free the watch. */
        void (*on_object)(KubeWatch *w, KubeChange change, json_object *object, void *userdata);

        /* All that is there has been told: after the first list, and again after each other one. May free the watch. NULL: not wanted. */
        void (*on_synced)(KubeWatch *w, void *userdata);

        /* It does not go on right now: why, and when the next try is (µs from now). The first time, and again when the server refuses for another
         * reason than was told, until it went well again. It is logged already. May free the watch. NULL: not wanted. */
        void (*on_trouble)(KubeWatch *w, const KubeReply *reply, uint64_t again_usec, void *userdata);

        uint32_t page_size;             /* objects of one answer; 0: 100 */
        size_t event_max;               /* bytes of one event; 0: 4 MiB */

        /* For tests; 0: as the API's own clients do. */
        uint32_t watch_seconds;         /* what one watch request lasts; 0: 300 … 600, by chance */
        uint64_t idle_usec;             /* without a byte: the connection is dead; 0: 90 s (a bookmark comes each minute) */
        uint64_t pause_usec;            /* first pause after a fault, doubled for each; 0: 800 ms */
        uint64_t pause_max_usec;        /* 0: 30 s */
        uint64_t quiet_usec;            /* after that long without a fault, pauses begin small again; 0: 2 min */
} KubeWatchSpec;

/* kube_watch_new() - begin; nothing is called from within. @client is borrowed and outlives the watch. Returns 0, -EINVAL, -ENOMEM. */
int kube_watch_new(KubeClient *client, const KubeWatchSpec *spec, void *userdata, KubeWatch **ret);
KubeWatch* kube_watch_free(KubeWatch *w);
DEFINE_CLEANUP(KubeWatch*, kube_watch_free);

bool kube_watch_is_synced(const KubeWatch *w);          /* all has been told once, and the connection is not in trouble */
size_t kube_watch_count(const KubeWatch *w);            /* objects that are there */
const char* kube_watch_resource_version(const KubeWatch *w); /* last one seen, "" at first */

typedef struct KubeWatchStats {
        uint64_t n_lists, n_watches, n_events, n_faults;
} KubeWatchStats;

void kube_watch_stats(const KubeWatch *w, KubeWatchStats *ret);
