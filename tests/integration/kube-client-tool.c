/* SPDX-License-Identifier: Apache-2.0 */
/* src/kube/ driven from a test: commands are JSON objects, a line each, on stdin; what happens is told likewise on stdout. Ends with stdin, and then
 * says how many descriptors it has left over. */
#include <curl/curl.h>
#include <dirent.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <systemd/sd-event.h>

#include "basic/io.h"
#include "basic/json.h"
#include "basic/log.h"
#include "basic/util.h"
#include "kube/kube-client.h"
#include "kube/kube-config.h"
#include "kube/kube-event.h"
#include "kube/kube-lease.h"
#include "kube/kube-object.h"
#include "kube/kube-watch.h"

#define WATCHES_MAX 8

typedef struct Pending {
        char id[64];
        KubeRequest *request;
        struct Pending *next;
} Pending;

typedef struct Tool {
        sd_event *event;
        KubeClient *client;
        KubeWatch *watches[WATCHES_MAX];
        bool free_on_object, quiet;
        KubeLease *lease;
        KubeEvents *events;
        Pending *pending;
        char *line;
        size_t size, allocated;
} Tool;

static Tool tool;

static void say(json_object *o) {
        puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
        fflush(stdout);
        json_object_put(o);
}

static json_object* message(const char *what, const char *id) {
        json_object *o = json_object_new_object();

        json_set_string(o, "what", what);
        json_set_string(o, "id", id);
        return o;
}

static const char* string(json_object *o, const char *key) {
        const char *s = NULL;

        return json_get_string(o, key, &s, NULL) > 0 ? s : NULL;
}

static uint64_t number(json_object *o, const char *key) {
        uint64_t n = 0;

        (void) json_get_u64(o, key, UINT64_MAX, &n, NULL);
        return n;
}

static bool flag(json_object *o, const char *key) {
        bool b = false;

        (void) json_get_bool(o, key, &b, NULL);
        return b;
}

static void add_reply(json_object *o, const KubeReply *reply) {
        json_set_string(o, "error", reply->error < 0 ? strerrorname_np(-reply->error) : "");
        json_set_u64(o, "status", (uint64_t) reply->status);
        json_set_string(o, "reason", reply->reason);
        json_set_string(o, "text", reply->text);
        json_set_bool(o, "sent", reply->sent);
        if (reply->object)
                json_set(o, "object", json_object_get(reply->object));
}

/* ---- requests ---- */

static void drop_pending(Pending *p) {
        for (Pending **q = &tool.pending; *q; q = &(*q)->next)
                if (*q == p) {
                        *q = p->next;
                        break;
                }
        kube_request_free(p->request);
        free(p);
}

static void on_reply(KubeRequest *q, const KubeReply *reply, void *userdata) {
        Pending *p = userdata;
        json_object *o = message("reply", p->id);

        drop_pending(p);        /* while the reply is still in use: that is allowed */
        add_reply(o, reply);
        say(o);
}

static Pending* new_pending(const char *id) {
        Pending *p = calloc(1, sizeof(Pending));

        (void) snprintf(p->id, sizeof(p->id), "%s", strempty(id));
        p->next = tool.pending;
        tool.pending = p;
        return p;
}

static void do_request(json_object *c) {
        KubeCall call = {
                .method = string(c, "method"), .path = string(c, "path"), .content_type = string(c, "type"), .body = json_object_object_get(c, "body"),
                .timeout_usec = number(c, "timeout_usec"), .reply_max = number(c, "reply_max"), .repeatable = flag(c, "repeatable"), .once = flag(c, "once"),
                .unlimited = flag(c, "unlimited"),
        };
        Pending *p = new_pending(string(c, "id"));
        int r = kube_request(tool.client, &call, on_reply, p, &p->request);

        if (r < 0) {
                json_object *o = message("reply", p->id);

                json_set_string(o, "error", strerrorname_np(-r));
                say(o);
                drop_pending(p);
        }
}

static void do_cancel(json_object *c) {
        for (Pending *p = tool.pending; p; p = p->next)
                if (streq(p->id, string(c, "id"))) {
                        drop_pending(p);
                        break;
                }
}

/* The finalizer away, with what the library makes of the object. */
static void on_object_for_finalizer(KubeRequest *q, const KubeReply *reply, void *userdata) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        Pending *p = userdata;
        json_object *o;

        if (reply->error >= 0 && kube_patch_remove_finalizer(reply->object, "peer.pod/finalizer", &patch) > 0) {
                _cleanup_(freep) char *path = kube_path(kube_string_at(reply->object, "apiVersion", NULL), kube_string_at(reply->object, "metadata", "namespace", NULL),
                                                        "peerpods", kube_string_at(reply->object, "metadata", "name", NULL), NULL);

                p->request = kube_request_free(p->request);
                (void) kube_patch(tool.client, path, KUBE_JSON_PATCH, patch, on_reply, p, &p->request);
                return;
        }
        o = message("reply", p->id);
        add_reply(o, reply);
        json_set_string(o, "note", "no finalizer");
        say(o);
        drop_pending(p);
}

/* ---- watches ---- */

static void on_object(KubeWatch *w, KubeChange change, json_object *object, void *userdata) {
        static const char *const names[] = { "ADDED", "MODIFIED", "DELETED" };
        json_object *o = message(names[change], NULL);

        json_set_u64(o, "watch", (uint64_t) (uintptr_t) userdata);
        json_set_string(o, "name", kube_string_at(object, "metadata", "name", NULL));
        json_set_string(o, "namespace", kube_string_at(object, "metadata", "namespace", NULL));
        json_set_string(o, "uid", kube_string_at(object, "metadata", "uid", NULL));
        json_set_string(o, "version", kube_string_at(object, "metadata", "resourceVersion", NULL));
        json_set_string(o, "kind", kube_string_at(object, "kind", NULL));
        if (tool.quiet)
                json_object_put(o);
        else
                say(o);
        if (tool.free_on_object)
                tool.watches[(uintptr_t) userdata] = kube_watch_free(w);
}

static void on_synced(KubeWatch *w, void *userdata) {
        json_object *o = message("synced", NULL);

        json_set_u64(o, "watch", (uint64_t) (uintptr_t) userdata);
        json_set_u64(o, "count", kube_watch_count(w));
        json_set_bool(o, "synced", kube_watch_is_synced(w));
        say(o);
}

static void on_trouble(KubeWatch *w, const KubeReply *reply, uint64_t again_usec, void *userdata) {
        json_object *o = message("trouble", NULL);

        json_set_u64(o, "watch", (uint64_t) (uintptr_t) userdata);
        json_set_u64(o, "again_usec", again_usec);
        json_set_bool(o, "synced", kube_watch_is_synced(w));
        add_reply(o, reply);
        say(o);
}

static void do_watch(json_object *c) {
        uint64_t n = number(c, "watch");
        KubeWatchSpec spec = {
                .path = string(c, "path"), .label_selector = string(c, "labels"), .field_selector = string(c, "fields"),
                .on_object = on_object, .on_synced = on_synced, .on_trouble = on_trouble,
                .page_size = (uint32_t) number(c, "page_size"), .event_max = number(c, "event_max"), .watch_seconds = (uint32_t) number(c, "watch_seconds"),
                .idle_usec = number(c, "idle_usec"), .pause_usec = number(c, "pause_usec"), .pause_max_usec = number(c, "pause_max_usec"),
        };

        tool.free_on_object = flag(c, "free_on_object");
        tool.quiet = flag(c, "quiet");
        assert(n < WATCHES_MAX && !tool.watches[n]);
        assert(kube_watch_new(tool.client, &spec, (void*) (uintptr_t) n, &tool.watches[n]) >= 0);
}

/* ---- leases ---- */

static void on_acquired(KubeLease *l, void *userdata) {
        json_object *o = message("acquired", kube_lease_identity(l));

        json_set_bool(o, "held", kube_lease_is_held(l));
        say(o);
}

static void on_lost(KubeLease *l, const char *why, void *userdata) {
        json_object *o = message("lost", kube_lease_identity(l));

        json_set_string(o, "why", why);
        json_set_bool(o, "held", kube_lease_is_held(l));
        say(o);
}

static void on_leader(KubeLease *l, const char *identity, void *userdata) {
        say(message("leader", identity));
}

static void on_released(KubeLease *l, void *userdata) {
        say(message("released", kube_lease_identity(l)));
        tool.lease = kube_lease_free(l);
}

static void do_lease(json_object *c) {
        KubeLeaseSpec spec = {
                .ns = string(c, "namespace"), .name = string(c, "name"), .identity = string(c, "identity"),
                .duration_usec = number(c, "duration_usec"), .renew_deadline_usec = number(c, "deadline_usec"), .retry_usec = number(c, "retry_usec"),
                .on_acquired = on_acquired, .on_lost = on_lost, .on_leader = on_leader,
        };

        assert(kube_lease_new(tool.client, &spec, NULL, &tool.lease) >= 0);
}

/* ---- the rest ---- */

static void do_event(json_object *c) {
        KubeReference about = {
                .api_version = "v1", .kind = "Pod", .ns = string(c, "namespace"), .name = string(c, "name"), .uid = string(c, "uid"),
        };

        if (!tool.events)
                assert(kube_events_new(tool.client, "confidentialcontainers.org/test", "here", &tool.events) >= 0);
        for (uint64_t i = 0; i < MAX(number(c, "times"), UINT64_C(1)); i++) {
                char note[64];

                (void) snprintf(note, sizeof(note), flag(c, "different") ? "It is so, %u." : "It is so.", (unsigned) i);
                kube_event(tool.events, &about, "Warning", "Tested", "Testing", note);
        }
}

static void do_stats(void) {
        json_object *o = message("stats", NULL);
        KubeClientStats c;
        KubeEventsStats e = {};

        kube_client_stats(tool.client, &c);
        if (tool.events)
                kube_events_stats(tool.events, &e);
        json_set_u64(o, "requests", c.n_requests);
        json_set_u64(o, "failures", c.n_failures);
        json_set_u64(o, "token_reads", c.n_token_reads);
        json_set_u64(o, "active", c.n_active);
        json_set_u64(o, "events_written", e.n_written);
        json_set_u64(o, "events_merged", e.n_merged);
        json_set_u64(o, "events_dropped", e.n_dropped);
        for (size_t i = 0; i < WATCHES_MAX; i++)
                if (tool.watches[i]) {
                        KubeWatchStats w;

                        kube_watch_stats(tool.watches[i], &w);
                        json_set_u64(o, "lists", w.n_lists);
                        json_set_u64(o, "watches", w.n_watches);
                        json_set_u64(o, "faults", w.n_faults);
                        json_set_u64(o, "count", kube_watch_count(tool.watches[i]));
                        json_set_bool(o, "synced", kube_watch_is_synced(tool.watches[i]));
                        json_set_string(o, "version", kube_watch_resource_version(tool.watches[i]));
                }
        say(o);
}

static void act(json_object *c) {
        const char *what = strempty(string(c, "do"));

        if (streq(what, "request"))
                do_request(c);
        else if (streq(what, "cancel"))
                do_cancel(c);
        else if (streq(what, "finalizer")) {
                Pending *p = new_pending(string(c, "id"));

                (void) kube_get(tool.client, string(c, "path"), on_object_for_finalizer, p, &p->request);
        } else if (streq(what, "watch"))
                do_watch(c);
        else if (streq(what, "unwatch"))
                tool.watches[number(c, "watch")] = kube_watch_free(tool.watches[number(c, "watch")]);
        else if (streq(what, "lease"))
                do_lease(c);
        else if (streq(what, "release"))
                assert(kube_lease_release(tool.lease, on_released, NULL) >= 0);
        else if (streq(what, "event"))
                do_event(c);
        else if (streq(what, "stats"))
                do_stats();
        else
                log_error("Unknown command '%s'.", what);
}

static int on_stdin(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        char buffer[65536], *nl;
        ssize_t n = read(fd, buffer, sizeof(buffer));

        if (n <= 0)
                return sd_event_exit(tool.event, 0);
        tool.line = realloc(tool.line, tool.size + (size_t) n);
        memcpy(tool.line + tool.size, buffer, (size_t) n);
        tool.size += (size_t) n;
        while ((nl = memchr(tool.line, '\n', tool.size))) {
                _cleanup_(json_object_putp) json_object *c = NULL;
                size_t used = (size_t) (nl - tool.line) + 1;

                assert(json_parse(tool.line, used - 1, &c, NULL) >= 0);
                tool.size -= used;
                memmove(tool.line, tool.line + used, tool.size);
                act(c);
        }
        return 0;
}

static unsigned count_fds(void) {
        _cleanup_(closedirp) DIR *d = opendir("/proc/self/fd");
        unsigned n = 0;

        while (readdir(d))
                n++;
        return n;
}

/* argv: kubeconfig ("" = look for one), then "qps=", "burst=", "pause=" µs, "token-age=" µs */
int main(int argc, char *argv[]) {
        KubeClientOptions options = {};
        _cleanup_(kube_config_freep) KubeConfig *config = NULL;
        _cleanup_(freep) char *why = NULL;
        unsigned before;
        json_object *o;
        int r;

        log_open();
        for (int i = 2; i < argc; i++) {
                const char *v;

                if ((v = startswith(argv[i], "qps=")))
                        options.qps = (uint32_t) strtoul(v, NULL, 10);
                else if ((v = startswith(argv[i], "burst=")))
                        options.burst = (uint32_t) strtoul(v, NULL, 10);
                else if ((v = startswith(argv[i], "pause=")))
                        options.pause_usec = strtoul(v, NULL, 10);
                else if ((v = startswith(argv[i], "token-age=")))
                        options.token_max_age_usec = strtoul(v, NULL, 10);
        }

        /* What libraries keep for good is there before we count. */
        (void) curl_global_init(CURL_GLOBAL_DEFAULT);
        before = count_fds();
        r = kube_config_load(argc > 1 ? argv[1] : NULL, &config, &why);
        if (r < 0) {
                fprintf(stderr, "%s: %s\n", strerrorname_np(-r), strempty(why));
                return 78;
        }
        assert(sd_event_new(&tool.event) >= 0);
        r = kube_client_new(tool.event, config, &options, &tool.client, &why);
        if (r < 0) {
                fprintf(stderr, "%s: %s\n", strerrorname_np(-r), strempty(why));
                return 78;
        }
        assert(sd_event_add_io(tool.event, NULL, 0, POLLIN, on_stdin, NULL) >= 0);
        o = message("ready", config->origin);
        json_set_string(o, "server", kube_client_server(tool.client));
        json_set_string(o, "namespace", kube_client_default_namespace(tool.client));
        say(o);
        r = sd_event_loop(tool.event);

        while (tool.pending)
                drop_pending(tool.pending);
        for (size_t i = 0; i < WATCHES_MAX; i++)
                kube_watch_free(tool.watches[i]);
        kube_lease_free(tool.lease);
        kube_events_free(tool.events);
        kube_client_free(tool.client);
        sd_event_unref(tool.event);
        free(tool.line);
        o = message("end", NULL);
        json_set_u64(o, "left_fds", count_fds() - before);
        say(o);
        return r < 0;
}
