/* SPDX-License-Identifier: Apache-2.0 */
/* Connections on which no call has been made yet. Who connects and says nothing must not keep out who does: where a table of connections
 * is full, the one that has been silent for longest gives way to the next. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <utlist.h>

typedef struct SilentPeer SilentPeer;

/* Embedded in the connection; zero is "not silent". */
struct SilentPeer {
        SilentPeer *prev, *next;
};

typedef struct SilentPeers {
        SilentPeer *oldest;
} SilentPeers;

static inline void silent_add(SilentPeers *s, SilentPeer *p) {
        DL_APPEND(s->oldest, p);
}

/* True if it was silent up to now. */
static inline bool silent_remove(SilentPeers *s, SilentPeer *p) {
        if (!p->prev)                   /* the first one's is the last: utlist.h */
                return false;
        DL_DELETE(s->oldest, p);
        *p = (SilentPeer) {};
        return true;
}

/* Whether one more may come to @n connections, of which there may be @max. */
static inline bool silent_has_room(const SilentPeers *s, size_t n, size_t max) {
        return n < max || s->oldest;
}
