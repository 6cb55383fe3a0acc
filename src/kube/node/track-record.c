/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/track-record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

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

static const struct {
        const char *key;
        size_t offset, size_max;
} text_fields[] = {
        { "sandbox-id",    offsetof(TrackRecord, id),            64 },
        { "pod-namespace", offsetof(TrackRecord, pod_namespace), 253 },
        { "pod-name",      offsetof(TrackRecord, pod_name),      253 },
        { "pod-uid",       offsetof(TrackRecord, pod_uid),       128 },
        { "provider",      offsetof(TrackRecord, provider),      64 },
        { "instance-name", offsetof(TrackRecord, instance_name), TEXT_MAX },
        { "instance-id",   offsetof(TrackRecord, instance_id),   TEXT_MAX },
        { "instance-type", offsetof(TrackRecord, instance_type), TEXT_MAX },
        { "last-error",    offsetof(TrackRecord, last_error),    TRACK_ERROR_MAX },
        { "name",          offsetof(TrackRecord, name),          253 },
        { "uid",           offsetof(TrackRecord, uid),           128 },
};

static const struct {
        const char *key;
        size_t offset;
} usec_fields[] = {
        { "created-usec", offsetof(TrackRecord, created_usec) },
        { "instance-usec", offsetof(TrackRecord, instance_usec) },
        { "gone-usec",    offsetof(TrackRecord, gone_usec)    },
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

static char** text_field(const TrackRecord *record, size_t i) {
        return (char**) ((char*) record + text_fields[i].offset);
}

static uint64_t* usec_field(const TrackRecord *record, size_t i) {
        return (uint64_t*) ((char*) record + usec_fields[i].offset);
}

void track_record_done(TrackRecord *record) {
        for (size_t i = 0; i < ELEMENTSOF(text_fields); i++)
                free(*text_field(record, i));
        strv_free(record->addresses);
        *record = TRACK_RECORD_NULL;
}

static int corrupt(char **ret_error, const char *key) {
        if (ret_error && asprintf(ret_error, "value of '%s' is missing or impossible", key) < 0)
                *ret_error = NULL;

        return -EBADMSG;
}

static int parse_texts(json_object *o, TrackRecord *record, char **ret_error) {
        for (size_t i = 0; i < ELEMENTSOF(text_fields); i++) {
                const char *value;
                int r;

                r = json_get_string(o, text_fields[i].key, &value, ret_error);
                if (r < 0)
                        return r;
                if (r == 0)
                        continue;
                if (!text_is_plain(value, text_fields[i].size_max))
                        return corrupt(ret_error, text_fields[i].key);
                *text_field(record, i) = strdup(value);
                if (!*text_field(record, i))
                        return -ENOMEM;
        }

        return 0;
}

static int parse_others(json_object *o, TrackRecord *record, char **ret_error) {
        const char *state = "";
        int r;

        r = json_get_string(o, "state", &state, ret_error);
        if (r < 0)
                return r;
        record->state = track_state_from_string(state);
        if (record->state < 0)
                return corrupt(ret_error, "state");
        r = json_get_bool(o, "posted", &record->posted, ret_error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(usec_fields); i++) {
                r = json_get_u64(o, usec_fields[i].key, INT64_MAX, usec_field(record, i), ret_error);
                if (r < 0)
                        return r;
        }

        r = json_get_strv(o, "addresses", &record->addresses, ret_error);
        if (r < 0)
                return r;
        if (strv_length(record->addresses) > TRACK_ADDRESSES_MAX)
                return corrupt(ret_error, "addresses");
        for (char **a = record->addresses; a && *a; a++)
                if (!text_is_plain(*a, 64))
                        return corrupt(ret_error, "addresses");

        return 0;
}

/* They become parts of paths at the API server, and of file names here. */
static int check(const TrackRecord *record, char **ret_error) {
        if (!record->id || !sandbox_id_is_valid(record->id))
                return corrupt(ret_error, "sandbox-id");
        if (!record->pod_namespace || !kube_name_is_valid(record->pod_namespace))
                return corrupt(ret_error, "pod-namespace");
        if (!record->pod_name || !kube_name_is_valid(record->pod_name))
                return corrupt(ret_error, "pod-name");
        if (!record->name || !kube_name_is_valid(record->name))
                return corrupt(ret_error, "name");
        if (record->uid && !record->posted)
                return corrupt(ret_error, "posted");

        return 0;
}

int track_record_parse(const char *text, size_t size, TrackRecord *ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(track_record_done) TrackRecord record = TRACK_RECORD_NULL;
        uint64_t version = 0;
        int r;

        if (size > TRACK_RECORD_SIZE_MAX)
                return -EFBIG;
        r = json_parse(text, size, &o, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "version", UINT64_MAX, &version, ret_error);
        if (r < 0)
                return r;
        if (version == 0)
                return corrupt(ret_error, "version");
        if (version > TRACK_RECORD_VERSION) {
                if (ret_error && asprintf(ret_error, "written by a newer version, as form %" PRIu64, version) < 0)
                        *ret_error = NULL;
                return -EPROTONOSUPPORT;
        }

        r = parse_texts(o, &record, ret_error);
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
        const char *s;
        char *text;
        int r;

        if (!o)
                return -ENOMEM;
        r = json_set_u64(o, "version", TRACK_RECORD_VERSION);
        if (r >= 0)
                r = json_set_string(o, "state", track_state_to_string(record->state));
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(text_fields); i++)
                r = json_set_string(o, text_fields[i].key, *text_field(record, i));
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(usec_fields); i++)
                if (*usec_field(record, i) > 0)
                        r = json_set_u64(o, usec_fields[i].key, *usec_field(record, i));
        if (r >= 0 && record->addresses)
                r = json_set_strv(o, "addresses", record->addresses);
        if (r >= 0)
                r = json_set_bool(o, "posted", record->posted);
        if (r < 0)
                return r;

        s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!s)
                return -ENOMEM;
        if (strlen(s) >= TRACK_RECORD_SIZE_MAX)
                return -EFBIG;
        if (asprintf(&text, "%s\n", s) < 0)
                return -ENOMEM;

        *ret_text = text;
        return 0;
}
