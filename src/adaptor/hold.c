/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/hold.h"

#include "adaptor/error.h"
#include "adaptor/manager-bus.h"
#include "adaptor/manager.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/sandbox.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/util.h"

unsigned hold_count(const Manager *m) {
        const Sandbox *s;
        unsigned n = 0;

        TAILQ_FOREACH(s, &m->sandboxes, sandboxes)
                n += s->record.hold_until_usec > 0;
        return n;
}

bool sandbox_is_held(const Sandbox *s) {
        return s->record.state == SANDBOX_DELETING && s->record.hold_until_usec > 0 && s->record.instance_id &&
                (s->todo & BIT(STEP_DELETE_INSTANCE));
}

static void announce(Sandbox *s) {
        sandbox_bus_changed(s, "HeldUntilTimestamp");
        manager_bus_changed(s->manager, "NHeldPodVMs");
}

static int on_hold_over(sd_event_source *es, uint64_t usec, void *userdata) {
        Sandbox *s = userdata;

        s->hold = sd_event_source_disable_unref(s->hold);
        s->record.hold_until_usec = 0;          /* on disk with the next change; a restart finds a time that has passed */
        log_sandbox(s, LOG_NOTICE, MSG_SANDBOX_HELD, "Hold of sandbox '%s' is over.", s->record.id);
        announce(s);
        sandbox_advance(s);
        return 0;
}

/* What counts is the span, by a clock that nobody sets. */
static int arm(Sandbox *s, uint64_t usec) {
        s->hold = sd_event_source_disable_unref(s->hold);
        return usec == 0 ? 0 : sd_event_add_time_relative(s->manager->event, &s->hold, CLOCK_MONOTONIC, usec, 0, on_hold_over, s);
}

static int set(Sandbox *s, uint64_t usec) {
        uint64_t before = s->record.hold_until_usec;
        int r;

        s->record.hold_until_usec = usec == 0 ? 0 : now_usec(CLOCK_REALTIME) + usec;
        r = sandbox_save(s);
        if (r < 0) {
                s->record.hold_until_usec = before;
                return r;
        }
        return arm(s, usec);
}

int sandbox_hold(Sandbox *s, uint64_t usec, sd_bus_error *error) {
        uint64_t max = s->manager->settings->hold_max_usec;
        int r;

        if (usec > max)
                return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "A pod VM may be held for at most %s (PEERPOD_HOLD_MAX).",
                                         FORMAT_USEC(max));
        if (usec > 0 && s->record.state == SANDBOX_DELETING &&
            (s->step == STEP_DELETE_INSTANCE || !s->record.instance_id || !(s->todo & BIT(STEP_DELETE_INSTANCE))))
                return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION, "The instance of sandbox '%s' is %s.", s->record.id,
                                         s->step == STEP_DELETE_INSTANCE ? "being deleted already" : "not there");

        r = set(s, usec);
        if (r < 0)
                return error_set_errno(error, r, "write the sandbox's record");

        if (usec > 0)
                log_sandbox(s, LOG_NOTICE, MSG_SANDBOX_HELD, "Sandbox '%s' will be held for %s once it is to be deleted.", s->record.id,
                            FORMAT_USEC(usec));
        else
                log_sandbox(s, LOG_NOTICE, MSG_SANDBOX_HELD, "Hold of sandbox '%s' is released.", s->record.id);
        announce(s);
        sandbox_advance(s);
        return 0;
}

static bool another_of_the_pod_is_held(const Sandbox *s) {
        const Sandbox *other;

        TAILQ_FOREACH(other, &s->manager->sandboxes, sandboxes)
                if (other != s && other->record.hold_until_usec > 0 && streq_ptr(other->record.pod_name, s->record.pod_name) &&
                    streq_ptr(other->record.pod_namespace, s->record.pod_namespace))
                        return true;

        return false;
}

void sandbox_hold_failed(Sandbox *s) {
        uint64_t usec = s->manager->settings->hold_failed_usec;

        if (usec == 0 || s->record.state != SANDBOX_CREATING || !s->record.instance_id || s->record.hold_until_usec > 0 ||
            another_of_the_pod_is_held(s) || hold_count(s->manager) >= HOLD_FAILED_MAX)
                return;
        if (arm(s, usec) < 0)
                return;

        s->record.hold_until_usec = now_usec(CLOCK_REALTIME) + usec;
        log_sandbox(s, LOG_NOTICE, MSG_SANDBOX_HELD, "Failed sandbox '%s' is held for %s.", s->record.id, FORMAT_USEC(usec));
        announce(s);
}

void sandbox_hold_recover(Sandbox *s) {
        uint64_t now = now_usec(CLOCK_REALTIME), left = 0;

        if (s->record.hold_until_usec == 0)
                return;

        /* The clock may have been set, or the limit lowered, since. */
        if (s->record.hold_until_usec > now)
                left = MIN(s->record.hold_until_usec - now, MAX(s->manager->settings->hold_max_usec,
                                                                s->manager->settings->hold_failed_usec));
        s->record.hold_until_usec = left == 0 ? 0 : now + left;
        if (arm(s, left) < 0)
                s->record.hold_until_usec = 0;
}
