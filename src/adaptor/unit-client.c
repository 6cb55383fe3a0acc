/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/unit-client.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/queue.h>

#include "adaptor/error.h"
#include "basic/hash.h"
#include "basic/log.h"
#include "basic/util.h"

#define SYSTEMD "org.freedesktop.systemd1"
#define MANAGER_PATH "/org/freedesktop/systemd1"
#define MANAGER_INTERFACE "org.freedesktop.systemd1.Manager"
#define UNIT_PREFIX "/org/freedesktop/systemd1/unit"
#define UNIT_INTERFACE "org.freedesktop.systemd1.Unit"
#define SERVICE_INTERFACE "org.freedesktop.systemd1.Service"
#define NO_SUCH_UNIT "org.freedesktop.systemd1.NoSuchUnit"

/* For putting a job into systemd's queue; how long the job then takes is limited by the sandbox. */
#define QUEUE_TIMEOUT_USEC (90 * USEC_PER_SEC)

#define STATUS_TEXT_MAX 1024U

/* The bus allows a client 128 calls without an answer, and refuses more (dbus: bus/config-parser.c, max_replies_per_connection);
 * polkit is asked on the same connection. The others wait here. */
#define REQUESTS_MAX 32U

/* A call on the bus. It lives until there is an answer, even if nobody waits for that any more: it counts until then. */
typedef struct Request {
        UnitClient *client;             /* borrowed */
        LIST_ENTRY(Request) requests;
        UnitJob *job;                   /* borrowed; NULL when it was freed, or is asked for anew */
        sd_bus_slot *slot;
} Request;

struct UnitJob {
        UnitClient *client;             /* borrowed; NULL once the job has ended */
        UT_hash_handle hh;              /* by unit: at most one job of a unit is ours at a time */
        char *unit;
        bool stop;
        sd_bus_message *message;        /* until it is sent */
        TAILQ_ENTRY(UnitJob) unsent;    /* … and then in the client's list */
        Request *request;               /* from then on, until there is an answer */
        sd_bus_message_handler_t on_reply;
        char *path;                     /* the job's object; NULL until systemd has answered */
        char *early_path, *early_result;        /* of a job of this unit that ended before that */
        UnitJobHandler handler;
        void *userdata;
};

struct UnitWatch {
        UnitClient *client;             /* borrowed */
        UT_hash_handle hh;
        char *path;                     /* the unit's object */
        UnitFailedHandler handler;
        void *userdata;
        bool failed, ended;             /* by ActiveState=; for good, by SubState= */
        char *status;
};

struct UnitClient {
        sd_bus *bus;                    /* borrowed */
        sd_bus_slot *job_removed, *properties_changed, *owner_changed, *subscribe;
        UnitJob *jobs;
        TAILQ_HEAD(, UnitJob) unsent;
        sd_event_source *send_later;
        LIST_HEAD(, Request) requests;
        unsigned n_requests;
        UnitWatch *watches;             /* by path */
        sd_bus_slot *question;          /* for a watch's status */
        char *question_path;
};

static void request_free(Request *request) {
        sd_bus_slot_unref(request->slot);
        LIST_REMOVE(request, requests);
        request->client->n_requests--;
        if (request->job)
                request->job->request = NULL;
        free(request);
}

/* Whatever was asked for this job is not to be heard of any more. */
static void job_detach(UnitJob *job) {
        if (job->message) {
                job->message = sd_bus_message_unref(job->message);
                TAILQ_REMOVE(&job->client->unsent, job, unsent);
        }
        if (job->request) {
                job->request->job = NULL;
                job->request = NULL;
        }
}

static int on_subscribed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const sd_bus_error *e = sd_bus_message_get_error(m);

        /* The bus may come up before systemd's manager is on it; then on_owner_changed() tries again. */
        if (e)
                log_full(NULL, LOG_WARNING, NULL, sd_bus_error_get_errno(e), "Failed to subscribe to systemd's signals: %s", e->message);
        return 1;
}

static int unit_client_subscribe(UnitClient *c) {
        c->subscribe = sd_bus_slot_unref(c->subscribe);
        return sd_bus_call_method_async(c->bus, &c->subscribe, SYSTEMD, MANAGER_PATH, MANAGER_INTERFACE, "Subscribe",
                                        on_subscribed, c, NULL);
}

static void job_finish(UnitJob *job, const sd_bus_error *error) {
        UnitJobHandler handler = job->handler;

        job_detach(job);
        HASH_DEL(job->client->jobs, job);
        job->client = NULL;
        handler(job, error, job->userdata);                     /* may free the job */
}

/* Results: systemd, org.freedesktop.systemd1(5), JobRemoved. */
static void job_finish_result(UnitJob *job, const char *result) {
        static const struct {
                const char *result, *name, *text;
        } failures[] = {
                { "canceled",   PEERPOD_ERROR_CANCELLED,           "was cancelled" },
                { "timeout",    PEERPOD_ERROR_TIMED_OUT,           "timed out" },
                { "failed",     PEERPOD_ERROR_UNAVAILABLE,         "failed" },
                { "dependency", PEERPOD_ERROR_FAILED_PRECONDITION, "failed with a unit that it needs" },
                { "skipped",    PEERPOD_ERROR_FAILED_PRECONDITION, "was skipped" },
        };
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

        if (streq(result, "done")) {
                job_finish(job, NULL);
                return;
        }

        for (size_t i = 0; i < ELEMENTSOF(failures); i++)
                if (streq(result, failures[i].result))
                        (void) sd_bus_error_setf(&error, failures[i].name, "%s of '%s' %s", job->stop ? "stop" : "start", job->unit,
                                                 failures[i].text);
        if (!sd_bus_error_is_set(&error))
                (void) sd_bus_error_setf(&error, PEERPOD_ERROR_INTERNAL, "%s of '%s' ended as '%s'", job->stop ? "stop" : "start",
                                         job->unit, result);
        job_finish(job, &error);
}

static int on_job_removed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        UnitClient *c = userdata;
        const char *path, *unit, *result;
        UnitJob *job;
        int r;

        r = sd_bus_message_read(m, "uoss", NULL, &path, &unit, &result);
        if (r < 0) {
                log_debug_errno(r, "Ignoring a JobRemoved signal that is not understood: %m");
                return 0;
        }

        HASH_FIND_STR(c->jobs, unit, job);
        if (job && job->path && streq(job->path, path))
                job_finish_result(job, result);
        else if (job && !job->path) {
                /* Ours, or one before it: its path will tell. */
                free(job->early_path);
                free(job->early_result);
                job->early_path = strdup(path);
                job->early_result = strdup(result);
        }
        return 0;
}

static int on_job_queued(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        UnitJob *job = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(m);
        const char *path;
        int r;

        if (e && job->stop && sd_bus_error_has_name(e, NO_SUCH_UNIT)) {
                job_finish(job, NULL);
                return 1;
        }
        if (e) {
                job_finish(job, e);
                return 1;
        }

        r = sd_bus_message_read(m, "o", &path);
        if (r >= 0) {
                job->path = strdup(path);
                r = job->path ? 0 : -ENOMEM;
        }
        if (r < 0) {
                _cleanup_(sd_bus_error_free) sd_bus_error failure = SD_BUS_ERROR_NULL;

                (void) error_set_errno(&failure, r, "%s of '%s'", job->stop ? "stop" : "start", job->unit);
                job_finish(job, &failure);
                return 1;
        }

        if (job->early_path && job->early_result && streq(job->early_path, job->path)) {
                _cleanup_(freep) char *result = TAKE_PTR(job->early_result);

                job_finish_result(job, result);
        }
        return 1;
}

static void send_requests(UnitClient *c);

static int on_request_done(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Request *request = userdata;
        UnitClient *c = request->client;
        UnitJob *job = request->job;

        request_free(request);
        if (job)
                (void) job->on_reply(m, job, error);
        send_requests(c);
        return 1;
}

static int send_request(UnitJob *job) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = TAKE_PTR(job->message);
        UnitClient *c = job->client;
        Request *request;
        int r;

        TAILQ_REMOVE(&c->unsent, job, unsent);
        request = new(Request);
        if (!request)
                return -ENOMEM;
        *request = (Request) { .client = c, .job = job };
        LIST_INSERT_HEAD(&c->requests, request, requests);
        c->n_requests++;
        job->request = request;

        r = sd_bus_call_async(c->bus, &request->slot, m, on_request_done, request, QUEUE_TIMEOUT_USEC);
        if (r < 0)
                request_free(request);
        return r;
}

static void send_requests(UnitClient *c) {
        UnitJob *job;

        while (c->n_requests < REQUESTS_MAX && (job = TAILQ_FIRST(&c->unsent))) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                int r;

                r = send_request(job);
                if (r >= 0)
                        continue;
                (void) error_set_errno(&error, r, "ask systemd for '%s'", job->unit);
                job_finish(job, &error);
        }
}

static int on_send_later(sd_event_source *es, void *userdata) {
        UnitClient *c = userdata;

        c->send_later = sd_event_source_disable_unref(c->send_later);
        send_requests(c);
        return 0;
}

/* From the loop, as a job that cannot be sent ends at once, and its maker has to know it by then. */
static int queue_request(UnitJob *job, sd_bus_message *m, sd_bus_message_handler_t on_reply) {
        UnitClient *c = job->client;
        int r;

        if (!c->send_later) {
                r = sd_event_add_defer(sd_bus_get_event(c->bus), &c->send_later, on_send_later, c);
                if (r < 0)
                        return r;
        }
        job->message = sd_bus_message_ref(m);
        job->on_reply = on_reply;
        TAILQ_INSERT_TAIL(&c->unsent, job, unsent);
        return 0;
}

static int send_job(UnitJob *job) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = sd_bus_message_new_method_call(job->client->bus, &m, SYSTEMD, MANAGER_PATH, MANAGER_INTERFACE, job->stop ? "StopUnit" : "StartUnit");
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "ss", job->unit, "replace");
        if (r < 0)
                return r;

        return queue_request(job, m, on_job_queued);
}

/* systemd that was started again (daemon-reexec) need not tell how the jobs from before have ended: ask for the same once more. Those
 * whose call had no answer yet get the bus's error for it. */
static void ask_again(UnitClient *c) {
        UnitJob *job, *next;

        for (job = c->jobs; job; job = next) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                int r;

                next = job->hh.next;
                if (!job->path)
                        continue;

                free(job->path);
                free(job->early_path);
                free(job->early_result);
                job->path = job->early_path = job->early_result = NULL;
                r = send_job(job);
                if (r >= 0)
                        continue;
                (void) error_set_errno(&error, r, "%s of '%s'", job->stop ? "stop" : "start", job->unit);
                job_finish(job, &error);
                next = c->jobs;                         /* the handler may have freed any of them */
        }
}

static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        UnitClient *c = userdata;
        const char *owner;
        int r;

        r = sd_bus_message_read(m, "sss", NULL, NULL, &owner);
        if (r >= 0 && !isempty(owner)) {
                r = unit_client_subscribe(c);
                ask_again(c);
        }
        if (r < 0)
                log_warning_errno(r, "Failed to subscribe to systemd's signals again: %m");
        return 0;
}

static int on_done(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        UnitJob *job = userdata;

        job_finish(job, sd_bus_message_get_error(m));
        return 1;
}

static int unit_job_new(UnitClient *c, const char *unit, UnitJobHandler handler, void *userdata, UnitJob **ret) {
        _cleanup_(unit_job_freep) UnitJob *job = NULL;

        job = new(UnitJob);
        if (!job)
                return -ENOMEM;
        *job = (UnitJob) { .handler = handler, .userdata = userdata, .unit = strdup(unit) };
        if (!job->unit)
                return -ENOMEM;

        HASH_ADD_KEYPTR(hh, c->jobs, job->unit, strlen(job->unit), job);
        if (!hash_added(job))
                return -ENOMEM;
        job->client = c;
        *ret = TAKE_PTR(job);
        return 0;
}

static int queue_job(UnitClient *c, bool stop, const char *unit, UnitJobHandler handler, void *userdata, UnitJob **ret) {
        _cleanup_(unit_job_freep) UnitJob *job = NULL;
        int r;

        r = unit_job_new(c, unit, handler, userdata, &job);
        if (r < 0)
                return r;
        job->stop = stop;
        r = send_job(job);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(job);
        return 0;
}

int unit_client_start(UnitClient *c, const char *unit, UnitJobHandler handler, void *userdata, UnitJob **ret) {
        return queue_job(c, /* stop= */ false, unit, handler, userdata, ret);
}

int unit_client_stop(UnitClient *c, const char *unit, UnitJobHandler handler, void *userdata, UnitJob **ret) {
        return queue_job(c, /* stop= */ true, unit, handler, userdata, ret);
}

static int append_prefix(sd_bus_message *m, const char *address) {
        uint8_t binary[sizeof(struct in6_addr)];
        int family = strchr(address, ':') ? AF_INET6 : AF_INET;
        size_t size = family == AF_INET6 ? 16 : 4;
        int r;

        if (inet_pton(family, address, binary) != 1)
                return -EINVAL;

        r = sd_bus_message_open_container(m, 'r', "iayu");
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "i", family);
        if (r < 0)
                return r;
        r = sd_bus_message_append_array(m, 'y', binary, size);
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "u", (uint32_t) size * 8);
        if (r < 0)
                return r;

        return sd_bus_message_close_container(m);
}

/* SetUnitProperties(name, runtime, [("IPAddressAllow", <a(iayu)>)]): one element, opened and closed by hand for the addresses. */
static int append_allow(sd_bus_message *m, const char *unit, char *const *addresses) {
        int r;

        r = sd_bus_message_append(m, "sb", unit, /* runtime= */ true);
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'a', "(sv)");
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'r', "sv");
        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "s", "IPAddressAllow");
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'v', "a(iayu)");
        if (r < 0)
                return r;
        r = sd_bus_message_open_container(m, 'a', "(iayu)");
        if (r < 0)
                return r;
        for (char *const *a = addresses; a && *a; a++) {
                r = append_prefix(m, *a);
                if (r < 0)
                        return r;
        }
        for (unsigned i = 0; i < 4; i++) {
                r = sd_bus_message_close_container(m);
                if (r < 0)
                        return r;
        }

        return 0;
}

int unit_client_allow_addresses(UnitClient *c, const char *unit, char *const *addresses, UnitJobHandler handler, void *userdata,
                                UnitJob **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        _cleanup_(unit_job_freep) UnitJob *job = NULL;
        int r;

        r = unit_job_new(c, unit, handler, userdata, &job);
        if (r < 0)
                return r;

        r = sd_bus_message_new_method_call(c->bus, &m, SYSTEMD, MANAGER_PATH, MANAGER_INTERFACE, "SetUnitProperties");
        if (r < 0)
                return r;
        r = append_allow(m, unit, addresses);
        if (r < 0)
                return r;
        r = queue_request(job, m, on_done);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(job);
        return 0;
}

UnitJob* unit_job_free(UnitJob *job) {
        if (!job)
                return NULL;

        job_detach(job);
        if (job->client)
                HASH_DEL(job->client->jobs, job);
        free(job->unit);
        free(job->path);
        free(job->early_path);
        free(job->early_result);
        free(job);
        return NULL;
}

static int set_status(UnitWatch *w, const char *text) {
        char *copy;

        if (isempty(text))
                return 0;
        copy = strndup(text, STATUS_TEXT_MAX);
        if (!copy)
                return -ENOMEM;
        free(w->status);
        w->status = copy;
        return 0;
}

static int read_property(sd_bus_message *m, UnitWatch *w, const char *interface, bool *failed) {
        const char *name, *contents, *value;
        int r;

        r = sd_bus_message_read(m, "s", &name);
        if (r < 0)
                return r;
        r = sd_bus_message_peek_type(m, NULL, &contents);
        if (r < 0)
                return r;
        if (!streq(contents, "s") || !(streq(name, "ActiveState") || streq(name, "SubState") || streq(name, "StatusText")))
                return sd_bus_message_skip(m, "v");

        r = sd_bus_message_read(m, "v", "s", &value);
        if (r < 0)
                return r;

        if (streq(interface, UNIT_INTERFACE) && streq(name, "ActiveState")) {
                *failed = *failed || (streq(value, "failed") && !w->failed);
                w->failed = streq(value, "failed");
        } else if (streq(interface, UNIT_INTERFACE)) {
                /* It was killed, or killed itself. systemd starts it again, and never shows it as failed. */
                if (streq(value, "auto-restart"))
                        *failed = true;
                w->ended = streq(value, "failed");              /* and not "failed-before-auto-restart" */
        } else if (streq(interface, SERVICE_INTERFACE))
                return set_status(w, value);

        return 0;
}

static int on_properties_changed(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        UnitClient *c = userdata;
        const char *interface, *path = sd_bus_message_get_path(m);
        bool failed = false;
        UnitWatch *w;
        int r;

        HASH_FIND_STR(c->watches, path, w);
        if (!w)
                return 0;

        r = sd_bus_message_read(m, "s", &interface);
        if (r >= 0)
                r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0) {
                r = sd_bus_message_enter_container(m, 'e', "sv");
                if (r <= 0)
                        break;
                r = read_property(m, w, interface, &failed);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        if (r < 0)
                log_debug_errno(r, "Ignoring a part of a unit's changes that is not understood: %m");

        if (failed)
                w->handler(w, w->userdata);
        return 0;
}

int unit_client_new(sd_bus *bus, UnitClient **ret) {
        _cleanup_(unit_client_freep) UnitClient *c = NULL;
        int r;

        c = new(UnitClient);
        if (!c)
                return -ENOMEM;
        *c = (UnitClient) { .bus = bus };
        TAILQ_INIT(&c->unsent);

        r = sd_bus_match_signal_async(bus, &c->job_removed, SYSTEMD, MANAGER_PATH, MANAGER_INTERFACE, "JobRemoved", on_job_removed,
                                      /* install_callback= */ NULL, c);
        if (r < 0)
                return r;
        r = sd_bus_add_match_async(bus, &c->owner_changed,
                                   "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                                   "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" SYSTEMD "'",
                                   on_owner_changed, /* install_callback= */ NULL, c);
        if (r < 0)
                return r;
        /* One match for all units, and a table: each match of its own would count against what the bus allows a client, 512 with
         * dbus-daemon, and the bus would compare each signal with all of them (dbus: bus/config-parser.c, bus/signals.c). */
        r = sd_bus_add_match_async(bus, &c->properties_changed,
                                   "type='signal',sender='" SYSTEMD "',path_namespace='" UNIT_PREFIX "',"
                                   "interface='org.freedesktop.DBus.Properties',member='PropertiesChanged'",
                                   on_properties_changed, /* install_callback= */ NULL, c);
        if (r < 0)
                return r;
        r = unit_client_subscribe(c);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

UnitClient* unit_client_free(UnitClient *c) {
        Request *request;

        if (!c)
                return NULL;

        assert(!c->jobs);
        while ((request = LIST_FIRST(&c->requests)))
                request_free(request);
        sd_event_source_disable_unref(c->send_later);
        sd_bus_slot_unref(c->question);
        free(c->question_path);
        assert(!c->watches);
        sd_bus_slot_unref(c->job_removed);
        sd_bus_slot_unref(c->properties_changed);
        sd_bus_slot_unref(c->owner_changed);
        sd_bus_slot_unref(c->subscribe);
        free(c);
        return NULL;
}

int unit_client_watch(UnitClient *c, const char *unit, UnitFailedHandler handler, void *userdata, UnitWatch **ret) {
        _cleanup_(unit_watch_freep) UnitWatch *w = NULL;
        int r;

        w = new(UnitWatch);
        if (!w)
                return -ENOMEM;
        *w = (UnitWatch) { .handler = handler, .userdata = userdata };

        r = sd_bus_path_encode(UNIT_PREFIX, unit, &w->path);
        if (r < 0)
                return r;
        HASH_ADD_KEYPTR(hh, c->watches, w->path, strlen(w->path), w);
        if (!hash_added(w))
                return -ENOMEM;
        w->client = c;

        *ret = TAKE_PTR(w);
        return 0;
}

UnitWatch* unit_watch_free(UnitWatch *w) {
        if (!w)
                return NULL;

        if (w->client)
                HASH_DEL(w->client->watches, w);
        free(w->path);
        free(w->status);
        free(w);
        return NULL;
}

static int on_status(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        UnitClient *c = userdata;
        const char *text;
        UnitWatch *w;

        HASH_FIND_STR(c->watches, c->question_path, w);
        /* A signal that came in between is as new. */
        if (w && isempty(w->status) && !sd_bus_message_get_error(m) && sd_bus_message_read(m, "v", "s", &text) >= 0)
                (void) set_status(w, text);

        c->question = sd_bus_slot_unref(c->question);
        free(c->question_path);
        c->question_path = NULL;
        return 1;
}

void unit_watch_want_status(UnitWatch *w) {
        UnitClient *c = w->client;
        int r;

        if (!isempty(w->status) || c->question)
                return;

        c->question_path = strdup(w->path);
        if (!c->question_path)
                return;
        r = sd_bus_call_method_async(c->bus, &c->question, SYSTEMD, w->path, "org.freedesktop.DBus.Properties", "Get", on_status, c, "ss",
                                     SERVICE_INTERFACE, "StatusText");
        if (r < 0) {
                log_debug_errno(r, "Failed to ask for the status of '%s': %m", w->path);
                free(c->question_path);
                c->question_path = NULL;
        }
}

const char* unit_watch_get_status(const UnitWatch *w) {
        return strempty(w->status);
}

bool unit_watch_has_failed(const UnitWatch *w) {
        return w->failed && w->ended;
}
