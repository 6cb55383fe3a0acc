/* SPDX-License-Identifier: Apache-2.0 */
/* Environment files: names are names, and a value is never longer than what it was read from. */
#include "basic/env-file.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Sum {
        size_t size;
        unsigned n;
} Sum;

static int on_assignment(const char *key, const char *value, void *userdata) {
        Sum *sum = userdata;

        assert(!isempty(key) && !strpbrk(key, "= \t\r\n\"'\\#"));
        assert(key[0] < '0' || key[0] > '9');
        sum->size += strlen(key) + 1 + strlen(value);
        return ++sum->n == 100 ? -ECANCELED : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Sum sum = {};
        int r;

        r = env_file_parse((const char*) data, size, on_assignment, &sum);
        assert(r == 0 || r == -EBADMSG || (r == -ECANCELED && sum.n == 100));
        assert(sum.size <= size);
        return 0;
}
