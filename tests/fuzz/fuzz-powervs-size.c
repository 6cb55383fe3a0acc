/* SPDX-License-Identifier: Apache-2.0 */
/* Instance types of PowerVS, as pods name them. */
#include "basic/util.h"
#include "powervs-size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const PowerVsSize before = { .system = "s922", .cpu_hundredths = 50, .memory_gb = 2 };
        PowerVsSize s = before;
        char *text = malloc(size + 1);
        int r;

        assert(text);
        memcpy(text, data, size);
        text[size] = '\0';
        r = powervs_type_parse(text, &s);
        if (r < 0) {
                assert(r == -EINVAL || r == -ERANGE);
                assert(memcmp(&s, &before, sizeof(s)) == 0);
        } else {
                assert(!isempty(s.system) && s.cpu_hundredths > 0 && s.memory_gb > 0);
                powervs_size_round(&s);
                assert(s.cpu_hundredths % 25 == 0 && s.cpu_hundredths >= 25 && s.memory_gb >= 2);
        }
        free(text);
        return 0;
}
