/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/explain.h"

#include "adaptor/error.h"
#include "adaptor/history.h"
#include "adaptor/manager.h"
#include "adaptor/sandbox.h"
#include "basic/util.h"

/* Calls @see for all there are, the living ones last. */
static void for_each(Manager *m, void (*see)(const Story *s, void *userdata), void *userdata) {
        HistoryEntry *e;
        Sandbox *s;

        if (m->history)
                TAILQ_FOREACH(e, history_list(m->history), entries)
                        see(&e->story, userdata);
        TAILQ_FOREACH(s, &m->sandboxes, sandboxes)
                see(&s->story, userdata);
}

typedef struct Search {
        const char *what;
        size_t namespace_size;          /* of NAMESPACE/POD */
        const Story *found;
        bool exact, several;
} Search;

static void see_id(const Story *s, void *userdata) {
        Search *search = userdata;

        if (search->exact || !s->id || !startswith(s->id, search->what))
                return;
        search->exact = streq(s->id, search->what);
        search->several = search->found && !search->exact;
        search->found = s;
}

static uint64_t begin_of(const Story *s) {
        return s->state_usec[SANDBOX_PLANNED] ?: s->state_usec[SANDBOX_DELETING];
}

static void see_pod(const Story *s, void *userdata) {
        Search *search = userdata;

        if (!s->pod_namespace || !s->pod_name || strlen(s->pod_namespace) != search->namespace_size ||
            strncmp(s->pod_namespace, search->what, search->namespace_size) != 0 ||
            !streq(s->pod_name, search->what + search->namespace_size + 1))
                return;
        if (!search->found || begin_of(s) >= begin_of(search->found))
                search->found = s;
}

int explain_find(Manager *m, const char *what, const Story **ret, sd_bus_error *error) {
        const char *slash = strchr(what, '/');
        Search search = { .what = what };

        if (isempty(what))
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Name a sandbox, or a pod as NAMESPACE/POD.");

        if (slash) {
                search.namespace_size = slash - what;
                for_each(m, see_pod, &search);
        } else
                for_each(m, see_id, &search);

        if (search.several)
                return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Several sandboxes begin with '%.64s'.", what);
        if (!search.found)
                return sd_bus_error_setf(error, PEERPOD_ERROR_NOT_FOUND,
                                         "There is no sandbox '%.512s', nor is there one among the last %u that are gone.", what,
                                         (unsigned) m->settings->history_max);

        *ret = search.found;
        return 0;
}

static int append_text(sd_bus_message *m, const char *key, const char *value) {
        return isempty(value) ? 0 : sd_bus_message_append(m, "{sv}", key, "s", value);
}

static int append_usec(sd_bus_message *m, const char *key, uint64_t value) {
        return value == 0 ? 0 : sd_bus_message_append(m, "{sv}", key, "t", value);
}

static int append_steps(sd_bus_message *m, const Story *s) {
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "Steps");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a(sssttus)");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sssttus)");
        if (r < 0)
                return r;

        FOREACH_ELEMENT(const StoryStep, step, s->steps, s->n_steps) {
                r = sd_bus_message_append(m, "(sssttus)", sandbox_state_to_string(step->state), step->name,
                                          step_result_to_string(step->result), step->begin_usec, step->end_usec, step->n_tries,
                                          strempty(step->text));
                if (r < 0)
                        return r;
        }

        for (unsigned i = 0; i < 3; i++) {
                r = sd_bus_message_close_container(m);
                if (r < 0)
                        return r;
        }
        return 0;
}

int explain_append(sd_bus_message *m, const Story *s) {
        const struct {
                const char *key, *value;
        } texts[] = {
                { "SandboxId", s->id },                 { "PodNamespace", s->pod_namespace }, { "PodName", s->pod_name },
                { "InstanceName", s->instance_name },   { "InstanceId", s->instance_id },
                { "State", sandbox_state_to_string(s->state) },
                { "FailedStep", s->failed_step },       { "ErrorName", s->error_name },       { "Error", s->error },
                { "Reason", s->reason },                { "Setting", s->setting },
        };
        const struct {
                const char *key;
                uint64_t usec;
        } usecs[] = {
                { "CreatedTimestamp", s->state_usec[SANDBOX_PLANNED] },   { "StartedTimestamp", s->state_usec[SANDBOX_CREATING] },
                { "RunningTimestamp", s->state_usec[SANDBOX_RUNNING] },   { "DeletingTimestamp", s->state_usec[SANDBOX_DELETING] },
                { "GoneTimestamp", s->state_usec[SANDBOX_GONE] },         { "FailedTimestamp", s->failed_usec },
                { "DeadlineUSec", s->deadline_usec },
        };
        int r;

        r = sd_bus_message_open_container(m, 'a', "{sv}");
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(texts); i++)
                r = append_text(m, texts[i].key, texts[i].value);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(usecs); i++)
                r = append_usec(m, usecs[i].key, usecs[i].usec);
        if (r >= 0)
                r = append_steps(m, s);
        return r < 0 ? r : sd_bus_message_close_container(m);
}
