/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/sandbox-story.h"

#include <limits.h>

#include "adaptor/error.h"
#include "adaptor/history.h"
#include "adaptor/manager.h"
#include "basic/log.h"
#include "basic/util.h"

#define FLUSH_AT_ONCE 8U

/* In kata's configuration-remote.toml (kata-containers: src/runtime/config/configuration-remote.toml.in). */
#define SETTING_OF_CALLER "remote_hypervisor_timeout"

const char* sandbox_step_name(SandboxStep step) {
        static const char *const names[_SANDBOX_STEP_MAX] = {
                [STEP_REGISTER]         = "register",
                [STEP_READ_VOLUMES]     = "read-volumes",
                [STEP_INSPECT_NETWORK]  = "inspect-network",
                [STEP_PREPARE_FILES]    = "prepare-files",
                [STEP_CREATE_INSTANCE]  = "create-instance",
                [STEP_SET_UP_TUNNEL]    = "set-up-tunnel",
                [STEP_ALLOW_ADDRESSES]  = "allow-addresses",
                [STEP_START_SOCKET]     = "start-socket",
                [STEP_START_PROXY]      = "start-proxy",
                [STEP_PROBE_TUNNEL]     = "probe-tunnel",
                [STEP_STOP_SOCKET]      = "stop-socket",
                [STEP_STOP_PROXY]       = "stop-proxy",
                [STEP_REMOVE_FILES]     = "remove-files",
                [STEP_DELETE_INSTANCE]  = "delete-instance",
                [STEP_TEAR_DOWN_TUNNEL] = "tear-down-tunnel",
        };

        assert(step >= 0 && step < _SANDBOX_STEP_MAX);
        return names[step] ?: "another-step";
}

/* Writes a few at a time. Returns true if there is more. */
static bool flush(Manager *m, unsigned n_max) {
        Sandbox *s;

        while ((s = TAILQ_FIRST(&m->untold))) {
                if (n_max-- == 0)
                        return true;
                TAILQ_REMOVE(&m->untold, s, untold);
                s->is_untold = false;
                history_save(m->history, &s->story);
        }

        return history_flush(m->history, n_max);
}

static int on_idle(sd_event_source *es, void *userdata) {
        Manager *m = userdata;

        if (flush(m, FLUSH_AT_ONCE))
                (void) sd_event_source_set_enabled(es, SD_EVENT_ONESHOT);
        else
                m->tell = sd_event_source_disable_unref(m->tell);
        return 0;
}

/* What is told must not hold up what is done: it is written when there is nothing else to do. */
static void write_later(Manager *m) {
        int r;

        if (m->tell)
                return;
        r = sd_event_add_defer(m->event, &m->tell, on_idle, m);
        if (r >= 0)
                r = sd_event_source_set_priority(m->tell, SD_EVENT_PRIORITY_IDLE);
        if (r < 0) {
                m->tell = sd_event_source_disable_unref(m->tell);
                log_warning_errno(r, "Failed to write the history of sandboxes, trying again with the next change: %m");
        }
}

void sandbox_stories_flush(Manager *m) {
        if (m->history)
                (void) flush(m, UINT_MAX);
}

static void save(Sandbox *s) {
        Manager *m = s->manager;

        if (!m->history)
                return;
        if (!s->is_untold) {
                TAILQ_INSERT_TAIL(&m->untold, s, untold);
                s->is_untold = true;
        }
        write_later(m);
}

int sandbox_story_open(Sandbox *s) {
        Story *story = &s->story;

        if (s->manager->history && history_take(s->manager->history, s->record.id, story)) {
                /* A container runtime never uses an id twice; a person may. */
                if (story->state == SANDBOX_GONE || s->record.state == SANDBOX_PLANNED)
                        story_done(story);
                else
                        story_end_step(story, STEP_CUT_OFF, "the adaptor was restarted");
        }

        story_set(&story->id, s->record.id);
        story_set(&story->pod_name, s->record.pod_name);
        story_set(&story->pod_namespace, s->record.pod_namespace);
        story_set(&story->instance_name, s->record.instance_name);
        story_set(&story->instance_id, s->record.instance_id);
        story->state = s->record.state;
        memcpy(story->state_usec, s->record.state_usec, sizeof(story->state_usec));
        return story->id ? 0 : -ENOMEM;
}

void sandbox_story_close(Sandbox *s) {
        Manager *m = s->manager;

        if (s->is_untold)
                TAILQ_REMOVE(&m->untold, s, untold);
        s->is_untold = false;
        if (m && m->history && s->story.state == SANDBOX_GONE && s->story.id) {
                history_add(m->history, &s->story);
                write_later(m);
        }
        story_done(&s->story);
}

void sandbox_story_step(Sandbox *s) {
        story_begin_step(&s->story, sandbox_step_name(s->step));
}

void sandbox_story_step_waits(Sandbox *s) {
        save(s);
}

static const StoryStep* find_step(const Story *story, const char *name) {
        FOREACH_ELEMENT(const StoryStep, step, story->steps, story->n_steps)
                if (step->state == story->state && streq(step->name, name))
                        return step;

        return NULL;
}

void sandbox_story_deadline(Sandbox *s, const char *setting, uint64_t usec) {
        story_set(&s->story.setting, setting);
        s->story.deadline_usec = usec;
}

void sandbox_story_caller_left(Sandbox *s) {
        sandbox_story_deadline(s, SETTING_OF_CALLER, 0);
}

/* Which deadline was it? The services say that time was up, not whose; how long it took tells. */
static void guess_deadline(Sandbox *s, SandboxStep step, const sd_bus_error *error) {
        const Settings *settings = s->manager->settings;
        const StoryStep *told = find_step(&s->story, sandbox_step_name(step));
        uint64_t took = told && told->end_usec > told->begin_usec ? told->end_usec - told->begin_usec : 0;

        if (step == STEP_START_PROXY && took >= settings->proxy_timeout_usec)
                sandbox_story_deadline(s, "PROXY_TIMEOUT", settings->proxy_timeout_usec);
        else if (!sd_bus_error_has_name(error, PEERPOD_ERROR_TIMED_OUT))
                return;
        else if (took >= settings->start_timeout_usec)
                sandbox_story_deadline(s, "START_TIMEOUT", settings->start_timeout_usec);
        else if (step == STEP_CREATE_INSTANCE)          /* peerpod-providerd's own; its value is not known here */
                sandbox_story_deadline(s, "PEERPOD_CREATE_TIMEOUT", 0);
        else
                sandbox_story_deadline(s, NULL, took);
}

void sandbox_story_step_ended(Sandbox *s, SandboxStep step, const sd_bus_error *error) {
        story_end_step(&s->story, error ? STEP_FAILED : STEP_DONE, error ? error_get_text(error) : NULL);
        if (!isempty(s->record.instance_id) && !s->story.instance_id)
                story_set(&s->story.instance_id, s->record.instance_id);
        if (!error)
                return;

        if (s->record.state < SANDBOX_DELETING)
                guess_deadline(s, step, error);
        save(s);
}

/* The one under way; else the last one of this state that failed or was cut off. */
static const StoryStep* blamed_step(const Story *story) {
        const StoryStep *found = NULL;

        FOREACH_ELEMENT(const StoryStep, step, story->steps, story->n_steps) {
                if (step->result == STEP_UNDER_WAY)
                        return step;
                if (step->state == story->state && step->result != STEP_DONE)
                        found = step;
        }

        return found;
}

void sandbox_story_failed(Sandbox *s, const sd_bus_error *error) {
        const StoryStep *step = blamed_step(&s->story);

        story_set(&s->story.failed_step, step ? step->name : NULL);
        story_set(&s->story.error_name, error->name);
        story_set(&s->story.error, error_get_text(error));
        s->story.failed_usec = now_usec(CLOCK_REALTIME);
        story_end_step(&s->story, STEP_CUT_OFF, error_get_text(error));
}

void sandbox_story_ails(Sandbox *s, const char *text) {
        story_set(&s->story.error, text);
        s->story.failed_usec = now_usec(CLOCK_REALTIME);
        save(s);
}

void sandbox_story_stopped(Sandbox *s, const char *reason) {
        story_set(&s->story.reason, reason);
        story_end_step(&s->story, STEP_CUT_OFF, reason);
}

void sandbox_story_state(Sandbox *s) {
        Story *story = &s->story;

        story->state = s->record.state;
        story->state_usec[story->state] = s->record.state_usec[story->state];
        if (story->state != SANDBOX_GONE)       /* sandbox_story_close() */
                save(s);
}
