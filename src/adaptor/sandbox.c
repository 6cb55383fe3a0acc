/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a sandbox.
 *
 * A state says what is true on disk, and calls for a set of steps (steps_of_state[]). sandbox_advance() takes them one by one, in the
 * order of the enum; each is idempotent, and none is remembered. So after a restart the same steps are simply taken again: that is all
 * there is to recovery. A running sandbox calls for no step when it got there by StartVM, and for those that look after its tunnel and
 * its proxy when it was read from disk.
 *
 *         planned    (register), inspect network, prepare files         → CreateVM is answered; a StartVM that waits moves it on
 *         creating   create instance, tunnel, proxy          → running; a failure, a cancel or a StopVM → deleting
 *         running    (tunnel, proxy)                         → StopVM → deleting
 *         deleting   stop proxy, files, instance, tunnel     → gone; what fails is tried again, for ever, with growing pauses
 *
 * At most one step is under way, and only while its state lasts: sandbox_set_state() frees the call or job, so an answer that comes
 * late finds nobody and is dropped by the bus. What the call began goes on out there; the steps of "deleting" clean it up.
 *
 * Invariant: what the record says is on disk before anybody outside is asked to act on it. */
#include "adaptor/sandbox.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "adaptor/error.h"
#include "adaptor/service-link.h"
#include "adaptor/hold.h"
#include "adaptor/manager.h"
#include "adaptor/node-client.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/sandbox-files.h"
#include "adaptor/sandbox-steps.h"
#include "adaptor/sandbox-story.h"
#include "adaptor/sandbox-waiters.h"
#include "adaptor/unit-client.h"
#include "basic/crash-point.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "basic/sandbox-store.h"
#include "basic/util.h"

#define RETRY_FIRST_USEC USEC_PER_SEC
#define RETRY_LAST_USEC (60 * USEC_PER_SEC)

/* kata starts what it has planned at once; a shim that died in between never says so (kata-containers: shim "delete" sends no
 * StopVM). */
#define PLANNED_TIMEOUT_USEC (1800 * USEC_PER_SEC)

/* The shim learns that a start has failed when all of it is undone, but need not wait for a cloud that is slow to delete. */
#define PATIENCE_USEC (10 * USEC_PER_SEC)

static const uint32_t steps_of_state[_SANDBOX_STATE_MAX] = {
        [SANDBOX_PLANNED]  = BIT(STEP_REGISTER) | BIT(STEP_READ_VOLUMES) | BIT(STEP_INSPECT_NETWORK) | BIT(STEP_PREPARE_FILES),
        [SANDBOX_CREATING] = BIT(STEP_CREATE_INSTANCE) | BIT(STEP_SET_UP_TUNNEL) | BIT(STEP_ALLOW_ADDRESSES) | BIT(STEP_START_SOCKET) |
                             BIT(STEP_START_PROXY) | BIT(STEP_PROBE_TUNNEL),
        [SANDBOX_DELETING] = BIT(STEP_STOP_SOCKET) | BIT(STEP_STOP_PROXY) | BIT(STEP_REMOVE_FILES) | BIT(STEP_DELETE_INSTANCE) |
                             BIT(STEP_TEAR_DOWN_TUNNEL),
};

/* What is called for in addition, or instead, when the state was read from disk. */
#define STEPS_ADOPT_PLANNED BIT(STEP_INSPECT_NETWORK)
#define STEPS_ADOPT_RUNNING (BIT(STEP_SET_UP_TUNNEL) | BIT(STEP_ALLOW_ADDRESSES) | BIT(STEP_START_SOCKET) | BIT(STEP_START_PROXY))

/* What there is nothing to undo of, as the cloud was never asked. */
#define STEPS_AFTER_START (BIT(STEP_STOP_SOCKET) | BIT(STEP_STOP_PROXY) | BIT(STEP_DELETE_INSTANCE))

/* CreateVM and StartVM will never succeed: say so. */
static void waiters_fail(Sandbox *s) {
        if (!sd_bus_error_is_set(&s->failure))
                return;

        waiters_notify(s, GOAL_PLANNED, &s->failure);
        waiters_notify(s, GOAL_RUNNING, &s->failure);
}

int sandbox_save(Sandbox *s) {
        _cleanup_(freep) char *text = NULL;
        int r;

        r = sandbox_record_format(&s->record, &text);
        if (r < 0)
                return r;

        return sandbox_store_save(s->manager->store, s->record.id, text, strlen(text));
}

static int arm_timer(Sandbox *s, sd_event_source **source, uint64_t usec, sd_event_time_handler_t handler) {
        int r;

        *source = sd_event_source_disable_unref(*source);
        r = sd_event_add_time_relative(s->manager->event, source, CLOCK_MONOTONIC, usec, 0, handler, s);
        if (r < 0)
                return log_sandbox_errno(s, LOG_ERR, NULL, r, "Failed to set a timer: %m");

        return 0;
}

static int on_state_deadline(sd_event_source *es, uint64_t usec, void *userdata) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        Sandbox *s = userdata;

        if (s->record.state == SANDBOX_PLANNED) {
                (void) sd_bus_error_setf(&error, PEERPOD_ERROR_TIMED_OUT, "StartVM has not come within %s of CreateVM",
                                         FORMAT_USEC(PLANNED_TIMEOUT_USEC));
                sandbox_story_deadline(s, /* setting= */ NULL, PLANNED_TIMEOUT_USEC);
        } else {
                (void) sd_bus_error_setf(&error, PEERPOD_ERROR_TIMED_OUT, "%s: not done within the %s that a start may take",
                                         sandbox_step_to_string(s->step), FORMAT_USEC(s->manager->settings->start_timeout_usec));
                sandbox_story_deadline(s, "START_TIMEOUT", s->manager->settings->start_timeout_usec);
        }
        metrics_step_failed(&s->manager->metrics, s->step, &error);
        sandbox_fail(s, &error);
        return 0;
}

static int arm_state_deadline(Sandbox *s) {
        s->deadline = sd_event_source_disable_unref(s->deadline);

        if (s->record.state == SANDBOX_PLANNED)
                return arm_timer(s, &s->deadline, PLANNED_TIMEOUT_USEC, on_state_deadline);
        if (s->record.state == SANDBOX_CREATING)
                return arm_timer(s, &s->deadline, s->manager->settings->start_timeout_usec, on_state_deadline);
        return 0;
}

/* Was the cloud ever asked for something? Not if the record knows of no start; yes if it was made up for an instance that we found. */
static bool may_have_instance(const Sandbox *s) {
        return s->record.state_usec[SANDBOX_CREATING] > 0 || !s->record.netns_path;
}

static uint32_t steps_called_for(const Sandbox *s) {
        uint32_t steps = steps_of_state[s->record.state];

        if (s->record.state == SANDBOX_DELETING && !may_have_instance(s))
                steps &= ~STEPS_AFTER_START;
        if ((steps & BIT(STEP_REGISTER)) && (!s->manager->node || !node_client_is_there(s->manager->node)))
                steps &= ~BIT(STEP_REGISTER);
        return steps;
}

/* The one function that changes the state: disk, then memory, then the world. A move to "deleting" is made even if it cannot be written
 * down, since an instance that goes on costing money is worse than one that a crash at this moment would bring back; the negative
 * return then keeps the caller from promising anything. */
static int sandbox_set_state(Sandbox *s, SandboxState to) {
        SandboxState from = s->record.state;
        int r;

        assert(sandbox_state_may_follow(from, to));     /* a wrong move is our error, whatever cloud or shim said */

        s->record.state = to;
        s->record.state_usec[to] = now_usec(CLOCK_REALTIME);
        r = to == SANDBOX_GONE ? sandbox_store_remove(s->manager->store, s->record.id) : sandbox_save(s);
        if (r < 0 && to != SANDBOX_DELETING) {
                s->record.state_usec[to] = 0;
                s->record.state = from;
                return r;
        }

        s->unsaved = r < 0;
        sandbox_drop_step(s);
        s->todo = steps_called_for(s);
        s->tried = 0;
        s->n_retries = 0;
        s->retry = sd_event_source_disable_unref(s->retry);
        shim_watch_reset(s);
        if (to == SANDBOX_DELETING)
                s->watch = unit_watch_free(s->watch);   /* it is we who stop it */
        (void) arm_state_deadline(s);

        metrics_state_changed(&s->manager->metrics, s, from);
        sandbox_story_state(s);
        log_sandbox(s, LOG_INFO, MSG_SANDBOX_STATE, "Sandbox '%s' is %s.", s->record.id, sandbox_state_to_string(to));
        if (s->unsaved)
                log_sandbox_errno(s, LOG_ERR, NULL, r, "Failed to write down that sandbox '%s' is being deleted, deleting it: %m",
                                  s->record.id);
        sandbox_bus_state_changed(s);
        manager_sandbox_changed(s->manager, s);
        return r;
}

void sandbox_set_last_error(Sandbox *s, const char *text) {
        char *copy;

        if (streq_ptr(s->record.last_error, text))
                return;

        /* It must fit into the record again. */
        copy = text_make_plain(text, 2048);
        free(s->record.last_error);
        s->record.last_error = copy;
        sandbox_bus_changed(s, "LastError");
}

static void begin_delete(Sandbox *s) {
        erase_free_stringp(&s->initdata);
        erase_free_stringp(&s->auth);
        (void) sandbox_set_state(s, SANDBOX_DELETING);  /* it has logged */
}

static int on_patience_over(sd_event_source *es, uint64_t usec, void *userdata) {
        Sandbox *s = userdata;

        s->patience = sd_event_source_disable_unref(s->patience);
        waiters_fail(s);
        return 0;
}

void sandbox_fail(Sandbox *s, const sd_bus_error *error) {
        if (s->record.state >= SANDBOX_DELETING)
                return;

        log_sandbox(s, LOG_ERR, MSG_SANDBOX_FAILED, "Sandbox '%s' has failed: %s", s->record.id, error_get_text(error));
        sandbox_set_last_error(s, error_get_text(error));
        sd_bus_error_free(&s->failure);
        (void) sd_bus_error_copy(&s->failure, error);

        sandbox_story_failed(s, error);
        sandbox_hold_failed(s);
        begin_delete(s);
        if (arm_timer(s, &s->patience, PATIENCE_USEC, on_patience_over) < 0)
                waiters_fail(s);
        sandbox_advance(s);
}

/* What was planned may be more than that: then the instance goes, too. */
static void fail_as_if_started(Sandbox *s, const sd_bus_error *error) {
        s->record.state_usec[SANDBOX_CREATING] = now_usec(CLOCK_REALTIME);
        sandbox_fail(s, error);
}

void sandbox_fail_made(Sandbox *s) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

        (void) sd_bus_error_set(&error, PEERPOD_ERROR_INTERNAL, "the record is older than the instance that was made for it");
        fail_as_if_started(s, &error);
}

int sandbox_stop(Sandbox *s, const char *reason) {
        assert(s->record.state != SANDBOX_GONE);

        if (s->record.state == SANDBOX_DELETING) {
                int r = s->unsaved ? sandbox_save(s) : 0;

                s->unsaved = r < 0;
                return r;
        }

        sd_bus_error_free(&s->failure);
        (void) sd_bus_error_setf(&s->failure, PEERPOD_ERROR_CANCELLED, "sandbox %s: %s", s->record.id, reason);
        log_sandbox(s, LOG_INFO, NULL, "Deleting sandbox '%s': %s.", s->record.id, reason);
        sandbox_story_stopped(s, reason);
        begin_delete(s);
        waiters_fail(s);
        sandbox_advance(s);

        return s->unsaved ? -EIO : 0;
}

/* A step of a state that goes on without it failed. */
static void step_put_off(Sandbox *s, SandboxStep step, const sd_bus_error *error) {
        s->tried |= BIT(step);
        /* The next pod that gets this tunnel's VNI must not hear from a VM that still lives. */
        if (step == STEP_DELETE_INSTANCE)
                s->tried |= BIT(STEP_TEAR_DOWN_TUNNEL);

        log_sandbox(s, LOG_WARNING, s->record.state == SANDBOX_DELETING ? MSG_DELETE_FAILED : NULL,
                    "Failed at a step of sandbox '%s', which is %s, trying again: %s", s->record.id,
                    sandbox_state_to_string(s->record.state), error_get_text(error));
        sandbox_set_last_error(s, error_get_text(error));
}

static void step_failed(Sandbox *s, SandboxStep step, sd_bus_error *error) {
        if (step == STEP_START_PROXY && s->watch && !isempty(unit_watch_get_status(s->watch)))
                error_wrap(error, "%s", unit_watch_get_status(s->watch));
        sandbox_story_step_ended(s, step, error);
        error_wrap(error, "%s", sandbox_step_to_string(step));
        metrics_step_failed(&s->manager->metrics, step, error);

        switch (s->record.state) {

        case SANDBOX_PLANNED:
        case SANDBOX_CREATING:
                sandbox_fail(s, error);
                return;

        case SANDBOX_RUNNING:
                if (step == STEP_SET_UP_TUNNEL && sd_bus_error_has_name(error, PEERPOD_ERROR_NOT_FOUND)) {
                        /* Without its network namespace there is no pod: the node was booted again, or the shim died. */
                        sandbox_fail(s, error);
                        return;
                }
                step_put_off(s, step, error);
                return;

        case SANDBOX_DELETING:
                step_put_off(s, step, error);
                return;

        case SANDBOX_GONE:
        case _SANDBOX_STATE_MAX:
        case _SANDBOX_STATE_INVALID:
                break;
        }

        assert(false);
}

/* It is called for no more. */
static void step_succeeded(Sandbox *s, SandboxStep step) {
        s->todo &= ~BIT(step);
        metrics_step_done(&s->manager->metrics, s, step, now_usec(CLOCK_MONOTONIC) - s->step_usec);
        sandbox_story_step_ended(s, step, /* error= */ NULL);
}

static void step_done(Sandbox *s, sd_bus_message *reply, const sd_bus_error *answer) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        SandboxStep step = s->step;
        int r = 0;

        assert(step >= 0);

        crash_point_of(sandbox_steps[step].points, after);
        if (answer)
                (void) sd_bus_error_copy(&error, answer);
        else if (sandbox_steps[step].finish)
                r = sandbox_steps[step].finish(s, reply, &error);
        sandbox_drop_step(s);
        crash_point_of(sandbox_steps[step].points, noted);

        if (answer || r < 0)
                step_failed(s, step, &error);
        else if (r == 0)
                step_succeeded(s, step);

        sandbox_advance(s);
}

void sandbox_on_answer(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        step_done(userdata, reply, error);
}

void sandbox_on_job_done(UnitJob *job, const sd_bus_error *error, void *userdata) {
        step_done(userdata, /* reply= */ NULL, error);
}

/* No answer is none that would stop a pod: what peerpod-node does not know now it will find on the bus. */
void sandbox_on_registered(NodeCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        Sandbox *s = userdata;

        if (error)
                log_sandbox(s, LOG_WARNING, MSG_NOT_REGISTERED, "Starting sandbox '%s' without an answer of peerpod-node: %s", s->record.id,
                            error_get_text(error));
        step_done(s, reply, /* answer= */ NULL);
}

static int on_retry(sd_event_source *es, uint64_t usec, void *userdata) {
        Sandbox *s = userdata;

        s->retry = sd_event_source_disable_unref(s->retry);
        s->tried = 0;
        sandbox_advance(s);
        return 0;
}

static void begin_pause(Sandbox *s) {
        uint64_t usec = RETRY_FIRST_USEC << MIN(s->n_retries, 16U);

        s->n_retries++;
        (void) arm_timer(s, &s->retry, MIN(usec, RETRY_LAST_USEC), on_retry);
}

static void try_set_state(Sandbox *s, SandboxState to) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r;

        r = sandbox_set_state(s, to);
        if (r < 0) {
                (void) error_set_errno(&error, r, "write the sandbox's record");
                sandbox_fail(s, &error);
        }
}

static void finish_gone(Sandbox *s) {
        int r;

        r = sandbox_set_state(s, SANDBOX_GONE);
        if (r < 0) {
                log_sandbox_errno(s, LOG_ERR, NULL, r, "Failed to remove the record of sandbox '%s', trying again: %m", s->record.id);
                begin_pause(s);
                return;
        }

        /* First the signals, so that who gets an answer has heard them. */
        crash_point("gone");
        s->patience = sd_event_source_disable_unref(s->patience);
        sandbox_story_close(s);
        manager_sandbox_gone(s->manager, s);
        waiters_fail(s);
        waiters_notify(s, GOAL_GONE, NULL);
}

/* No step of this state is left that could be taken now. */
static void state_done(Sandbox *s) {
        crash_point("state-done");
        switch (s->record.state) {

        case SANDBOX_PLANNED:
                waiters_notify(s, GOAL_PLANNED, NULL);
                crash_point("planned-answered");
                if (waiters_has(s, GOAL_RUNNING))
                        try_set_state(s, SANDBOX_CREATING);
                return;

        case SANDBOX_CREATING:
                try_set_state(s, SANDBOX_RUNNING);
                if (s->record.state == SANDBOX_RUNNING) {
                        s->todo = 0;
                        waiters_notify(s, GOAL_RUNNING, NULL);
                        crash_point("running-answered");
                }
                return;

        case SANDBOX_RUNNING:
                if (s->todo != 0)
                        begin_pause(s);
                return;

        case SANDBOX_DELETING:
                if (s->todo == 0) {
                        finish_gone(s);
                        return;
                }

                waiters_fail(s);
                if (waiters_has(s, GOAL_GONE)) {
                        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

                        (void) sd_bus_error_setf(&error, PEERPOD_ERROR_UNAVAILABLE, "%s; trying again until it is gone",
                                                 strempty(s->record.last_error));
                        waiters_notify(s, GOAL_GONE, &error);
                }
                begin_pause(s);
                return;

        case SANDBOX_GONE:
        case _SANDBOX_STATE_MAX:
        case _SANDBOX_STATE_INVALID:
                break;
        }

        assert(false);
}

static SandboxStep next_step(const Sandbox *s) {
        uint32_t left = s->todo & ~s->tried;

        return left == 0 ? _SANDBOX_STEP_INVALID : (SandboxStep) __builtin_ctz(left);
}

/* It stays as it is: nobody is to wait for its end. */
static void stay_held(Sandbox *s) {
        static const sd_bus_error held = SD_BUS_ERROR_MAKE_CONST(PEERPOD_ERROR_FAILED_PRECONDITION,
                                                                 "it is held, and will be deleted when the hold is over or released");

        s->patience = sd_event_source_disable_unref(s->patience);
        waiters_fail(s);
        waiters_notify(s, GOAL_GONE, &held);
}

void sandbox_advance(Sandbox *s) {
        while (s->step < 0 && !s->retry && s->record.state != SANDBOX_GONE) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                SandboxState state = s->record.state;
                SandboxStep step = next_step(s);
                int r;

                if (sandbox_is_held(s)) {
                        stay_held(s);
                        return;
                }
                if (step < 0) {
                        state_done(s);
                        if (s->record.state == state)
                                return;
                        continue;
                }

                s->step = step;
                s->step_usec = now_usec(CLOCK_MONOTONIC);
                sandbox_story_step(s);
                crash_point_of(sandbox_steps[step].points, before);
                r = sandbox_steps[step].start(s, &error);
                if (r == 0) {
                        sandbox_story_step_waits(s);
                        return;
                }
                crash_point_of(sandbox_steps[step].points, after);

                sandbox_drop_step(s);
                if (r > 0) {
                        step_succeeded(s, step);
                        crash_point_of(sandbox_steps[step].points, noted);
                        continue;
                }
                if (!sd_bus_error_is_set(&error))
                        (void) error_set_errno(&error, r, "begin");
                step_failed(s, step, &error);
        }
}

int sandbox_plan(Sandbox *s, sd_bus_error *error) {
        int r;

        assert(s->record.state == SANDBOX_PLANNED);

        r = sandbox_save(s);
        if (r < 0)
                return error_set_errno(error, r, "write the sandbox's record");

        s->todo = steps_called_for(s);
        (void) arm_state_deadline(s);
        log_sandbox(s, LOG_INFO, MSG_SANDBOX_STATE, "Sandbox '%s' of pod '%s/%s' is planned.", s->record.id, s->record.pod_namespace,
                    s->record.pod_name);
        return 0;
}

void sandbox_recover(Sandbox *s) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

        (void) arm_state_deadline(s);
        shim_watch_recover(s);
        sandbox_hold_recover(s);

        switch (s->record.state) {

        case SANDBOX_PLANNED:
                if (!s->record.pod_network || !sandbox_files_are_complete(s->manager->settings, s->record.id)) {
                        /* Or a disk has lost what came after it. */
                        (void) sd_bus_error_set(&error, PEERPOD_ERROR_CANCELLED, "CreateVM was cut off by a restart of the adaptor");
                        fail_as_if_started(s, &error);
                        return;
                }
                s->todo = STEPS_ADOPT_PLANNED;
                break;

        case SANDBOX_CREATING:
                /* Who had called StartVM has seen the connection end, and given up. */
                (void) sd_bus_error_set(&error, PEERPOD_ERROR_CANCELLED, "StartVM was cut off by a restart of the adaptor");
                sandbox_fail(s, &error);
                return;

        case SANDBOX_RUNNING:
                s->todo = STEPS_ADOPT_RUNNING;
                break;

        default:
                s->todo = steps_called_for(s);
        }

        crash_point("recover");
        log_sandbox(s, LOG_DEBUG, NULL, "Taking up sandbox '%s', which is %s.", s->record.id, sandbox_state_to_string(s->record.state));
        sandbox_advance(s);
}

void sandbox_abandoned(Sandbox *s, SandboxGoal goal) {
        if ((goal == GOAL_RUNNING && s->record.state == SANDBOX_CREATING) ||
            (goal == GOAL_PLANNED && s->record.state == SANDBOX_PLANNED)) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

                (void) sd_bus_error_setf(&error, PEERPOD_ERROR_CANCELLED, "%s: the caller of %s has given up", sandbox_step_to_string(s->step),
                                         goal == GOAL_RUNNING ? "StartVM" : "CreateVM");
                metrics_step_failed(&s->manager->metrics, s->step, &error);
                sandbox_story_caller_left(s);
                sandbox_fail(s, &error);
        }
}
