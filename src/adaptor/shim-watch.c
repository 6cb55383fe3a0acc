/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/shim-watch.h"

#include <sys/vfs.h>

#include "adaptor/error.h"
#include "adaptor/manager.h"
#include "adaptor/sandbox-files.h"
#include "adaptor/sandbox.h"
#include "adaptor/service-link.h"
#include "adaptor/tunnel-client.h"
#include "adaptor/unit-client.h"
#include "agent-proxy/proxy-status.h"
#include "basic/messages.h"
#include "basic/util.h"

#define NSFS_MAGIC 0x6e736673           /* linux: include/uapi/linux/magic.h */

/* A grace time is looked at this often, but not more rarely than the second. */
#define LOOKS_PER_GRACE_TIME 4U
#define LOOK_USEC_MAX (15 * USEC_PER_SEC)

typedef enum ShimState {
        SHIM_UNKNOWN,
        SHIM_ALIVE,
        SHIM_ENDED,
} ShimState;

void shim_watch_set_caller(Sandbox *s, pid_t pid) {
        int r;

        r = process_id_get(pid, &s->shim.caller);
        if (r < 0) {
                s->shim.caller = PROCESS_ID_NULL;
                log_sandbox_errno(s, LOG_DEBUG, NULL, r, "Cannot tell later whether process %i, which asked for StartVM, has ended: %m", pid);
        }
}

void shim_watch_recover(Sandbox *s) {
        int r;

        r = sandbox_files_read_shim(s->manager->settings, s->record.id, &s->shim.shim);
        if (r < 0 && r != -ENOENT)
                log_sandbox_errno(s, LOG_WARNING, NULL, r, "Failed to read which process is the shim of sandbox '%s', ignoring: %m",
                                  s->record.id);
}

void shim_watch_reset(Sandbox *s) {
        s->shim.missing_usec = 0;
        s->shim.call = service_call_free(s->shim.call);
}

/* Gone, or replaced by what is none; anything that keeps us from seeing it is no sign. */
static bool netns_seems_gone(const char *path) {
        struct statfs fs;

        if (statfs(path, &fs) < 0)
                return errno == ENOENT;
        return fs.f_type != NSFS_MAGIC;
}

/* Who asked for StartVM and is still there a grace time later is a shim. */
static void recognize_shim(Sandbox *s) {
        uint64_t since = s->record.state_usec[SANDBOX_RUNNING], grace = s->manager->settings->shim_grace_usec;
        int r;

        if (s->shim.shim.pid > 0 || s->shim.caller.pid == 0)
                return;
        r = process_id_is_alive(&s->shim.caller);
        if (r == 0)
                s->shim.caller = PROCESS_ID_NULL;
        if (r <= 0 || now_usec(CLOCK_REALTIME) < usec_add(since, grace))
                return;

        s->shim.shim = s->shim.caller;
        log_sandbox(s, LOG_DEBUG, NULL, "Process %i is the shim of sandbox '%s'.", s->shim.shim.pid, s->record.id);
        r = sandbox_files_write_shim(s->manager->settings, s->record.id, &s->shim.shim);
        if (r < 0)                      /* then a restart forgets it, which errs on the safe side */
                log_sandbox_errno(s, LOG_WARNING, NULL, r, "Failed to write down the shim of sandbox '%s', ignoring: %m", s->record.id);
}

static ShimState shim_state(const Sandbox *s) {
        if (s->shim.shim.pid > 0)
                return process_id_is_alive(&s->shim.shim) == 0 ? SHIM_ENDED : SHIM_ALIVE;
        if (s->shim.caller.pid > 0 && process_id_is_alive(&s->shim.caller) != 0)
                return SHIM_ALIVE;
        return SHIM_UNKNOWN;
}

static bool proxy_has_no_client(Sandbox *s) {
        if (!s->watch)
                return false;
        unit_watch_want_status(s->watch);       /* it may not have said anything since we were started */
        return proxy_status_has_no_client(unit_watch_get_status(s->watch));
}

static void reap(Sandbox *s, const char *why) {
        log_sandbox(s, LOG_NOTICE, MSG_SHIM_GONE, "The shim of sandbox '%s' is gone without StopVM (%s for %s), deleting the sandbox.",
                    s->record.id, why, FORMAT_USEC(now_usec(CLOCK_MONOTONIC) - s->shim.missing_usec));
        s->manager->metrics.orphans[ORPHAN_SANDBOX]++;
        sandbox_set_last_error(s, why);
        (void) sandbox_stop(s, "its shim is gone");     /* that it could not be written down is logged, and it goes on */
}

static void on_netns_answer(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        Sandbox *s = userdata;
        int there = true, r = 0;

        if (reply)
                r = sd_bus_message_read(reply, "b", &there);
        s->shim.call = service_call_free(s->shim.call);

        if (error || r < 0)
                log_sandbox(s, LOG_DEBUG, NULL, "Cannot tell whether network namespace '%s' is there, asking again: %s",
                            s->record.netns_path, error ? error_get_text(error) : strerror(-r));
        else if (there)
                s->shim.missing_usec = 0;       /* a path that is hidden from us */
        else if (s->shim.missing_usec > 0)
                reap(s, "its network namespace is gone");
}

static void confirm(Sandbox *s, bool netns_gone) {
        int r;

        if (!netns_gone) {
                reap(s, "its process has ended, and nobody is connected to the agent proxy");
                return;
        }
        if (s->shim.call)
                return;
        r = tunnel_has_netns(s->manager->tunnel, s->record.id, s->record.netns_path, on_netns_answer, s, &s->shim.call);
        if (r < 0)
                log_sandbox_errno(s, LOG_WARNING, NULL, r, "Failed to ask for network namespace '%s', trying again: %m", s->record.netns_path);
}

static void look_at(Sandbox *s, uint64_t now) {
        bool running = s->record.state == SANDBOX_RUNNING, planned = s->record.state == SANDBOX_PLANNED && s->todo == 0;
        bool netns_gone, alone;
        ShimState state;

        if (!running && !planned)
                return;                 /* it is being made, or unmade: somebody's business already */

        if (running)
                recognize_shim(s);
        state = shim_state(s);
        netns_gone = state != SHIM_ALIVE && netns_seems_gone(s->record.netns_path);
        alone = running && state == SHIM_ENDED && proxy_has_no_client(s);

        if (!netns_gone && !alone)
                shim_watch_reset(s);
        else if (s->shim.missing_usec == 0) {
                s->shim.missing_usec = now;
                log_sandbox(s, LOG_DEBUG, NULL, "The shim of sandbox '%s' seems to be gone.", s->record.id);
        } else if (now >= usec_add(s->shim.missing_usec, s->manager->settings->shim_grace_usec))
                confirm(s, netns_gone && !alone);
}

static int on_look(sd_event_source *es, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        uint64_t now = now_usec(CLOCK_MONOTONIC);
        Sandbox *s, *next;
        int r;

        for (s = TAILQ_FIRST(&m->sandboxes); s; s = next) {
                next = TAILQ_NEXT(s, sandboxes);
                look_at(s, now);
        }

        r = sd_event_source_set_time_relative(es, MIN(m->settings->shim_grace_usec / LOOKS_PER_GRACE_TIME, LOOK_USEC_MAX));
        if (r >= 0)
                r = sd_event_source_set_enabled(es, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, shims are not watched any more: %m");
        return 0;
}

int shim_watch_start(Manager *m) {
        uint64_t usec = m->settings->shim_grace_usec;

        if (usec == 0)
                return 0;
        return sd_event_add_time_relative(m->event, &m->shim_timer, CLOCK_MONOTONIC, MIN(usec / LOOKS_PER_GRACE_TIME, LOOK_USEC_MAX),
                                          /* accuracy= */ 1, on_look, m);
}
