/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/node/peerpod-object.h"

#include <inttypes.h>
#include <json-c/json_tokener.h>
#include <stdio.h>
#include <string.h>

#include "basic/util.h"
#include "kube/kube-object.h"
#include "kube/peerpod-names.h"
#include "tls/digest.h"

#define NAME_MAX_BYTES 253U
#define LABEL_MAX_BYTES 63U
#define HASH_DIGITS 16
#define CONDITION_READY "Ready"

static const struct {
        const char *phase, *ready, *reason;
} phases[_TRACK_STATE_MAX] = {
        [TRACK_CREATING] = { PEERPOD_PHASE_CREATING, "False", "Creating" },
        [TRACK_RUNNING]  = { PEERPOD_PHASE_RUNNING,  "True",  "Running"  },
        [TRACK_DELETING] = { PEERPOD_PHASE_DELETING, "False", "Deleting" },
        [TRACK_GONE]     = { PEERPOD_PHASE_GONE,     "False", "Gone"     },
};

int peerpod_name_make(const char *pod_name, const char *sandbox_id, char **ret) {
        char digest[SHA256_HEX_SIZE], tail[sizeof("resource-") + HASH_DIGITS];
        int r;

        r = sha256_hex(sandbox_id, strlen(sandbox_id), digest);
        if (r < 0)
                return r;
        (void) snprintf(tail, sizeof(tail), "resource-%.*s", HASH_DIGITS, digest);
        *ret = kube_name_make(pod_name, tail, NAME_MAX_BYTES);
        return *ret ? 0 : -ENOMEM;
}

static int set_label(json_object *labels, const char *key, const char *value) {
        _cleanup_(freep) char *label = kube_name_make(value, /* tail= */ NULL, LABEL_MAX_BYTES);

        return label ? json_set_string(labels, key, label) : -ENOMEM;
}

static int add_labels(json_object *meta, const TrackRecord *record, const char *node) {
        json_object *labels = json_object_new_object();
        int r;

        if (!labels)
                return -ENOMEM;
        r = json_set(meta, "labels", labels);
        if (r >= 0)
                r = set_label(labels, PEERPOD_LABEL_NODE, node);
        return r < 0 ? r : set_label(labels, PEERPOD_LABEL_POD_UID, record->pod_uid);
}

static int add_owner(json_object *meta, const TrackRecord *record) {
        json_object *list = json_object_new_array(), *owner;
        int r;

        if (!list)
                return -ENOMEM;
        r = json_set(meta, "ownerReferences", list);
        if (r < 0)
                return r;
        owner = json_object_new_object();
        if (!owner || json_object_array_add(list, owner) < 0) {
                json_object_put(owner);
                return -ENOMEM;
        }

        r = json_set_string(owner, "apiVersion", "v1");
        if (r >= 0)
                r = json_set_string(owner, "kind", "Pod");
        if (r >= 0)
                r = json_set_string(owner, "name", record->pod_name);
        if (r >= 0)
                r = json_set_string(owner, "uid", record->pod_uid);
        if (r >= 0)
                r = json_set_bool(owner, "controller", true);
        /* No blockOwnerDeletion: it would need a right on pods/finalizers where that is enforced, and our finalizer does as much. */
        return r;
}

static int add_finalizer(json_object *meta) {
        json_object *list = json_object_new_array(), *name = json_object_new_string(PEERPOD_FINALIZER);

        if (!list || !name || json_object_array_add(list, name) < 0) {
                json_object_put(list);
                json_object_put(name);
                return -ENOMEM;
        }
        return json_set(meta, "finalizers", list);
}

static int add_spec(json_object *o, const TrackRecord *record, const char *node) {
        json_object *spec = json_object_new_object();
        int r;

        if (!spec)
                return -ENOMEM;
        r = json_set(o, "spec", spec);
        if (r >= 0 && !isempty(record->provider))
                r = json_set_string(spec, "cloudProvider", record->provider);
        if (r >= 0 && !isempty(record->instance_name))
                r = json_set_string(spec, "instanceName", record->instance_name);
        if (r >= 0)
                r = json_set_string(spec, "nodeName", node);
        if (r >= 0)
                r = json_set_string(spec, "sandboxID", record->id);
        if (r >= 0)
                r = json_set_string(spec, "podUID", record->pod_uid);
        /* Grows with each sandbox of a pod, as no number of ours does that outlives a disk. */
        return r < 0 ? r : json_set_u64(spec, "attempt", record->created_usec);
}

int peerpod_object_make(const TrackRecord *record, const char *node, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        json_object *meta;
        int r;

        assert(record->pod_uid);

        o = kube_object_new(PEERPOD_API_VERSION, PEERPOD_KIND, record->pod_namespace, record->name);
        meta = o ? kube_object_at(o, "metadata", NULL) : NULL;
        if (!meta)
                return -ENOMEM;
        r = add_finalizer(meta);
        if (r >= 0)
                r = add_labels(meta, record, node);
        if (r >= 0)
                r = add_owner(meta, record);
        if (r >= 0)
                r = add_spec(o, record, node);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(o);
        return 0;
}

bool peerpod_is_of(json_object *object, const TrackRecord *record, const char *node) {
        _cleanup_(freep) char *label = kube_name_make(node, /* tail= */ NULL, LABEL_MAX_BYTES);
        const char *id = kube_string_at(object, "spec", "sandboxID", NULL);

        return label && streq(kube_string_at(object, "metadata", "labels", PEERPOD_LABEL_NODE, NULL), label) &&
               (isempty(id) || streq(id, record->id));
}

static int add_string(json_object **patch, const char *op, const char *value, const char *key1, const char *key2) {
        json_object *v = json_object_new_string(value);

        return v ? kube_patch_add_op(patch, op, v, key1, key2, NULL) : -ENOMEM;
}

int peerpod_spec_patch(json_object *object, const TrackRecord *record, json_object **ret) {
        _cleanup_(json_object_putp) json_object *patch = NULL;
        const struct {
                const char *key, *value;
        } fields[] = {
                { "cloudProvider", record->provider },
                { "instanceName", record->instance_name },
                { "instanceID", record->instance_id },
        };
        bool has_spec = json_object_is_type(kube_object_at(object, "spec", NULL), json_type_object), any = false;
        KubeMeta meta;
        int r;

        r = kube_meta(object, &meta, /* reterr= */ NULL);
        if (r < 0)
                return r;
        r = add_string(&patch, "test", meta.uid, "metadata", "uid");
        if (r >= 0 && !has_spec) {
                json_object *spec = json_object_new_object();

                r = spec ? kube_patch_add_op(&patch, "add", spec, "spec", NULL) : -ENOMEM;
        }
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(fields); i++) {
                const char *old = kube_string_at(object, "spec", fields[i].key, NULL);

                if (isempty(fields[i].value) || streq(old, fields[i].value))
                        continue;
                if (!isempty(old))
                        return -EEXIST;
                r = add_string(&patch, "add", fields[i].value, "spec", fields[i].key);
                any = true;
        }
        if (r < 0)
                return r;
        if (!any)
                return 0;

        *ret = TAKE_PTR(patch);
        return 1;
}

static int copy_status(json_object *object, json_object **ret) {
        json_object *status = kube_object_at(object, "status", NULL);
        const char *text;

        if (!json_object_is_type(status, json_type_object)) {
                *ret = json_object_new_object();
                return *ret ? 0 : -ENOMEM;
        }
        text = json_object_to_json_string_ext(status, JSON_C_TO_STRING_PLAIN);
        return text ? json_parse(text, strlen(text), ret, /* ret_error= */ NULL) : -ENOMEM;
}

static int set_time(json_object *status, const char *key, uint64_t usec) {
        char text[KUBE_TIME_SIZE];

        if (usec == 0)
                return 0;
        kube_time_format(usec, text);
        return json_set_string(status, key, text);
}

static int set_condition(json_object *status, const TrackRecord *record, uint64_t now) {
        json_object *conditions = NULL;
        int r;

        r = json_get_array(status, "conditions", &conditions, /* ret_error= */ NULL);
        if (r == -EBADMSG)
                conditions = NULL;
        json_object_get(conditions);
        r = kube_condition_set(&conditions, CONDITION_READY, phases[record->state].ready, phases[record->state].reason,
                               record->state == TRACK_RUNNING || record->state == TRACK_GONE ? "" : strempty(record->last_error),
                               /* generation= */ 0, now);
        if (r < 0) {
                json_object_put(conditions);
                return r;
        }
        return json_set(status, "conditions", conditions);
}

static int make_status(json_object *object, const TrackRecord *record, uint64_t now, json_object **ret) {
        _cleanup_(json_object_putp) json_object *status = NULL;
        int r;

        r = copy_status(object, &status);
        if (r >= 0)
                r = json_set_string(status, "phase", phases[record->state].phase);
        if (r >= 0 && !isempty(record->instance_type))
                r = json_set_string(status, "instanceType", record->instance_type);
        if (r >= 0 && record->addresses)
                r = json_set_strv(status, "addresses", record->addresses);
        if (r >= 0)
                r = set_time(status, "createdAt", record->instance_usec);
        if (r >= 0)
                r = set_time(status, "deletedAt", record->gone_usec);
        if (r >= 0)
                r = set_condition(status, record, now);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(status);
        return 0;
}

int peerpod_status_patch(json_object *object, const TrackRecord *record, uint64_t now, json_object **ret) {
        _cleanup_(json_object_putp) json_object *patch = NULL, *status = NULL;
        KubeMeta meta;
        int r;

        r = kube_meta(object, &meta, /* reterr= */ NULL);
        if (r < 0)
                return r;
        r = make_status(object, record, now, &status);
        if (r < 0)
                return r;
        if (json_object_equal(status, kube_object_at(object, "status", NULL)))
                return 0;

        r = add_string(&patch, "test", meta.uid, "metadata", "uid");
        if (r >= 0)
                r = add_string(&patch, "test", meta.resource_version, "metadata", "resourceVersion");
        if (r >= 0)
                r = kube_patch_add_op(&patch, "add", TAKE_PTR(status), "status", NULL);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(patch);
        return 1;
}
