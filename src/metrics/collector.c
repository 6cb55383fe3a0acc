/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics/collector.h"

#include <systemd/sd-bus.h>

#include "agent-proxy/counters.h"
#include "basic/log.h"
#include "basic/parse.h"
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
        const char *proxies_dir;        /* borrowed */
        uint64_t cache_usec;
        CollectorHandler handler;
        void *userdata;

        sd_bus *bus;                    /* system bus; NULL until it is needed */
        sd_bus_slot *call;
        sd_event_source *deliver;
        Exposition *exposition;         /* the last, or what is being made */
        uint64_t usec;                  /* CLOCK_MONOTONIC when it was finished; 0: it is not */
};

int collector_new(sd_event *event, const char *proxies_dir, uint64_t cache_usec, CollectorHandler handler, void *userdata, Collector **ret) {
        Collector *c = new(Collector);

        if (!c)
                return -ENOMEM;
        *c = (Collector) {
                .event = sd_event_ref(event),
                .proxies_dir = proxies_dir,
                .cache_usec = cache_usec,
                .handler = handler,
                .userdata = userdata,
        };
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

/* ---- the proxies' pages ---- */

static const struct {
        const char *family, *direction;
} proxy_families[_PROXY_COUNTER_MAX] = {
        [PROXY_CALLS]           = { "peerpod_agent_proxy_calls" },
        [PROXY_CALLS_FAILED]    = { "peerpod_agent_proxy_calls_failed" },
        [PROXY_BYTES_TO_VM]     = { "peerpod_agent_proxy_transferred_bytes", "to-vm" },
        [PROXY_BYTES_FROM_VM]   = { "peerpod_agent_proxy_transferred_bytes", "from-vm" },
        [PROXY_LINKS]           = { "peerpod_agent_proxy_links" },
        [PROXY_LINKS_LOST]      = { "peerpod_agent_proxy_links_lost" },
        [PROXY_LINKS_RESUMED]   = { "peerpod_agent_proxy_links_resumed" },
        [PROXY_CALLS_IN_FLIGHT] = { "peerpod_agent_proxy_calls_in_flight" },
        [PROXY_CONNECTIONS]     = { "peerpod_agent_proxy_connections" },
        [PROXY_LINK_UP]         = { "peerpod_agent_proxy_link_up" },
        [PROXY_BOOT_USEC]       = { "peerpod_agent_proxy_boot_seconds" },
};

/* Names are the adaptor's, numbers the proxy's: one that its pod VM has taken over can tell lies about itself only. */
static int add_proxy(Collector *c, Exposition *e, const char *id, const char *namespace, const char *name) {
        const MetricLabel labels[] = { { "sandbox", id }, { "namespace", namespace }, { "pod", name }, { "direction", NULL } };
        _cleanup_(freep) char *directory = NULL;
        ProxyValues v;
        int r;

        if (asprintf(&directory, "%s/%s", c->proxies_dir, id) < 0)
                return -ENOMEM;
        r = proxy_counters_read(directory, &v);
        if (r < 0) {
                /* Before it starts it has none, and one of an older version never has. */
                if (r != -ENOENT)
                        log_debug_errno(r, "Failed to read the counters of sandbox '%s', ignoring: %m", id);
                return 0;
        }

        for (size_t i = 0; i < v.n; i++) {
                MetricLabel own[ELEMENTSOF(labels)];

                memcpy(own, labels, sizeof(own));
                own[3].value = proxy_families[i].direction;
                r = exposition_add(e, proxy_families[i].family, own, own[3].value ? 4 : 3, v.values[i]);
                if (r < 0)
                        return r;
        }

        return 0;
}

static int read_proxies(Collector *c, sd_bus_message *m, Exposition *e) {
        const char *id, *namespace, *name, *state, *path;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "(sssso)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(m, "(sssso)", &id, &namespace, &name, &state, &path)) > 0) {
                if (!sandbox_id_is_valid(id))
                        return -EBADMSG;
                r = add_proxy(c, e, id, namespace, name);
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

/* Asks for one more thing. Who has stopped the adaptor does not want it back with the next scrape, so it is not started for it. */
static int ask(Collector *c, const char *method, sd_bus_message_handler_t handler) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = sd_bus_message_new_method_call(c->bus, &m, ADAPTOR_NAME, ADAPTOR_PATH, ADAPTOR_INTERFACE, method);
        if (r < 0)
                return r;
        r = sd_bus_message_set_auto_start(m, false);
        if (r < 0)
                return r;

        return sd_bus_call_async(c->bus, &c->call, m, handler, c, ANSWER_TIMEOUT_USEC);
}

/* Returns negative if it is an error: one that is not there is a value of its own metric, and no news for the journal every fifteen
 * seconds. */
static int check_reply(sd_bus_message *reply) {
        const sd_bus_error *e = sd_bus_message_get_error(reply);

        if (!e)
                return 0;
        log_debug("The adaptor has told nothing: %s", e->message ?: e->name);
        return -sd_bus_error_get_errno(e) ?: -EIO;
}

static int on_podvms(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Collector *c = userdata;
        int r;

        c->call = sd_bus_slot_unref(c->call);

        r = check_reply(reply);
        if (r >= 0) {
                r = read_proxies(c, reply, c->exposition);
                if (r < 0)
                        log_warning_errno(r, "Failed to read the agent proxies' counters: %m");
        }

        finish(c, r < 0 ? r : 0);
        return 0;
}

/* Both are also run, with an error, when the bus goes away. */
static int on_metrics(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Collector *c = userdata;
        int r;

        c->call = sd_bus_slot_unref(c->call);

        r = check_reply(reply);
        if (r >= 0) {
                r = read_metrics(reply, c->exposition);
                if (r < 0)
                        log_warning_errno(r, "Failed to read the adaptor's metrics: %m");
        }

        if (r >= 0)
                r = ask(c, "ListPodVMs", on_podvms);
        if (r < 0)
                finish(c, r);
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

static int begin(Collector *c) {
        int r;

        r = connect_bus(c);
        if (r < 0)
                return log_error_errno(r, "Failed to connect to the system bus: %m");

        return ask(c, "GetMetrics", on_metrics);
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
                r = begin(c);
        if (r < 0)
                finish(c, r);
}
