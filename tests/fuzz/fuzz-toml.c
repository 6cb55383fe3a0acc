/* SPDX-License-Identifier: Apache-2.0 */
/* Kata's configuration is refused with a line number, or read within bounds, each value found again by its path. */
#include "basic/strv.h"
#include "basic/util.h"
#include "ctl/toml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(toml_done) TomlFile f = {};
        _cleanup_(freep) char *error = NULL;
        int r;

        r = toml_parse((const char*) data, size, &f, &error);
        if (r < 0) {
                assert(r == -EBADMSG || r == -EFBIG);
                assert(r == -EFBIG || (error && startswith(error, "line ")));
                assert(f.n_values == 0);
                return 0;
        }

        assert(f.n_values <= TOML_VALUES_MAX);
        FOREACH_ELEMENT(const TomlValue, v, f.values, f.n_values) {
                assert(toml_find(&f, v->path) == v);
                assert(v->line > 0);
                assert(v->type != TOML_STRING || v->text);
                assert(v->type == TOML_ARRAY || !v->items);
        }
        return 0;
}
