/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/orphans.h"

#include <sys/queue.h>

#include "adaptor/error.h"
#include "adaptor/manager.h"
#include "adaptor/provider-client.h"
#include "adaptor/sandbox.h"
#include "adaptor/tunnel-client.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/sandbox-store.h"
#include "basic/util.h"

struct OrphanQuery {
        Manager *manager;               /* borrowed */
        LIST_ENTRY(OrphanQuery) queries;
        sd_bus_message *call, *reply;
        ServiceCall *find, *list;       /* NULL once it was answered */
        uint64_t begin_usec;            /* CLOCK_REALTIME */
        bool reap;
};

static OrphanQuery* query_free(OrphanQuery *q) {
        if (!q)
                return NULL;

        LIST_REMOVE(q, queries);
        q->manager->n_orphan_queries--;
        manager_forget_gone(q->manager);
        service_call_free(q->find);
        service_call_free(q->list);
        sd_bus_message_unref(q->call);
        sd_bus_message_unref(q->reply);
        free(q);
        return NULL;
}

void orphans_forget(Manager *m) {
        OrphanQuery *q;

        while ((q = LIST_FIRST(&m->orphan_queries)))
                query_free(q);
}

static void fail(OrphanQuery *q, const sd_bus_error *error, int r) {
        (void) (error ? sd_bus_reply_method_error(q->call, error) : sd_bus_reply_method_errno(q->call, r, /* error= */ NULL));
        query_free(q);
}

static int add(OrphanQuery *q, const char *kind, const char *id, const char *name, const char *instance_id, const char *action,
               const char *reason) {
        return sd_bus_message_append(q->reply, "(ssssss)", kind, id, strempty(name), strempty(instance_id), action, reason);
}

static void finish_if_complete(OrphanQuery *q) {
        int r;

        if (q->find || q->list)
                return;

        r = sd_bus_message_close_container(q->reply);
        if (r >= 0)
                r = sd_bus_send(/* bus= */ NULL, q->reply, /* ret_cookie= */ NULL);
        if (r < 0)
                fail(q, NULL, r);
        else
                query_free(q);
}

static int see_instance(OrphanQuery *q, const char *id, const char *name, const char *instance_id) {
        Manager *m = q->manager;
        Sandbox *s;

        if (!sandbox_id_is_valid(id) || !text_is_plain(name, REQUEST_TEXT_MAX) || !text_is_plain(instance_id, REQUEST_TEXT_MAX))
                return add(q, "instance", "", "", "", "leave", "its owner tag is not one of ours");

        s = manager_find_sandbox(m, id);
        if (s) {
                s->listed = m->n_lists;
                return add(q, "instance", id, name, instance_id, "keep", sandbox_state_to_string(s->record.state));
        }
        if (manager_is_gone_meanwhile(m, id))
                return 0;
        if (sandbox_store_holds(m->store, id))
                return add(q, "instance", id, name, instance_id, "leave", "its record was set aside, StopVM or a person decides");
        if (q->reap)
                manager_reap_instance(m, id, name, instance_id);
        return add(q, "instance", id, name, instance_id, "delete", "no record knows it");
}

static int read_instances(OrphanQuery *q, sd_bus_message *reply) {
        const char *id, *name, *instance_id;
        Manager *m = q->manager;
        Sandbox *s;
        int r;

        m->n_lists++;
        r = sd_bus_message_enter_container(reply, 'a', "(sss)");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(reply, "(sss)", &id, &name, &instance_id)) > 0) {
                r = see_instance(q, id, name, instance_id);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;

        TAILQ_FOREACH(s, &m->sandboxes, sandboxes) {
                /* The list may be from before its instance was made. */
                if (s->record.state != SANDBOX_RUNNING || s->listed == m->n_lists || s->record.state_usec[SANDBOX_RUNNING] >= q->begin_usec)
                        continue;
                r = add(q, "record", s->record.id, s->record.instance_name, s->record.instance_id, "keep",
                        "runs, but its instance is not in the cloud's list");
                if (r < 0)
                        return r;
        }

        return 0;
}

static int read_tunnels(OrphanQuery *q, sd_bus_message *reply) {
        Manager *m = q->manager;
        const char *id;
        int r;

        r = sd_bus_message_enter_container(reply, 'a', "s");
        if (r < 0)
                return r;
        while ((r = sd_bus_message_read(reply, "s", &id)) > 0) {
                const Sandbox *s = sandbox_id_is_valid(id) ? manager_find_sandbox(m, id) : NULL;

                if (s)
                        r = add(q, "tunnel", id, "", "", "keep", sandbox_state_to_string(s->record.state));
                else if (sandbox_id_is_valid(id) && manager_is_gone_meanwhile(m, id))
                        continue;
                else if (!sandbox_id_is_valid(id) || sandbox_store_holds(m->store, id))
                        r = add(q, "tunnel", sandbox_id_is_valid(id) ? id : "", "", "", "leave", "its record was set aside");
                else {
                        if (q->reap)
                                manager_reap_tunnel(m, id);
                        r = add(q, "tunnel", id, "", "", "delete", "no record knows it");
                }
                if (r < 0)
                        return r;
        }

        return r;
}

static void on_instances(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        OrphanQuery *q = userdata;
        int r = reply ? read_instances(q, reply) : 0;

        if (error || r < 0) {
                fail(q, error, r);
                return;
        }
        q->find = service_call_free(q->find);
        finish_if_complete(q);
}

static void on_tunnels(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        OrphanQuery *q = userdata;
        int r = reply ? read_tunnels(q, reply) : 0;

        if (error || r < 0) {
                fail(q, error, r);
                return;
        }
        q->list = service_call_free(q->list);
        finish_if_complete(q);
}

static void on_verified(ServiceCall *call, sd_bus_message *reply, const sd_bus_error *error, void *userdata) {
        OrphanQuery *q = userdata;

        if (error)
                fail(q, error, 0);
        else {
                (void) sd_bus_reply_method_return(q->call, NULL);
                query_free(q);
        }
}

static int query_new(Manager *m, sd_bus_message *call, bool reap, OrphanQuery **ret, sd_bus_error *error) {
        OrphanQuery *q;

        if (m->n_orphan_queries >= ORPHAN_QUERIES_MAX)
                return sd_bus_error_set(error, SD_BUS_ERROR_LIMITS_EXCEEDED, "The cloud is being asked already, try again later.");

        q = new(OrphanQuery);
        if (!q)
                return -ENOMEM;
        *q = (OrphanQuery) { .manager = m, .call = sd_bus_message_ref(call), .begin_usec = now_usec(CLOCK_REALTIME), .reap = reap };
        LIST_INSERT_HEAD(&m->orphan_queries, q, queries);
        m->n_orphan_queries++;
        *ret = q;
        return 0;
}

int provider_verify_begin(Manager *m, sd_bus_message *call, sd_bus_error *error) {
        OrphanQuery *q;
        int r;

        r = query_new(m, call, /* reap= */ false, &q, error);
        if (r < 0)
                return r;
        r = provider_verify(m->provider, on_verified, q, &q->find);
        if (r < 0) {
                query_free(q);
                return r;
        }

        return 1;
}

int orphans_begin(Manager *m, sd_bus_message *call, bool reap, sd_bus_error *error) {
        OrphanQuery *q;
        int r;

        r = query_new(m, call, reap, &q, error);
        if (r < 0)
                return r;

        r = sd_bus_message_new_method_return(call, &q->reply);
        if (r >= 0)
                r = sd_bus_message_open_container(q->reply, 'a', "(ssssss)");
        if (r >= 0)
                r = provider_find_instances(m->provider, m->settings->node, on_instances, q, &q->find);
        if (r >= 0)
                r = tunnel_list(m->tunnel, on_tunnels, q, &q->list);
        if (r < 0) {
                query_free(q);
                return r;
        }

        return 1;
}
