/* SPDX-License-Identifier: Apache-2.0 */
/* PeerPods that have something in common, found by it: the pod that owns them, or the instance that they claim. */
#pragma once

#include "basic/hash.h"

typedef struct Group Group;
typedef struct PeerPod PeerPod;

/* A place in a group; part of the PeerPod. */
typedef struct Member {
        PeerPod *peerpod;               /* borrowed */
        Group *group;                   /* NULL: in none */
        struct Member *prev, *next;
} Member;

struct Group {
        UT_hash_handle hh;
        Group **table;                  /* borrowed */
        Member *members;
        char key[];
};

/* group_join() - enter the group of @key, which is made if there is none; what the place was in before is left. Returns 0, -ENOMEM. */
int group_join(Group **table, const char *key, Member *m, PeerPod *peerpod);
/* group_leave() - an empty group ends. May be in none. */
void group_leave(Member *m);

#define GROUP_FOREACH_OTHER(m, self)                                                                            \
        for (Member *m = (self)->group ? (self)->group->members : NULL; m; m = m->next)                         \
                if (m != (self))
