/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/webhook/pod-size.h"

#include <fnmatch.h>
#include <json-c/json.h>

#include "basic/error-text.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/webhook/webhook.h"

#define VALUE_SHOWN_MAX 64U
#define DROPPED_MAX 16U

static const char *const resource_table[_VM_RESOURCE_MAX] = {
        [VM_CPU] = "cpu",
        [VM_MEMORY] = "memory",
        [VM_GPU] = "gpu",
};

const char* vm_resource_to_string(VmResource r) {
        return resource_table[r];
}

static bool is_gpu(const WebhookSettings *settings, const char *name) {
        for (char *const *pattern = settings->gpu_resources; pattern && *pattern; pattern++)
                if (fnmatch(*pattern, name, 0) == 0)
                        return true;
        return false;
}

/* What stands in "requests" and "limits" may be a number, too (kubernetes/apimachinery: Quantity.UnmarshalJSON). */
static int read_quantity(json_object *value, const char *list, const char *name, Quantity *ret, char **reterr) {
        _cleanup_(freep) char *shown = NULL;
        const char *text;
        int r;

        if (!json_object_is_type(value, json_type_string) && !json_object_is_type(value, json_type_int) &&
            !json_object_is_type(value, json_type_double))
                return error_text(reterr, -EBADMSG, "%s['%.253s'] is no quantity", list, name);

        text = json_object_get_string(value);
        r = quantity_parse(text, ret);
        if (r == 0 && *ret >= 0)
                return 0;

        shown = text_make_plain(text, VALUE_SHOWN_MAX);
        return error_text(reterr, -EINVAL, "%s['%.253s']: '%s' %s", list, name, strempty(shown),
                          r == 0 ? "is negative" : r == -ERANGE ? "is more than any VM has" : "is no quantity");
}

static int drop(Asked *a, const char *name) {
        if (strv_length(*a->dropped) >= DROPPED_MAX || strv_contains(*a->dropped, name))
                return 0;
        return strv_extend(a->dropped, name);
}

static int read_list(const WebhookSettings *settings, json_object *resources, const char *list, PodSize *size, Asked *a, char **reterr) {
        json_object *o;
        Quantity q;
        int r;

        r = json_get_object(resources, list, &o, reterr);
        if (r <= 0)
                return r;

        json_object_object_foreach(o, name, value) {
                if (streq(name, settings->vm_resource))
                        continue;
                a->anything = true;
                r = read_quantity(value, list, name, &q, reterr);
                if (r < 0)
                        return r;
                if (streq(name, "cpu"))
                        size->of[VM_CPU] = q;
                else if (streq(name, "memory"))
                        size->of[VM_MEMORY] = q;
                else if (is_gpu(settings, name)) {
                        if (q % QUANTITY_ONE != 0)
                                return error_text(reterr, -EINVAL, "%s['%.253s'] must be a whole number", list, name);
                        size->of[VM_GPU] = quantity_add(size->of[VM_GPU], q);
                } else {
                        r = drop(a, name);
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

static int read_claims(json_object *resources, Asked *a, char **reterr) {
        json_object *claims;
        int r;

        r = json_get_array(resources, "claims", &claims, reterr);
        if (r <= 0 || json_object_array_length(claims) == 0)
                return r;
        a->anything = true;
        return drop(a, "claims");
}

int asked_read(const WebhookSettings *settings, json_object *owner, Asked *ret, char **reterr) {
        _cleanup_(freep) char *problem = NULL;
        Asked a = { .dropped = ret->dropped };
        json_object *resources;
        int r;

        r = json_get_object(owner, "resources", &resources, &problem);
        if (r > 0) {
                r = read_list(settings, resources, "requests", &a.requests, &a, &problem);
                if (r >= 0)
                        r = read_list(settings, resources, "limits", &a.limits, &a, &problem);
                if (r >= 0)
                        r = read_claims(resources, &a, &problem);
        }
        if (r < 0)
                return error_text(reterr, r, "resources: %s", problem ?: "out of memory");

        *ret = a;
        return 0;
}

static PodSize max_of(const PodSize *a, const PodSize *b) {
        PodSize size;

        for (VmResource i = 0; i < _VM_RESOURCE_MAX; i++)
                size.of[i] = MAX(a->of[i], b->of[i]);
        return size;
}

static PodSize sum_of(const PodSize *a, const PodSize *b) {
        PodSize size;

        for (VmResource i = 0; i < _VM_RESOURCE_MAX; i++)
                size.of[i] = quantity_add(a->of[i], b->of[i]);
        return size;
}

PodSize pod_size_of(const Asked *a) {
        return max_of(&a->requests, &a->limits);
}

void pod_sum_add_init(PodSum *s, const PodSize *size) {
        PodSize now = sum_of(&s->sidecars, size);

        s->peak = max_of(&s->peak, &now);
}

void pod_sum_add_sidecar(PodSum *s, const PodSize *size) {
        s->sidecars = sum_of(&s->sidecars, size);
}

void pod_sum_add_app(PodSum *s, const PodSize *size) {
        s->apps = sum_of(&s->apps, size);
}

PodSize pod_sum_total(const PodSum *s, const PodSize *pod_requests, const PodSize *pod_limits) {
        PodSize running = sum_of(&s->sidecars, &s->apps), total = max_of(&s->peak, &running);

        total = max_of(&total, pod_requests);
        for (VmResource i = 0; i < _VM_RESOURCE_MAX; i++)
                if (pod_limits->of[i] > 0)
                        total.of[i] = MAX(pod_limits->of[i], pod_requests->of[i]);
        return total;
}
