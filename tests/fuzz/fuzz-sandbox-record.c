/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox's record is either refused, or understood so well that writing it and reading it again changes nothing. */
#include "adaptor/sandbox-record.h"
#include "basic/parse.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(sandbox_record_done) SandboxRecord one = SANDBOX_RECORD_NULL, two = SANDBOX_RECORD_NULL;
        _cleanup_(freep) char *text = NULL, *again = NULL, *reason = NULL;
        int r;

        r = sandbox_record_parse((const char*) data, size, &one, &reason);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EPROTONOSUPPORT || r == -EFBIG);
                assert(!one.id);
                return 0;
        }

        assert(sandbox_id_is_valid(one.id));
        assert(one.state < SANDBOX_GONE);
        r = sandbox_record_format(&one, &text);
        assert(r >= 0 || r == -EFBIG);
        if (r < 0)
                return 0;
        r = sandbox_record_parse(text, strlen(text), &two, NULL);
        assert(r >= 0);
        r = sandbox_record_format(&two, &again);
        assert(r >= 0);
        assert(streq(text, again));
        return 0;
}
