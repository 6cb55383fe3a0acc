/* SPDX-License-Identifier: Apache-2.0 */
/* The stories of all sandboxes on disk, and those of the last ones that are gone also in memory. */
#pragma once

#include <sys/queue.h>

#include "adaptor/story.h"
#include "basic/cleanup.h"

#define HISTORY_MAX 1024U

typedef struct History History;
typedef struct HistoryEntry HistoryEntry;

struct HistoryEntry {
        TAILQ_ENTRY(HistoryEntry) entries;
        Story story;
        bool unsaved;
};

TAILQ_HEAD(HistoryList, HistoryEntry);

/**
 * history_new() - read what is on disk
 * @path:  directory, made where it is missing
 * @n_max: how many of those that are gone are kept, at most HISTORY_MAX
 *
 * A file that cannot be read is removed: it was for people only. Returns 0, -EBUSY, another -errno.
 */
int history_new(const char *path, unsigned n_max, History **ret);
History* history_free(History *h);
DEFINE_CLEANUP(History*, history_free);

/* history_take() - what is known of a sandbox from before a restart, or of an older one of the same id. Returns true and *ret, which is
 * the caller's then. In the order of their ids this is cheap. */
bool history_take(History *h, const char *id, Story *ret);

/* history_settle() - all sandboxes have been taken: the others are gone */
void history_settle(History *h);

/* history_save() - the story of a living sandbox, or of one that just went. A failure is logged once, until it works again. */
void history_save(History *h, const Story *s);

/* history_add() - a sandbox is gone, its story is kept for a while. @s: taken; STORY_NULL afterwards. history_flush() writes it. */
void history_add(History *h, Story *s);

/* history_flush() - write at most @n_max of what was added. Returns true if there is more. */
bool history_flush(History *h, unsigned n_max);

/* history_list() - of those that are gone, oldest first; borrowed */
const struct HistoryList* history_list(const History *h);
