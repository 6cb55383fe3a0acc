/* SPDX-License-Identifier: Apache-2.0 */
/* The private bus of podvm-volumes; what would mount is replaced at link time. */
#include "bus-fuzz.h"

#include "basic/parse.h"
#include "podvm/volumes/volumes.h"

int __wrap_volumes_mount(Volumes *m, sd_bus_message *message, const char *container, const VolumeSpec *v, sd_bus_error *error);
int __wrap_volumes_release(Volumes *m, sd_bus_message *message, const char *container, sd_bus_error *error);

int __wrap_volumes_mount(Volumes *m, sd_bus_message *message, const char *container, const VolumeSpec *v, sd_bus_error *error) {
        assert(sandbox_id_is_valid(container) && sandbox_id_is_valid(v->name) && v->lun <= VOLUME_LUN_MAX);
        assert(streq(v->fs_type, "ext4") || streq(v->fs_type, "ext3") || streq(v->fs_type, "xfs"));
        assert(isempty(v->encrypt_type) || (streq(v->encrypt_type, "luks2") && !isempty(v->key_id)));
        return sd_bus_reply_method_return(message, "s", "/run/cloud-volumes/x");
}

int __wrap_volumes_release(Volumes *m, sd_bus_message *message, const char *container, sd_bus_error *error) {
        assert(isempty(container) || sandbox_id_is_valid(container));
        return sd_bus_reply_method_return(message, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char *const members[] = { "Mount", "Release", NULL };
        static BusFuzz f = {
                .path = VOLUMES_PATH,
                .interface = VOLUMES_INTERFACE,
                .members = members,
                .setup = volumes_setup_bus,
        };

        bus_fuzz_one(&f, data, size);
        return 0;
}
