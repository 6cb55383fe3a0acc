/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/provider-bus.h"

#include <inttypes.h>

#include "basic/io.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "provider/instance-name.h"
#include "provider/job.h"

#define TEXT_MAX 512            /* of one string of the spec, in bytes */
#define VOLUME_ID_MAX 1024
#define NODE_MAX 253            /* a Kubernetes node's name is a DNS subdomain (RFC 1123) */

static int refuse(sd_bus_error *error, const char *what) {
        return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "%s is not valid.", what);
}

static bool node_is_valid(const char *s) {
        size_t n = strlen(s);

        return n > 0 && n <= NODE_MAX && s[0] != '.' && s[0] != '-' && s[0] != '_' &&
                strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static int property_get_name(sd_bus *bus, const char *path, const char *interface, const char *property,
                             sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        Manager *m = userdata;

        return sd_bus_message_append(reply, "s", m->module->name);
}

static int property_get_user_data_size_max(sd_bus *bus, const char *path, const char *interface, const char *property,
                                           sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        return sd_bus_message_append(reply, "t", manager_user_data_size_max(userdata));
}

static int read_volumes(sd_bus_message *message, JobRequest *request, sd_bus_error *error) {
        const char *contents;
        char type;
        int r;

        if (request->volumes)
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Spec key 'volumes' comes twice.");
        r = sd_bus_message_peek_type(message, &type, &contents);
        if (r < 0)
                return r;
        if (type != 'v' || !streq(contents, "as"))
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Spec key 'volumes' is no list of strings.");
        r = sd_bus_message_enter_container(message, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_read_strv(message, &request->volumes);
        if (r >= 0)
                r = sd_bus_message_exit_container(message);
        if (r < 0)
                return r;

        for (char **v = request->volumes; v && *v; v++)
                if (isempty(*v) || !text_is_plain(*v, VOLUME_ID_MAX))
                        return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Spec key 'volumes' is not valid.");
        return 0;
}

/* Without its disks a pod would write into its VM's memory, and nobody would notice. */
static int check_volumes(const Manager *m, const JobRequest *request, sd_bus_error *error) {
        size_t n = strv_length(request->volumes);
        uint32_t max = PEERPOD_HAS(m->module, volumes_max) ? m->module->volumes_max : 0;

        if (n <= max)
                return 0;
        return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION, "The pod has %zu volumes, of which provider '%s' can attach %"
                                 PRIu32 ".", n, m->module->name, max);
}

static void request_done(JobRequest *request) {
        request->volumes = strv_free(request->volumes);
}

/* A key that this version does not know may be one that the caller's safety hangs on (a TEE asked for): refuse, do not drop. */
static int read_spec_entry(sd_bus_message *message, const char *key, JobRequest *request, sd_bus_error *error) {
        const struct {
                const char *key;
                const char *type;
                void *value;
        } table[] = {
                { "machine-type",  "s", &request->machine_type  },
                { "image",         "s", &request->image         },
                { "pod-name",      "s", &request->pod_name      },
                { "pod-namespace", "s", &request->pod_namespace },
                { "vcpus",         "u", &request->vcpus         },
                { "gpus",          "u", &request->gpus          },
                { "gpu-model",     "s", &request->gpu_model     },
                { "multi-nic",     "b", &request->multi_nic     },
                { "memory-mib",    "t", &request->memory_mib    },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                const char *contents;
                char type;
                int r;

                if (!streq(table[i].key, key))
                        continue;
                r = sd_bus_message_peek_type(message, &type, &contents);
                if (r < 0)
                        return r;
                if (!streq(contents, table[i].type))
                        return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT,
                                                 "Spec key '%s' has type '%s', not '%s'.", key, contents, table[i].type);
                r = sd_bus_message_read(message, "v", table[i].type, table[i].value);
                if (r < 0)
                        return r;
                if (table[i].type[0] == 's' && !text_is_plain(*(const char**) table[i].value, TEXT_MAX))
                        return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Spec key '%s' is not valid.", key);
                return 0;
        }

        if (streq(key, "volumes"))
                return read_volumes(message, request, error);

        return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Unknown spec key '%.64s'.", key);
}

static int read_spec(sd_bus_message *message, JobRequest *request, sd_bus_error *error) {
        int r;

        r = sd_bus_message_enter_container(message, 'a', "{sv}");
        if (r < 0)
                return r;
        for (;;) {
                const char *key;

                r = sd_bus_message_enter_container(message, 'e', "sv");
                if (r < 0)
                        return r;
                if (r == 0)
                        return sd_bus_message_exit_container(message);
                r = sd_bus_message_read(message, "s", &key);
                if (r < 0)
                        return r;
                r = read_spec_entry(message, key, request, error);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(message);
                if (r < 0)
                        return r;
        }
}

static int read_user_data(const Manager *m, int fd, JobRequest *request, sd_bus_error *error) {
        uint64_t max = manager_user_data_size_max(m);
        int r;

        r = memfd_read_sealed(fd, max, &request->user_data, &request->user_data_size);
        if (r == -EPERM)
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "User data is not a sealed memfd.");
        if (r == -EFBIG) {
                off_t size = lseek(fd, 0, SEEK_END);

                return sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED,
                                         "User data of %jd bytes is larger than the %" PRIu64 " bytes that provider '%s' takes.",
                                         (intmax_t) size, max, m->module->name);
        }
        if (r < 0)
                return sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "User data cannot be read: %s", strerror(-r));
        return 0;
}

static int method_create_instance(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        _cleanup_(request_done) JobRequest request = {};
        Manager *m = userdata;
        int fd, r;

        r = sd_bus_message_read(message, "sss", &request.sandbox_id, &request.name, &request.node);
        if (r < 0)
                return r;
        if (!sandbox_id_is_valid(request.sandbox_id))
                return refuse(error, "Sandbox id");
        if (!instance_name_is_valid(request.name))
                return refuse(error, "Instance name");
        if (!node_is_valid(request.node))
                return refuse(error, "Node name");
        r = read_spec(message, &request, error);
        if (r < 0)
                return r;
        r = check_volumes(m, &request, error);
        if (r < 0)
                return r;
        r = sd_bus_message_read(message, "h", &fd);
        if (r < 0)
                return r;
        r = read_user_data(m, fd, &request, error);
        if (r < 0)
                return r;

        r = job_create(m, &request, message, error);
        return r < 0 ? r : 1;
}

static int method_delete_instance(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *m = userdata;
        JobRequest request = {};
        int r;

        r = sd_bus_message_read(message, "sss", &request.sandbox_id, &request.name, &request.id);
        if (r < 0)
                return r;
        if (!sandbox_id_is_valid(request.sandbox_id))
                return refuse(error, "Sandbox id");
        if (!instance_name_is_valid(request.name))
                return refuse(error, "Instance name");
        if (!text_is_plain(request.id, TEXT_MAX))
                return refuse(error, "Instance id");

        r = job_delete(m, &request, message, error);
        return r < 0 ? r : 1;
}

static int method_delete_untagged_instance(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *m = userdata;
        JobRequest request = { .sandbox_id = "", .untagged = true };
        int r;

        r = sd_bus_message_read(message, "ss", &request.name, &request.id);
        if (r < 0)
                return r;
        if (isempty(request.name) || !text_is_plain(request.name, INSTANCE_NAME_MAX))
                return refuse(error, "Beginning of the instance's name");
        if (isempty(request.id) || !text_is_plain(request.id, TEXT_MAX))
                return refuse(error, "Instance id");
        if (!PEERPOD_HAS(m->module, flags) || !(m->module->flags & PEERPOD_PROVIDER_REMOVES_UNTAGGED))
                return sd_bus_error_setf(error, PEERPOD_ERROR_FAILED_PRECONDITION,
                                         "Provider '%s' deletes no instances without an owner tag; delete '%s' by hand.", m->module->name, request.id);

        r = job_delete(m, &request, message, error);
        return r < 0 ? r : 1;
}

static int method_find_instances(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        Manager *m = userdata;
        const char *node;
        int r;

        r = sd_bus_message_read(message, "s", &node);
        if (r < 0)
                return r;
        if (!node_is_valid(node))
                return refuse(error, "Node name");

        r = job_find(m, node, message, error);
        return r < 0 ? r : 1;
}

static int method_verify(sd_bus_message *message, void *userdata, sd_bus_error *error) {
        int r;

        r = job_verify(userdata, message, error);
        return r < 0 ? r : 1;
}

/* Unprivileged: who may connect at all is checked when the link is accepted. */
static const sd_bus_vtable provider_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Name", "s", property_get_name, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("UserDataSizeMax", "t", property_get_user_data_size_max, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_METHOD_WITH_ARGS("CreateInstance",
                                SD_BUS_ARGS("s", sandbox_id, "s", name, "s", node, "a{sv}", spec, "h", user_data),
                                SD_BUS_RESULT("s", id, "s", type, "as", addresses),
                                method_create_instance, SD_BUS_VTABLE_UNPRIVILEGED|SD_BUS_VTABLE_SENSITIVE),
        SD_BUS_METHOD_WITH_ARGS("DeleteInstance",
                                SD_BUS_ARGS("s", sandbox_id, "s", name, "s", id),
                                SD_BUS_NO_RESULT,
                                method_delete_instance, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("DeleteUntaggedInstance",
                                SD_BUS_ARGS("s", name_prefix, "s", id),
                                SD_BUS_NO_RESULT,
                                method_delete_untagged_instance, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("FindInstances",
                                SD_BUS_ARGS("s", node),
                                SD_BUS_RESULT("a(sss)", instances),
                                method_find_instances, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Verify", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT, method_verify, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

int provider_bus_setup(sd_bus *bus, void *userdata) {
        return sd_bus_add_object_vtable(bus, NULL, PROVIDER_PATH, PROVIDER_INTERFACE, provider_vtable, userdata);
}
