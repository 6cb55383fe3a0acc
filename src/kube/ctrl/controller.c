/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/ctrl/controller.h"

#include <utlist.h>

#include "basic/log.h"
#include "basic/messages.h"
#include "kube/ctrl/cloud-settings.h"
#include "kube/ctrl/reap.h"
#include "kube/kube-object.h"
#include "kube/kube-watch.h"
#include "kube/peerpod-names.h"

#define UPKEEP_MAX 16
#define PAGE_SIZE 250

/* ---- lanes ---- */

static void schedule_kick(Controller *c) {
        (void) sd_event_source_set_enabled(c->kick, SD_EVENT_ONESHOT);
}

void lane_enter(Lane *lane, PeerPod *p) {
        p->step = STEP_QUEUED;
        p->lane = lane;
        DL_APPEND(lane->waiting, p);
        schedule_kick(p->controller);
}

void lane_leave(PeerPod *p) {
        if (!p->lane)
                return;
        if (p->step == STEP_QUEUED)
                DL_DELETE(p->lane->waiting, p);
        else
                p->lane->n_active--;
        p->lane = NULL;
        schedule_kick(p->controller);
}

static void lane_kick(Lane *lane) {
        PeerPod *p;

        while (lane->n_active < lane->n_max && (p = lane->waiting)) {
                DL_DELETE(lane->waiting, p);
                lane->n_active++;
                p->step = STEP_NONE;
                peerpod_begin(p);
        }
}

static bool is_at_work(const Controller *c) {
        const Provider *provider;

        if (c->upkeep.n_active > 0)
                return true;
        for (provider = c->providers; provider; provider = provider->hh.next)
                if (provider->lane.n_active > 0 || provider_process_state(provider->process) != PROVIDER_STOPPED)
                        return true;
        return false;
}

static int on_kick(sd_event_source *es, void *userdata) {
        Controller *c = userdata;

        if (!c->stopping) {
                lane_kick(&c->upkeep);
                for (Provider *p = c->providers; p; p = p->hh.next)
                        lane_kick(&p->lane);
        } else if (!is_at_work(c) && c->on_stopped) {
                void (*handler)(Controller *, void *) = c->on_stopped;

                c->on_stopped = NULL;
                handler(c, c->userdata);
        }
        return 0;
}

/* ---- providers ---- */

static void wake_of_provider(Controller *c, const Provider *provider) {
        PeerPod *p, *next;

        HASH_ITER(hh, c->peerpods, p, next)
                if (p->provider == provider && p->step == STEP_PAUSE)
                        peerpod_wake(p);
}

static void on_provider(ProviderProcess *process, ProviderState state, void *userdata) {
        Provider *provider = userdata;
        Controller *c = provider->controller;
        PeerPod *p, *next;

        if (state == PROVIDER_RUNS)
                wake_of_provider(c, provider);
        else if (state == PROVIDER_REFUSES || state == PROVIDER_STOPPED)
                HASH_ITER(hh, c->peerpods, p, next)
                        if (p->provider == provider && p->step == STEP_REMOVE)
                                peerpod_provider_is_lost(p, state);
        schedule_kick(c);
}

static Provider* provider_free(Provider *p) {
        if (!p)
                return NULL;
        if (hash_added(p))
                HASH_DEL(p->controller->providers, p);
        provider_process_free(p->process);
        free(p);
        return NULL;
}

DEFINE_CLEANUP(Provider*, provider_free);

int controller_get_provider(Controller *c, const char *name, Provider **ret) {
        _cleanup_(provider_freep) Provider *p = NULL;
        Provider *known;
        int r;

        HASH_FIND_STR(c->providers, name, known);
        if (!known) {
                if (!provider_is_installed(name, c->spec->provider.module_directory, cloud_settings_get(c->settings)))
                        return -ENOENT;
                p = new0(Provider, 1);
                if (!p)
                        return -ENOMEM;
                p->controller = c;
                p->lane.n_max = c->spec->provider.n_calls_max;
                r = provider_process_new(c->event, name, &c->spec->provider, cloud_settings_get(c->settings), cloud_settings_get_secrets(c->settings),
                                         on_provider, p, &p->process);
                if (r < 0)
                        return r;
                HASH_ADD_KEYPTR(hh, c->providers, provider_process_name(p->process), strlen(name), p);
                if (!hash_added(p))
                        return -ENOMEM;
                known = TAKE_PTR(p);
        }

        if (provider_process_state(known->process) == PROVIDER_STOPPED)
                provider_process_start(known->process);
        *ret = known;
        return 0;
}

void controller_settings_changed(Controller *c) {
        for (Provider *p = c->providers; p; p = p->hh.next)
                provider_process_restart(p->process);
}

/* ---- the watch ---- */

static void forget(PeerPod *peerpod) {
        Controller *c = peerpod->controller;
        Member *siblings[] = { &peerpod->owner, &peerpod->claim_by_id, &peerpod->claim_by_tag };
        PeerPod *waiting = NULL;

        /* One that had waited for this one to go need not wait any longer. */
        for (size_t i = 0; i < ELEMENTSOF(siblings) && !waiting; i++)
                GROUP_FOREACH_OTHER(m, siblings[i])
                        if (m->peerpod->step == STEP_PAUSE && m->peerpod->deleting)
                                waiting = m->peerpod;
        lane_leave(peerpod);
        if (hash_added(peerpod))
                HASH_DEL(c->peerpods, peerpod);
        peerpod_free(peerpod);
        if (waiting)
                peerpod_wake(waiting);
}

static void on_object(KubeWatch *w, KubeChange change, json_object *object, void *userdata) {
        Controller *c = userdata;
        PeerPod *p;
        KubeMeta meta;
        int r;

        r = kube_meta(object, &meta, /* reterr= */ NULL);
        if (r < 0 || isempty(meta.uid)) {
                log_warning("The API server has sent a PeerPod without name or uid, ignoring.");
                return;
        }
        HASH_FIND_STR(c->peerpods, meta.uid, p);
        if (change == KUBE_DELETED) {
                if (p) {
                        peerpod_deleted(p);
                        forget(p);
                }
                return;
        }

        if (!p) {
                r = peerpod_new(c, meta.uid, &p);
                if (r >= 0) {
                        HASH_ADD_KEYPTR(hh, c->peerpods, p->uid, strlen(p->uid), p);
                        if (!hash_added(p)) {
                                p = peerpod_free(p);
                                r = -ENOMEM;
                        }
                }
                if (r < 0) {
                        log_oom();
                        return;
                }
        }
        r = peerpod_read(p, object);
        if (r < 0) {
                log_error_errno(r, "Failed to take over PeerPod '%s/%s', forgetting it until it changes: %m", meta.ns, meta.name);
                forget(p);
                return;
        }
        if (r > 0 && c->synced)
                peerpod_changed(p);
}

static void on_synced(KubeWatch *w, void *userdata) {
        Controller *c = userdata;
        PeerPod *p, *next;

        if (c->crd_missing)
                log_notice("There is a PeerPod resource now.");
        c->crd_missing = false;
        if (c->synced)
                return;
        c->synced = true;
        log_info("Following %u PeerPods.", HASH_COUNT(c->peerpods));
        /* Not before all are known: what stands in the way of a deletion may be listed last. */
        HASH_ITER(hh, c->peerpods, p, next)
                peerpod_changed(p);
}

static void on_trouble(KubeWatch *w, const KubeReply *reply, uint64_t again_usec, void *userdata) {
        Controller *c = userdata;

        if (reply->error != -ENOENT || c->crd_missing)
                return;
        c->crd_missing = true;
        log_full(NULL, LOG_ERR, MSG_PEERPODS_UNKNOWN, 0, "The API server knows no resource '" PEERPOD_PLURAL "." PEERPOD_GROUP "', waiting for it. "
                 "Install it: kubectl apply -f install/crds/peerpods.yaml");
}

int controller_lead(Controller *c) {
        _cleanup_(freep) char *path = kube_path(PEERPOD_API_VERSION, /* ns= */ NULL, PEERPOD_PLURAL, NULL, NULL);
        Provider *provider;
        int r;

        if (!path)
                return log_oom();
        const KubeWatchSpec spec = {
                .path = path,
                .on_object = on_object,
                .on_synced = on_synced,
                .on_trouble = on_trouble,
                .page_size = PAGE_SIZE,
        };

        r = kube_watch_new(c->client, &spec, c, &c->watch);
        if (r < 0)
                return log_error_errno(r, "Failed to watch PeerPods: %m");
        if (!isempty(c->spec->default_provider)) {
                r = controller_get_provider(c, provider_name_canonical(c->spec->default_provider), &provider);
                if (r < 0 && r != -ENOENT)      /* PeerPods of it tell */
                        return log_error_errno(r, "Failed to begin with provider '%s': %m", c->spec->default_provider);
        }
        return 0;
}

/* ---- begin and end ---- */

int controller_init(Controller *c) {
        int r;

        c->upkeep.n_max = UPKEEP_MAX;
        r = sd_event_add_defer(c->event, &c->kick, on_kick, c);
        if (r < 0)
                return r;
        return sd_event_source_set_enabled(c->kick, SD_EVENT_OFF);
}

void controller_stop(Controller *c) {
        PeerPod *p, *next;

        c->stopping = true;
        c->watch = kube_watch_free(c->watch);
        HASH_ITER(hh, c->peerpods, p, next)
                if (p->step == STEP_QUEUED || p->step == STEP_PAUSE)
                        peerpod_rest(p);
        for (Provider *provider = c->providers; provider; provider = provider->hh.next)
                provider_process_stop(provider->process);
        schedule_kick(c);
}

void controller_done(Controller *c) {
        PeerPod *p, *next;
        Provider *provider, *next_provider;

        c->watch = kube_watch_free(c->watch);
        HASH_ITER(hh, c->peerpods, p, next) {
                HASH_DEL(c->peerpods, p);
                peerpod_free(p);
        }
        HASH_ITER(hh, c->providers, provider, next_provider)
                provider_free(provider);
        c->kick = sd_event_source_disable_unref(c->kick);
}

void controller_count(const Controller *c, ControllerCounts *ret) {
        uint64_t now = now_usec(CLOCK_MONOTONIC);

        *ret = (ControllerCounts) { .n = HASH_COUNT(c->peerpods) };
        for (const PeerPod *p = c->peerpods; p; p = p->hh.next) {
                if (!p->deleting)
                        continue;
                ret->n_deleting++;
                ret->n_held += p->held;
                ret->oldest_delete_usec = MAX(ret->oldest_delete_usec, now - p->deleting_since_usec);
        }
}
