/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/reap.h"

#include "basic/bus-private.h"
#include "basic/crash-point.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "kube/ctrl/controller.h"
#include "kube/ctrl/status.h"
#include "kube/kube-object.h"
#include "kube/peerpod-names.h"

static void consider(PeerPod *p);
static void begin_fetch(PeerPod *p);

/* ---- between steps ---- */

static void drop_work(PeerPod *p) {
        p->call = service_call_free(p->call);
        p->request = kube_request_free(p->request);
        p->timer = sd_event_source_disable_unref(p->timer);
}

void peerpod_rest(PeerPod *p) {
        lane_leave(p);
        drop_work(p);
        p->step = STEP_NONE;
}

/* What was to be done is done, or need not be. */
static void end_step(PeerPod *p) {
        bool changed = p->changed;

        peerpod_rest(p);
        p->changed = false;
        if (changed)
                consider(p);
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        peerpod_wake(userdata);
        return 0;
}

static void pause_for(PeerPod *p, uint64_t usec) {
        int r;

        if (p->changed || p->controller->stopping) {
                end_step(p);
                return;
        }
        peerpod_rest(p);
        p->step = STEP_PAUSE;
        r = sd_event_add_time_relative(p->controller->event, &p->timer, CLOCK_MONOTONIC, usec, 0, on_timer, p);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, PeerPod '%s/%s' waits for its next change: %m", p->ns, p->name);
}

void peerpod_wake(PeerPod *p) {
        if (p->step != STEP_PAUSE)
                return;
        peerpod_rest(p);
        consider(p);
}

/* Calls to clouds and API servers end by themselves, and soon: they are not cut off, but looked at afterwards. */
void peerpod_changed(PeerPod *p) {
        p->n_failures = 0;
        switch (p->step) {
        case STEP_NONE:
                consider(p);
                break;
        case STEP_QUEUED:
        case STEP_PAUSE:
                peerpod_rest(p);
                consider(p);
                break;
        default:
                p->changed = true;
        }

        /* One that had been the newest may be no more. */
        GROUP_FOREACH_OTHER(m, &p->owner)
                if (m->peerpod->step == STEP_NONE)
                        consider(m->peerpod);
}

static uint64_t next_pause(PeerPod *p, uint64_t retry_after) {
        const ControllerSpec *spec = p->controller->spec;

        return MAX(kube_backoff_usec(spec->backoff_usec, spec->backoff_max_usec, p->n_failures++, retry_after), USEC_PER_MSEC);
}

static void on_told(KubeRequest *request, const KubeReply *reply, void *userdata) {
        PeerPod *p = userdata;

        status_told(p, reply);
        pause_for(p, p->pause_usec);
}

/* Say what is the matter, where people look for it, and look again after @usec. */
static void tell_and_pause(PeerPod *p, uint64_t usec, const Trouble *t) {
        int r;

        drop_work(p);
        p->pause_usec = usec;
        r = status_tell(p, t, on_told, &p->request);
        if (r > 0) {
                p->step = STEP_STATUS;
                return;
        }
        if (r < 0)
                log_debug("PeerPod '%s/%s': its status is not written: %s", p->ns, p->name, strerror(-r));
        pause_for(p, usec);
}

static void fail(PeerPod *p, uint64_t retry_after, const char *reason, const char *format, ...) PRINTF(4, 5);

static void fail(PeerPod *p, uint64_t retry_after, const char *reason, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        tell_and_pause(p, next_pause(p, retry_after), &(Trouble) { .type = CONDITION_GONE, .reason = reason, .text = strempty(text) });
}

/* ---- what there is to do ---- */

static bool is_flawed(const PeerPod *p) {
        return peerpod_flaw(p) && (!p->deleting || p->has_finalizer) && !status_tells(p, CONDITION_VALID);
}

static void consider(PeerPod *p) {
        Controller *c = p->controller;
        int r;

        if (p->step != STEP_NONE || c->stopping || !c->synced)
                return;
        p->held = false;
        p->provider = NULL;

        if (peerpod_flaw(p)) {
                if (is_flawed(p))
                        lane_enter(&c->upkeep, p);
                return;
        }
        if (!p->deleting) {
                if (peerpod_successor(p, /* alive= */ true) || status_has_flaw(p))
                        lane_enter(&c->upkeep, p);
                return;
        }
        if (!p->has_finalizer)
                return;

        r = controller_get_provider(c, p->provider_name, &p->provider);
        lane_enter(r < 0 ? &c->upkeep : &p->provider->lane, p);
}

/* ---- a newer one is there for the same pod ---- */

static void on_old_deleted(KubeRequest *request, const KubeReply *reply, void *userdata) {
        PeerPod *p = userdata;

        crash_point("superseded");
        if (reply->error == 0)
                p->controller->n_superseded++;
        if (reply->error < 0 && reply->error != -ENOENT && reply->error != -ESTALE) {
                log_warning("Failed to delete PeerPod '%s/%s', which a newer one has replaced, trying again: %s", p->ns, p->name, reply->text);
                pause_for(p, next_pause(p, reply->retry_after_usec));
                return;
        }
        end_step(p);
}

static void begin_delete_old(PeerPod *p, const PeerPod *successor) {
        _cleanup_(freep) char *path = kube_path(PEERPOD_API_VERSION, p->ns, PEERPOD_PLURAL, p->name, NULL);
        _cleanup_(json_object_putp) json_object *options = NULL;
        int r;

        r = path ? kube_delete_options(p->uid, /* resource_version= */ NULL, &options) : -ENOMEM;
        if (r >= 0)
                r = kube_delete(p->controller->client, path, options, on_old_deleted, p, &p->request);
        if (r < 0) {
                pause_for(p, next_pause(p, 0));
                return;
        }
        p->step = STEP_DELETE_OLD;
        peerpod_say(p, LOG_NOTICE, NULL, "PeerPod '%s/%s' is deleted: '%s' is a newer one of the same pod.", p->ns, p->name, successor->name);
}

/* ---- is the pod alive? ---- */

static void begin_remove(PeerPod *p);

/* How much longer a pod may use its VM: 0 if no longer, USEC_INFINITY if nobody has set an end. */
static uint64_t pod_time_left(const PeerPod *p, json_object *pod) {
        const char *phase = kube_string_at(pod, "status", "phase", NULL), *end = kube_string_at(pod, "metadata", "deletionTimestamp", NULL);
        uint64_t usec, now = now_usec(CLOCK_REALTIME);

        if (!streq(kube_string_at(pod, "metadata", "uid", NULL), p->pod_uid) || streq(phase, "Succeeded") || streq(phase, "Failed"))
                return 0;
        if (isempty(end) || kube_time_parse(end, &usec) < 0)
                return USEC_INFINITY;
        return usec > now ? usec - now : 0;
}

static void on_pod(KubeRequest *request, const KubeReply *reply, void *userdata) {
        PeerPod *p = userdata;
        uint64_t left, again = p->controller->spec->recheck_usec;
        _cleanup_(freep) char *text = NULL;

        if (reply->error < 0 && reply->error != -ENOENT) {
                fail(p, reply->retry_after_usec, "PodUnknown", "Whether pod '%s' is alive cannot be found out: %s", p->pod_name, reply->text);
                return;
        }
        left = reply->error == -ENOENT ? 0 : pod_time_left(p, reply->object);
        if (left == 0) {
                p->request = kube_request_free(p->request);
                begin_remove(p);
                return;
        }

        p->held = true;
        if (!status_tells(p, CONDITION_GONE))
                peerpod_say(p, LOG_WARNING, MSG_PEERPOD_HELD, "PeerPod '%s/%s' was deleted, but its pod '%s' is alive: waiting for the end of the pod.",
                            p->ns, p->name, p->pod_name);
        if (asprintf(&text, "Pod '%s' is alive and runs in this instance. The instance is deleted when the pod has ended.", p->pod_name) < 0)
                text = NULL;
        tell_and_pause(p, MIN(left, again / 2 + kube_backoff_usec(again / 2, again / 2, 0, 0)),
                    &(Trouble) { .type = CONDITION_GONE, .reason = "PodAlive", .text = strempty(text) });
}

static void begin_reap(PeerPod *p) {
        _cleanup_(freep) char *path = NULL;
        const PeerPod *rival = peerpod_rival(p);
        int r;

        if (!p->provider) {
                fail(p, 0, "ProviderUnknown", "There is no provider module '%.64s' here.", p->provider_name);
                return;
        }
        if (rival) {
                fail(p, 0, "ClaimedByAnother", "PeerPod '%s/%s', which is not being deleted, has the same instance.", rival->ns, rival->name);
                return;
        }
        /* The pod of one that was replaced is alive, but in another instance; one that is gone is nobody's. */
        if (isempty(p->pod_uid) || p->gone || peerpod_successor(p, /* alive= */ false)) {
                begin_remove(p);
                return;
        }

        path = kube_path("v1", p->ns, "pods", p->pod_name, NULL);
        r = path ? kube_get(p->controller->client, path, on_pod, p, &p->request) : -ENOMEM;
        if (r < 0) {
                pause_for(p, next_pause(p, 0));
                return;
        }
        p->step = STEP_POD;
}

/* ---- the instance ---- */

static const char* reason_of(const sd_bus_error *error) {
        const char *reason = startswith(error->name, PEERPOD_ERROR_PREFIX);

        return reason ?: "Internal";
}

static void on_removed(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        PeerPod *p = userdata;

        crash_point("removed");
        if (error) {
                p->provider->n_failed++;
                fail(p, 0, reason_of(error), "%s", strempty(error->message));
                return;
        }
        p->provider->n_deleted++;
        p->call = service_call_free(p->call);
        begin_fetch(p);
}

static void begin_remove(PeerPod *p) {
        const ControllerSpec *spec = p->controller->spec;
        bool tagged = peerpod_is_tagged(p);
        const ProviderKey key = {
                .sandbox_id = p->sandbox_id,
                .name = p->instance_name,
                .id = p->instance_id,
                .name_prefix = tagged ? NULL : p->name_prefix,
        };
        int r;

        if (!tagged && !spec->delete_untagged) {
                fail(p, 0, "NotTagged", "Instance '%s' was not made by peerpod-adaptor: it has no tag that tells whose it is, and --delete-untagged is not set.",
                     p->instance_id);
                return;
        }
        if (!tagged && isempty(p->name_prefix)) {
                fail(p, 0, "NotTagged", "Instance '%s' has no tag that tells whose it is, and the PeerPod has no pod among its owners.", p->instance_id);
                return;
        }
        if (provider_process_state(p->provider->process) == PROVIDER_REFUSES) {
                peerpod_provider_is_lost(p, PROVIDER_REFUSES);
                return;
        }
        r = p->controller->stopping ? -ECANCELED : provider_process_remove(p->provider->process, &key, on_removed, p, &p->call);
        if (r < 0) {
                pause_for(p, next_pause(p, 0));
                return;
        }
        p->step = STEP_REMOVE;
        crash_point("removing");
}

void peerpod_provider_is_lost(PeerPod *p, ProviderState state) {
        if (state == PROVIDER_STOPPED)
                end_step(p);
        else
                fail(p, 0, "ProviderRefusesSettings", "Provider '%s' has refused its settings; the controller's log tells what is wrong with them.",
                     p->provider_name);
}

/* ---- the finalizer ---- */

static void say_released(PeerPod *p) {
        p->controller->n_released++;
        peerpod_say(p, LOG_NOTICE, MSG_PEERPOD_RELEASED, "PeerPod '%s/%s' is released: its instance is gone.", p->ns, p->name);
        status_event(p, "Normal", "InstanceDeleted", "The instance is gone.");
}

/* The watch may be quicker than the answer to what it tells about. */
void peerpod_deleted(PeerPod *p) {
        if (p->step == STEP_RELEASE)
                say_released(p);
}

static void on_released(KubeRequest *request, const KubeReply *reply, void *userdata) {
        PeerPod *p = userdata;

        crash_point("released");
        /* Somebody else has changed the list of finalizers meanwhile. */
        if (reply->error == -EINVAL || reply->error == -ESTALE) {
                if (p->n_failures++ < 8) {
                        p->request = kube_request_free(p->request);
                        begin_fetch(p);
                        return;
                }
        }
        if (reply->error < 0 && reply->error != -ENOENT) {
                fail(p, reply->retry_after_usec, "FinalizerRefused", "The instance is gone, but the finalizer cannot be removed: %s", reply->text);
                return;
        }

        if (reply->error == 0)
                say_released(p);
        p->has_finalizer = false;
        end_step(p);
}

static void on_fetched(KubeRequest *request, const KubeReply *reply, void *userdata) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        _cleanup_(freep) char *path = NULL;
        PeerPod *p = userdata;
        KubeMeta meta;
        int r;

        if (reply->error == -ENOENT) {
                end_step(p);
                return;
        }
        if (reply->error < 0) {
                fail(p, reply->retry_after_usec, "FinalizerRefused", "The instance is gone, but the object cannot be read: %s", reply->text);
                return;
        }
        r = kube_meta(reply->object, &meta, /* reterr= */ NULL);
        if (r >= 0 && !streq(meta.uid, p->uid))         /* another one of the same name */
                r = 0;
        else if (r >= 0)
                r = kube_patch_remove_finalizer(reply->object, PEERPOD_FINALIZER, &patch);
        if (r == 0) {
                end_step(p);
                return;
        }

        p->request = kube_request_free(p->request);
        path = r > 0 ? kube_path(PEERPOD_API_VERSION, p->ns, PEERPOD_PLURAL, p->name, NULL) : NULL;
        r = path ? kube_patch(p->controller->client, path, KUBE_JSON_PATCH, patch, on_released, p, &p->request) : -ENOMEM;
        if (r < 0) {
                pause_for(p, next_pause(p, 0));
                return;
        }
        p->step = STEP_RELEASE;
        crash_point("releasing");
}

static void begin_fetch(PeerPod *p) {
        _cleanup_(freep) char *path = kube_path(PEERPOD_API_VERSION, p->ns, PEERPOD_PLURAL, p->name, NULL);
        int r;

        r = path ? kube_get(p->controller->client, path, on_fetched, p, &p->request) : -ENOMEM;
        if (r < 0) {
                pause_for(p, next_pause(p, 0));
                return;
        }
        p->step = STEP_FETCH;
}

/* ---- one's turn ---- */

void peerpod_begin(PeerPod *p) {
        const char *flaw = peerpod_flaw(p);
        const PeerPod *successor;

        if (flaw) {
                peerpod_say(p, LOG_WARNING, MSG_PEERPOD_INVALID, "PeerPod '%s/%s' makes no sense: %s.", p->ns, p->name, flaw);
                tell_and_pause(p, p->controller->spec->backoff_max_usec, &(Trouble) { .type = CONDITION_VALID, .reason = "InvalidSpec", .text = flaw });
                return;
        }
        if (p->deleting && p->has_finalizer) {
                begin_reap(p);
                return;
        }
        successor = p->deleting ? NULL : peerpod_successor(p, /* alive= */ true);
        if (successor)
                begin_delete_old(p, successor);
        else if (!p->deleting && status_has_flaw(p))
                tell_and_pause(p, p->controller->spec->backoff_max_usec, &(Trouble) {
                        .type = CONDITION_VALID, .reason = "Mended", .text = "The object names an instance.", .over = true });
        else
                end_step(p);
}
