/* SPDX-License-Identifier: Apache-2.0 */
/* TOML is refused with a line number, or read within bounds into a tree in which no key is there twice. */
#include "basic/toml.h"
#include "basic/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t check(const TomlValue *v, bool in_table) {
        size_t n = 1;

        assert(!v->key == !in_table);
        assert(v->line > 0);
        if (v->type == TOML_TABLE || v->type == TOML_ARRAY)
                assert(!v->text);
        else
                assert(v->text && v->text[v->size] == '\0' && v->n_items == 0);

        FOREACH_ELEMENT(const TomlValue, i, v->items, v->n_items) {
                n += check(i, v->type == TOML_TABLE);
                if (v->type == TOML_TABLE)
                        assert(toml_get(v, i->key) == i);       /* the first one: there is no other */
        }
        return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(toml_done) TomlValue root = TOML_NULL;
        _cleanup_(freep) char *error = NULL;
        int r;

        r = toml_parse((const char*) data, size, &root, &error);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EFBIG);
                assert(r == -EFBIG || (error && startswith(error, "line ")));
                assert(root.n_items == 0);
                return 0;
        }

        assert(!error);
        assert(check(&root, false) <= TOML_VALUES_MAX + 1);
        return 0;
}
