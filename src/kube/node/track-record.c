/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/track-record.h"

#include "basic/json.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/kube-object.h"

#define TEXT_MAX 1024U

static const char *const state_names[_TRACK_STATE_MAX] = {
        [TRACK_CREATING] = "creating",
        [TRACK_RUNNING]  = "running",
        [TRACK_DELETING] = "deleting",
        [TRACK_GONE]     = "gone",
};

static const JsonField fields[] = {
        { "sandbox-id",    JSON_TEXT, offsetof(TrackRecord, id),            0, 64 },
        { "pod-namespace", JSON_TEXT, offsetof(TrackRecord, pod_namespace), 0, 253 },
        { "pod-name",      JSON_TEXT, offsetof(TrackRecord, pod_name),      0, 253 },
        { "pod-uid",       JSON_TEXT, offsetof(TrackRecord, pod_uid),       0, 128 },
        { "provider",      JSON_TEXT, offsetof(TrackRecord, provider),      0, 64 },
        { "instance-name", JSON_TEXT, offsetof(TrackRecord, instance_name), 0, TEXT_MAX },
        { "instance-id",   JSON_TEXT, offsetof(TrackRecord, instance_id),   0, TEXT_MAX },
        { "instance-type", JSON_TEXT, offsetof(TrackRecord, instance_type), 0, TEXT_MAX },
        { "last-error",    JSON_TEXT, offsetof(TrackRecord, last_error),    0, TRACK_ERROR_MAX },
        { "name",          JSON_TEXT, offsetof(TrackRecord, name),          0, 253 },
        { "uid",           JSON_TEXT, offsetof(TrackRecord, uid),           0, 128 },
        { "created-usec",  JSON_USEC, offsetof(TrackRecord, created_usec) },
        { "instance-usec", JSON_USEC, offsetof(TrackRecord, instance_usec) },
        { "gone-usec",     JSON_USEC, offsetof(TrackRecord, gone_usec) },
        {}
};

const char* track_state_to_string(TrackState state) {
        assert(state >= 0 && state < _TRACK_STATE_MAX);

        return state_names[state];
}

TrackState track_state_from_string(const char *s) {
        for (TrackState i = 0; i < _TRACK_STATE_MAX; i++)
                if (streq(s, state_names[i]))
                        return i;

        return _TRACK_STATE_INVALID;
}

void track_record_done(TrackRecord *record) {
        json_fields_free(fields, record);
        strv_free(record->addresses);
        *record = TRACK_RECORD_NULL;
}

static int parse_others(json_object *o, TrackRecord *record, char **ret_error) {
        const char *state = "";
        int r;

        r = json_get_string(o, "state", &state, ret_error);
        if (r < 0)
                return r;
        record->state = track_state_from_string(state);
        if (record->state < 0)
                return json_bad_value(ret_error, "state");
        r = json_get_bool(o, "posted", &record->posted, ret_error);
        if (r < 0)
                return r;
        r = json_get_strv(o, "addresses", &record->addresses, ret_error);
        if (r < 0)
                return r;
        if (strv_length(record->addresses) > TRACK_ADDRESSES_MAX)
                return json_bad_value(ret_error, "addresses");
        for (char **a = record->addresses; a && *a; a++)
                if (!text_is_plain(*a, 64))
                        return json_bad_value(ret_error, "addresses");

        return 0;
}

/* They become parts of paths at the API server, and of file names here. */
static int check(const TrackRecord *record, char **ret_error) {
        if (!record->id || !sandbox_id_is_valid(record->id))
                return json_bad_value(ret_error, "sandbox-id");
        if (!record->pod_namespace || !kube_name_is_valid(record->pod_namespace))
                return json_bad_value(ret_error, "pod-namespace");
        if (!record->pod_name || !kube_name_is_valid(record->pod_name))
                return json_bad_value(ret_error, "pod-name");
        if (!record->name || !kube_name_is_valid(record->name))
                return json_bad_value(ret_error, "name");
        if (record->uid && !record->posted)
                return json_bad_value(ret_error, "posted");

        return 0;
}

int track_record_parse(const char *text, size_t size, TrackRecord *ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(track_record_done) TrackRecord record = TRACK_RECORD_NULL;
        int r;

        r = json_record_parse(text, size, TRACK_RECORD_SIZE_MAX, TRACK_RECORD_VERSION, &o, ret_error);
        if (r < 0)
                return r;
        r = json_fields_read(o, fields, &record, ret_error);
        if (r < 0)
                return r;
        r = parse_others(o, &record, ret_error);
        if (r < 0)
                return r;
        r = check(&record, ret_error);
        if (r < 0)
                return r;

        *ret = record;
        record = TRACK_RECORD_NULL;
        return 0;
}

int track_record_format(const TrackRecord *record, char **ret_text) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        int r;

        if (!o)
                return -ENOMEM;
        r = json_set_u64(o, "version", TRACK_RECORD_VERSION);
        if (r >= 0)
                r = json_set_string(o, "state", track_state_to_string(record->state));
        if (r >= 0)
                r = json_fields_write(o, fields, record);
        if (r >= 0 && record->addresses)
                r = json_set_strv(o, "addresses", record->addresses);
        if (r >= 0)
                r = json_set_bool(o, "posted", record->posted);
        if (r < 0)
                return r;

        return json_record_format(o, TRACK_RECORD_SIZE_MAX, ret_text);
}
