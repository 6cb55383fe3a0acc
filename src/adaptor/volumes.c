/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/volumes.h"

#include <json-c/json_tokener.h>

#include "adaptor/error.h"
#include "adaptor/request.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "tls/digest.h"

#define VOLUMES_PATH "/org/confidentialcontainers/PeerPod1/Volumes"
#define VOLUMES_INTERFACE "org.confidentialcontainers.PeerPod1.Volumes"
#define VOLUMES_TIMEOUT_USEC (60 * USEC_PER_SEC)
#define VOLUMES_ELSEWHERE_MAX 4096U     /* digests; they go into the record */

/* As proxy.json has them. */
static const char *const keys[] = { "path", "disk-id", "fs-type", "encrypt-type", "key-id" };

static int append_uid(sd_bus_message *m, const void *arguments) {
        const char *const *uid = arguments;

        return sd_bus_message_append(m, "s", strempty(*uid));
}

static const ServiceMethod read_method = { VOLUMES_PATH, VOLUMES_INTERFACE, "Read", append_uid };

int volumes_read(ServiceLink *tunnel, const char *pod_uid, ServiceHandler handler, void *userdata, ServiceCall **ret) {
        return service_link_call(tunnel, &read_method, &pod_uid, sizeof(pod_uid), VOLUMES_TIMEOUT_USEC, handler, userdata, ret);
}

static int add_volume(json_object *array, const char *const *values) {
        json_object *o = json_object_new_object();

        if (!o)
                return -ENOMEM;
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (!isempty(values[i]) && json_set_string(o, keys[i], values[i]) < 0) {
                        json_object_put(o);
                        return -ENOMEM;
                }
        if (json_object_array_add(array, o) < 0) {
                json_object_put(o);
                return -ENOMEM;
        }

        return 0;
}

static int add_elsewhere(SandboxRecord *record, const char *path, sd_bus_error *error) {
        char digest[SHA256_HEX_SIZE];
        int r;

        if (strv_length(record->volumes_elsewhere) >= VOLUMES_ELSEWHERE_MAX)
                return sd_bus_error_setf(error, PEERPOD_ERROR_EXHAUSTED, "the node has more than %u volumes, and which of them are the pod's is "
                                         "not known", VOLUMES_ELSEWHERE_MAX);
        r = sha256_hex(path, strlen(path), digest);
        if (r >= 0)
                r = strv_extend(&record->volumes_elsewhere, digest);
        return r < 0 ? error_set_errno(error, r, "volumes of the node") : 0;
}

int volumes_plan(sd_bus_message *reply, SandboxRecord *record, sd_bus_error *error) {
        _cleanup_(json_object_putp) json_object *array = json_object_new_array();
        const char *v[ELEMENTSOF(keys)], *text;
        int r;

        if (!array)
                return error_set_errno(error, -ENOMEM, "volumes of the pod");
        r = sd_bus_message_enter_container(reply, 'a', "(sssss)");
        while (r >= 0) {
                r = sd_bus_message_read(reply, "(sssss)", &v[0], &v[1], &v[2], &v[3], &v[4]);
                if (r <= 0)
                        break;
                if (record->pod_uid)
                        r = add_volume(array, v);
                else {
                        r = add_elsewhere(record, v[0], error);
                        if (r < 0)
                                return r;
                }
        }
        if (r < 0)
                return error_set_errno(error, r, "answer of the tunnel service about volumes");

        if (json_object_array_length(array) == 0)
                return 0;
        r = volumes_check(array);
        if (r < 0)
                return error_set_errno(error, r == -EBADMSG ? -EIO : r, "answer of the tunnel service about volumes");
        text = json_object_to_json_string_ext(array, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        record->volumes = text ? strdup(text) : NULL;
        return record->volumes ? 0 : error_set_errno(error, -ENOMEM, "volumes of the pod");
}

int volumes_check(json_object *array) {
        for (size_t i = 0; i < json_object_array_length(array); i++) {
                json_object *o = json_object_array_get_idx(array, i);

                if (!json_object_is_type(o, json_type_object))
                        return -EBADMSG;
                for (size_t k = 0; k < ELEMENTSOF(keys); k++) {
                        const char *value = "";
                        int r;

                        r = json_get_string(o, keys[k], &value, /* ret_error= */ NULL);
                        if (r < 0)
                                return r;
                        if (!text_is_plain(value, NETNS_PATH_MAX) || (k == 0 && value[0] != '/'))
                                return -EBADMSG;
                }
        }

        return 0;
}

int volumes_get_disks(const SandboxRecord *record, char ***ret) {
        _cleanup_(json_object_putp) json_object *array = NULL;
        _cleanup_(strv_freep) char **disks = NULL;

        array = record->volumes ? json_tokener_parse(record->volumes) : NULL;
        if (record->volumes && !array)
                return -ENOMEM;         /* it was checked when it came */

        for (size_t i = 0; array && i < json_object_array_length(array); i++) {
                const char *id = NULL;
                int r;

                r = json_get_string(json_object_array_get_idx(array, i), "disk-id", &id, /* ret_error= */ NULL);
                if (r > 0 && !isempty(id))
                        r = strv_extend(&disks, id);
                if (r < 0)
                        return r;
        }

        *ret = TAKE_PTR(disks);
        return 0;
}
