/* SPDX-License-Identifier: Apache-2.0 */
/* The page of an agent proxy that its pod VM may have taken over. */
#include <string.h>

#include "agent-proxy/counters.h"
#include "basic/util.h"

#define HEADER_SIZE 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        ProxyValues values = { .n = SIZE_MAX }, shorter;
        int r;

        r = proxy_counters_parse(data, size, &values);
        if (r < 0) {
                assert(r == -EBADMSG);
                assert(values.n == SIZE_MAX);           /* untouched */
                return 0;
        }

        assert(values.n <= _PROXY_COUNTER_MAX);
        assert(memcmp(values.values, data + HEADER_SIZE, values.n * sizeof(uint64_t)) == 0);
        assert(proxy_counters_parse(data, HEADER_SIZE + values.n * sizeof(uint64_t) - 1, &shorter) == -EBADMSG);
        return 0;
}
