/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/sandbox-waiters.h"

#include <stdlib.h>

#include "adaptor/sandbox.h"

struct SandboxWaiter {
        Sandbox *sandbox;               /* borrowed; NULL while the handler runs */
        TAILQ_ENTRY(SandboxWaiter) waiters;
        SandboxGoal goal;
        SandboxDone done;
        void *userdata;
};

static void waiter_finish(Sandbox *s, SandboxWaiter *w, const sd_bus_error *error) {
        TAILQ_REMOVE(&s->waiters, w, waiters);
        w->sandbox = NULL;
        w->done(s, error, w->userdata);
        free(w);
}

void waiters_notify(Sandbox *s, SandboxGoal goal, const sd_bus_error *error) {
        SandboxWaiter *w, *next;

        for (w = TAILQ_FIRST(&s->waiters); w; w = next) {
                next = TAILQ_NEXT(w, waiters);
                if (w->goal != goal)
                        continue;

                waiter_finish(s, w, error);
                next = TAILQ_FIRST(&s->waiters);        /* the handler may have changed the list */
        }
}

bool waiters_has(const Sandbox *s, SandboxGoal goal) {
        const SandboxWaiter *w;

        TAILQ_FOREACH(w, &s->waiters, waiters)
                if (w->goal == goal)
                        return true;
        return false;
}

void waiters_dismiss(Sandbox *s, const sd_bus_error *error) {
        SandboxWaiter *w;

        while ((w = TAILQ_FIRST(&s->waiters)))
                waiter_finish(s, w, error);
}

int sandbox_wait(Sandbox *s, SandboxGoal goal, SandboxDone done, void *userdata, SandboxWaiter **ret) {
        SandboxWaiter *w = new(SandboxWaiter);

        if (!w)
                return -ENOMEM;
        *w = (SandboxWaiter) { .sandbox = s, .goal = goal, .done = done, .userdata = userdata };
        TAILQ_INSERT_TAIL(&s->waiters, w, waiters);

        *ret = w;
        return 0;
}

void sandbox_waiter_forget(SandboxWaiter *w) {
        assert(w->sandbox);     /* not from its own handler */

        TAILQ_REMOVE(&w->sandbox->waiters, w, waiters);
        free(w);
}

void sandbox_waiter_cancel(SandboxWaiter *w) {
        Sandbox *s = w->sandbox;
        SandboxGoal goal = w->goal;

        sandbox_waiter_forget(w);
        if (!waiters_has(s, goal))
                sandbox_abandoned(s, goal);
}
