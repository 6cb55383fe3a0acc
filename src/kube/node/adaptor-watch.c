/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/adaptor-watch.h"

#include <systemd/sd-bus.h>

#include "basic/bus-private.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/node/node.h"
#include "kube/node/track.h"

#define ADAPTOR_NAME "org.confidentialcontainers.PeerPod1"
#define ADAPTOR_PATH "/org/confidentialcontainers/PeerPod1"
#define PODVM_PATH ADAPTOR_PATH "/podvm"
#define MANAGER_INTERFACE ADAPTOR_NAME ".Manager"
#define PODVM_INTERFACE ADAPTOR_NAME ".PodVM"
#define PROPERTIES_INTERFACE "org.freedesktop.DBus.Properties"

#define ANSWER_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define AGAIN_USEC (2 * USEC_PER_SEC)

struct AdaptorWatch {
        Node *node;                     /* borrowed */
        sd_bus_slot *owner_changed, *properties_changed, *removed;
        sd_bus_slot *describe, *list;   /* calls that are under way */
        sd_bus_slot *explain;           /* of one absent sandbox after the other */
        char *explained;                /* its id */
        sd_event_source *again;
        char *provider;
        bool synced;
};

/* What one object has; borrowed from the message. */
typedef struct PodVM {
        const char *id, *pod_namespace, *pod_name;
        uint64_t created_usec;
        TrackNews news;
        char **addresses;               /* owned; the news borrow it */
} PodVM;

static void podvm_done(PodVM *p) {
        strv_free(p->addresses);
}

static TrackState state_from_string(const char *s) {
        return streq(s, "planned") ? TRACK_CREATING : track_state_from_string(s);       /* "creating", "running", "deleting" */
}

static int read_property(sd_bus_message *m, PodVM *p) {
        const char *key, *state;
        const struct {
                const char *key;
                const char **field;
        } texts[] = {
                { "SandboxId", &p->id },                        { "PodNamespace", &p->pod_namespace },
                { "PodName", &p->pod_name },                    { "InstanceName", &p->news.instance_name },
                { "InstanceId", &p->news.instance_id },         { "InstanceType", &p->news.instance_type },
                { "LastError", &p->news.last_error },
        };
        int r;

        r = sd_bus_message_read(m, "s", &key);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (streq(key, texts[i].key))
                        return sd_bus_message_read(m, "v", "s", texts[i].field);
        if (streq(key, "CreatedTimestamp"))
                return sd_bus_message_read(m, "v", "t", &p->created_usec);
        if (streq(key, "State")) {
                r = sd_bus_message_read(m, "v", "s", &state);
                if (r >= 0)
                        p->news.state = state_from_string(state);
                return r;
        }
        if (!streq(key, "Addresses"))
                return sd_bus_message_skip(m, "v");

        r = sd_bus_message_enter_container(m, 'v', "as");
        if (r < 0)
                return r;
        p->addresses = strv_free(p->addresses);
        r = sd_bus_message_read_strv(m, &p->addresses);
        if (r < 0)
                return r;
        p->news.addresses = p->addresses;
        return sd_bus_message_exit_container(m);
}

static int read_properties(sd_bus_message *m, PodVM *p) {
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = read_property(m, p);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }

        return r < 0 ? r : sd_bus_message_exit_container(m);
}

/* One that is not known here came while we were not there, or before it was registered. One without a pod is an instance that was found. */
static void take_podvm(AdaptorWatch *w, PodVM *p) {
        Track *t = node_find_track(w->node, p->id);
        int r;

        if (!t) {
                if (isempty(p->pod_namespace) || isempty(p->pod_name))
                        return;
                r = track_new(w->node, p->id, p->pod_namespace, p->pod_name, p->created_usec ?: now_usec(CLOCK_REALTIME), &t);
                if (r < 0) {
                        log_error_errno(r, "Failed to take up sandbox '%s', ignoring: %m", p->id);
                        return;
                }
        }

        t->absent = false;
        p->news.provider = isempty(w->provider) ? NULL : w->provider;
        track_update(t, &p->news);
        if (node_find_track(w->node, p->id) == t)       /* it may have been a record of one that is gone */
                track_advance(t);
}

/* Not started for our sake: when it comes, its name's new owner is told. */
static int call(AdaptorWatch *w, sd_bus_slot **slot, const char *interface, const char *member, const char *argument,
                sd_bus_message_handler_t handler) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        *slot = sd_bus_slot_unref(*slot);
        r = sd_bus_message_new_method_call(w->node->bus, &m, ADAPTOR_NAME, ADAPTOR_PATH, interface, member);
        if (r >= 0)
                r = sd_bus_message_set_auto_start(m, false);
        if (r >= 0 && argument)
                r = sd_bus_message_append(m, "s", argument);
        return r < 0 ? r : sd_bus_call_async(w->node->bus, slot, m, handler, w, ANSWER_TIMEOUT_USEC);
}

/* ---- once more, later ---- */

static void begin_list(AdaptorWatch *w);

static bool is_absence(const sd_bus_error *error) {
        return sd_bus_error_has_name(error, SD_BUS_ERROR_NAME_HAS_NO_OWNER) || sd_bus_error_has_name(error, SD_BUS_ERROR_SERVICE_UNKNOWN);
}

static int on_again(sd_event_source *es, uint64_t usec, void *userdata) {
        AdaptorWatch *w = userdata;

        w->again = sd_event_source_disable_unref(w->again);
        begin_list(w);
        return 0;
}

static void list_again(AdaptorWatch *w, const char *reason) {
        int r;

        log_warning("Failed to ask the adaptor for its sandboxes, trying again: %s", reason);
        w->again = sd_event_source_disable_unref(w->again);
        r = sd_event_add_time_relative(w->node->event, &w->again, CLOCK_MONOTONIC, AGAIN_USEC, 0, on_again, w);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer, waiting for the next start of the adaptor: %m");
}

/* ---- sandboxes that the adaptor has no more ---- */

static void explain_next(AdaptorWatch *w);

/* "gone" is all that is of interest. */
static bool explanation_is_gone(sd_bus_message *m) {
        const char *key, *state = "";
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read(m, "s", &key);
                if (r >= 0)
                        r = streq(key, "State") ? sd_bus_message_read(m, "v", "s", &state) : sd_bus_message_skip(m, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r >= 0 && streq(state, "gone");
}

static int on_explained(sd_bus_message *reply, void *userdata, sd_bus_error *reterror) {
        AdaptorWatch *w = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        Track *t = node_find_track(w->node, w->explained);

        w->explain = sd_bus_slot_unref(w->explain);
        if (t && t->absent) {
                t->absent = false;
                if (!error && explanation_is_gone(reply))
                        track_gone(t);
                else if (!error || sd_bus_error_has_name(error, PEERPOD_ERROR_NOT_FOUND))
                        track_abandon(t);
                else if (!is_absence(error))    /* else its name's new owner tells */
                        list_again(w, error->message ?: error->name);
        }
        explain_next(w);
        return 0;
}

static Track* next_absent(AdaptorWatch *w) {
        Track *t;

        TAILQ_FOREACH(t, &w->node->tracks, tracks)
                if (t->absent)
                        return t;
        return NULL;
}

/* Has the adaptor seen its end, or lost its record? Only the first one says that there is no instance any more. */
static void explain_next(AdaptorWatch *w) {
        Track *t = next_absent(w);
        int r;

        if (!t || w->explain)
                return;

        free(w->explained);
        w->explained = strdup(t->record.id);
        r = w->explained ? call(w, &w->explain, MANAGER_INTERFACE, "Explain", w->explained, on_explained) : -ENOMEM;
        if (r < 0)
                log_track_errno(t, LOG_WARNING, NULL, r, "Failed to ask what became of sandbox '%s': %m", t->record.id);
}

/* ---- all of them ---- */

static int read_object(AdaptorWatch *w, sd_bus_message *m) {
        _cleanup_(podvm_done) PodVM p = { .news = TRACK_NEWS_NULL };
        const char *path, *interface;
        int r;

        r = sd_bus_message_read(m, "o", &path);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(m, 'a', "{sa{sv}}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'e', "sa{sv}")) > 0) {
                r = sd_bus_message_read(m, "s", &interface);
                if (r >= 0)
                        r = streq(interface, PODVM_INTERFACE) ? read_properties(m, &p) : sd_bus_message_skip(m, "a{sv}");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;

        if (p.id)
                take_podvm(w, &p);
        return sd_bus_message_exit_container(m);
}

static int read_objects(AdaptorWatch *w, sd_bus_message *m) {
        Track *t;
        int r;

        TAILQ_FOREACH(t, &w->node->tracks, tracks)
                t->absent = t->record.state != TRACK_GONE;

        r = sd_bus_message_enter_container(m, 'a', "{oa{sa{sv}}}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "oa{sa{sv}}")) > 0) {
                r = read_object(w, m);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        if (r < 0)              /* nothing is said of those that were not read */
                TAILQ_FOREACH(t, &w->node->tracks, tracks)
                        t->absent = false;
        return r;
}

static int on_list(sd_bus_message *reply, void *userdata, sd_bus_error *reterror) {
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        AdaptorWatch *w = userdata;
        int r;

        w->list = sd_bus_slot_unref(w->list);
        if (error) {
                if (!is_absence(error)) /* else its name's new owner tells */
                        list_again(w, error->message ?: error->name);
                return 0;
        }
        r = read_objects(w, reply);
        if (r < 0) {
                list_again(w, strerror(-r));
                return 0;
        }

        w->synced = true;
        node_adaptor_synced(w->node);
        explain_next(w);
        return 0;
}

static void set_provider(AdaptorWatch *w, const char *provider) {
        TrackNews news = TRACK_NEWS_NULL;
        Track *t, *next;

        if (isempty(provider) || streq_ptr(w->provider, provider))
                return;
        free(w->provider);
        w->provider = strdup(provider);
        news.provider = w->provider;
        for (t = TAILQ_FIRST(&w->node->tracks); t; t = next) {
                next = TAILQ_NEXT(t, tracks);
                if (isempty(t->record.provider))
                        track_update(t, &news);
        }
}

/* The owner tag of its instances should be the Node's name, by which peerpod-ctrl looks for them. */
static void check_owner_tag(AdaptorWatch *w, const char *tag) {
        if (!streq(tag, w->node->settings->node))
                log_warning("The adaptor tags its instances with '%s', while this is node '%s': set NODE_NAME for both, or peerpod-ctrl will not "
                            "take them for this node's.", tag, w->node->settings->node);
}

static int read_manager_properties(AdaptorWatch *w, sd_bus_message *m, bool all) {
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                const char *key, *value = NULL;

                r = sd_bus_message_read(m, "s", &key);
                if (r >= 0)
                        r = streq(key, "Provider") || streq(key, "Node") ? sd_bus_message_read(m, "v", "s", &value) : sd_bus_message_skip(m, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
                if (value && streq(key, "Provider"))
                        set_provider(w, value);
                else if (value && all)
                        check_owner_tag(w, value);
        }
        return r;
}

static int on_described(sd_bus_message *reply, void *userdata, sd_bus_error *reterror) {
        AdaptorWatch *w = userdata;
        int r;

        w->describe = sd_bus_slot_unref(w->describe);
        if (sd_bus_message_is_method_error(reply, NULL))
                return 0;               /* as for the list */
        r = read_manager_properties(w, reply, /* all= */ true);
        if (r < 0)
                log_warning_errno(r, "Failed to read what the adaptor says of itself, ignoring: %m");
        return 0;
}

static void begin_list(AdaptorWatch *w) {
        int r;

        w->synced = false;
        r = call(w, &w->describe, PROPERTIES_INTERFACE, "GetAll", MANAGER_INTERFACE, on_described);
        if (r >= 0)
                r = call(w, &w->list, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", NULL, on_list);
        if (r < 0)
                list_again(w, strerror(-r));
}

/* ---- changes ---- */

static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *name, *old, *new;
        AdaptorWatch *w = userdata;

        if (sd_bus_message_read(m, "sss", &name, &old, &new) < 0)
                return 0;
        w->synced = false;
        if (!isempty(new))
                begin_list(w);
        return 0;
}

static int on_podvm_changed(AdaptorWatch *w, const char *id, sd_bus_message *m) {
        _cleanup_(podvm_done) PodVM p = { .id = id, .news = TRACK_NEWS_NULL };
        int r;

        r = read_properties(m, &p);
        if (r >= 0 && node_find_track(w->node, id))     /* another one is in a list that is under way, or is an instance without a pod */
                take_podvm(w, &p);
        return r;
}

static int on_properties_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        _cleanup_(freep) char *id = NULL;
        AdaptorWatch *w = userdata;
        const char *interface, *path = sd_bus_message_get_path(m);
        int r;

        r = sd_bus_message_read(m, "s", &interface);
        if (r >= 0 && streq(interface, MANAGER_INTERFACE))
                r = read_manager_properties(w, m, /* all= */ false);
        else if (r >= 0 && streq(interface, PODVM_INTERFACE) && sd_bus_path_decode(path, PODVM_PATH, &id) > 0)
                r = on_podvm_changed(w, id, m);
        if (r < 0)
                log_warning_errno(r, "Failed to read what the adaptor says of '%s', ignoring: %m", path);
        return 0;
}

static int on_removed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        AdaptorWatch *w = userdata;
        const char *id, *path;
        Track *t;
        int r;

        r = sd_bus_message_read(m, "so", &id, &path);
        if (r < 0) {
                log_warning_errno(r, "Failed to read which sandbox is gone, ignoring: %m");
                return 0;
        }
        t = node_find_track(w->node, id);
        if (t)
                track_gone(t);
        return 0;
}

int adaptor_watch_new(Node *n, AdaptorWatch **ret) {
        _cleanup_(adaptor_watch_freep) AdaptorWatch *w = new(AdaptorWatch);
        int r;

        if (!w)
                return -ENOMEM;
        *w = (AdaptorWatch) { .node = n };

        r = sd_bus_add_match_async(n->bus, &w->owner_changed,
                                   "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                                   "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" ADAPTOR_NAME "'",
                                   on_owner_changed, /* install_callback= */ NULL, w);
        if (r < 0)
                return r;
        r = sd_bus_add_match_async(n->bus, &w->properties_changed,
                                   "type='signal',sender='" ADAPTOR_NAME "',path_namespace='" ADAPTOR_PATH "',"
                                   "interface='" PROPERTIES_INTERFACE "',member='PropertiesChanged'",
                                   on_properties_changed, /* install_callback= */ NULL, w);
        if (r < 0)
                return r;
        r = sd_bus_match_signal_async(n->bus, &w->removed, ADAPTOR_NAME, ADAPTOR_PATH, MANAGER_INTERFACE, "PodVMRemoved", on_removed,
                                      /* install_callback= */ NULL, w);
        if (r < 0)
                return r;
        begin_list(w);

        *ret = TAKE_PTR(w);
        return 0;
}

AdaptorWatch* adaptor_watch_free(AdaptorWatch *w) {
        if (!w)
                return NULL;

        sd_bus_slot_unref(w->owner_changed);
        sd_bus_slot_unref(w->properties_changed);
        sd_bus_slot_unref(w->removed);
        sd_bus_slot_unref(w->describe);
        sd_bus_slot_unref(w->list);
        sd_bus_slot_unref(w->explain);
        sd_event_source_disable_unref(w->again);
        free(w->explained);
        free(w->provider);
        free(w);
        return NULL;
}

bool adaptor_watch_is_synced(const AdaptorWatch *w) {
        return w->synced;
}
