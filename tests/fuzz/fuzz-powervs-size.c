/* SPDX-License-Identifier: Apache-2.0 */
/* Instance types of PowerVS, as pods name them. */
#include "basic/util.h"
#include "powervs-size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const PowerVsSize before = { .system = "s922", .cpu_hundredths = 50, .memory_gb = 2 };
        PowerVsSize s = before, again;
        char *text = malloc(size + 1), built[96];
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
                again = before;
                (void) snprintf(built, sizeof(built), "%s-%" PRIu64 ".%02" PRIu64 "x%" PRIu64, s.system, s.cpu_hundredths / 100, s.cpu_hundredths % 100, s.memory_gb);
                r = powervs_type_parse(built, &again);
                assert(r == 0 && streq(again.system, s.system) && again.cpu_hundredths == s.cpu_hundredths && again.memory_gb == s.memory_gb);
                powervs_size_round(&s);
                assert(s.cpu_hundredths % 25 == 0 && s.cpu_hundredths >= 25 && s.memory_gb >= 2);
        }
        free(text);
        return 0;
}
