/* SPDX-License-Identifier: Apache-2.0 */
/* The node's own initdata, base64(gzip(TOML)): refused with a reason, or accepted; the input is the text, or, after a first byte of
 * 0xff, the TOML inside. */
#include "adaptor/initdata.h"
#include "adaptor/request.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(freep) char *text = NULL, *encoded = NULL, *reason = NULL;
        bool inside = size > 0 && data[0] == 0xff;
        int r;

        text = malloc(size + 1);
        assert(text);
        if (size > 0)
                memcpy(text, data, size);
        text[size] = '\0';

        if (inside && strlen(text + 1) <= REQUEST_INITDATA_MAX) {
                r = initdata_encode(text + 1, &encoded);
                assert(r == 0);
        }
        r = initdata_check(encoded ?: text, &reason);
        assert(r == 0 || r == -EBADMSG || r == -E2BIG);
        assert((r < 0) == !!reason);
        return 0;
}
