/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/group.h"

#include <utlist.h>

#include "basic/util.h"

int group_join(Group **table, const char *key, Member *m, PeerPod *peerpod) {
        size_t n = strlen(key);
        Group *g;

        if (m->group && streq(m->group->key, key))
                return 0;
        group_leave(m);

        HASH_FIND(hh, *table, key, n, g);
        if (!g) {
                g = calloc(1, sizeof(Group) + n + 1);
                if (!g)
                        return -ENOMEM;
                g->table = table;
                memcpy(g->key, key, n + 1);
                HASH_ADD_KEYPTR(hh, *table, g->key, n, g);
                if (!hash_added(g)) {
                        free(g);
                        return -ENOMEM;
                }
        }

        m->group = g;
        m->peerpod = peerpod;
        DL_APPEND(g->members, m);
        return 0;
}

void group_leave(Member *m) {
        Group *g = m->group;

        if (!g)
                return;
        DL_DELETE(g->members, m);
        m->group = NULL;
        if (g->members)
                return;
        HASH_DEL(*g->table, g);
        free(g);
}
