/* SPDX-License-Identifier: Apache-2.0 */
/* Quantities: within their bounds, and the same again when they are written and read. */
#include "basic/util.h"
#include "kube/webhook/quantity.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(freep) char *text = strndup((const char*) data, size);
        char written[QUANTITY_TEXT_SIZE];
        Quantity q, again;
        int r;

        assert(text);
        r = quantity_parse(text, &q);
        assert(r == 0 || r == -EINVAL || r == -ERANGE);
        if (r < 0)
                return 0;
        assert(q <= INT64_MAX * QUANTITY_ONE && q >= -INT64_MAX * QUANTITY_ONE);
        assert((q < 0) <= (text[0] == '-'));
        if (q < 0)
                return 0;

        r = quantity_parse(quantity_format(q, written), &again);
        assert(r == 0 && again == q);
        assert((Quantity) quantity_ceil(q, QUANTITY_ONE) * QUANTITY_ONE - q < QUANTITY_ONE);
        assert(quantity_add(q, q) >= q);
        return 0;
}
