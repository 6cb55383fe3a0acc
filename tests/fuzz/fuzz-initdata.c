/* SPDX-License-Identifier: Apache-2.0 */
/* Initdata as a pod VM gets it, base64 of gzip of TOML: refused with a reason, or accepted with texts and a digest. The input is the text, or,
 * after a first byte of 0xff, the TOML inside: then what comes out is known by the same digest however it was packed. */
#include "basic/util.h"
#include "userdata/initdata.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const Initdata *i) {
        char hex[INITDATA_DIGEST_HEX_SIZE];
        uint8_t fitted[48];

        FOREACH_ELEMENT(const TomlValue, v, initdata_data(i)->items, initdata_data(i)->n_items)
                assert(v->key && v->type == TOML_STRING && strlen(v->text) == v->size);

        initdata_digest_hex(i, hex);
        assert(strlen(hex) == 2 * i->digest_size);
        assert(i->digest_size * 8 == (size_t) atoi(i->algorithm + strlen("sha")));
        initdata_digest_fit(i, fitted, sizeof(fitted));
        assert(memcmp(fitted, i->digest, MIN(sizeof(fitted), i->digest_size)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        _cleanup_(freep) char *text = NULL, *encoded = NULL, *reason = NULL;
        _cleanup_(initdata_done) Initdata i = INITDATA_NULL;
        int r;

        text = strndup((const char*) data, size);
        assert(text);
        if (size > 0 && data[0] == 0xff) {
                r = initdata_encode(text + 1, &encoded);
                assert(r == 0);
                r = initdata_decode(encoded, strlen(encoded), &i, &reason);
        } else
                r = initdata_decode((const char*) data, size, &i, &reason);

        assert(r == 0 || r == -EBADMSG || r == -E2BIG);
        assert((r < 0) == !!reason);
        if (r == 0)
                check(&i);
        return 0;
}
