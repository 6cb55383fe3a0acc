/* SPDX-License-Identifier: Apache-2.0 */
/* What an API server sends as an object: its metadata, its finalizers, its conditions, its times. */
#include <json-c/json.h>

#include "basic/json.h"
#include "basic/util.h"
#include "kube/kube-object.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_conditions(json_object *o) {
        json_object *conditions = kube_object_at(o, "status", "conditions", NULL), *own = json_object_is_type(conditions, json_type_array) ? json_object_get(conditions) : NULL;

        (void) kube_condition_is(conditions, "Gone", "True");
        if (kube_condition_set(&own, "Gone", "True", "Deleted", "", 0, 0) >= 0)
                assert(kube_condition_is(own, "Gone", "True"));
        json_object_put(own);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(json_object_putp) json_object *o = NULL, *patch = NULL;
        _cleanup_(freep) char *name = NULL;
        uint64_t usec;
        KubeMeta meta;

        if (json_parse((const char*) data, size, &o, NULL) < 0)
                return 0;
        if (kube_meta(o, &meta, NULL) >= 0) {
                assert(*meta.name && meta.uid && meta.resource_version);
                name = kube_name_make(meta.name, "x", 63);
                assert(name && strlen(name) <= 63);
                if (kube_patch_remove_finalizer(o, "peer.pod/finalizer", &patch) > 0)
                        assert(kube_has_finalizer(&meta, "peer.pod/finalizer") && json_object_array_length(patch) == 3);
                if (kube_time_parse(meta.creation_timestamp, &usec) >= 0) {
                        char text[KUBE_TIME_SIZE];

                        kube_micro_time_format(usec, text);
                        assert(strlen(text) == KUBE_TIME_SIZE - 1);
                }
        }
        fuzz_conditions(o);
        return 0;
}
