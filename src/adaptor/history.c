/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/history.h"

#include <stdlib.h>
#include <string.h>

#include "basic/log.h"
#include "basic/sandbox-store.h"
#include "basic/util.h"

struct History {
        SandboxStore *store;
        unsigned n_max, n_entries;
        bool failing;                   /* the last save has failed, which was logged */
        struct HistoryList entries;
};

static void entry_free(HistoryEntry *e) {
        story_done(&e->story);
        free(e);
}

History* history_free(History *h) {
        HistoryEntry *e;

        if (!h)
                return NULL;

        while ((e = TAILQ_FIRST(&h->entries))) {
                TAILQ_REMOVE(&h->entries, e, entries);
                entry_free(e);
        }
        sandbox_store_free(h->store);
        free(h);
        return NULL;
}

/* @s: taken on success. */
static int append(History *h, Story *s) {
        HistoryEntry *e = new(HistoryEntry);

        if (!e)
                return -ENOMEM;
        *e = (HistoryEntry) { .story = *s };
        *s = STORY_NULL;
        TAILQ_INSERT_TAIL(&h->entries, e, entries);
        h->n_entries++;
        return 0;
}

static void drop(History *h, HistoryEntry *e) {
        int r;

        r = sandbox_store_remove(h->store, e->story.id);
        if (r < 0)
                log_warning_errno(r, "Failed to remove the history of sandbox '%s', ignoring: %m", e->story.id);
        TAILQ_REMOVE(&h->entries, e, entries);
        h->n_entries--;
        entry_free(e);
}

static void trim(History *h) {
        while (h->n_entries > h->n_max)
                drop(h, TAILQ_FIRST(&h->entries));
}

static int on_file(SandboxStore *store, const char *id, int error, const char *data, size_t size, void *userdata) {
        _cleanup_(story_done) Story story = STORY_NULL;
        _cleanup_(freep) char *reason = NULL;
        int r = error;

        if (r >= 0)
                r = story_parse(data, size, &story, &reason);
        if (r >= 0 && !streq(story.id, id))
                r = -EBADMSG;
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                log_warning_errno(r, "History of sandbox '%s' is unreadable (%s), removing it: %m", id, reason ?: "as a whole");
                (void) sandbox_store_remove(store, id);
                return 0;
        }

        return append(userdata, &story);
}

int history_new(const char *path, unsigned n_max, History **ret) {
        _cleanup_(history_freep) History *h = NULL;
        int r;

        h = new(History);
        if (!h)
                return -ENOMEM;
        *h = (History) { .n_max = MIN(n_max, HISTORY_MAX) };
        TAILQ_INIT(&h->entries);

        r = sandbox_store_new(path, /* durable= */ false, &h->store);
        if (r < 0)
                return r;
        r = sandbox_store_load(h->store, STORY_SIZE_MAX, on_file, h);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(h);
        return 0;
}

bool history_take(History *h, const char *id, Story *ret) {
        HistoryEntry *e;

        TAILQ_FOREACH(e, &h->entries, entries) {
                if (!streq(e->story.id, id))
                        continue;

                *ret = e->story;
                e->story = STORY_NULL;
                TAILQ_REMOVE(&h->entries, e, entries);
                h->n_entries--;
                entry_free(e);
                return true;
        }

        return false;
}

static uint64_t last_usec(const Story *s) {
        uint64_t last = s->failed_usec;

        for (SandboxState i = 0; i < _SANDBOX_STATE_MAX; i++)
                last = MAX(last, s->state_usec[i]);
        return last;
}

static int by_end(const void *a, const void *b) {
        uint64_t x = last_usec(&(*(HistoryEntry *const*) a)->story), y = last_usec(&(*(HistoryEntry *const*) b)->story);

        return x < y ? -1 : x > y;
}

void history_settle(History *h) {
        _cleanup_(freep) HistoryEntry **sorted = NULL;
        HistoryEntry *e;
        size_t n = 0;

        sorted = new0(HistoryEntry*, h->n_entries + 1);
        if (!sorted) {
                (void) log_oom();
                return;
        }
        while ((e = TAILQ_FIRST(&h->entries))) {
                TAILQ_REMOVE(&h->entries, e, entries);
                sorted[n++] = e;
        }
        qsort(sorted, n, sizeof(*sorted), by_end);

        for (size_t i = 0; i < n; i++) {
                Story *s = &sorted[i]->story;

                /* We were ended between removing the record and saying so here. */
                s->state_usec[SANDBOX_GONE] = s->state_usec[SANDBOX_GONE] ?: last_usec(s);
                s->state = SANDBOX_GONE;
                TAILQ_INSERT_TAIL(&h->entries, sorted[i], entries);
        }
        trim(h);
}

void history_save(History *h, const Story *s) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = story_format(s, &text);
        if (r >= 0)
                r = sandbox_store_save(h->store, s->id, text, strlen(text));
        if (r < 0 && !h->failing)
                log_warning_errno(r, "Failed to write the history of sandbox '%s', ignoring: %m", s->id);
        h->failing = r < 0;
}

void history_add(History *h, Story *s) {
        if (append(h, s) < 0) {
                (void) sandbox_store_remove(h->store, s->id);
                story_done(s);
                return;
        }

        TAILQ_LAST(&h->entries, HistoryList)->unsaved = true;
        trim(h);
}

bool history_flush(History *h, unsigned n_max) {
        HistoryEntry *e;

        TAILQ_FOREACH(e, &h->entries, entries) {
                if (!e->unsaved)
                        continue;
                if (n_max-- == 0)
                        return true;
                history_save(h, &e->story);
                e->unsaved = false;
        }

        return false;
}

const struct HistoryList* history_list(const History *h) {
        return &h->entries;
}
