/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/polkit.h"

#include <stdbool.h>
#include <string.h>
#include <sys/queue.h>

#include "basic/log.h"
#include "basic/util.h"

/* polkit waits for a person who types a password; sd-bus's 25 s would be too short. */
#define POLKIT_TIMEOUT_USEC (120 * USEC_PER_SEC)
#define POLKIT_QUERIES_MAX 64U
#define POLKIT_ALLOW_USER_INTERACTION 1U        /* org.freedesktop.PolicyKit1.Authority, CheckAuthorizationFlags */

typedef enum Verdict {
        VERDICT_NONE,
        VERDICT_YES,
        VERDICT_NO,
        VERDICT_CHALLENGE,              /* the user would have to say who he is, but may not be asked */
} Verdict;

typedef struct Query {
        Polkit *polkit;                 /* borrowed */
        TAILQ_ENTRY(Query) queries;
        sd_bus_message *call;
        sd_bus_slot *slot;
        sd_event_source *forget;        /* once the call was queued again */
        Verdict verdict;
        sd_bus_error failure;           /* polkit could not answer */
} Query;

struct Polkit {
        TAILQ_HEAD(, Query) queries;
        unsigned n_queries;
};

static Query* query_free(Query *q) {
        sd_event_source_disable_unref(q->forget);
        sd_bus_slot_unref(q->slot);
        sd_bus_message_unref(q->call);
        sd_bus_error_free(&q->failure);
        if (q->polkit) {
                TAILQ_REMOVE(&q->polkit->queries, q, queries);
                q->polkit->n_queries--;
        }
        free(q);
        return NULL;
}
DEFINE_CLEANUP(Query*, query_free);

int polkit_new(Polkit **ret) {
        Polkit *p = new(Polkit);

        if (!p)
                return -ENOMEM;
        *p = (Polkit) {};
        TAILQ_INIT(&p->queries);

        *ret = p;
        return 0;
}

Polkit* polkit_free(Polkit *p) {
        Query *q;

        if (!p)
                return NULL;

        while ((q = TAILQ_FIRST(&p->queries)))
                query_free(q);
        free(p);
        return NULL;
}

static int on_forget(sd_event_source *es, void *userdata) {
        query_free(userdata);
        return 0;
}

/* The call is dispatched again, but need not come to polkit_check_async() again: its object may be gone. Idle sources have their turn
 * only when the bus has none of its own any more, and then the query has been of use or never will be. */
static int query_expire(Query *q) {
        int r;

        r = sd_event_add_defer(sd_bus_get_event(sd_bus_message_get_bus(q->call)), &q->forget, on_forget, q);
        if (r < 0)
                return r;

        return sd_event_source_set_priority(q->forget, SD_EVENT_PRIORITY_IDLE);
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Query *q = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(m);
        int authorized, challenge, r;

        if (e) {
                r = sd_bus_error_copy(&q->failure, e);
                q->verdict = VERDICT_NO;
        } else {
                r = sd_bus_message_enter_container(m, 'r', "bba{ss}");
                if (r >= 0)
                        r = sd_bus_message_read(m, "bb", &authorized, &challenge);
                q->verdict = r < 0 ? VERDICT_NO : authorized ? VERDICT_YES : challenge ? VERDICT_CHALLENGE : VERDICT_NO;
        }
        q->slot = sd_bus_slot_unref(q->slot);

        r = sd_bus_message_rewind(q->call, /* complete= */ true);
        if (r >= 0)
                r = query_expire(q);
        if (r >= 0)
                r = sd_bus_enqueue_for_read(sd_bus_message_get_bus(q->call), q->call);
        if (r < 0) {
                (void) sd_bus_reply_method_errno(q->call, r, NULL);
                query_free(q);
        }
        return 1;
}

static int ask(Polkit *p, sd_bus_message *call, const char *action, const char *const *details) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        _cleanup_(query_freep) Query *q = NULL;
        sd_bus *bus = sd_bus_message_get_bus(call);
        int r;

        q = new(Query);
        if (!q)
                return -ENOMEM;
        *q = (Query) { .call = sd_bus_message_ref(call), .failure = SD_BUS_ERROR_NULL };

        r = sd_bus_message_new_method_call(bus, &m, "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
                                           "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization");
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "(sa{sv})s", "system-bus-name", 1, "name", "s", sd_bus_message_get_sender(call), action);
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'a', "{ss}");
        if (r < 0)
                return r;
        for (const char *const *d = details; d && d[0] && d[1]; d += 2) {
                r = sd_bus_message_append(m, "{ss}", d[0], d[1]);
                if (r < 0)
                        return r;
        }
        r = sd_bus_message_close_container(m);
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "us",
                                  sd_bus_message_get_allow_interactive_authorization(call) > 0 ? POLKIT_ALLOW_USER_INTERACTION : 0,
                                  /* cancellation_id= */ "");
        if (r < 0)
                return r;

        r = sd_bus_call_async(bus, &q->slot, m, on_answer, q, POLKIT_TIMEOUT_USEC);
        if (r < 0)
                return r;

        q->polkit = p;
        TAILQ_INSERT_TAIL(&p->queries, q, queries);
        p->n_queries++;
        (void) TAKE_PTR(q);
        return 0;
}

static int verdict(const Query *q, const char *action, sd_bus_error *error) {
        switch (q->verdict) {
        case VERDICT_YES:
                return 1;
        case VERDICT_CHALLENGE:
                return sd_bus_error_set(error, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED,
                                        "Interactive authentication is required.");
        case VERDICT_NO:
                if (sd_bus_error_has_name(&q->failure, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
                    sd_bus_error_has_name(&q->failure, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
                        return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED,
                                                 "Only root may do this, as there is no polkit to ask for '%s'.", action);
                if (sd_bus_error_is_set(&q->failure))
                        return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED, "polkit could not be asked for '%s': %s", action,
                                                 q->failure.message);
                return sd_bus_error_setf(error, SD_BUS_ERROR_ACCESS_DENIED, "Not authorized for '%s'.", action);
        case VERDICT_NONE:
                break;
        }

        assert(false);
        return -EINVAL;
}

int polkit_check_async(Polkit *p, sd_bus_message *call, const char *action, const char *const *details, sd_bus_error *error) {
        Query *q;
        int r;

        TAILQ_FOREACH(q, &p->queries, queries)
                if (q->call == call) {
                        if (q->verdict == VERDICT_NONE)
                                return 0;       /* the same message cannot come twice, but then the answer is still "asked" */
                        r = verdict(q, action, error);
                        query_free(q);
                        return r;
                }

        r = sd_bus_query_sender_privilege(call, /* capability= */ -1);
        if (r < 0)
                return r;
        if (r > 0)
                return 1;

        if (p->n_queries >= POLKIT_QUERIES_MAX)
                return sd_bus_error_set(error, SD_BUS_ERROR_LIMITS_EXCEEDED, "Too many questions to polkit are under way.");

        r = ask(p, call, action, details);
        return r < 0 ? r : 0;
}
