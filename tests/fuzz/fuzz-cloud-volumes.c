/* SPDX-License-Identifier: Apache-2.0 */
/* What the pod VM reads about volumes: the annotation by itself, a record, and a whole CreateContainer, whose mounts are moved to where the
 * volumes are. */
#include "basic/log.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "podvm/forwarder/edits.h"
#include "podvm/volumes/volume-store.h"
#include "ttrpc/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_specs(const VolumeSpecs *specs) {
        assert(specs->n <= CLOUD_VOLUMES_MAX);
        for (size_t i = 0; i < specs->n; i++) {
                const VolumeSpec *v = specs->list + i;

                assert(sandbox_id_is_valid(v->name) && v->mount_point[0] == '/' && v->lun <= VOLUME_LUN_MAX);
                assert(isempty(v->encrypt_type) || (streq(v->encrypt_type, "luks2") && !isempty(v->key_id)));
                assert(i == 0 || strcmp(specs->list[i - 1].name, v->name) < 0);
        }
}

static void check_annotation(const uint8_t *data, size_t size) {
        _cleanup_(volume_specs_done) VolumeSpecs specs = VOLUME_SPECS_NULL;
        _cleanup_(freep) char *error = NULL;

        if (volume_specs_parse((const char*) data, size, &specs, &error) >= 0) {
                assert(!error);
                check_specs(&specs);
        } else
                assert(specs.n == 0);
}

static void check_record(const uint8_t *data, size_t size) {
        VolumeRecord record = {};

        if (volume_record_parse("vol-0", (const char*) data, size, &record) >= 0)
                assert(streq(record.spec.name, "vol-0") && !isempty(record.spec.fs_type));
        volume_record_done(&record);
}

static size_t count_mounts(TtrpcSlice payload) {
        WireField oci, f;
        size_t n = 0, offset = 0;

        if (wire_find(payload, 6, &oci) < 0)
                return 0;
        while (wire_next(oci.bytes, &offset, &f) > 0)
                n += f.number == 5 && f.type == WIRE_BYTES;
        return n;
}

static void check_request(const uint8_t *data, size_t size) {
        _cleanup_(container_volumes_done) ContainerVolumes volumes = CONTAINER_VOLUMES_NULL;
        _cleanup_(strv_freep) char **paths = NULL;
        TtrpcRequest request = { .payload = { data, size } };
        RelayEdit edit = {};
        int r;

        r = edit_get_volumes(&request, &volumes, &edit);
        if (r < 0) {
                assert(edit.code != TTRPC_OK && edit.message[0]);
                return;
        }
        check_specs(&volumes.specs);
        assert(r == 0 || sandbox_id_is_valid(volumes.container));
        for (size_t i = 0; i < volumes.specs.n; i++)
                if (strv_extend(&paths, "/run/cloud-volumes/x") < 0)
                        abort();
        edit_create_container("/run/netns/podns", "/nonexistent/root", &volumes, paths, &request, &edit);
        if (edit.code == TTRPC_OK) {
                TtrpcSlice after = { edit.payload, edit.size };

                assert(wire_check(after) == 0 && count_mounts(after) == count_mounts(request.payload));
        }
        free(edit.payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        log_set_max_level(-1);
        check_annotation(data, size);
        check_record(data, size);
        check_request(data, size);
        return 0;
}
