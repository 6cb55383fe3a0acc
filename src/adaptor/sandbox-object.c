/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox as an object: from its making to its end in memory. What it lives through is sandbox.c's. */
#include "adaptor/sandbox.h"

#include <stdio.h>
#include <string.h>

#include "adaptor/error.h"
#include "adaptor/manager.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/sandbox-files.h"
#include "adaptor/sandbox-steps.h"
#include "adaptor/sandbox-story.h"
#include "adaptor/sandbox-waiters.h"
#include "adaptor/tunnel-check.h"
#include "adaptor/unit-client.h"
#include "basic/parse.h"
#include "basic/util.h"

int sandbox_make_log_fields(Sandbox *s) {
        _cleanup_(log_context_done) LogContext c = {};
        const struct {
                const char *name, *value;
        } fields[] = {
                { "PEERPOD_SANDBOX_ID",    s->record.id },
                { "PEERPOD_POD_NAME",      s->record.pod_name },
                { "PEERPOD_POD_NAMESPACE", s->record.pod_namespace },
                { "PEERPOD_INSTANCE_ID",   s->record.instance_id },
                { "PEERPOD_PROVIDER",      s->manager->provider_name },
        };

        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                int r;

                if (isempty(fields[i].value))
                        continue;
                r = log_context_add(&c, fields[i].name, fields[i].value);
                if (r < 0)
                        return r;
        }

        log_context_done(&s->log);
        s->log = c;
        c = (LogContext) {};
        return 0;
}

static int make_names(Sandbox *s) {
        const Settings *settings = s->manager->settings;
        int r;

        if (asprintf(&s->socket_unit, "peerpod-agent-proxy@%s.socket", s->record.id) < 0 ||
            asprintf(&s->proxy_unit, "peerpod-agent-proxy@%s.service", s->record.id) < 0)
                return -ENOMEM;
        r = sandbox_files_agent_socket(settings, s->record.id, &s->agent_socket);
        if (r < 0)
                return r;
        r = sandbox_files_user_data_path(settings, s->record.id, &s->user_data_path);
        if (r < 0)
                return r;

        return sandbox_bus_path(s->record.id, &s->path);
}

int sandbox_new_from_record(Manager *m, SandboxRecord *record, Sandbox **ret) {
        _cleanup_(sandbox_freep) Sandbox *s = NULL;
        int r;

        assert(sandbox_id_is_valid(record->id));

        if (manager_find_sandbox(m, record->id))
                return -EEXIST;

        s = new(Sandbox);
        if (!s)
                return -ENOMEM;
        *s = (Sandbox) { .step = _SANDBOX_STEP_INVALID, .failure = SD_BUS_ERROR_NULL, .record = *record };
        TAILQ_INIT(&s->waiters);
        TAILQ_INIT(&s->checks);
        s->manager = m;

        r = make_names(s);
        if (r >= 0)
                r = sandbox_story_open(s);
        if (r >= 0)
                r = sandbox_make_log_fields(s);
        if (r >= 0 && s->record.pod_network)
                r = sandbox_read_pod_network(s, s->record.pod_network, /* ret_error= */ NULL);
        if (r >= 0)
                r = manager_add_sandbox(m, s);
        if (r < 0) {
                s->record = SANDBOX_RECORD_NULL;        /* still the caller's */
                return r;
        }

        *record = SANDBOX_RECORD_NULL;
        *ret = TAKE_PTR(s);
        return 0;
}

/* Copies; the request's strings move only when nothing can fail any more. */
int sandbox_new(Manager *m, const char *id, const char *netns_path, CreateRequest *request, Sandbox **ret) {
        _cleanup_(sandbox_record_done) SandboxRecord record = SANDBOX_RECORD_NULL;
        Sandbox *s;
        int r;

        record.id = strdup(id);
        record.netns_path = strdup(netns_path);
        record.node = strdup(m->settings->node);
        record.pod_name = strdup(request->pod_name);
        record.pod_namespace = strdup(request->pod_namespace);
        if (!record.id || !record.netns_path || !record.node || !record.pod_name || !record.pod_namespace)
                return -ENOMEM;
        r = instance_name_make(request->pod_name, id, &record.instance_name);
        if (r < 0)
                return r;
        record.state_usec[SANDBOX_PLANNED] = now_usec(CLOCK_REALTIME);  /* a constant of the object that now appears */

        r = sandbox_new_from_record(m, &record, &s);
        if (r < 0)
                return r;

        s->record.pod_uid = TAKE_PTR(request->pod_uid);
        s->record.machine_type = TAKE_PTR(request->machine_type);
        s->record.image = TAKE_PTR(request->image);
        s->record.gpu_model = TAKE_PTR(request->gpu_model);
        s->record.vcpus = request->vcpus;
        s->record.gpus = request->gpus;
        s->record.memory_mib = request->memory_mib;
        s->initdata = TAKE_PTR(request->initdata);
        *ret = s;
        return 0;
}

Sandbox* sandbox_free(Sandbox *s) {
        static const sd_bus_error stopping = SD_BUS_ERROR_MAKE_CONST(PEERPOD_ERROR_UNAVAILABLE, "the adaptor is being stopped");

        if (!s)
                return NULL;

        sandbox_drop_step(s);
        tunnel_checks_cancel(s);
        shim_watch_reset(s);
        unit_watch_free(s->watch);
        sd_event_source_disable_unref(s->deadline);
        sd_event_source_disable_unref(s->retry);
        sd_event_source_disable_unref(s->patience);
        sd_event_source_disable_unref(s->hold);
        waiters_dismiss(s, &stopping);
        sandbox_story_close(s);
        if (s->manager)
                manager_remove_sandbox(s->manager, s);

        sd_bus_error_free(&s->failure);
        log_context_done(&s->log);
        free(s->path);
        free(s->agent_socket);
        free(s->socket_unit);
        free(s->proxy_unit);
        free(s->user_data_path);
        free(s->tunnel_type);
        free(s->initdata);
        erase_free_stringp(&s->auth);
        sandbox_record_done(&s->record);
        free(s);
        return NULL;
}

bool sandbox_matches(const Sandbox *s, const char *netns_path, const CreateRequest *request) {
        return streq_ptr(s->record.netns_path, netns_path) &&
               streq_ptr(s->record.pod_name, request->pod_name) &&
               streq_ptr(s->record.pod_namespace, request->pod_namespace);
}
