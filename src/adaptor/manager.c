/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/manager.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "adaptor/certificate-watch.h"
#include "adaptor/error.h"
#include "adaptor/history.h"
#include "adaptor/hypervisor-service.h"
#include "adaptor/service-link.h"
#include "adaptor/manager-bus.h"
#include "adaptor/node-client.h"
#include "adaptor/orphans.h"
#include "adaptor/pod.h"
#include "adaptor/polkit.h"
#include "adaptor/provider-client.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/sandbox-story.h"
#include "adaptor/sandbox.h"
#include "adaptor/shim-watch.h"
#include "adaptor/tunnel-client.h"
#include "adaptor/unit-client.h"
#include "basic/hash.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "basic/sandbox-store.h"
#include "basic/strv.h"
#include "basic/util.h"

#define RECONCILE_AGAIN_USEC (60 * USEC_PER_SEC)
#define NOT_LISTED "instance is not in the cloud's list"

/* A sandbox that went while somebody was making a list of instances or tunnels: what the list has of it is no orphan. */
struct GoneSandbox {
        UT_hash_handle hh;
        char id[];
};

bool manager_is_gone_meanwhile(const Manager *m, const char *id) {
        GoneSandbox *g;

        HASH_FIND_STR(m->gone_meanwhile, id, g);
        return g;
}

static void remember_gone(Manager *m, const char *id) {
        GoneSandbox *g;

        if ((!m->find_call && !m->list_call && m->n_orphan_queries == 0) || manager_is_gone_meanwhile(m, id))
                return;

        g = calloc(1, sizeof(GoneSandbox) + strlen(id) + 1);
        if (!g)
                return;                 /* at worst, what is gone is deleted once more */
        strcpy(g->id, id);
        HASH_ADD_STR(m->gone_meanwhile, id, g);
        if (!hash_added(g))
                free(g);
}

void manager_forget_gone(Manager *m) {
        GoneSandbox *g, *next;

        if (m->find_call || m->list_call || m->n_orphan_queries > 0)
                return;

        HASH_ITER(hh, m->gone_meanwhile, g, next) {
                HASH_DEL(m->gone_meanwhile, g);
                free(g);
        }
}

int manager_new(const Settings *settings, sd_event *event, Manager **ret) {
        _cleanup_(manager_freep) Manager *m = NULL;
        _cleanup_(freep) char *store_path = NULL, *history_path = NULL;
        int r;

        m = new(Manager);
        if (!m)
                return log_oom();
        *m = (Manager) { .settings = settings, .event = sd_event_ref(event) };
        m->metrics.start_usec = now_usec(CLOCK_REALTIME);
        TAILQ_INIT(&m->sandboxes);
        TAILQ_INIT(&m->gone);
        TAILQ_INIT(&m->untold);

        if (asprintf(&store_path, "%s/sandboxes", settings->state_dir) < 0)
                return log_oom();
        r = sandbox_store_new(store_path, /* durable= */ true, &m->store);
        if (r == -EBUSY)
                return log_error_errno(r, "Another adaptor uses the records in '%s'.", store_path);
        if (r < 0)
                return log_error_errno(r, "Failed to open the records in '%s': %m", store_path);

        if (asprintf(&history_path, "%s/history", settings->state_dir) < 0)
                return log_oom();
        r = history_new(history_path, settings->history_max, &m->history);
        if (r < 0)
                return log_error_errno(r, "Failed to open the history in '%s': %m", history_path);

        r = service_link_new(event, "tunnel service", settings->tunnel_socket, &m->tunnel);
        if (r < 0)
                return log_oom();
        r = service_link_new(event, "provider service", settings->provider_socket, &m->provider);
        if (r < 0)
                return log_oom();
        r = polkit_new(&m->polkit);
        if (r < 0)
                return log_oom();

        *ret = TAKE_PTR(m);
        return 0;
}

Manager* manager_free(Manager *m) {
        Sandbox *s;

        if (!m)
                return NULL;

        /* The shim's calls first: they are waiters of the sandboxes, and are answered here. */
        hypervisor_service_free(m->hypervisor);
        orphans_forget(m);
        sandbox_stories_flush(m);
        sd_event_source_disable_unref(m->tell);
        while ((s = TAILQ_FIRST(&m->sandboxes)))
                sandbox_free(s);
        while ((s = TAILQ_FIRST(&m->gone))) {
                TAILQ_REMOVE(&m->gone, s, sandboxes);
                sandbox_free(s);
        }
        certificate_watch_free(m->certificates);
        sd_event_source_disable_unref(m->sweep);
        sd_event_source_disable_unref(m->reconcile_again);
        sd_event_source_disable_unref(m->shim_timer);
        sd_event_source_disable_unref(m->reconcile_timer);
        service_call_free(m->name_call);
        m->find_call = service_call_free(m->find_call);
        m->list_call = service_call_free(m->list_call);
        manager_forget_gone(m);
        polkit_free(m->polkit);
        service_link_free(m->tunnel);
        service_link_free(m->provider);
        unit_client_free(m->units);
        node_client_free(m->node);
        sd_bus_flush_close_unref(m->bus);
        history_free(m->history);
        sandbox_store_free(m->store);
        free(m->hypervisor_socket);
        free(m->provider_name);
        sd_event_unref(m->event);
        free(m);
        return NULL;
}

int manager_connect_bus(Manager *m) {
        int r;

        r = sd_bus_open_system(&m->bus);
        if (r < 0)
                return log_error_errno(r, "Failed to connect to the system bus, which systemd is reached by: %m");
        /* systemd starts us again, and pods do not notice. */
        r = sd_bus_set_exit_on_disconnect(m->bus, true);
        if (r < 0)
                return log_error_errno(r, "Failed to set up the system bus: %m");
        r = sd_bus_attach_event(m->bus, m->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                return log_error_errno(r, "Failed to attach the system bus to the event loop: %m");
        r = unit_client_new(m->bus, &m->units);
        if (r < 0)
                return log_error_errno(r, "Failed to listen to systemd: %m");
        r = service_link_watch(m->tunnel, m->units, "peerpod-tunnel.service");
        if (r >= 0)
                r = service_link_watch(m->provider, m->units, "peerpod-provider.service");
        if (r < 0)
                return log_oom();
        r = node_client_new(m->bus, &m->node);
        if (r < 0)
                return log_error_errno(r, "Failed to look for peerpod-node on the system bus: %m");
        r = manager_bus_add(m->bus, m);
        if (r < 0)
                return log_error_errno(r, "Failed to add our objects to the system bus: %m");

        return 0;
}

static int set_aside(Manager *m, const char *id, int error, const char *reason) {
        _cleanup_(freep) char *aside = NULL, *field = NULL;
        _cleanup_(log_context_done) LogContext context = {};
        int r;

        if (log_context_add(&context, "PEERPOD_SANDBOX_ID", id) < 0)
                return log_oom();

        m->metrics.records_set_aside++;
        r = sandbox_store_set_aside(m->store, id, &aside);
        if (r < 0)
                return log_full(&context, LOG_ERR, MSG_RECORD_CORRUPT, r,
                                "Record of sandbox '%s' is unreadable (%s), and cannot be set aside: %m", id, reason);

        (void) log_full(&context, LOG_ERR, MSG_RECORD_CORRUPT, error, "Record of sandbox '%s' is unreadable (%s), set aside as '%s': %m", id,
                        reason, aside);
        return 0;
}

/* Whoever wrote it can read it when it comes back, so it keeps its name; until then neither it nor its instance is touched. */
static void leave_to_newer_version(const char *id, const char *reason) {
        _cleanup_(log_context_done) LogContext context = {};

        if (log_context_add(&context, "PEERPOD_SANDBOX_ID", id) < 0)
                return;
        (void) log_full(&context, LOG_ERR, MSG_RECORD_CORRUPT, 0, "Record of sandbox '%s' cannot be read (%s), leaving it and its pod VM alone.",
                        id, strempty(reason));
}

static int on_record(SandboxStore *store, const char *id, int error, const char *data, size_t size, void *userdata) {
        _cleanup_(sandbox_record_done) SandboxRecord record = SANDBOX_RECORD_NULL;
        _cleanup_(freep) char *reason = NULL;
        Manager *m = userdata;
        Sandbox *s;
        int r = error;

        if (r >= 0)
                r = sandbox_record_parse(data, size, &record, &reason);
        if (r >= 0 && !streq(record.id, id))
                r = -EBADMSG;
        if (r == -ENOMEM)
                return r;
        if (r == -EPROTONOSUPPORT) {
                leave_to_newer_version(id, reason);
                return 0;
        }
        if (r < 0) {
                (void) set_aside(m, id, r, reason ?: "as a whole");
                return 0;               /* it never stops the daemon */
        }

        r = sandbox_new_from_record(m, &record, &s);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                (void) set_aside(m, id, r, "pod network");
        return 0;
}

int manager_load(Manager *m) {
        int r;

        r = sandbox_store_load(m->store, SANDBOX_RECORD_SIZE_MAX, on_record, m);
        if (r < 0)
                return log_error_errno(r, "Failed to read the records of sandboxes: %m");

        history_settle(m->history);
        return 0;
}

int manager_listen(Manager *m, int fd) {
        struct sockaddr_un sa = {};
        socklen_t size = sizeof(sa) - 1;        /* leaves a NUL behind the path */
        int r;

        if (getsockname(fd, (struct sockaddr*) &sa, &size) >= 0 && sa.sun_family == AF_UNIX)
                m->hypervisor_socket = strdup(sa.sun_path);
        r = hypervisor_service_new(m, fd, &m->hypervisor);
        if (r < 0)
                return log_error_errno(r, "Failed to serve the shim's socket: %m");

        return 0;
}

static void set_provider_name(Manager *m, const char *name) {
        if (streq_ptr(m->provider_name, name))
                return;

        free(m->provider_name);
        m->provider_name = strdup(name);
        manager_bus_changed(m, "Provider");
}

static void on_description(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        Manager *m = userdata;
        uint64_t size_max = 0;
        const char *name = NULL;
        int r = 0;

        if (reply)
                r = provider_read_description(reply, &name, &size_max);
        if (error || r < 0 || !text_is_plain(name, 64))
                log_warning("Failed to learn the provider's name, trying again: %s", error ? error_get_text(error) : "bad answer");
        else {
                m->user_data_size_max = size_max;
                set_provider_name(m, name);
        }
        m->name_call = service_call_free(m->name_call);
}

/* An instance that carries our node's tag, and that no record knows: made by a start that was cut off, whose record was lost. */
void manager_reap_instance(Manager *m, const char *id, const char *name, const char *instance_id) {
        _cleanup_(sandbox_record_done) SandboxRecord record = { .state = SANDBOX_DELETING };
        Sandbox *s;
        int r;

        if (sandbox_store_holds(m->store, id)) {
                log_warning("Instance '%s' belongs to sandbox '%s', whose record cannot be read: it is left alone until StopVM comes.",
                            instance_id, id);
                return;
        }

        record.id = strdup(id);
        record.node = strdup(m->settings->node);
        record.instance_name = strdup(name);
        record.instance_id = strdup(instance_id);
        record.last_error = strdup("found without a record");
        if (!record.id || !record.node || !record.instance_name || !record.instance_id) {
                (void) log_oom();
                return;
        }
        record.state_usec[SANDBOX_DELETING] = now_usec(CLOCK_REALTIME);

        r = sandbox_new_from_record(m, &record, &s);
        if (r < 0) {
                log_error_errno(r, "Failed to take up instance '%s', ignoring: %m", instance_id);
                return;
        }
        log_sandbox(s, LOG_NOTICE, MSG_ORPHAN_REAPED, "Instance '%s' of this node has no record, deleting it.", instance_id);
        m->metrics.orphans[ORPHAN_INSTANCE]++;
        sandbox_recover(s);
}

static void check_instances(Manager *m) {
        Sandbox *s;

        TAILQ_FOREACH(s, &m->sandboxes, sandboxes) {
                if (s->record.state != SANDBOX_RUNNING)
                        continue;
                if (s->listed == m->n_lists) {
                        if (streq_ptr(s->record.last_error, NOT_LISTED))
                                sandbox_set_last_error(s, "");
                        continue;
                }
                if (streq_ptr(s->record.last_error, NOT_LISTED))
                        continue;
                if (s->record.state_usec[SANDBOX_RUNNING] >= m->find_usec)
                        continue;               /* the list may be from before its instance was made */
                /* Not deleted for that: lists of clouds are late at times, and the shim sees for itself whether its VM answers. */
                log_sandbox(s, LOG_WARNING, NULL, "Instance '%s' of running sandbox '%s' is not in the cloud's list.",
                            strempty(s->record.instance_id), s->record.id);
                sandbox_set_last_error(s, NOT_LISTED);
        }
}

static int read_instances(Manager *m, sd_bus_message *reply) {
        const char *id, *name, *instance_id;
        Sandbox *s;
        int r;

        m->n_lists++;

        r = sd_bus_message_enter_container(reply, 'a', "(sss)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(reply, "(sss)", &id, &name, &instance_id)) > 0) {
                if (!sandbox_id_is_valid(id) || !text_is_plain(name, REQUEST_TEXT_MAX) || !text_is_plain(instance_id, REQUEST_TEXT_MAX)) {
                        log_warning("Ignoring an instance whose owner tag is not one of ours.");
                        continue;
                }
                s = manager_find_sandbox(m, id);
                if (s && s->record.state == SANDBOX_PLANNED)
                        sandbox_fail_made(s);
                else if (s)
                        s->listed = m->n_lists;
                else if (m->n_sandboxes < SANDBOXES_MAX && !manager_is_gone_meanwhile(m, id))
                        manager_reap_instance(m, id, name, instance_id);
        }
        if (r < 0)
                return r;

        check_instances(m);
        return 0;
}

static void reconcile(Manager *m);

static int on_reconcile_again(sd_event_source *es, uint64_t usec, void *userdata) {
        Manager *m = userdata;

        m->reconcile_again = sd_event_source_disable_unref(m->reconcile_again);
        reconcile(m);
        return 0;
}

static void reconcile_later(Manager *m) {
        int r;

        if (m->reconcile_again)
                return;
        r = sd_event_add_time_relative(m->event, &m->reconcile_again, CLOCK_MONOTONIC, RECONCILE_AGAIN_USEC, 0, on_reconcile_again, m);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer: %m");
}

static void on_instances(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        Manager *m = userdata;
        int r = 0;

        if (reply)
                r = read_instances(m, reply);
        if (error || r < 0) {
                log_warning("Failed to compare sandboxes with the cloud's instances, trying again in %s: %s",
                            FORMAT_USEC(RECONCILE_AGAIN_USEC), error ? error_get_text(error) : strerror(-r));
                reconcile_later(m);
        }
        m->find_call = service_call_free(m->find_call);
        manager_forget_gone(m);
}

void manager_reap_tunnel(Manager *m, const char *id) {
        _cleanup_(sandbox_record_done) SandboxRecord record = { .state = SANDBOX_DELETING };
        Sandbox *s;
        int r;

        record.id = strdup(id);
        record.node = strdup(m->settings->node);
        record.last_error = strdup("tunnel found without a record");
        if (!record.id || !record.node || !record.last_error) {
                (void) log_oom();
                return;
        }
        r = sandbox_new_from_record(m, &record, &s);
        if (r < 0) {
                log_error_errno(r, "Failed to take up the tunnel of sandbox '%s', ignoring: %m", id);
                return;
        }
        log_sandbox(s, LOG_NOTICE, NULL, "Tunnel of sandbox '%s' has no record, taking it down.", id);
        m->metrics.orphans[ORPHAN_TUNNEL]++;
        sandbox_recover(s);
}

static int read_tunnels(Manager *m, sd_bus_message *reply) {
        const char *id;
        int r;

        r = sd_bus_message_enter_container(reply, 'a', "s");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(reply, "s", &id)) > 0) {
                if (sandbox_id_is_valid(id) && !manager_find_sandbox(m, id) && !manager_is_gone_meanwhile(m, id) &&
                    !sandbox_store_holds(m->store, id))
                        manager_reap_tunnel(m, id);
        }

        return r;
}

static void on_tunnels(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        Manager *m = userdata;
        int r = 0;

        if (reply)
                r = read_tunnels(m, reply);
        if (error || r < 0) {
                log_warning("Failed to compare sandboxes with the node's tunnels, trying again in %s: %s",
                            FORMAT_USEC(RECONCILE_AGAIN_USEC), error ? error_get_text(error) : strerror(-r));
                reconcile_later(m);
        }
        m->list_call = service_call_free(m->list_call);
        manager_forget_gone(m);
}

static void reconcile(Manager *m) {
        int r = 0;

        if (!m->name_call)
                r = provider_describe(m->provider, on_description, m, &m->name_call);
        if (r >= 0 && !m->find_call) {
                m->find_usec = now_usec(CLOCK_REALTIME);
                r = provider_find_instances(m->provider, m->settings->node, on_instances, m, &m->find_call);
        }
        if (r >= 0 && !m->list_call)
                r = tunnel_list(m->tunnel, on_tunnels, m, &m->list_call);
        if (r < 0) {
                log_error_errno(r, "Failed to compare sandboxes with what there is, trying again: %m");
                reconcile_later(m);
        }
}

/* Not all nodes of a cluster that was started at once ask their cloud at the same time. */
static uint64_t with_jitter(uint64_t usec) {
        uint64_t random;

        if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
                return usec;
        return usec - usec / 10 + random % (usec / 5 + 1);
}

static int on_reconcile_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        int r;

        reconcile(m);
        r = sd_event_source_set_time_relative(es, with_jitter(m->settings->reconcile_usec));
        if (r >= 0)
                r = sd_event_source_set_enabled(es, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, the cloud is not asked for instances without a sandbox any more: %m");
        return 0;
}

static int start_timers(Manager *m) {
        int r;

        r = shim_watch_start(m);
        if (r < 0 || m->settings->reconcile_usec == 0)
                return r;

        return sd_event_add_time_relative(m->event, &m->reconcile_timer, CLOCK_MONOTONIC, with_jitter(m->settings->reconcile_usec),
                                          /* accuracy= */ 0, on_reconcile_timer, m);
}

int manager_start(Manager *m) {
        Sandbox *s, *next;
        int r;

        for (s = TAILQ_FIRST(&m->sandboxes); s; s = next) {
                next = TAILQ_NEXT(s, sandboxes);
                sandbox_recover(s);             /* nothing is gone before the loop turns */
        }
        r = certificate_watch_new(m, &m->certificates);
        if (r < 0)
                log_error_errno(r, "Failed to watch the certificates, ignoring: %m");
        reconcile(m);

        r = start_timers(m);
        return r < 0 ? log_error_errno(r, "Failed to set timers: %m") : 0;
}

void manager_settings_changed(Manager *m) {
        if (m->certificates)
                certificate_watch_check(m->certificates);
}

static void notify(Manager *m, const char *prefix) {
        (void) sd_notifyf(/* unset_environment= */ false, "%sSTATUS=%u pod VM%s", prefix, m->n_sandboxes, m->n_sandboxes == 1 ? "" : "s");
}

void manager_notify_ready(Manager *m) {
        m->notify = true;
        notify(m, "READY=1\n");
}

Sandbox* manager_find_sandbox(Manager *m, const char *id) {
        Sandbox *s;

        HASH_FIND_STR(m->by_id, id, s);
        return s;
}

int manager_forget_unreadable(Manager *m, const char *id, Sandbox **ret) {
        _cleanup_(sandbox_record_done) SandboxRecord record = { .state = SANDBOX_DELETING };
        int r;

        if (!sandbox_store_holds(m->store, id))
                return 0;

        record.id = strdup(id);
        record.node = strdup(m->settings->node);
        if (!record.id || !record.node)
                return -ENOMEM;
        record.state_usec[SANDBOX_DELETING] = now_usec(CLOCK_REALTIME);

        r = sandbox_new_from_record(m, &record, ret);
        if (r < 0)
                return r;
        sandbox_recover(*ret);
        return 1;
}

void manager_retire_older(Manager *m, const Sandbox *newest) {
        Sandbox *s, *next;

        if (isempty(newest->record.pod_uid) || !newest->pod)
                return;

        for (s = TAILQ_FIRST(&newest->pod->sandboxes); s; s = next) {
                next = TAILQ_NEXT(s, of_pod);
                if (s != newest && streq_ptr(s->record.pod_uid, newest->record.pod_uid) && s->record.state < SANDBOX_DELETING)
                        (void) sandbox_stop(s, "its pod has a new sandbox");
        }
}

static void count_changed(Manager *m) {
        manager_bus_changed(m, "NPodVMs");
        if (m->notify)
                notify(m, "");
}

int manager_add_sandbox(Manager *m, Sandbox *s) {
        Pod *pod = NULL;

        if (s->record.pod_name && s->record.pod_namespace) {
                pod = pod_get(&m->pods, s->record.pod_namespace, s->record.pod_name);
                if (!pod)
                        return -ENOMEM;
        }
        HASH_ADD_KEYPTR(hh, m->by_id, s->record.id, strlen(s->record.id), s);
        if (!hash_added(s)) {
                if (pod)
                        pod_drop_if_empty(&m->pods, pod);
                return -ENOMEM;
        }

        s->in_tables = true;
        s->pod = pod;
        if (pod)
                TAILQ_INSERT_TAIL(&pod->sandboxes, s, of_pod);
        TAILQ_INSERT_TAIL(&m->sandboxes, s, sandboxes);
        m->n_sandboxes++;
        count_changed(m);
        sandbox_bus_appeared(s);
        return 0;
}

/* Takes one that never came into the tables, too. */
void manager_remove_sandbox(Manager *m, Sandbox *s) {
        if (!s->in_tables)
                return;

        s->in_tables = false;
        TAILQ_REMOVE(&m->sandboxes, s, sandboxes);
        HASH_DEL(m->by_id, s);
        if (s->pod) {
                TAILQ_REMOVE(&s->pod->sandboxes, s, of_pod);
                pod_drop_if_empty(&m->pods, s->pod);
                s->pod = NULL;
        }
        m->n_sandboxes--;
}

void manager_sandbox_changed(Manager *m, Sandbox *s) {
        if (m->hypervisor)
                hypervisor_service_sandbox_changed(m->hypervisor, s);
}

static int on_sweep(sd_event_source *es, void *userdata) {
        Manager *m = userdata;
        Sandbox *s;

        m->sweep = sd_event_source_disable_unref(m->sweep);
        while ((s = TAILQ_FIRST(&m->gone))) {
                TAILQ_REMOVE(&m->gone, s, sandboxes);
                sandbox_free(s);
        }
        return 0;
}

void manager_sandbox_gone(Manager *m, Sandbox *s) {
        /* The signal is made from the object, which must still be found by its path. */
        sandbox_bus_vanished(s);
        manager_remove_sandbox(m, s);
        count_changed(m);

        remember_gone(m, s->record.id);
        TAILQ_INSERT_TAIL(&m->gone, s, sandboxes);
        if (!m->sweep && sd_event_add_defer(m->event, &m->sweep, on_sweep, m) < 0)
                log_warning("Failed to free sandbox '%s' at once, ignoring.", s->record.id);   /* the next one takes it along */
}
