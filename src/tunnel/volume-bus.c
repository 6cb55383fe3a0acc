/* SPDX-License-Identifier: Apache-2.0 */
#include "tunnel/volume-bus.h"

#include "basic/bus-private.h"
#include "basic/log.h"
#include "basic/parse.h"
#include "tunnel/direct-volume.h"

#define VOLUMES_PATH "/org/confidentialcontainers/PeerPod1/Volumes"
#define VOLUMES_INTERFACE "org.confidentialcontainers.PeerPod1.Volumes"

static const char* error_name(int r) {
        switch (-r) {
        case EBADMSG:
                return PEERPOD_ERROR_FAILED_PRECONDITION;
        case E2BIG:
        case EFBIG:
        case ENOMEM:
                return PEERPOD_ERROR_EXHAUSTED;
        default:
                return PEERPOD_ERROR_INTERNAL;
        }
}

static int append_volumes(sd_bus_message *reply, const DirectVolumes *volumes) {
        int r;

        r = sd_bus_message_open_container(reply, 'a', "(sssss)");
        for (size_t i = 0; r >= 0 && i < volumes->n; i++) {
                const DirectVolume *v = volumes->volumes + i;

                r = sd_bus_message_append(reply, "(sssss)", v->path, strempty(v->disk_id), strempty(v->fs_type),
                                          strempty(v->encrypt_type), strempty(v->key_id));
        }

        return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int method_read(sd_bus_message *msg, void *userdata, sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(direct_volumes_done) DirectVolumes volumes = DIRECT_VOLUMES_NULL;
        const char *uid, *directory = userdata;
        NetError e = {};
        int r;

        r = sd_bus_message_read(msg, "s", &uid);
        if (r < 0)
                return r;
        if (!isempty(uid) && !sandbox_id_is_valid(uid))
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "invalid pod UID");
        r = direct_volumes_read(directory, uid, &volumes, &e);
        if (r < 0)
                return sd_bus_error_setf(error, error_name(r), "%s", net_error_text(&e, r));

        r = sd_bus_message_new_method_return(msg, &reply);
        if (r >= 0)
                r = append_volumes(reply, &volumes);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* UNPRIVILEGED: who may connect at all was checked when the link was accepted. */
static const sd_bus_vtable volumes_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Read", SD_BUS_ARGS("s", pod_uid), SD_BUS_RESULT("a(sssss)", volumes),
                                method_read, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

int volume_bus_setup(sd_bus *bus, const char *directory) {
        return sd_bus_add_object_vtable(bus, NULL, VOLUMES_PATH, VOLUMES_INTERFACE, volumes_vtable, (void*) directory);
}
