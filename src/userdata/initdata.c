/* SPDX-License-Identifier: Apache-2.0 */
#include "userdata/initdata.h"

#include <gnutls/crypto.h>
#include <stdio.h>

#include "basic/error-text.h"
#include "basic/util.h"
#include "userdata/decode.h"
#include "userdata/encode.h"

int initdata_encode(const char *toml, char **ret) {
        _cleanup_(freep) uint8_t *compressed = NULL;
        size_t size = strlen(toml), compressed_size;
        int r;

        assert(size <= INITDATA_SIZE_MAX);

        r = gzip_encode(toml, size, &compressed, &compressed_size);
        if (r < 0)
                return r;

        return base64_encode(compressed, compressed_size, ret);
}

static const char* text_of(const TomlValue *v) {
        return v && v->type == TOML_STRING && strlen(v->text) == v->size ? v->text : NULL;
}

static int check_head(const TomlValue *root, const char **ret_algorithm, char **reterr) {
        static const char *const algorithms[] = { "sha256", "sha384", "sha512" };
        const TomlValue *version = toml_get(root, "version"), *algorithm = toml_get(root, "algorithm");

        if (!version)
                return error_text(reterr, -EBADMSG, "it has no version");
        if (!text_of(version) || !streq(version->text, INITDATA_VERSION))
                return error_text(reterr, -EBADMSG, "line %u: its version is not \"" INITDATA_VERSION "\"", version->line);
        if (!algorithm)
                return error_text(reterr, -EBADMSG, "it has no algorithm");

        for (size_t i = 0; text_of(algorithm) && i < ELEMENTSOF(algorithms); i++)
                if (streq(algorithm->text, algorithms[i])) {
                        *ret_algorithm = algorithms[i];
                        return 0;
                }
        return error_text(reterr, -EBADMSG, "line %u: its algorithm is not one of sha256, sha384, sha512", algorithm->line);
}

static int check_data(const TomlValue *root, char **reterr) {
        const TomlValue *data = toml_get(root, "data");

        if (!data)
                return error_text(reterr, -EBADMSG, "it has no table [data]");
        if (data->type != TOML_TABLE)
                return error_text(reterr, -EBADMSG, "line %u: data is not a table", data->line);
        FOREACH_ELEMENT(const TomlValue, v, data->items, data->n_items)
                if (!text_of(v))
                        return error_text(reterr, -EBADMSG, "line %u: an entry of [data] is not a text", v->line);
        return 0;
}

static int hash(Initdata *i, const void *data, size_t size) {
        gnutls_digest_algorithm_t algorithm = gnutls_digest_get_id(i->algorithm);

        i->digest_size = gnutls_hash_get_len(algorithm);
        assert(i->digest_size > 0 && i->digest_size <= sizeof(i->digest));
        return gnutls_hash_fast(algorithm, data, size, i->digest) < 0 ? -EIO : 0;
}

int initdata_decode(const char *encoded, size_t size, Initdata *ret, char **reterr) {
        _cleanup_(initdata_done) Initdata i = INITDATA_NULL;
        _cleanup_(freep) char *compressed = NULL, *toml = NULL, *why = NULL;
        size_t compressed_size, toml_size;
        int r;

        r = base64_decode(encoded, size, &compressed, &compressed_size);
        if (r < 0)
                return r == -ENOMEM ? r : error_text(reterr, r, "it is not base64");
        r = gzip_decode(compressed, compressed_size, INITDATA_SIZE_MAX, &toml, &toml_size);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return error_text(reterr, r, r == -E2BIG ? "it has more than %u bytes of text" : "it is not gzip inside base64",
                           INITDATA_SIZE_MAX);

        r = toml_parse(toml, toml_size, &i.root, &why);
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return error_text(reterr, r, "%s", strempty(why));
        r = check_head(&i.root, &i.algorithm, reterr);
        if (r < 0)
                return r;
        r = check_data(&i.root, reterr);
        if (r < 0)
                return r;
        r = hash(&i, toml, toml_size);
        if (r < 0)
                return error_text(reterr, r, "its digest cannot be computed");

        *ret = i;
        i = INITDATA_NULL;
        return 0;
}

const TomlValue* initdata_data(const Initdata *i) {
        return toml_get(&i->root, "data");
}

void initdata_digest_hex(const Initdata *i, char ret[static INITDATA_DIGEST_HEX_SIZE]) {
        for (size_t n = 0; n < i->digest_size; n++)
                (void) snprintf(ret + 2 * n, 3, "%02x", i->digest[n]);
}

void initdata_digest_fit(const Initdata *i, uint8_t *ret, size_t size) {
        memset(ret, 0, size);
        memcpy(ret, i->digest, MIN(i->digest_size, size));
}

void initdata_done(Initdata *i) {
        toml_done(&i->root);
        *i = INITDATA_NULL;
}
