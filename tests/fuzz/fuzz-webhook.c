/* SPDX-License-Identifier: Apache-2.0 */
/* Reviews: each has an answer; a pod that is allowed has a patch that applies, and then none any more. */
#include <json-c/json.h>
#include <json-c/json_patch.h>

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

static void change_twice(json_object *pod) {
        _cleanup_(mutation_done) Mutation first = {}, second = {};
        _cleanup_(freep) char *error = NULL;
        struct json_patch_error problem;
        int r;

        r = mutate_pod(&settings, pod, &first, &error);
        if (r < 0) {
                assert(error);
                return;
        }
        if (first.patch) {
                r = json_patch_apply(NULL, first.patch, &pod, &problem);
                assert(r == 0);
        }
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
