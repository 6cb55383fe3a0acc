/* SPDX-License-Identifier: Apache-2.0 */
/* Kata's record of a volume, and the name that it has: the input is the record, and, up to a NUL, a name. */
#include "basic/parse.h"
#include "tunnel/direct-volume.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(freep) char *reason = NULL, *name = NULL, *path = NULL;
        DirectVolume v = {};
        int r;

        r = direct_volume_parse((const char*) data, size, &v, &reason);
        assert(r == 0 || r == -EBADMSG);
        assert((r < 0) == !!reason);
        if (r == 0) {
                const char *const texts[] = { v.disk_id, v.fs_type, v.encrypt_type, v.key_id };

                for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                        assert(text_is_plain(texts[i], 1024));
                assert(!isempty(v.fs_type) && !v.path);
                direct_volumes_done(&(DirectVolumes) { .volumes = memcpy(malloc(sizeof(v)), &v, sizeof(v)), .n = 1 });
        }

        name = strndup(size > 0 ? (const char*) data : "", size);
        assert(name);
        r = direct_volume_decode_name(name, &path);
        assert(r == 0 || r == -EBADMSG);
        if (r == 0)
                assert(path[0] == '/' && text_is_plain(path, 4095) && !strstr(path, "/../"));
        return 0;
}
