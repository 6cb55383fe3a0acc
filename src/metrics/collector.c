/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics/collector.h"

#include <systemd/sd-bus.h>

#include "basic/log.h"
#include "basic/util.h"

#define ADAPTOR_NAME "org.confidentialcontainers.PeerPod1"
#define ADAPTOR_PATH "/org/confidentialcontainers/PeerPod1"
#define ADAPTOR_INTERFACE ADAPTOR_NAME ".Manager"

/* Prometheus gives a scrape ten seconds by default. */
#define ANSWER_TIMEOUT_USEC (5 * USEC_PER_SEC)

#define LABELS_MAX 8U
#define BUCKETS_MAX 64U

struct Collector {
        sd_event *event;
        uint64_t cache_usec;
        CollectorHandler handler;
        void *userdata;

        sd_bus *bus;                    /* system bus; NULL until it is needed */
        sd_bus_slot *call;
        sd_event_source *deliver;
        Exposition *exposition;         /* the last, or what is being made */
        uint64_t usec;                  /* CLOCK_MONOTONIC when it was finished; 0: it is not */
};

int collector_new(sd_event *event, uint64_t cache_usec, CollectorHandler handler, void *userdata, Collector **ret) {
        Collector *c = new(Collector);

        if (!c)
                return -ENOMEM;
        *c = (Collector) { .event = sd_event_ref(event), .cache_usec = cache_usec, .handler = handler, .userdata = userdata };
        *ret = c;
        return 0;
}

static void drop_bus(Collector *c) {
        c->call = sd_bus_slot_unref(c->call);
        c->bus = sd_bus_close_unref(c->bus);
}

Collector* collector_free(Collector *c) {
        if (!c)
                return NULL;

        drop_bus(c);
        sd_event_source_disable_unref(c->deliver);
        exposition_free(c->exposition);
        sd_event_unref(c->event);
        free(c);
        return NULL;
}

/* ---- the adaptor's answer ---- */

static int read_labels(sd_bus_message *m, MetricLabel *labels, size_t *ret_n) {
        size_t n = 0;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{ss}");
        if (r < 0)
                return r;
        for (;;) {
                MetricLabel label;

                r = sd_bus_message_read(m, "{ss}", &label.name, &label.value);
                if (r < 0)
                        return r;
                if (r == 0)
                        break;
                if (n == LABELS_MAX)
                        return -EBADMSG;
                labels[n++] = label;
        }

        *ret_n = n;
        return sd_bus_message_exit_container(m);
}

static int read_buckets(sd_bus_message *m, uint64_t *ret_sum, MetricBucket *buckets, size_t *ret_n) {
        size_t n = 0;
        int r;

        r = sd_bus_message_read(m, "t", ret_sum);
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(m, 'a', "(tt)");
        if (r < 0)
                return r;
        for (;;) {
                MetricBucket b;

                r = sd_bus_message_read(m, "(tt)", &b.bound_usec, &b.count);
                if (r < 0)
                        return r;
                if (r == 0)
                        break;
                if (n == BUCKETS_MAX)
                        return -EBADMSG;
                buckets[n++] = b;
        }

        *ret_n = n;
        return sd_bus_message_exit_container(m);
}

static int read_value(sd_bus_message *m, Exposition *e, const char *name, const MetricLabel *labels, size_t n_labels) {
        MetricBucket buckets[BUCKETS_MAX];
        const char *contents;
        uint64_t value;
        size_t n;
        char type;
        int r;

        r = sd_bus_message_peek_type(m, &type, &contents);
        if (r < 0)
                return r;
        if (streq(contents, "t")) {
                r = sd_bus_message_read(m, "v", "t", &value);
                return r < 0 ? r : exposition_add(e, name, labels, n_labels, value);
        }
        if (!streq(contents, "(ta(tt))")) {
                r = sd_bus_message_skip(m, "v");
                return r < 0 ? r : -ENOENT;
        }

        r = sd_bus_message_enter_container(m, 'v', "(ta(tt))");
        if (r < 0)
                return r;
        r = sd_bus_message_enter_container(m, 'r', "ta(tt)");
        if (r < 0)
                return r;
        r = read_buckets(m, &value, buckets, &n);
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;

        return exposition_add_histogram(e, name, labels, n_labels, value, buckets, n);
}

/* A newer adaptor may tell more than this version knows: that much is passed over. */
static int read_metrics(sd_bus_message *m, Exposition *e) {
        int r;

        r = sd_bus_message_enter_container(m, 'a', "(sa{ss}v)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_enter_container(m, 'r', "sa{ss}v")) > 0) {
                MetricLabel labels[LABELS_MAX];
                const char *name;
                size_t n;

                r = sd_bus_message_read(m, "s", &name);
                if (r < 0)
                        return r;
                r = read_labels(m, labels, &n);
                if (r < 0)
                        return r;
                r = read_value(m, e, name, labels, n);
                if (r == -ENOENT)
                        log_debug("Passing over metric '%s', which this version does not know.", name);
                else if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }

        return r;
}

/* ---- the course of it ---- */

static int on_deliver(sd_event_source *es, void *userdata) {
        Collector *c = userdata;

        c->deliver = sd_event_source_disable_unref(c->deliver);
        c->handler(c, c->exposition, c->userdata);
        return 0;
}

static void deliver(Collector *c) {
        int r;

        r = sd_event_add_defer(c->event, &c->deliver, on_deliver, c);
        if (r < 0)              /* who waits is let go by his deadline */
                log_error_errno(r, "Failed to pass metrics on: %m");
}

/* What came of asking the adaptor. With an error all that is told of it is that it is not up. */
static void finish(Collector *c, int error) {
        int r;

        if (error < 0 && c->exposition) {
                c->exposition = exposition_free(c->exposition);
                r = exposition_new(&c->exposition);
                if (r < 0)
                        (void) log_oom();
        }
        if (c->exposition) {
                r = exposition_add(c->exposition, "peerpod_adaptor_up", NULL, 0, error >= 0);
                if (r < 0)
                        c->exposition = exposition_free(c->exposition);
        }

        c->usec = now_usec(CLOCK_MONOTONIC);
        deliver(c);
}

/* Also run, with an error, when the bus goes away. */
static int on_metrics(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        const sd_bus_error *e = sd_bus_message_get_error(reply);
        Collector *c = userdata;
        int r;

        c->call = sd_bus_slot_unref(c->call);

        if (e) {
                r = -sd_bus_error_get_errno(e);
                /* One that is not there is a value of its own metric, and no news for the journal every fifteen seconds. */
                log_debug("The adaptor has told nothing: %s", e->message ?: e->name);
        } else {
                r = read_metrics(reply, c->exposition);
                if (r < 0)
                        log_warning_errno(r, "Failed to read the adaptor's metrics: %m");
        }

        finish(c, r < 0 ? r : 0);
        return 0;
}

static int connect_bus(Collector *c) {
        int r;

        if (c->bus && sd_bus_is_open(c->bus) > 0)
                return 0;
        drop_bus(c);

        r = sd_bus_open_system(&c->bus);
        if (r >= 0)
                r = sd_bus_attach_event(c->bus, c->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                drop_bus(c);
        return r;
}

static int ask(Collector *c) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = connect_bus(c);
        if (r < 0)
                return log_error_errno(r, "Failed to connect to the system bus: %m");
        r = sd_bus_message_new_method_call(c->bus, &m, ADAPTOR_NAME, ADAPTOR_PATH, ADAPTOR_INTERFACE, "GetMetrics");
        if (r < 0)
                return r;
        /* Who has stopped the adaptor does not want it back with the next scrape. */
        r = sd_bus_message_set_auto_start(m, false);
        if (r < 0)
                return r;

        return sd_bus_call_async(c->bus, &c->call, m, on_metrics, c, ANSWER_TIMEOUT_USEC);
}

void collector_start(Collector *c) {
        int r;

        if (c->call || c->deliver)
                return;
        if (c->exposition && c->usec > 0 && now_usec(CLOCK_MONOTONIC) < usec_add(c->usec, c->cache_usec)) {
                deliver(c);
                return;
        }

        c->usec = 0;
        c->exposition = exposition_free(c->exposition);
        r = exposition_new(&c->exposition);
        if (r >= 0)
                r = ask(c);
        if (r < 0)
                finish(c, r);
}
