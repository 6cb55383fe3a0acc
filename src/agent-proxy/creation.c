/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-proxy/creation.h"

#include <stdio.h>
#include <utlist.h>

#include "basic/messages.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "ttrpc/wire.h"

struct Creation {
        Creations *creations;           /* borrowed */
        sd_event_source *timer;         /* at half of its time */
        uint64_t timeout_usec;
        char container[129];
        Creation *prev, *next;
};

static void creation_free(Creation *c) {
        DL_DELETE(c->creations->list, c);
        sd_event_source_disable_unref(c->timer);
        free(c);
}

void creations_done(Creations *cs) {
        while (cs->list)
                creation_free(cs->list);
}

static int on_slow(sd_event_source *source, uint64_t usec, void *userdata) {
        Creation *c = userdata;

        c->timer = sd_event_source_disable_unref(c->timer);
        (void) log_full(c->creations->log, LOG_WARNING, MSG_CREATE_SLOW, 0, "CreateContainer of '%s' has taken half of its %s.",
                        c->container, FORMAT_USEC(c->timeout_usec));
        return 0;
}

static void on_created(int code, TtrpcSlice message, TtrpcSlice payload, void *userdata) {
        creation_free(userdata);
}

/* Kata gives a container's creation a time that says nothing about how long its image takes to pull; that it runs short shall be known
 * before it has run out. */
void creations_watch(Creations *cs, const TtrpcRequest *request, RelayEdit *edit) {
        TtrpcSlice id = {};
        Creation *c;

        if (request->timeout_nano <= 0 || wire_get_string(request->payload, 1, &id) < 0)
                return;
        c = new(Creation);
        if (!c)
                return;
        *c = (Creation) { .creations = cs, .timeout_usec = request->timeout_nano / NSEC_PER_USEC };
        (void) snprintf(c->container, sizeof(c->container), "%.*s", (int) MIN(id.size, sizeof(c->container) - 1),
                        (const char*) id.data ?: "");
        if (!sandbox_id_is_valid(c->container))         /* the same characters; the agent will refuse others */
                (void) snprintf(c->container, sizeof(c->container), "?");
        DL_APPEND(cs->list, c);
        if (sd_event_add_time_relative(cs->event, &c->timer, CLOCK_MONOTONIC, c->timeout_usec / 2, 0, on_slow, c) < 0) {
                creation_free(c);
                return;
        }
        edit->on_answer = on_created;
        edit->data = c;
}
