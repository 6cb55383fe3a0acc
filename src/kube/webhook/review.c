/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/webhook/review.h"

#include <json-c/json.h>

#include "basic/error-text.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "kube/webhook/mutate.h"
#include "userdata/encode.h"

#define KIND "AdmissionReview"
#define API_VERSION "admission.k8s.io/v1"
#define MESSAGE_MAX 1024U
#define WRITE_FLAGS (JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE)

enum {
        CODE_OK = 200,
        CODE_BAD_REQUEST = 400,
        CODE_INVALID = 422,
};

/* What is read of a question; all borrowed. */
typedef struct Question {
        const char *uid;
        json_object *pod;       /* NULL: nothing that we would change */
} Question;

/* ---- answers ---- */

/* @fields of the response are added to what all have; it is taken. */
static int write_answer(const char *uid, bool allowed, unsigned code, const char *message, json_object *fields, char **ret) {
        _cleanup_(json_object_putp) json_object *response = fields, *review = json_object_new_object();
        json_object *status = json_object_new_object();
        const char *text;
        int r;

        r = response && review ? json_set_string(response, "uid", uid) : -ENOMEM;
        if (r < 0) {
                json_object_put(status);
                return r;
        }
        r = json_set(response, "status", status);
        if (r >= 0)
                r = json_set(status, "metadata", json_object_new_object());
        if (r >= 0)
                r = json_set_u64(status, "code", code);
        if (r >= 0)
                r = json_set_string(status, "message", message);
        if (r >= 0)
                r = json_set_bool(response, "allowed", allowed);
        if (r >= 0)
                r = json_set_string(review, "kind", KIND);
        if (r >= 0)
                r = json_set_string(review, "apiVersion", API_VERSION);
        if (r >= 0)
                r = json_set(review, "response", TAKE_PTR(response));
        if (r < 0)
                return r;

        text = json_object_to_json_string_ext(review, WRITE_FLAGS);
        *ret = text ? strdup(text) : NULL;
        return *ret ? 0 : -ENOMEM;
}

int review_refuse(const char *uid, unsigned code, const char *message, char **ret) {
        _cleanup_(freep) char *plain = text_make_plain(message, MESSAGE_MAX);

        return plain ? write_answer(uid, /* allowed= */ false, code, plain, json_object_new_object(), ret) : -ENOMEM;
}

static int set_patch(json_object *response, json_object *patch) {
        const char *text = json_object_to_json_string_ext(patch, WRITE_FLAGS);
        _cleanup_(freep) char *encoded = NULL;
        int r;

        r = text ? base64_encode(text, strlen(text), &encoded) : -ENOMEM;
        if (r >= 0)
                r = json_set_string(response, "patch", encoded);
        return r < 0 ? r : json_set_string(response, "patchType", "JSONPatch");
}

static int allow(const char *uid, const Mutation *m, char **ret) {
        _cleanup_(json_object_putp) json_object *response = json_object_new_object();
        int r = response ? 0 : -ENOMEM;

        if (r >= 0 && m->patch)
                r = set_patch(response, m->patch);
        if (r >= 0 && strv_length(m->warnings) > 0)
                r = json_set_strv(response, "warnings", m->warnings);
        if (r < 0)
                return r;
        return write_answer(uid, /* allowed= */ true, CODE_OK, NULL, TAKE_PTR(response), ret);
}

/* ---- the question ---- */

static int check_string(json_object *o, const char *key, const char *expected, char **reterr) {
        const char *value = NULL;
        int r = json_get_string(o, key, &value, reterr);

        if (r < 0)
                return r;
        return streq_ptr(value, expected) ? 0 : error_text(reterr, -EBADMSG, "'%s' is not '%s'", key, expected);
}

/* Is it a new pod that is asked about? */
static int is_pod_creation(json_object *request, char **reterr) {
        const char *group = "", *plural = "", *subresource = "", *operation = "";
        json_object *resource;
        int r;

        r = json_get_object(request, "resource", &resource, reterr);
        if (r <= 0)
                return r;
        r = json_get_string(resource, "group", &group, reterr);
        if (r >= 0)
                r = json_get_string(resource, "resource", &plural, reterr);
        if (r >= 0)
                r = json_get_string(request, "subResource", &subresource, reterr);
        if (r >= 0)
                r = json_get_string(request, "operation", &operation, reterr);
        if (r < 0)
                return r;
        return streq(group, "") && streq(plural, "pods") && streq(subresource, "") && streq(operation, "CREATE");
}

static int read_question(json_object *review, Question *ret, char **reterr) {
        json_object *request;
        int r;

        r = check_string(review, "kind", KIND, reterr);
        if (r >= 0)
                r = check_string(review, "apiVersion", API_VERSION, reterr);
        if (r >= 0)
                r = json_get_object(review, "request", &request, reterr);
        if (r > 0)
                r = json_get_string(request, "uid", &ret->uid, reterr);
        if (r == 0)
                return error_text(reterr, -EBADMSG, "there is no 'request' with a 'uid'");
        if (r < 0)
                return r;

        r = is_pod_creation(request, reterr);
        if (r <= 0)
                return r;
        r = json_get_object(request, "object", &ret->pod, reterr);
        return r != 0 ? r : error_text(reterr, -EBADMSG, "there is no 'object' in the request");
}

/* Counted before anything is allocated for them; what stands in strings counts, too. */
static bool is_too_complex(const char *text, size_t size) {
        unsigned containers = 0, elements = 0;

        for (size_t i = 0; i < size; i++) {
                containers += text[i] == '{' || text[i] == '[';
                elements += text[i] == ',';
        }
        return containers > REVIEW_CONTAINERS_MAX || elements > REVIEW_ELEMENTS_MAX;
}

int review_answer(const WebhookSettings *settings, const char *text, size_t size, char **ret) {
        _cleanup_(json_object_putp) json_object *review = NULL;
        _cleanup_(mutation_done) Mutation mutation = {};
        _cleanup_(freep) char *problem = NULL;
        Question q = { .uid = "" };
        int r;

        if (size > REVIEW_SIZE_MAX || is_too_complex(text, size))
                return review_refuse("", CODE_BAD_REQUEST, "the review is too large", ret);

        r = json_parse(text, size, &review, &problem);
        if (r >= 0)
                r = read_question(review, &q, &problem);
        if (r >= 0 && q.pod)
                r = mutate_pod(settings, q.pod, &mutation, &problem);
        if (r == -EBADMSG || r == -EINVAL)
                return review_refuse(q.uid, r == -EINVAL ? CODE_INVALID : CODE_BAD_REQUEST, problem ?: "out of memory", ret);
        return r < 0 ? r : allow(q.uid, &mutation, ret);
}
