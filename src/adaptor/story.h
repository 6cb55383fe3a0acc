/* SPDX-License-Identifier: Apache-2.0 */
/* What happened to one sandbox, for a person who asks why: each step with its end, and what made it fail. It is told, never acted on:
 * the record alone says what is to be done. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "adaptor/sandbox-record.h"
#include "basic/cleanup.h"

/* A step that is taken again in the same state is told with its last try, so that these bounds hold for every life. */
#define STORY_STEPS_MAX 48U
#define STORY_TEXT_MAX 1024U
#define STORY_SIZE_MAX (UINT32_C(192) << 10)

typedef enum StepResult {
        STEP_UNDER_WAY,
        STEP_DONE,
        STEP_FAILED,
        STEP_CUT_OFF,           /* by a stop, a deadline of the whole, or a restart of the adaptor */
        _STEP_RESULT_MAX,
        _STEP_RESULT_INVALID = -EINVAL,
} StepResult;

const char* step_result_to_string(StepResult result);

typedef struct StoryStep {
        SandboxState state;
        char *name;
        StepResult result;
        uint64_t begin_usec, end_usec;          /* CLOCK_REALTIME, of the last try */
        uint32_t n_tries;
        char *text;                             /* why it failed; NULL */
} StoryStep;

/* All strings are owned; NULL is "nothing to tell". */
typedef struct Story {
        char *id, *pod_name, *pod_namespace, *instance_name, *instance_id;
        SandboxState state;
        uint64_t state_usec[_SANDBOX_STATE_MAX];        /* as in the record, and of "gone" */

        char *failed_step, *error_name, *error;
        uint64_t failed_usec;
        char *reason;                           /* why it was stopped, when nothing had failed */
        char *setting;                          /* the one that moves the deadline that struck; NULL: it is fixed */
        uint64_t deadline_usec;                 /* its length; 0: none struck, or not known */

        StoryStep *steps;                       /* in the order in which they were first begun */
        size_t n_steps;
} Story;

#define STORY_NULL ((Story) { .state = SANDBOX_PLANNED })

void story_done(Story *s);

/* story_set() - @field becomes a copy of @text that fits into a file and on a line; NULL: nothing. Without memory it stays empty. */
void story_set(char **field, const char *text);

/* story_begin_step() - a try of a step begins, now. Says nothing of what could not be kept: memory is short, or there are too many. */
void story_begin_step(Story *s, const char *name);

/* story_end_step() - the step under way, if there is one, ends; @text: why, or NULL */
void story_end_step(Story *s, StepResult result, const char *text);

/** story_parse() - read a story back; like sandbox_record_parse() */
int story_parse(const char *text, size_t size, Story *ret, char **ret_error);

/** story_format() - JSON text, newly allocated. Returns 0, -EFBIG, -ENOMEM. */
int story_format(const Story *s, char **ret);
