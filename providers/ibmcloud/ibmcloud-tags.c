/* SPDX-License-Identifier: Apache-2.0 */
/* Tags that people look for: upstream's "coco-pod-vm:CLUSTER", the configured ones, and the owner's. Nothing here relies on them. */
#include "ibmcloud.h"

#include <json-c/json.h>
#include <syslog.h>

#include "basic/util.h"
#include "cloud-config.h"

#define TAG_TIME_USEC (UINT64_C(15) * 1000000)

static int add(json_object *array, const char *text, size_t n) {
        json_object *s = json_object_new_string_len(text, n);

        return s && json_object_array_add(array, s) == 0 ? 0 : -ENOMEM;
}

static json_object* build(const Vpc *v, const PeerpodInstanceSpec *spec, const char *crn) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        json_object *resources = json_object_new_array(), *resource = json_object_new_object(), *tags = ibm_owner_tags(spec);
        char cluster[IBM_TAG_SIZE];
        const char *item;
        size_t n;

        if (!o || json_set(o, "resources", resources) < 0 || json_set(o, "tag_names", tags) < 0 || !resource ||
            json_object_array_add(resources, resource) < 0 || json_set_string(resource, "resource_id", crn) < 0)
                return NULL;
        if (!isempty(v->cluster)) {
                (void) snprintf(cluster, sizeof(cluster), "coco-pod-vm:%s", v->cluster);
                if (add(tags, cluster, strlen(cluster)) < 0)
                        return NULL;
        }
        for (const char *p = v->tags; list_next(&p, &item, &n);)
                if (add(tags, item, n) < 0)
                        return NULL;
        return TAKE_PTR(o);
}

/* 200 says little: each resource has a result of its own. */
static bool all_done(json_object *body, const char **why) {
        json_object *results;

        *why = "the answer has no results";
        if (json_get_array(body, "results", &results, NULL) <= 0)
                return false;
        for (size_t i = 0; i < json_object_array_length(results); i++) {
                json_object *result = json_object_array_get_idx(results, i);
                bool failed = false;

                if (!json_object_is_type(result, json_type_object))
                        return false;
                (void) json_get_bool(result, "is_error", &failed, NULL);
                if (failed) {
                        *why = json_path_string(result, "message", "");
                        return false;
                }
        }
        return true;
}

bool vpc_tag(Vpc *v, const PeerpodCall *call, const PeerpodInstanceSpec *spec, const char *crn) {
        _cleanup_(ibm_reply_done) IbmReply reply = {};
        PeerpodError error = { .size = sizeof(error) };
        PeerpodCall bounded = *call;
        json_object *body = build(v, spec, crn);
        const char *why = error.text;

        bounded.deadline_usec = MIN(call->deadline_usec, peerpod_now_usec() + TAG_TIME_USEC);
        if (isempty(crn) || !body) {
                json_object_put(body);
                return false;
        }
        /* Attaching a tag that is there is no error: a PUT in all but name. */
        if (ibm_call(&v->api, &bounded, &(IbmRequest) {
                .method = "POST",
                .what = "Attach tags",
                .url = ibm_url(v->tagging_url, "/v3/tags/attach?tag_type=user"),
                .body = body,
        }, &reply, &error) == 0 && reply.body && all_done(reply.body, &why))
                return true;
        peerpod_log(call, LOG_WARNING, "The instance has no tags for people yet: %.300s", why);
        return false;
}
