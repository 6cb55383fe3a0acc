/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox's story is either refused, or understood so well that writing it and reading it again changes nothing. */
#include "adaptor/story.h"
#include "basic/parse.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(story_done) Story one = STORY_NULL, two = STORY_NULL;
        _cleanup_(freep) char *text = NULL, *again = NULL, *reason = NULL;
        int r;

        r = story_parse((const char*) data, size, &one, &reason);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EPROTONOSUPPORT || r == -EFBIG);
                assert(!one.id);
                return 0;
        }

        assert(sandbox_id_is_valid(one.id));
        assert(one.n_steps <= STORY_STEPS_MAX);
        r = story_format(&one, &text);
        assert(r >= 0 || r == -EFBIG);
        if (r < 0)
                return 0;
        r = story_parse(text, strlen(text), &two, NULL);
        assert(r >= 0);
        r = story_format(&two, &again);
        assert(r >= 0);
        assert(streq(text, again));
        return 0;
}
