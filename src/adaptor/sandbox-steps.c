/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/sandbox-steps.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "adaptor/error.h"
#include "adaptor/manager.h"
#include "adaptor/node-client.h"
#include "adaptor/provider-client.h"
#include "adaptor/sandbox-bus.h"
#include "adaptor/sandbox-files.h"
#include "adaptor/sandbox-story.h"
#include "adaptor/tunnel-client.h"
#include "adaptor/volumes.h"
#include "basic/json.h"
#include "basic/messages.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

#define POD_NETWORK_SIZE_MAX (UINT32_C(64) << 10)

const char* sandbox_step_to_string(SandboxStep step) {
        static const char *const names[_SANDBOX_STEP_MAX] = {
                [STEP_REGISTER]         = "registering with peerpod-node",
                [STEP_READ_VOLUMES]     = "reading the pod's volumes",
                [STEP_INSPECT_NETWORK]  = "failed to inspect netns",
                [STEP_PREPARE_FILES]    = "preparing the pod VM's data",
                [STEP_CREATE_INSTANCE]  = "creating an instance",
                [STEP_SET_UP_TUNNEL]    = "setting up pod network tunnel",
                [STEP_ALLOW_ADDRESSES]  = "preparing the agent proxy",
                [STEP_START_SOCKET]     = "opening the agent's socket",
                [STEP_START_PROXY]      = "error connecting to agent",
                [STEP_PROBE_TUNNEL]     = "probing the pod network tunnel",
                [STEP_STOP_SOCKET]      = "closing the agent's socket",
                [STEP_STOP_PROXY]       = "stopping the agent proxy",
                [STEP_REMOVE_FILES]     = "removing run-time files",
                [STEP_DELETE_INSTANCE]  = "deleting the instance",
                [STEP_TEAR_DOWN_TUNNEL] = "tearing down the pod network tunnel",
        };

        return step >= 0 ? names[step] : "waiting";
}

/* What the bus shows of the pod network; tunneld's answer was checked to be JSON, no more. */
int sandbox_read_pod_network(Sandbox *s, const char *text, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *type = NULL;
        char *copy;
        int r;

        r = json_parse(text, strlen(text), &o, ret_error);
        if (r < 0)
                return r;
        r = json_get_string(o, "tunnel-type", &type, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "vxlan-id", UINT32_MAX, &s->tunnel_id, ret_error);
        if (r < 0)
                return r;

        copy = strdup(strempty(type));
        if (!copy)
                return -ENOMEM;
        free(s->tunnel_type);
        s->tunnel_type = copy;
        return 0;
}

static int start_register(Sandbox *s, sd_bus_error *error) {
        return node_register(s->manager->node, &s->record, s->manager->provider_name, sandbox_on_registered, s, &s->node_call);
}

/* The next steps save the record. */
static int finish_register(Sandbox *s, sd_bus_message *reply, sd_bus_error *error) {
        _cleanup_(node_answer_done) NodeAnswer answer = {};
        int r;

        if (!reply)
                return 0;
        r = node_read_answer(reply, &answer);
        if (r < 0) {
                log_sandbox_errno(s, LOG_WARNING, MSG_NOT_REGISTERED, r, "Starting sandbox '%s' without peerpod-node, whose answer is bad: %m",
                                  s->record.id);
                return 0;
        }

        s->auth = TAKE_PTR(answer.auth);
        if (!answer.recorded)
                log_sandbox(s, LOG_WARNING, MSG_NOT_REGISTERED, "Starting sandbox '%s' before the API server knows of it; peerpod-node says why.",
                            s->record.id);
        if (answer.pod_uid && !s->record.pod_uid) {
                s->record.pod_uid = TAKE_PTR(answer.pod_uid);
                manager_retire_older(s->manager, s);
        }
        return 0;
}

static int start_volumes(Sandbox *s, sd_bus_error *error) {
        return volumes_read(s->manager->tunnel, s->record.pod_uid, sandbox_on_answer, s, &s->call);
}

/* The next step saves it. */
static int finish_volumes(Sandbox *s, sd_bus_message *reply, sd_bus_error *error) {
        return volumes_plan(reply, &s->record, error);
}

static int start_inspect(Sandbox *s, sd_bus_error *error) {
        return tunnel_inspect(s->manager->tunnel, s->record.id, s->record.netns_path, sandbox_on_answer, s, &s->call);
}

/* A planned sandbox that was read from disk has its user data written already, with the network as it was then. */
static int check_same_network(const Sandbox *s, const char *text, sd_bus_error *error) {
        _cleanup_(json_object_putp) json_object *a = NULL, *b = NULL;
        int r;

        r = json_parse(s->record.pod_network, strlen(s->record.pod_network), &a, NULL);
        if (r >= 0)
                r = json_parse(text, strlen(text), &b, NULL);
        if (r < 0)
                return error_set_errno(error, r, "pod network");
        if (!json_object_equal(a, b))
                return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION, "the pod's network has changed since CreateVM");

        return 0;
}

static int finish_inspect(Sandbox *s, sd_bus_message *reply, sd_bus_error *error) {
        _cleanup_(freep) char *reason = NULL;
        const char *text;
        char *copy;
        int r;

        r = sd_bus_message_read(reply, "s", &text);
        if (r < 0)
                return error_set_errno(error, r, "answer of the tunnel service");
        if (strlen(text) > POD_NETWORK_SIZE_MAX)
                return sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED, "the pod's network has more than %" PRIu32 " bytes of routes",
                                         POD_NETWORK_SIZE_MAX);
        if (s->record.pod_network)
                return check_same_network(s, text, error);

        r = sandbox_read_pod_network(s, text, &reason);
        if (r < 0)
                return error_set_errno(error, r == -EBADMSG ? -EIO : r, "answer of the tunnel service: %s", strempty(reason));

        copy = strdup(text);
        if (!copy)
                return error_set_errno(error, -ENOMEM, "pod network");
        s->record.pod_network = copy;
        sandbox_bus_changed(s, "TunnelType");
        sandbox_bus_changed(s, "TunnelId");

        /* The data for the VM are made of it in the next step, before the settings can be read again. */
        r = sandbox_files_plan_tls(s->manager->settings, &s->record);
        if (r < 0)
                return error_set_errno(error, r, "plan TLS");
        r = sandbox_save(s);
        return r < 0 ? error_set_errno(error, r, "write the sandbox's record") : 0;
}

static int start_prepare(Sandbox *s, sd_bus_error *error) {
        int r;

        r = sandbox_files_prepare(s->manager->settings, &s->record, s->initdata, s->auth, s->manager->user_data_size_max, error);
        if (r < 0)
                return r;

        erase_free_stringp(&s->initdata);
        erase_free_stringp(&s->auth);
        return 1;
}

static int start_create(Sandbox *s, sd_bus_error *error) {
        return provider_create_instance(s->manager->provider, &s->record, s->user_data_path, s->manager->settings->start_timeout_usec,
                                        sandbox_on_answer, s, &s->call);
}

static int read_instance(SandboxRecord *record, sd_bus_message *reply, sd_bus_error *error) {
        _cleanup_(strv_freep) char **addresses = NULL;
        _cleanup_(freep) char *id_copy = NULL, *type_copy = NULL;
        const char *id, *type;
        int r;

        r = sd_bus_message_read(reply, "ss", &id, &type);
        if (r >= 0)
                r = sd_bus_message_read_strv(reply, &addresses);
        if (r < 0)
                return error_set_errno(error, r, "answer of the provider service");
        if (isempty(id) || !text_is_plain(id, REQUEST_TEXT_MAX) || !text_is_plain(type, REQUEST_TEXT_MAX))
                return sd_bus_error_setf(error, PEERPOD_ERROR_INTERNAL, "the provider service has named no usable instance id");

        id_copy = strdup(id);
        type_copy = strdup(type);
        if (!id_copy || !type_copy)
                return error_set_errno(error, -ENOMEM, "answer of the provider service");

        /* First what is needed to delete it. */
        free(record->instance_id);
        record->instance_id = TAKE_PTR(id_copy);
        free(record->instance_type);
        record->instance_type = TAKE_PTR(type_copy);

        if (strv_length(addresses) == 0)
                return sd_bus_error_setf(error, PEERPOD_ERROR_UNAVAILABLE, "instance IP is not available");
        if (!addresses_are_valid(addresses))
                return sd_bus_error_setf(error, PEERPOD_ERROR_INTERNAL, "the provider service has named an address that is none");
        strv_free(record->addresses);
        record->addresses = TAKE_PTR(addresses);
        return 0;
}

static int finish_create(Sandbox *s, sd_bus_message *reply, sd_bus_error *error) {
        uint64_t took = now_usec(CLOCK_REALTIME) - s->record.state_usec[SANDBOX_CREATING];
        int r;

        r = read_instance(&s->record, reply, error);
        if (r < 0)
                return r;

        r = sandbox_make_log_fields(s);
        if (r >= 0)
                r = sandbox_save(s);
        if (r < 0)
                return error_set_errno(error, r, "write the sandbox's record");

        r = sandbox_files_drop_user_data(s->manager->settings, s->record.id);
        if (r < 0)              /* goes with the directory */
                log_sandbox_errno(s, LOG_WARNING, NULL, r, "Failed to remove '%s', ignoring: %m", s->user_data_path);

        /* The provider service tells the event; this is the adaptor's half of the story. */
        log_sandbox(s, LOG_INFO, NULL, "Instance '%s' created in %s.", s->record.instance_id, FORMAT_USEC(took));
        sandbox_bus_instance_changed(s);
        manager_sandbox_changed(s->manager, s);
        return 0;
}

static int start_tunnel(Sandbox *s, sd_bus_error *error) {
        return tunnel_setup(s->manager->tunnel, s->record.id, s->record.netns_path, s->record.addresses, sandbox_on_answer, s, &s->call);
}

static void on_proxy_failed(UnitWatch *watch, void *userdata) {
        _cleanup_(freep) char *text = NULL;
        Sandbox *s = userdata;
        const char *status = unit_watch_get_status(watch);

        /* While it is started, the job tells. */
        if (s->record.state != SANDBOX_RUNNING || s->step == STEP_START_PROXY)
                return;

        if (asprintf(&text, "agent proxy has failed%s%s", isempty(status) ? "" : ": ", status) < 0)
                text = NULL;
        s->manager->metrics.proxy_failures++;
        log_sandbox(s, LOG_ERR, MSG_PROXY_FAILED, "Unit '%s' of running sandbox '%s' has failed%s%s", s->proxy_unit, s->record.id,
                    isempty(status) ? "." : ": ", status);
        sandbox_set_last_error(s, text ?: "agent proxy has failed");
        sandbox_story_ails(s, s->record.last_error);
}

static int start_socket(Sandbox *s, sd_bus_error *error) {
        int r;

        /* From here on a connection may start the proxy. */
        r = sandbox_files_write_proxy(s->manager->settings, &s->record, s->manager->provider_name, error);
        if (r < 0)
                return r;

        if (!s->watch) {
                r = unit_client_watch(s->manager->units, s->proxy_unit, on_proxy_failed, s, &s->watch);
                if (r < 0)
                        return error_set_errno(error, r, "watch '%s'", s->proxy_unit);
        }

        return unit_client_start(s->manager->units, s->socket_unit, sandbox_on_job_done, s, &s->job);
}

static int start_allow(Sandbox *s, sd_bus_error *error) {
        return unit_client_allow_addresses(s->manager->units, s->proxy_unit, s->record.addresses, sandbox_on_job_done, s, &s->job);
}

static int start_proxy(Sandbox *s, sd_bus_error *error) {
        return unit_client_start(s->manager->units, s->proxy_unit, sandbox_on_job_done, s, &s->job);
}

/* The agent has answered, so the VM's end of the tunnel is there, be it ours or upstream's: both make it before they listen. */
static int start_probe(Sandbox *s, sd_bus_error *error) {
        if (streq_ptr(s->manager->settings->tunnel_probe, "off"))
                return 1;

        return tunnel_probe(s->manager->tunnel, s->record.id, sandbox_on_answer, s, &s->call);
}

static int finish_probe(Sandbox *s, sd_bus_message *reply, sd_bus_error *error) {
        const char *text;
        int r, ok;

        r = sd_bus_message_read(reply, "bs", &ok, &text);
        if (r < 0)
                return error_set_errno(error, r, "answer of the tunnel service");
        if (ok)
                return 0;
        if (!streq_ptr(s->manager->settings->tunnel_probe, "warn"))
                return sd_bus_error_setf(error, PEERPOD_ERROR_UNAVAILABLE, "%s", text);

        log_sandbox(s, LOG_WARNING, NULL, "Going on without a working tunnel, as 'tunnel-probe' says: %s", text);
        sandbox_set_last_error(s, text);
        return 0;
}

static int stop_socket(Sandbox *s, sd_bus_error *error) {
        return unit_client_stop(s->manager->units, s->socket_unit, sandbox_on_job_done, s, &s->job);
}

static int stop_proxy(Sandbox *s, sd_bus_error *error) {
        return unit_client_stop(s->manager->units, s->proxy_unit, sandbox_on_job_done, s, &s->job);
}

static int start_remove_files(Sandbox *s, sd_bus_error *error) {
        int r;

        r = sandbox_files_remove(s->manager->settings, s->record.id);
        return r < 0 ? error_set_errno(error, r, "run-time files of the sandbox") : 1;
}

/* A sandbox whose record was lost knows its id only: its instance is looked up by the owner tag first. */
static int start_delete(Sandbox *s, sd_bus_error *error) {
        if (isempty(s->record.instance_name))
                return provider_find_instances(s->manager->provider, s->manager->settings->node, sandbox_on_answer, s, &s->call);

        return provider_delete_instance(s->manager->provider, &s->record, sandbox_on_answer, s, &s->call);
}

static int find_own_instance(Sandbox *s, sd_bus_message *reply, sd_bus_error *error) {
        const char *sandbox_id, *name, *id;
        int r;

        r = sd_bus_message_enter_container(reply, 'a', "(sss)");
        while (r >= 0) {
                r = sd_bus_message_read(reply, "(sss)", &sandbox_id, &name, &id);
                if (r <= 0)
                        break;
                if (!streq(sandbox_id, s->record.id) || isempty(name) || !text_is_plain(name, REQUEST_TEXT_MAX) ||
                    !text_is_plain(id, REQUEST_TEXT_MAX))
                        continue;

                free(s->record.instance_name);
                s->record.instance_name = strdup(name);
                free(s->record.instance_id);
                s->record.instance_id = strdup(id);
                r = s->record.instance_name && s->record.instance_id ? sandbox_save(s) : -ENOMEM;
                if (r >= 0)
                        return 1;
        }

        return r < 0 ? error_set_errno(error, r, "answer of the provider service") : 0;
}

static int finish_delete(Sandbox *s, sd_bus_message *reply, sd_bus_error *error) {
        if (isempty(s->record.instance_name))
                return find_own_instance(s, reply, error);

        log_sandbox(s, LOG_INFO, NULL, "Instance '%s' is gone.",
                    s->record.instance_id ?: strempty(s->record.instance_name));
        return 0;
}

static int start_teardown(Sandbox *s, sd_bus_error *error) {
        /* Without a path tunneld goes by what it wrote down itself. */
        return tunnel_teardown(s->manager->tunnel, s->record.id, strempty(s->record.netns_path), sandbox_on_answer, s, &s->call);
}

const SandboxStepMethods sandbox_steps[_SANDBOX_STEP_MAX] = {
        [STEP_REGISTER]         = { start_register, finish_register, CRASH_POINTS_AROUND("register") },
        [STEP_READ_VOLUMES]     = { start_volumes, finish_volumes, CRASH_POINTS_AROUND("volumes") },
        [STEP_INSPECT_NETWORK]  = { start_inspect, finish_inspect, CRASH_POINTS_AROUND("inspect") },
        [STEP_PREPARE_FILES]    = { start_prepare, NULL, CRASH_POINTS_AROUND("prepare") },
        [STEP_CREATE_INSTANCE]  = { start_create, finish_create, CRASH_POINTS_AROUND("create") },
        [STEP_SET_UP_TUNNEL]    = { start_tunnel, NULL, CRASH_POINTS_AROUND("tunnel") },
        [STEP_ALLOW_ADDRESSES]  = { start_allow, NULL, CRASH_POINTS_AROUND("allow") },
        [STEP_START_SOCKET]     = { start_socket, NULL, CRASH_POINTS_AROUND("start-socket") },
        [STEP_START_PROXY]      = { start_proxy, NULL, CRASH_POINTS_AROUND("start-proxy") },
        [STEP_PROBE_TUNNEL]     = { start_probe, finish_probe, CRASH_POINTS_AROUND("probe") },
        [STEP_STOP_SOCKET]      = { stop_socket, NULL, CRASH_POINTS_AROUND("stop-socket") },
        [STEP_STOP_PROXY]       = { stop_proxy, NULL, CRASH_POINTS_AROUND("stop-proxy") },
        [STEP_REMOVE_FILES]     = { start_remove_files, NULL, CRASH_POINTS_AROUND("remove-files") },
        [STEP_DELETE_INSTANCE]  = { start_delete, finish_delete, CRASH_POINTS_AROUND("delete") },
        [STEP_TEAR_DOWN_TUNNEL] = { start_teardown, NULL, CRASH_POINTS_AROUND("teardown") },
};

void sandbox_drop_step(Sandbox *s) {
        s->step = _SANDBOX_STEP_INVALID;
        s->call = service_call_free(s->call);
        s->job = unit_job_free(s->job);
        s->node_call = node_call_free(s->node_call);
}
