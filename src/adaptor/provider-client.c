/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/provider-client.h"

#include <fcntl.h>

#include "adaptor/volumes.h"
#include "basic/io.h"
#include "basic/json.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "userdata/cloud-config.h"

#define PROVIDER_PATH "/org/confidentialcontainers/PeerPod1/Provider"
#define PROVIDER_INTERFACE "org.confidentialcontainers.PeerPod1.Provider"

/* Clouds take minutes to say that an instance is gone; when they take longer we ask again. */
#define DELETE_TIMEOUT_USEC (600 * USEC_PER_SEC)
#define FIND_TIMEOUT_USEC (120 * USEC_PER_SEC)

typedef struct CreateArguments {
        const SandboxRecord *record;
        const char *user_data_path;
} CreateArguments;

static int append_text(sd_bus_message *m, const char *key, const char *value) {
        return isempty(value) ? 0 : sd_bus_message_append(m, "{sv}", key, "s", value);
}

static int append_number(sd_bus_message *m, const char *key, uint32_t value) {
        return value == 0 ? 0 : sd_bus_message_append(m, "{sv}", key, "u", value);
}

static int append_volumes(sd_bus_message *m, const SandboxRecord *record) {
        _cleanup_(strv_freep) char **disks = NULL;
        int r;

        r = volumes_get_disks(record, &disks);
        if (r < 0 || !disks)
                return r;
        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "volumes");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_append_strv(m, disks);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* A pod whose external traffic leaves by an interface of its VM's own needs a VM with two. */
static int append_multi_nic(sd_bus_message *m, const SandboxRecord *record) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        bool external = false;
        int r;

        if (!record->pod_network)
                return 0;
        r = json_parse(record->pod_network, strlen(record->pod_network), &o, /* ret_error= */ NULL);
        if (r < 0)
                return r;
        r = json_get_bool(o, "external-net-via-pod-vm", &external, /* ret_error= */ NULL);
        if (r < 0 || !external)
                return r;
        return sd_bus_message_append(m, "{sv}", "multi-nic", "b", true);
}

static int append_spec(sd_bus_message *m, const SandboxRecord *record) {
        int r;

        r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r < 0)
                return r;
        r = append_text(m, "machine-type", record->machine_type);
        if (r < 0)
                return r;
        r = append_text(m, "image", record->image);
        if (r < 0)
                return r;
        r = append_text(m, "pod-name", record->pod_name);
        if (r < 0)
                return r;
        r = append_text(m, "pod-namespace", record->pod_namespace);
        if (r < 0)
                return r;
        r = append_number(m, "vcpus", record->vcpus);
        if (r < 0)
                return r;
        r = append_number(m, "gpus", record->gpus);
        if (r < 0)
                return r;
        r = append_text(m, "gpu-model", record->gpu_model);
        if (r < 0)
                return r;
        if (record->memory_mib > 0) {
                r = sd_bus_message_append(m, "{sv}", "memory-mib", "t", record->memory_mib);
                if (r < 0)
                        return r;
        }

        r = append_multi_nic(m, record);
        if (r < 0)
                return r;
        r = append_volumes(m, record);
        if (r < 0)
                return r;

        return sd_bus_message_close_container(m);
}

static int append_user_data(sd_bus_message *m, const char *path) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char *text;
        size_t size;
        int r;

        r = read_full_file_at(AT_FDCWD, path, CLOUD_CONFIG_SIZE_MAX, &text, &size);
        if (r < 0)
                return r;

        fd = memfd_new_sealed("user-data", text, size);
        erase_free(text, size);         /* holds the TLS key of the pod VM */
        if (fd < 0)
                return fd;

        return sd_bus_message_append(m, "h", fd);       /* duplicates it */
}

static int append_create(sd_bus_message *m, const void *arguments) {
        const CreateArguments *a = arguments;
        int r;

        r = sd_bus_message_append(m, "sss", a->record->id, a->record->instance_name, strempty(a->record->node));
        if (r < 0)
                return r;
        r = append_spec(m, a->record);
        if (r < 0)
                return r;

        return append_user_data(m, a->user_data_path);
}

static int append_delete(sd_bus_message *m, const void *arguments) {
        const CreateArguments *a = arguments;

        return sd_bus_message_append(m, "sss", a->record->id, strempty(a->record->instance_name),
                                     strempty(a->record->instance_id));
}

static int append_node(sd_bus_message *m, const void *arguments) {
        const char *const *node = arguments;

        return sd_bus_message_append(m, "s", *node);
}

static int append_interface(sd_bus_message *m, const void *arguments) {
        return sd_bus_message_append(m, "s", PROVIDER_INTERFACE);
}

static const ServiceMethod create_method = { PROVIDER_PATH, PROVIDER_INTERFACE, "CreateInstance", append_create };
static const ServiceMethod delete_method = { PROVIDER_PATH, PROVIDER_INTERFACE, "DeleteInstance", append_delete };
static const ServiceMethod find_method = { PROVIDER_PATH, PROVIDER_INTERFACE, "FindInstances", append_node };
static const ServiceMethod verify_method = { PROVIDER_PATH, PROVIDER_INTERFACE, "Verify", NULL };
static const ServiceMethod get_all_method = { PROVIDER_PATH, "org.freedesktop.DBus.Properties", "GetAll", append_interface };

int provider_create_instance(ServiceLink *provider, const SandboxRecord *record, const char *user_data_path, uint64_t timeout_usec,
                             ServiceHandler handler, void *userdata, ServiceCall **ret) {
        const CreateArguments a = { .record = record, .user_data_path = user_data_path };

        return service_link_call(provider, &create_method, &a, sizeof(a), timeout_usec, handler, userdata, ret);
}

int provider_delete_instance(ServiceLink *provider, const SandboxRecord *record, ServiceHandler handler, void *userdata, ServiceCall **ret) {
        const CreateArguments a = { .record = record };

        return service_link_call(provider, &delete_method, &a, sizeof(a), DELETE_TIMEOUT_USEC, handler, userdata, ret);
}

int provider_find_instances(ServiceLink *provider, const char *node, ServiceHandler handler, void *userdata, ServiceCall **ret) {
        return service_link_call(provider, &find_method, &node, sizeof(node), FIND_TIMEOUT_USEC, handler, userdata, ret);
}

int provider_describe(ServiceLink *provider, ServiceHandler handler, void *userdata, ServiceCall **ret) {
        return service_link_call(provider, &get_all_method, /* arguments= */ NULL, 0, FIND_TIMEOUT_USEC, handler, userdata, ret);
}

static int read_property(sd_bus_message *m, const char **name, uint64_t *user_data_size_max) {
        const char *key;
        int r;

        r = sd_bus_message_read(m, "s", &key);
        if (r < 0)
                return r;
        if (streq(key, "Name"))
                return sd_bus_message_read(m, "v", "s", name);
        if (streq(key, "UserDataSizeMax"))
                return sd_bus_message_read(m, "v", "t", user_data_size_max);

        return sd_bus_message_skip(m, "v");
}

int provider_read_description(sd_bus_message *m, const char **ret_name, uint64_t *ret_user_data_size_max) {
        uint64_t user_data_size_max = 0;
        const char *name = NULL;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0) {
                r = sd_bus_message_enter_container(m, 'e', "sv");
                if (r <= 0)
                        break;
                r = read_property(m, &name, &user_data_size_max);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        if (r < 0)
                return r;
        if (!name)
                return -EBADMSG;

        *ret_name = name;
        *ret_user_data_size_max = user_data_size_max;
        return 0;
}

int provider_verify(ServiceLink *provider, ServiceHandler handler, void *userdata, ServiceCall **ret) {
        return service_link_call(provider, &verify_method, /* arguments= */ NULL, 0, FIND_TIMEOUT_USEC, handler, userdata, ret);
}
