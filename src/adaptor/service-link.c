/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/service-link.h"

#include <string.h>
#include <sys/queue.h>

#include "adaptor/error.h"
#include "adaptor/unit-client.h"
#include "basic/log.h"
#include "basic/messages.h"
#include "basic/util.h"

#define RECONNECT_FIRST_USEC (50 * USEC_PER_MSEC)
#define RECONNECT_LAST_USEC (5 * USEC_PER_SEC)
#define RECONNECT_DOWN_USEC (30 * USEC_PER_SEC)         /* each try starts the service, in vain */

struct ServiceCall {
        ServiceLink *link;                     /* borrowed */
        TAILQ_ENTRY(ServiceCall) calls;
        const ServiceMethod *method;
        ServiceHandler handler;
        void *userdata;
        sd_bus_slot *slot;              /* NULL while it waits to be sent */
        bool sent;                      /* which of the two lists it is in */
        sd_event_source *deadline;
        uint64_t timeout_usec;
        max_align_t arguments[];
};

struct ServiceLink {
        sd_event *event;
        const char *name, *path;
        sd_bus *bus;
        sd_event_source *work;          /* connects and sends from the loop, at once or after a pause */
        unsigned n_failures;            /* since the last answer */
        UnitWatch *watch;
        const char *unit;
        bool down;                      /* it cannot start, and that was said */
        TAILQ_HEAD(ServiceCalls, ServiceCall) waiting, sent;
};

static void service_link_schedule(ServiceLink *link, uint64_t delay_usec);

static void call_leave_list(ServiceCall *call) {
        TAILQ_REMOVE(call->sent ? &call->link->sent : &call->link->waiting, call, calls);
}

/* To be sent again. */
static void call_put_back(ServiceCall *call) {
        call->slot = sd_bus_slot_unref(call->slot);
        call_leave_list(call);
        call->sent = false;
        TAILQ_INSERT_TAIL(&call->link->waiting, call, calls);
}

int service_link_new(sd_event *event, const char *name, const char *path, ServiceLink **ret) {
        ServiceLink *link = new(ServiceLink);

        if (!link)
                return -ENOMEM;
        *link = (ServiceLink) { .event = sd_event_ref(event), .name = name, .path = path };
        TAILQ_INIT(&link->waiting);
        TAILQ_INIT(&link->sent);

        *ret = link;
        return 0;
}

ServiceLink* service_link_free(ServiceLink *link) {
        if (!link)
                return NULL;

        assert(TAILQ_EMPTY(&link->waiting));
        assert(TAILQ_EMPTY(&link->sent));
        sd_event_source_disable_unref(link->work);
        unit_watch_free(link->watch);
        sd_bus_close_unref(link->bus);
        sd_event_unref(link->event);
        free(link);
        return NULL;
}

static void on_unit_failed(UnitWatch *watch, void *userdata) {
        ServiceLink *link = userdata;

        if (link->down || !unit_watch_has_failed(watch))
                return;
        link->down = true;
        log_full(NULL, LOG_ERR, MSG_SERVICE_DOWN, 0,
                 "The %s cannot start, and what is asked of it waits: 'journalctl -u %s' tells why.", link->name, link->unit);
}

int service_link_watch(ServiceLink *link, UnitClient *units, const char *unit) {
        link->unit = unit;
        return unit_client_watch(units, unit, on_unit_failed, link, &link->watch);
}

static void call_finish(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error) {
        ServiceHandler handler = call->handler;

        call->slot = sd_bus_slot_unref(call->slot);
        call->deadline = sd_event_source_disable_unref(call->deadline);
        call_leave_list(call);
        call->link = NULL;
        handler(call, reply, error, call->userdata);            /* may free the call */
}

static uint64_t service_link_pause(ServiceLink *link) {
        uint64_t usec = RECONNECT_FIRST_USEC << MIN(link->n_failures, 16U);

        link->n_failures++;
        return link->down ? RECONNECT_DOWN_USEC : MIN(usec, RECONNECT_LAST_USEC);
}

/* All that was asked on this connection is to be asked again. Not all of it has heard of the end: sd-bus tells the calls one by one. */
static void service_link_drop_bus(ServiceLink *link) {
        ServiceCall *call;

        link->bus = sd_bus_close_unref(link->bus);
        while ((call = TAILQ_FIRST(&link->sent)))
                call_put_back(call);
}

static void service_link_lost(ServiceLink *link, int error) {
        if (link->n_failures == 0)
                log_full(NULL, LOG_NOTICE, NULL, error, "Connection to the %s is lost, connecting again.", link->name);

        service_link_drop_bus(link);
        if (!TAILQ_EMPTY(&link->waiting))
                service_link_schedule(link, service_link_pause(link));
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        ServiceLink *link = userdata;

        if (sd_bus_message_get_bus(m) == link->bus)
                service_link_lost(link, ECONNRESET);
        return 1;
}

static int on_connected(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        ServiceLink *link = userdata;

        if (sd_bus_message_get_bus(m) == link->bus)
                service_link_schedule(link, 0);
        return 1;
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        ServiceCall *call = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(m);

        /* We gave sd-bus no time-out, so this is what it makes up for calls whose connection has ended. */
        if (e && (sd_bus_error_has_name(e, SD_BUS_ERROR_NO_REPLY) || sd_bus_error_has_name(e, SD_BUS_ERROR_DISCONNECTED))) {
                call_put_back(call);
                service_link_schedule(call->link, service_link_pause(call->link));
                return 1;
        }

        call->link->n_failures = 0;
        if (call->link->down)
                log_notice("The %s answers again.", call->link->name);
        call->link->down = false;
        call_finish(call, e ? NULL : m, e);
        return 1;
}

static int service_link_connect(ServiceLink *link) {
        _cleanup_(sd_bus_close_unrefp) sd_bus *bus = NULL;
        int r;

        if (link->bus && sd_bus_is_open(link->bus) <= 0)
                service_link_drop_bus(link);
        if (link->bus)
                return 0;

        r = bus_private_connect(link->event, link->path, &bus);
        if (r < 0)
                return r;
        r = sd_bus_match_signal(bus, /* ret= */ NULL, /* sender= */ NULL, "/org/freedesktop/DBus/Local",
                                "org.freedesktop.DBus.Local", "Disconnected", on_disconnected, link);
        if (r < 0)
                return r;
        r = sd_bus_match_signal(bus, /* ret= */ NULL, /* sender= */ NULL, "/org/freedesktop/DBus/Local",
                                "org.freedesktop.DBus.Local", "Connected", on_connected, link);
        if (r < 0)
                return r;

        link->bus = TAKE_PTR(bus);
        return 0;
}

static int call_send(ServiceCall *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        sd_bus *bus = call->link->bus;
        int r;

        r = sd_bus_message_new_method_call(bus, &m, /* destination= */ NULL, call->method->path, call->method->interface,
                                           call->method->member);
        if (r < 0)
                return r;
        if (call->method->append) {
                r = call->method->append(m, call->arguments);
                if (r < 0)
                        return r;
        }

        return sd_bus_call_async(bus, &call->slot, m, on_reply, call, USEC_INFINITY);
}

static int on_work(sd_event_source *es, uint64_t usec, void *userdata) {
        ServiceLink *link = userdata;
        ServiceCall *call;
        int r;

        link->work = sd_event_source_disable_unref(link->work);
        if (TAILQ_EMPTY(&link->waiting))
                return 0;

        r = service_link_connect(link);
        if (r < 0) {
                if (link->n_failures == 0)
                        log_warning_errno(r, "Failed to connect to the %s at '%s', trying again: %m", link->name, link->path);
                service_link_schedule(link, service_link_pause(link));
                return 0;
        }
        /* A service that is being started has not answered yet. A message with a descriptor would make sd-bus wait for that, and
         * all of us with it. */
        if (sd_bus_is_ready(link->bus) <= 0)
                return 0;

        while ((call = TAILQ_FIRST(&link->waiting))) {
                r = call_send(call);
                if (r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE) {
                        service_link_lost(link, r);
                        return 0;
                }
                if (r < 0) {
                        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;

                        (void) error_set_errno(&error, r, "request to the %s", link->name);
                        call_finish(call, /* reply= */ NULL, &error);   /* its handler may free any of them */
                        continue;
                }
                call_leave_list(call);
                call->sent = true;
                TAILQ_INSERT_TAIL(&link->sent, call, calls);
        }

        return 0;
}

static void service_link_schedule(ServiceLink *link, uint64_t delay_usec) {
        int r;

        if (link->work)
                return;

        /* Accuracy 0 would stand for 250 ms. */
        r = sd_event_add_time_relative(link->event, &link->work, CLOCK_MONOTONIC, delay_usec, /* accuracy= */ 1, on_work, link);
        if (r < 0)              /* the calls' own deadlines end them */
                log_error_errno(r, "Failed to set a timer for the %s: %m", link->name);
}

static int on_deadline(sd_event_source *es, uint64_t usec, void *userdata) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        ServiceCall *call = userdata;

        if (call->link->down)
                (void) sd_bus_error_setf(&error, PEERPOD_ERROR_UNAVAILABLE, "The %s cannot start: 'journalctl -u %s' tells why",
                                         call->link->name, call->link->unit);
        else
                (void) sd_bus_error_setf(&error, PEERPOD_ERROR_TIMED_OUT, "The %s has not answered %s within %s", call->link->name,
                                         call->method->member, FORMAT_USEC(call->timeout_usec));
        call_finish(call, /* reply= */ NULL, &error);
        return 0;
}

int service_link_call(ServiceLink *link, const ServiceMethod *method, const void *arguments, size_t size, uint64_t timeout_usec,
              ServiceHandler handler, void *userdata, ServiceCall **ret) {
        _cleanup_(freep) ServiceCall *call = NULL;
        int r;

        call = malloc(sizeof(ServiceCall) + size);
        if (!call)
                return -ENOMEM;
        *call = (ServiceCall) {
                .link = link,
                .method = method,
                .handler = handler,
                .userdata = userdata,
                .timeout_usec = timeout_usec,
        };
        if (size > 0)
                memcpy(call->arguments, arguments, size);

        r = sd_event_add_time_relative(link->event, &call->deadline, CLOCK_MONOTONIC, timeout_usec, 0, on_deadline, call);
        if (r < 0)
                return r;

        TAILQ_INSERT_TAIL(&link->waiting, call, calls);
        if (!link->work || link->bus) {
                /* With a connection, at once; without one the pause that is running, if any, goes on. */
                if (link->bus)
                        link->work = sd_event_source_disable_unref(link->work);
                service_link_schedule(link, 0);
        }

        *ret = TAKE_PTR(call);
        return 0;
}

ServiceCall* service_call_free(ServiceCall *call) {
        if (!call)
                return NULL;

        sd_bus_slot_unref(call->slot);
        sd_event_source_disable_unref(call->deadline);
        if (call->link)
                call_leave_list(call);
        free(call);
        return NULL;
}
