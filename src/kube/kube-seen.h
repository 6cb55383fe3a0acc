/* SPDX-License-Identifier: Apache-2.0 */
/* What a watch has told its user: of each object no more than its name, uid and version, to know again what it is told the next time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/json.h"
#include "kube/kube-object.h"

typedef struct KubeSeenObject KubeSeenObject;

typedef struct KubeSeen {
        KubeSeenObject *table, *oldest;
        uint32_t round;
} KubeSeen;

void kube_seen_done(KubeSeen *s);
size_t kube_seen_count(const KubeSeen *s);

/* kube_seen_begin() - a list begins: what it does not have is stale at its end */
void kube_seen_begin(KubeSeen *s);
/* kube_seen_stale() - an object that was not added or seen again since then; NULL: none is left. Needs no more than one look at each in all. */
KubeSeenObject* kube_seen_stale(KubeSeen *s);

/* kube_seen_find() - by namespace and name; *ret NULL: none. Returns 0, -ENOMEM. */
int kube_seen_find(KubeSeen *s, const KubeMeta *meta, KubeSeenObject **ret);
bool kube_seen_is(const KubeSeenObject *o, const KubeMeta *meta);      /* the same uid */
/* kube_seen_add() - returns 0, -E2BIG (KUBE_WATCH_OBJECTS_MAX), -ENOMEM */
int kube_seen_add(KubeSeen *s, const KubeMeta *meta);
/* kube_seen_again() - returns 1 for another version than before, 0 for the same, -ENOMEM */
int kube_seen_again(KubeSeen *s, KubeSeenObject *o, const char *version);
void kube_seen_remove(KubeSeen *s, KubeSeenObject *o);

/* kube_seen_describe() - an object with the metadata that is known. Returns 0, -ENOMEM. */
int kube_seen_describe(const KubeSeenObject *o, json_object **ret);
