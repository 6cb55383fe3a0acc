/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/story.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "adaptor/request.h"
#include "basic/json.h"
#include "basic/parse.h"
#include "basic/util.h"

#define STORY_VERSION 1
#define STEP_NAME_MAX 64U

static const char *const result_names[_STEP_RESULT_MAX] = {
        [STEP_UNDER_WAY] = "under-way",
        [STEP_DONE]      = "done",
        [STEP_FAILED]    = "failed",
        [STEP_CUT_OFF]   = "cut-off",
};

static const char *const usec_keys[_SANDBOX_STATE_MAX] = {
        [SANDBOX_PLANNED]  = "created-usec",
        [SANDBOX_CREATING] = "started-usec",
        [SANDBOX_RUNNING]  = "running-usec",
        [SANDBOX_DELETING] = "deleting-usec",
        [SANDBOX_GONE]     = "gone-usec",
};

static const struct {
        const char *key;
        size_t offset;
        size_t size_max;
} text_fields[] = {
        { "sandbox-id",    offsetof(Story, id),            64 },
        { "pod-name",      offsetof(Story, pod_name),      POD_NAME_MAX },
        { "pod-namespace", offsetof(Story, pod_namespace), POD_NAME_MAX },
        { "instance-name", offsetof(Story, instance_name), REQUEST_TEXT_MAX },
        { "instance-id",   offsetof(Story, instance_id),   REQUEST_TEXT_MAX },
        { "failed-step",   offsetof(Story, failed_step),   STEP_NAME_MAX },
        { "error-name",    offsetof(Story, error_name),    STORY_TEXT_MAX },
        { "error",         offsetof(Story, error),         STORY_TEXT_MAX },
        { "reason",        offsetof(Story, reason),        STORY_TEXT_MAX },
        { "setting",       offsetof(Story, setting),       STORY_TEXT_MAX },
};

const char* step_result_to_string(StepResult result) {
        assert(result >= 0 && result < _STEP_RESULT_MAX);

        return result_names[result];
}

static StepResult step_result_from_string(const char *s) {
        for (StepResult i = 0; i < _STEP_RESULT_MAX; i++)
                if (streq(s, result_names[i]))
                        return i;

        return _STEP_RESULT_INVALID;
}

static char** text_field(Story *s, size_t i) {
        return (char**) ((char*) s + text_fields[i].offset);
}

void story_done(Story *s) {
        for (size_t i = 0; i < ELEMENTSOF(text_fields); i++)
                free(*text_field(s, i));
        FOREACH_ELEMENT(StoryStep, step, s->steps, s->n_steps) {
                free(step->name);
                free(step->text);
        }
        free(s->steps);
        *s = STORY_NULL;
}

void story_set(char **field, const char *text) {
        char *copy = isempty(text) ? NULL : text_make_plain(text, STORY_TEXT_MAX);

        free(*field);
        *field = copy;
}

static StoryStep* find_step(Story *s, const char *name) {
        FOREACH_ELEMENT(StoryStep, step, s->steps, s->n_steps)
                if (step->state == s->state && streq(step->name, name))
                        return step;

        return NULL;
}

static StoryStep* add_step(Story *s, const char *name) {
        StoryStep *grown, step = { .state = s->state };

        if (s->n_steps >= STORY_STEPS_MAX)
                return NULL;
        grown = reallocarray(s->steps, s->n_steps + 1, sizeof(*grown));
        if (!grown)
                return NULL;
        s->steps = grown;
        story_set(&step.name, name);
        if (!step.name)
                return NULL;

        s->steps[s->n_steps] = step;
        return s->steps + s->n_steps++;
}

void story_begin_step(Story *s, const char *name) {
        StoryStep *step = find_step(s, name) ?: add_step(s, name);

        if (!step)
                return;
        step->result = STEP_UNDER_WAY;
        step->begin_usec = now_usec(CLOCK_REALTIME);
        step->end_usec = 0;
        if (step->n_tries < UINT32_MAX)
                step->n_tries++;
}

void story_end_step(Story *s, StepResult result, const char *text) {
        FOREACH_ELEMENT(StoryStep, step, s->steps, s->n_steps)
                if (step->result == STEP_UNDER_WAY) {
                        step->result = result;
                        step->end_usec = now_usec(CLOCK_REALTIME);
                        story_set(&step->text, text);
                }
}

static int corrupt(char **ret_error, const char *key) {
        if (ret_error && asprintf(ret_error, "value of '%s' is missing or impossible", key) < 0)
                *ret_error = NULL;      /* asprintf() leaves it undefined */

        return -EBADMSG;
}

static int parse_text(json_object *o, const char *key, size_t size_max, char **ret, char **ret_error) {
        const char *value;
        int r;

        r = json_get_string(o, key, &value, ret_error);
        if (r <= 0)
                return r;
        if (isempty(value) || !text_is_plain(value, size_max))
                return corrupt(ret_error, key);

        *ret = strdup(value);
        return *ret ? 0 : -ENOMEM;
}

static int parse_state(json_object *o, SandboxState *ret, char **ret_error) {
        const char *name = NULL;
        int r;

        r = json_get_string(o, "state", &name, ret_error);
        if (r < 0)
                return r;
        *ret = name ? sandbox_state_from_string(name) : _SANDBOX_STATE_INVALID;
        return *ret < 0 ? corrupt(ret_error, "state") : 0;
}

static int parse_step(json_object *o, StoryStep *step, char **ret_error) {
        const char *result = NULL;
        uint64_t tries = 0;
        int r;

        if (!json_object_is_type(o, json_type_object))
                return corrupt(ret_error, "steps");

        r = parse_state(o, &step->state, ret_error);
        if (r < 0)
                return r;
        r = parse_text(o, "step", STEP_NAME_MAX, &step->name, ret_error);
        if (r < 0)
                return r;
        if (!step->name)
                return corrupt(ret_error, "step");
        r = json_get_string(o, "result", &result, ret_error);
        if (r < 0)
                return r;
        step->result = result ? step_result_from_string(result) : _STEP_RESULT_INVALID;
        if (step->result < 0)
                return corrupt(ret_error, "result");
        r = json_get_u64(o, "begin-usec", INT64_MAX, &step->begin_usec, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "end-usec", INT64_MAX, &step->end_usec, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "tries", UINT32_MAX, &tries, ret_error);
        if (r < 0)
                return r;
        step->n_tries = tries;
        return parse_text(o, "text", STORY_TEXT_MAX, &step->text, ret_error);
}

static int parse_steps(json_object *o, Story *s, char **ret_error) {
        json_object *list;
        size_t n;
        int r;

        r = json_get_array(o, "steps", &list, ret_error);
        if (r <= 0)
                return r;
        n = json_object_array_length(list);
        if (n > STORY_STEPS_MAX)
                return corrupt(ret_error, "steps");
        if (n == 0)
                return 0;

        s->steps = new0(StoryStep, n);
        if (!s->steps)
                return -ENOMEM;
        for (s->n_steps = 0; s->n_steps < n;) {
                size_t i = s->n_steps++;        /* freed by story_done(), however far it gets */

                r = parse_step(json_object_array_get_idx(list, i), s->steps + i, ret_error);
                if (r < 0)
                        return r;
        }

        return 0;
}

static int parse_all(json_object *o, Story *s, char **ret_error) {
        int r;

        for (size_t i = 0; i < ELEMENTSOF(text_fields); i++) {
                r = parse_text(o, text_fields[i].key, text_fields[i].size_max, text_field(s, i), ret_error);
                if (r < 0)
                        return r;
        }
        if (!s->id || !sandbox_id_is_valid(s->id))
                return corrupt(ret_error, "sandbox-id");

        r = parse_state(o, &s->state, ret_error);
        if (r < 0)
                return r;
        for (SandboxState i = 0; i < _SANDBOX_STATE_MAX; i++) {
                r = json_get_u64(o, usec_keys[i], INT64_MAX, s->state_usec + i, ret_error);
                if (r < 0)
                        return r;
        }
        r = json_get_u64(o, "failed-usec", INT64_MAX, &s->failed_usec, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "deadline-usec", INT64_MAX, &s->deadline_usec, ret_error);
        if (r < 0)
                return r;

        return parse_steps(o, s, ret_error);
}

int story_parse(const char *text, size_t size, Story *ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(story_done) Story s = STORY_NULL;
        uint64_t version = 0;
        int r;

        if (size > STORY_SIZE_MAX)
                return -EFBIG;

        r = json_parse(text, size, &o, ret_error);
        if (r < 0)
                return r;
        r = json_get_u64(o, "version", UINT64_MAX, &version, ret_error);
        if (r < 0)
                return r;
        if (version != STORY_VERSION)
                return version > STORY_VERSION ? -EPROTONOSUPPORT : corrupt(ret_error, "version");

        r = parse_all(o, &s, ret_error);
        if (r < 0)
                return r;

        *ret = s;
        s = STORY_NULL;
        return 0;
}

static int set_usec(json_object *o, const char *key, uint64_t usec) {
        return usec == 0 ? 0 : json_set_u64(o, key, usec);
}

static int format_step(const StoryStep *step, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r;

        o = json_object_new_object();
        if (!o)
                return -ENOMEM;
        r = json_set_string(o, "state", sandbox_state_to_string(step->state));
        if (r >= 0)
                r = json_set_string(o, "step", step->name);
        if (r >= 0)
                r = json_set_string(o, "result", step_result_to_string(step->result));
        if (r >= 0)
                r = set_usec(o, "begin-usec", step->begin_usec);
        if (r >= 0)
                r = set_usec(o, "end-usec", step->end_usec);
        if (r >= 0)
                r = json_set_u64(o, "tries", step->n_tries);
        if (r >= 0)
                r = json_set_string(o, "text", step->text);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(o);
        return 0;
}

static int format_steps(const Story *s, json_object *o) {
        json_object *list = json_object_new_array();
        int r;

        if (!list)
                return -ENOMEM;
        r = json_set(o, "steps", list);
        if (r < 0)
                return r;

        FOREACH_ELEMENT(StoryStep, step, s->steps, s->n_steps) {
                json_object *item;

                r = format_step(step, &item);
                if (r < 0)
                        return r;
                if (json_object_array_add(list, item) < 0) {
                        json_object_put(item);
                        return -ENOMEM;
                }
        }

        return 0;
}

int story_format(const Story *s, char **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *text;
        char *copy;
        int r;

        o = json_object_new_object();
        if (!o)
                return -ENOMEM;

        r = json_set_u64(o, "version", STORY_VERSION);
        if (r >= 0)
                r = json_set_string(o, "state", sandbox_state_to_string(s->state));
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(text_fields); i++)
                r = json_set_string(o, text_fields[i].key, *text_field((Story*) s, i));
        for (SandboxState i = 0; r >= 0 && i < _SANDBOX_STATE_MAX; i++)
                r = set_usec(o, usec_keys[i], s->state_usec[i]);
        if (r >= 0)
                r = set_usec(o, "failed-usec", s->failed_usec);
        if (r >= 0)
                r = set_usec(o, "deadline-usec", s->deadline_usec);
        if (r >= 0)
                r = format_steps(s, o);
        if (r < 0)
                return r;

        text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return -ENOMEM;
        if (strlen(text) > STORY_SIZE_MAX)
                return -EFBIG;
        copy = strdup(text);
        if (!copy)
                return -ENOMEM;

        *ret = copy;
        return 0;
}
