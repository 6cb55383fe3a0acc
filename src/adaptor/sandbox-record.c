/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/sandbox-record.h"

#include <arpa/inet.h>
#include <json-c/json_tokener.h>
#include <string.h>

#include "adaptor/request.h"
#include "adaptor/volumes.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

#define ERROR_TEXT_MAX 4096U

static const char *const state_names[_SANDBOX_STATE_MAX] = {
        [SANDBOX_PLANNED]  = "planned",
        [SANDBOX_CREATING] = "creating",
        [SANDBOX_RUNNING]  = "running",
        [SANDBOX_DELETING] = "deleting",
        [SANDBOX_GONE]     = "gone",
};

static const uint32_t allowed[_SANDBOX_STATE_MAX] = {
        [SANDBOX_PLANNED]  = BIT(SANDBOX_CREATING) | BIT(SANDBOX_DELETING),
        [SANDBOX_CREATING] = BIT(SANDBOX_RUNNING)  | BIT(SANDBOX_DELETING),
        [SANDBOX_RUNNING]  = BIT(SANDBOX_DELETING),
        [SANDBOX_DELETING] = BIT(SANDBOX_GONE),
};

/* What is copied as it is. "gone" is never on disk. */
static const JsonField fields[] = {
        { "sandbox-id",    JSON_TEXT, offsetof(SandboxRecord, id),            0, 64 },
        { "pod-name",      JSON_TEXT, offsetof(SandboxRecord, pod_name),      0, POD_NAME_MAX },
        { "pod-namespace", JSON_TEXT, offsetof(SandboxRecord, pod_namespace), 0, POD_NAME_MAX },
        { "pod-uid",       JSON_TEXT, offsetof(SandboxRecord, pod_uid),       0, POD_NAME_MAX },
        { "netns-path",    JSON_TEXT, offsetof(SandboxRecord, netns_path),    0, NETNS_PATH_MAX },
        { "machine-type",  JSON_TEXT, offsetof(SandboxRecord, machine_type),  0, REQUEST_TEXT_MAX },
        { "image",         JSON_TEXT, offsetof(SandboxRecord, image),         0, REQUEST_TEXT_MAX },
        { "gpu-model",     JSON_TEXT, offsetof(SandboxRecord, gpu_model),     0, REQUEST_TEXT_MAX },
        { "node",          JSON_TEXT, offsetof(SandboxRecord, node),          0, REQUEST_TEXT_MAX },
        { "instance-name", JSON_TEXT, offsetof(SandboxRecord, instance_name), 0, REQUEST_TEXT_MAX },
        { "instance-id",   JSON_TEXT, offsetof(SandboxRecord, instance_id),   0, REQUEST_TEXT_MAX },
        { "instance-type", JSON_TEXT, offsetof(SandboxRecord, instance_type), 0, REQUEST_TEXT_MAX },
        { "last-error",    JSON_TEXT, offsetof(SandboxRecord, last_error),    0, ERROR_TEXT_MAX },
        { "tls-profile",   JSON_TEXT, offsetof(SandboxRecord, tls_profile),   0, REQUEST_TEXT_MAX },
        { "tls-server-name", JSON_TEXT, offsetof(SandboxRecord, tls_server_name), 0, REQUEST_TEXT_MAX },
        { "created-usec",  JSON_USEC, offsetof(SandboxRecord, state_usec[SANDBOX_PLANNED]) },
        { "started-usec",  JSON_USEC, offsetof(SandboxRecord, state_usec[SANDBOX_CREATING]) },
        { "running-usec",  JSON_USEC, offsetof(SandboxRecord, state_usec[SANDBOX_RUNNING]) },
        { "deleting-usec", JSON_USEC, offsetof(SandboxRecord, state_usec[SANDBOX_DELETING]) },
        { "hold-until-usec", JSON_USEC, offsetof(SandboxRecord, hold_until_usec) },
        {}
};

const char* sandbox_state_to_string(SandboxState state) {
        assert(state >= 0 && state < _SANDBOX_STATE_MAX);

        return state_names[state];
}

SandboxState sandbox_state_from_string(const char *s) {
        for (SandboxState i = 0; i < _SANDBOX_STATE_MAX; i++)
                if (streq(s, state_names[i]))
                        return i;

        return _SANDBOX_STATE_INVALID;
}

bool sandbox_state_may_follow(SandboxState from, SandboxState to) {
        assert(from >= 0 && from < _SANDBOX_STATE_MAX);
        assert(to >= 0 && to < _SANDBOX_STATE_MAX);

        return allowed[from] & BIT(to);
}

void sandbox_record_done(SandboxRecord *record) {
        json_fields_free(fields, record);
        strv_free(record->addresses);
        strv_free(record->tls_cipher_suites);
        strv_free(record->volumes_elsewhere);
        free(record->volumes);
        free(record->pod_network);
        *record = SANDBOX_RECORD_NULL;
}

static int parse_state(json_object *o, SandboxRecord *record, char **ret_error) {
        const char *name;
        int r;

        r = json_get_string(o, "state", &name, ret_error);
        if (r < 0)
                return r;
        record->state = r > 0 ? sandbox_state_from_string(name) : _SANDBOX_STATE_INVALID;
        if (record->state < 0 || record->state == SANDBOX_GONE)
                return json_bad_value(ret_error, "state");

        return 0;
}

static int parse_numbers(json_object *o, SandboxRecord *record, char **ret_error) {
        uint64_t vcpus = 0, gpus = 0;
        int r;

        r = json_get_u64(o, "vcpus", REQUEST_VCPUS_MAX, &vcpus, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "gpus", REQUEST_GPUS_MAX, &gpus, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "memory-mib", REQUEST_MEMORY_MIB_MAX, &record->memory_mib, ret_error);
        if (r < 0)
                return r;

        record->vcpus = vcpus;
        record->gpus = gpus;
        return 0;
}

static int parse_addresses(json_object *o, SandboxRecord *record, char **ret_error) {
        int r;

        r = json_get_strv(o, "addresses", &record->addresses, ret_error);
        if (r < 0)
                return r;

        return addresses_are_valid(record->addresses) ? 0 : json_bad_value(ret_error, "addresses");
}

static int parse_pod_network(json_object *o, SandboxRecord *record, char **ret_error) {
        _cleanup_(json_object_putp) json_object *again = NULL;
        json_object *network;
        int r;

        r = json_get_object(o, "pod-network", &network, ret_error);
        if (r <= 0)
                return r;

        record->pod_network = strdup(json_object_to_json_string_ext(network, JSON_C_TO_STRING_PLAIN) ?: "");
        if (isempty(record->pod_network))
                return -ENOMEM;

        /* json-c reads and prints what is no JSON, NaN for one; this is text that others will parse. */
        r = json_parse(record->pod_network, strlen(record->pod_network), &again, /* ret_error= */ NULL);
        return r == -EBADMSG ? json_bad_value(ret_error, "pod-network") : r;
}

static int parse_volumes(json_object *o, SandboxRecord *record, char **ret_error) {
        json_object *array;
        int r;

        r = json_get_strv(o, "volumes-elsewhere", &record->volumes_elsewhere, ret_error);
        if (r < 0)
                return r;
        r = json_get_array(o, "volumes", &array, ret_error);
        if (r <= 0)
                return r;
        r = volumes_check(array);
        if (r < 0)
                return r == -EBADMSG ? json_bad_value(ret_error, "volumes") : r;

        record->volumes = strdup(json_object_to_json_string_ext(array, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) ?: "");
        return isempty(record->volumes) ? -ENOMEM : 0;
}

/* A state claims what the steps before it have found out. */
static int check_state(const SandboxRecord *record, char **ret_error) {
        if (record->state == SANDBOX_DELETING)
                return 0;               /* may begin anywhere, even for an instance that we only found */
        if (isempty(record->pod_name) || isempty(record->pod_namespace))
                return json_bad_value(ret_error, "pod-name");
        if (isempty(record->netns_path))
                return json_bad_value(ret_error, "netns-path");
        if (isempty(record->instance_name))
                return json_bad_value(ret_error, "instance-name");
        if (record->state == SANDBOX_RUNNING && strv_length(record->addresses) == 0)
                return json_bad_value(ret_error, "addresses");

        return 0;
}

int sandbox_record_parse(const char *text, size_t size, SandboxRecord *ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(sandbox_record_done) SandboxRecord record = SANDBOX_RECORD_NULL;
        int r;

        r = json_record_parse(text, size, SANDBOX_RECORD_SIZE_MAX, SANDBOX_RECORD_VERSION, &o, ret_error);
        if (r < 0)
                return r;

        r = json_fields_read(o, fields, &record, ret_error);
        if (r < 0)
                return r;
        if (!sandbox_id_is_valid(record.id))
                return json_bad_value(ret_error, "sandbox-id");
        r = parse_state(o, &record, ret_error);
        if (r < 0)
                return r;
        r = parse_numbers(o, &record, ret_error);
        if (r < 0)
                return r;
        r = parse_addresses(o, &record, ret_error);
        if (r < 0)
                return r;
        r = parse_pod_network(o, &record, ret_error);
        if (r < 0)
                return r;
        r = parse_volumes(o, &record, ret_error);
        if (r < 0)
                return r;
        r = json_get_strv(o, "tls-cipher-suites", &record.tls_cipher_suites, ret_error);
        if (r < 0)
                return r;
        r = check_state(&record, ret_error);
        if (r < 0)
                return r;

        *ret = record;
        record = SANDBOX_RECORD_NULL;
        return 0;
}

static int set_pod_network(json_object *o, const char *text) {
        json_object *network;
        int r;

        if (!text)
                return 0;
        r = json_parse(text, strlen(text), &network, /* ret_error= */ NULL);
        if (r < 0)
                return r == -EBADMSG ? -EINVAL : r;

        return json_set(o, "pod-network", network);
}

int sandbox_record_format(const SandboxRecord *record, char **ret_text) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r;

        o = json_object_new_object();
        if (!o)
                return -ENOMEM;

        r = json_set_u64(o, "version", SANDBOX_RECORD_VERSION);
        if (r < 0)
                return r;
        r = json_set_string(o, "state", sandbox_state_to_string(record->state));
        if (r < 0)
                return r;
        r = json_fields_write(o, fields, record);
        if (r < 0)
                return r;
        r = json_set_u64(o, "vcpus", record->vcpus);
        if (r < 0)
                return r;
        r = json_set_u64(o, "gpus", record->gpus);
        if (r < 0)
                return r;
        r = json_set_u64(o, "memory-mib", record->memory_mib);
        if (r < 0)
                return r;
        r = json_set_strv(o, "addresses", record->addresses);
        if (r < 0)
                return r;
        r = set_pod_network(o, record->pod_network);
        if (r < 0)
                return r;
        if (record->volumes) {
                json_object *array = json_tokener_parse(record->volumes);

                r = array ? json_set(o, "volumes", array) : -ENOMEM;
                if (r < 0)
                        return r;
        }
        if (record->volumes_elsewhere) {
                r = json_set_strv(o, "volumes-elsewhere", record->volumes_elsewhere);
                if (r < 0)
                        return r;
        }
        if (record->tls_cipher_suites) {
                r = json_set_strv(o, "tls-cipher-suites", record->tls_cipher_suites);
                if (r < 0)
                        return r;
        }

        return json_record_format(o, SANDBOX_RECORD_SIZE_MAX, ret_text);
}
