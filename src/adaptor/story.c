/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/story.h"

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

static const JsonField fields[] = {
        { "sandbox-id",    JSON_TEXT, offsetof(Story, id),            1, 64 },
        { "pod-name",      JSON_TEXT, offsetof(Story, pod_name),      1, POD_NAME_MAX },
        { "pod-namespace", JSON_TEXT, offsetof(Story, pod_namespace), 1, POD_NAME_MAX },
        { "instance-name", JSON_TEXT, offsetof(Story, instance_name), 1, REQUEST_TEXT_MAX },
        { "instance-id",   JSON_TEXT, offsetof(Story, instance_id),   1, REQUEST_TEXT_MAX },
        { "failed-step",   JSON_TEXT, offsetof(Story, failed_step),   1, STEP_NAME_MAX },
        { "error-name",    JSON_TEXT, offsetof(Story, error_name),    1, STORY_TEXT_MAX },
        { "error",         JSON_TEXT, offsetof(Story, error),         1, STORY_TEXT_MAX },
        { "reason",        JSON_TEXT, offsetof(Story, reason),        1, STORY_TEXT_MAX },
        { "setting",       JSON_TEXT, offsetof(Story, setting),       1, STORY_TEXT_MAX },
        { "created-usec",  JSON_USEC, offsetof(Story, state_usec[SANDBOX_PLANNED]) },
        { "started-usec",  JSON_USEC, offsetof(Story, state_usec[SANDBOX_CREATING]) },
        { "running-usec",  JSON_USEC, offsetof(Story, state_usec[SANDBOX_RUNNING]) },
        { "deleting-usec", JSON_USEC, offsetof(Story, state_usec[SANDBOX_DELETING]) },
        { "gone-usec",     JSON_USEC, offsetof(Story, state_usec[SANDBOX_GONE]) },
        { "failed-usec",   JSON_USEC, offsetof(Story, failed_usec) },
        { "deadline-usec", JSON_USEC, offsetof(Story, deadline_usec) },
        {}
};

static const JsonField step_fields[] = {
        { "step",       JSON_TEXT, offsetof(StoryStep, name), 1, STEP_NAME_MAX },
        { "text",       JSON_TEXT, offsetof(StoryStep, text), 1, STORY_TEXT_MAX },
        { "begin-usec", JSON_USEC, offsetof(StoryStep, begin_usec) },
        { "end-usec",   JSON_USEC, offsetof(StoryStep, end_usec) },
        {}
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

void story_done(Story *s) {
        json_fields_free(fields, s);
        FOREACH_ELEMENT(StoryStep, step, s->steps, s->n_steps)
                json_fields_free(step_fields, step);
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

static int parse_state(json_object *o, SandboxState *ret, char **ret_error) {
        const char *name = NULL;
        int r;

        r = json_get_string(o, "state", &name, ret_error);
        if (r < 0)
                return r;
        *ret = name ? sandbox_state_from_string(name) : _SANDBOX_STATE_INVALID;
        return *ret < 0 ? json_bad_value(ret_error, "state") : 0;
}

static int parse_step(json_object *o, StoryStep *step, char **ret_error) {
        const char *result = NULL;
        uint64_t tries = 0;
        int r;

        if (!json_object_is_type(o, json_type_object))
                return json_bad_value(ret_error, "steps");

        r = parse_state(o, &step->state, ret_error);
        if (r < 0)
                return r;
        r = json_fields_read(o, step_fields, step, ret_error);
        if (r < 0)
                return r;
        if (!step->name)
                return json_bad_value(ret_error, "step");
        r = json_get_string(o, "result", &result, ret_error);
        if (r < 0)
                return r;
        step->result = result ? step_result_from_string(result) : _STEP_RESULT_INVALID;
        if (step->result < 0)
                return json_bad_value(ret_error, "result");
        r = json_get_u64(o, "tries", UINT32_MAX, &tries, ret_error);
        if (r < 0)
                return r;

        step->n_tries = tries;
        return 0;
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
                return json_bad_value(ret_error, "steps");
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

        r = json_fields_read(o, fields, s, ret_error);
        if (r < 0)
                return r;
        if (!s->id || !sandbox_id_is_valid(s->id))
                return json_bad_value(ret_error, "sandbox-id");

        r = parse_state(o, &s->state, ret_error);
        if (r < 0)
                return r;
        return parse_steps(o, s, ret_error);
}

int story_parse(const char *text, size_t size, Story *ret, char **ret_error) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        _cleanup_(story_done) Story s = STORY_NULL;
        int r;

        r = json_record_parse(text, size, STORY_SIZE_MAX, STORY_VERSION, &o, ret_error);
        if (r < 0)
                return r;
        r = parse_all(o, &s, ret_error);
        if (r < 0)
                return r;

        *ret = s;
        s = STORY_NULL;
        return 0;
}

static int format_step(const StoryStep *step, json_object **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r;

        o = json_object_new_object();
        if (!o)
                return -ENOMEM;
        r = json_set_string(o, "state", sandbox_state_to_string(step->state));
        if (r >= 0)
                r = json_set_string(o, "result", step_result_to_string(step->result));
        if (r >= 0)
                r = json_set_u64(o, "tries", step->n_tries);
        if (r >= 0)
                r = json_fields_write(o, step_fields, step);
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
        if (r >= 0)
                r = json_fields_write(o, fields, s);
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
