/* SPDX-License-Identifier: Apache-2.0 */
/* Reviews: each has an answer; a pod that is allowed has a patch that applies, and then none any more. */
#include <json-c/json.h>

#include "basic/json.h"
#include "basic/util.h"
#include "kube/webhook/mutate.h"
#include "kube/webhook/review.h"
#include "kube/webhook/webhook.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *classes[] = { (char*) "kata-*", NULL };
static char *gpus[] = { (char*) "nvidia.com/gpu", NULL };
static const WebhookSettings settings = {
        .runtime_classes = classes,
        .vm_resource = (char*) "kata.peerpods.io/vm",
        .gpu_resources = gpus,
};

static json_object* child_of(json_object *o, const char *name) {
        if (json_object_is_type(o, json_type_array))
                return json_object_array_get_idx(o, strtoul(name, NULL, 10));
        return json_object_object_get(o, name);
}

/* json-c's own json_patch_apply() does not undo "~1" in the last part of a path. */
static void apply(json_object *o, json_object *operation) {
        const char *operation_name = json_object_get_string(json_object_object_get(operation, "op"));
        _cleanup_(freep) char *path = strdup(json_object_get_string(json_object_object_get(operation, "path")));
        char *rest = path + 1, *name;

        assert(path && path[0] == '/');
        while ((name = strsep(&rest, "/"))) {
                char *escaped = strstr(name, "~1");

                if (escaped) {
                        *escaped = '/';
                        memmove(escaped + 1, escaped + 2, strlen(escaped + 2) + 1);
                }
                assert(o);
                if (rest)
                        o = child_of(o, name);
                else if (streq(operation_name, "remove")) {
                        assert(json_object_object_get_ex(o, name, NULL));
                        json_object_object_del(o, name);
                } else
                        json_object_object_add(o, name, json_object_get(json_object_object_get(operation, "value")));
        }
}

static void change_twice(json_object *pod) {
        _cleanup_(mutation_done) Mutation first = {}, second = {};
        _cleanup_(freep) char *error = NULL;
        int r;

        r = mutate_pod(&settings, pod, &first, &error);
        if (r < 0) {
                assert(error);
                return;
        }
        for (size_t i = 0; first.patch && i < json_object_array_length(first.patch); i++)
                apply(pod, json_object_array_get_idx(first.patch, i));
        r = mutate_pod(&settings, pod, &second, &error);
        assert(r == 0 && !second.patch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(json_object_putp) json_object *question = NULL, *answer = NULL;
        _cleanup_(freep) char *text = NULL;
        json_object *o;
        int r;

        r = review_answer(&settings, (const char*) data, size, &text);
        assert(r == 0);
        r = json_parse(text, strlen(text), &answer, NULL);
        assert(r == 0);
        assert(json_get_object(answer, "response", &o, NULL) == 1);

        if (json_parse((const char*) data, size, &question, NULL) >= 0 &&
            json_get_object(question, "request", &o, NULL) > 0 && json_get_object(o, "object", &o, NULL) > 0)
                change_twice(o);
        return 0;
}
