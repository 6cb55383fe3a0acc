/* SPDX-License-Identifier: Apache-2.0 */
/* What agent-protocol-forwarder may ask. It passes on what the worker says, so all is checked here again. */
#include "basic/bus-private.h"
#include "basic/parse.h"
#include "basic/util.h"
#include "podvm/volumes/volumes.h"

static int read_spec(sd_bus_message *msg, const char **ret_container, VolumeSpec *ret, sd_bus_error *error) {
        _cleanup_(freep) char *text = NULL;
        const char *name, *fs_type, *disk_id, *encrypt_type, *key_id;
        uint32_t lun, fs_group;
        int r;

        r = sd_bus_message_read(msg, "sssususs", ret_container, &name, &fs_type, &lun, &disk_id, &fs_group, &encrypt_type, &key_id);
        if (r < 0)
                return r;
        if (!sandbox_id_is_valid(*ret_container))
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "invalid container id");

        *ret = (VolumeSpec) {
                .name = strdup(name),
                .mount_point = strdup(""),
                .fs_type = strdup(fs_type),
                .disk_id = strdup(disk_id),
                .encrypt_type = strdup(encrypt_type),
                .key_id = strdup(key_id),
                .lun = lun,
                .fs_group = fs_group,
        };
        if (!ret->name || !ret->mount_point || !ret->fs_type || !ret->disk_id || !ret->encrypt_type || !ret->key_id)
                return -ENOMEM;
        r = volume_spec_check(ret, &text);
        return r == -EINVAL ? sd_bus_error_setf(error, PEERPOD_ERROR_INVALID_ARGUMENT, "%s", text ?: "invalid volume") : r;
}

static int method_mount(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(volume_spec_done) VolumeSpec spec = {};
        const char *container;
        int r;

        r = read_spec(msg, &container, &spec, error);
        return r < 0 ? r : volumes_mount(userdata, msg, container, &spec, error);
}

static int method_release(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        const char *container;
        int r;

        r = sd_bus_message_read(msg, "s", &container);
        if (r < 0)
                return r;
        if (!isempty(container) && !sandbox_id_is_valid(container))
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "invalid container id");
        return volumes_release(userdata, msg, container, error);
}

/* UNPRIVILEGED: who may connect at all was checked when the link was accepted. */
static const sd_bus_vtable volumes_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Mount", SD_BUS_ARGS("s", container, "s", name, "s", fs_type, "u", lun, "s", disk_id, "u", fs_group,
                                                     "s", encrypt_type, "s", key_id),
                                SD_BUS_RESULT("s", mount_point), method_mount, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Release", SD_BUS_ARGS("s", container), SD_BUS_NO_RESULT, method_release, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

int volumes_setup_bus(sd_bus *bus, void *userdata) {
        return sd_bus_add_object_vtable(bus, NULL, VOLUMES_PATH, VOLUMES_INTERFACE, volumes_vtable, userdata);
}
