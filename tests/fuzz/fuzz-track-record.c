/* SPDX-License-Identifier: Apache-2.0 */
/* A record of peerpod-node is either refused, or understood so well that writing it and reading it again changes nothing. */
#include "basic/parse.h"
#include "basic/util.h"
#include "kube/kube-object.h"
#include "kube/node/track-record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(track_record_done) TrackRecord one = TRACK_RECORD_NULL, two = TRACK_RECORD_NULL;
        _cleanup_(freep) char *text = NULL, *again = NULL, *reason = NULL;
        int r;

        r = track_record_parse((const char*) data, size, &one, &reason);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EPROTONOSUPPORT || r == -EFBIG);
                assert(!one.id);
                return 0;
        }

        assert(sandbox_id_is_valid(one.id) && kube_name_is_valid(one.name) && kube_name_is_valid(one.pod_name));
        assert(!one.uid || one.posted);
        r = track_record_format(&one, &text);
        assert(r >= 0 || r == -EFBIG);
        if (r < 0)
                return 0;
        r = track_record_parse(text, strlen(text), &two, NULL);
        assert(r >= 0);
        r = track_record_format(&two, &again);
        assert(r >= 0);
        assert(streq(text, again));
        return 0;
}
