/* SPDX-License-Identifier: Apache-2.0 */
/* Initdata between worker and pod VM. Digests are checked against sha256sum(1) and its like, and upstream's vectors. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <gnutls/gnutls.h>
#include <zlib.h>

#include "basic/util.h"
#include "userdata/initdata.h"

#define HEAD "algorithm = \"sha256\"\nversion = \"0.1.0\"\n"

typedef struct Fixture {
        Initdata initdata;
        char *encoded, *error;
} Fixture;

static int setup(void **state) {
        *state = new0(Fixture, 1);
        return *state ? 0 : -1;
}

static void clear(Fixture *f) {
        initdata_done(&f->initdata);
        free(f->encoded);
        free(f->error);
        *f = (Fixture) {};
}

static int teardown(void **state) {
        clear(*state);
        free(*state);
        return 0;
}

static int decode(Fixture *f, const char *encoded) {
        return initdata_decode(encoded, strlen(encoded), &f->initdata, &f->error);
}

static void the_dummy_has_upstreams_digest(void **state) {
        char hex[INITDATA_DIGEST_HEX_SIZE];
        Fixture *f = *state;

        assert_int_equal(initdata_encode(INITDATA_DUMMY, &f->encoded), 0);
        assert_null(strpbrk(f->encoded, "\r\n"));
        assert_int_equal(decode(f, f->encoded), 0);
        initdata_digest_hex(&f->initdata, hex);
        assert_string_equal(hex, "adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d");
        assert_string_equal(toml_get(initdata_data(&f->initdata), "aa.toml")->text, "");
}

static const struct {
        const char *encoded, *algorithm, *digest;
} others[] = {
        /* written by Go 1.24's compress/gzip and encoding/base64, as upstream's worker does it (src/cloud-api-adaptor/pkg/initdata) */
        { "H4sIAAAAAAAA/ypLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWJFWckGluYKHFxRackliTGcikV5OdkJlfqFaWm5ysp2Cqoq6tzFSQmZyempyokpqfmlcRDFHCBJAABAAD//zmF0VtcAAAA",
          "sha384", "e9aef82c82840b1a8dba078f3aa369accf7990f97b42ff1929a3c164dd542cf05c6e4ccac9ebed430faee0af177d1beb" },
        { "H4sIAAAAAAAA/ypLLSrOzM9TsFVQMtAz1DNQ4krMSc8vyizJyAWJFWckmhoaKXFxRackliTGcikV5OdkJlfqFaWm5ysp2Cqoq6tzFSQmZyempyokpqfmlcRDFHCBJAABAAD//6SLsK5cAAAA",
          "sha512", "488032c86ee4d92a418027d36721b32b031b2578f45710ede10ece0a7cf7f55d"
          "07f49467d2573e19ade352d44afbbf7d532bac7e8e5e0af6b7382fe9a375b1b8" },
};

static void digests_are_of_the_text_in_any_packing(void **state) {
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                char hex[INITDATA_DIGEST_HEX_SIZE];

                assert_int_equal(decode(f, others[i].encoded), 0);
                assert_string_equal(f->initdata.algorithm, others[i].algorithm);
                initdata_digest_hex(&f->initdata, hex);
                assert_string_equal(hex, others[i].digest);
                clear(f);
        }
}

static void a_digest_is_cut_or_filled_up_for_a_register(void **state) {
        static const uint8_t zeros[16];
        uint8_t small[32], big[48];
        Fixture *f = *state;

        assert_int_equal(initdata_encode(INITDATA_DUMMY, &f->encoded), 0);
        assert_int_equal(decode(f, f->encoded), 0);
        initdata_digest_fit(&f->initdata, small, sizeof(small));
        assert_memory_equal(small, f->initdata.digest, 32);
        initdata_digest_fit(&f->initdata, big, sizeof(big));
        assert_memory_equal(big, f->initdata.digest, 32);
        assert_memory_equal(big + 32, zeros, 16);
}

static void what_is_wrong_is_said(void **state) {
        static const struct {
                const char *toml, *error;
        } cases[] = {
                { "", "it has no version" },
                { "algorithm = \"sha256\"\n[data]\n", "it has no version" },
                { "[data]\nalgorithm = \"sha256\"\nversion = \"0.1.0\"\n", "it has no version" },
                { "version = \"0.1.1\"\nalgorithm = \"sha256\"\n[data]\n", "line 1: its version is not \"0.1.0\"" },
                { "version = 0.1\n", "line 1: its version is not \"0.1.0\"" },
                { "version = \"0.1.0\"\n[data]\n", "it has no algorithm" },
                { "version = \"0.1.0\"\nalgorithm = \"md5\"\n[data]\n", "line 2: its algorithm is not one of sha256, sha384, sha512" },
                { "version = \"0.1.0\"\nalgorithm = \"SHA256\"\n[data]\n", "line 2: its algorithm is not one of sha256, sha384, sha512" },
                { "version = \"0.1.0\"\nalgorithm = \"sha256\\u0000\"\n[data]\n", "line 2: its algorithm is not one of" },
                { "version = \"0.1.0\"\nalgorithm = [\"sha256\"]\n[data]\n", "line 2: its algorithm is not one of" },
                { HEAD, "it has no table [data]" },
                { HEAD "data = \"x\"\n", "line 3: data is not a table" },
                { HEAD "[[data]]\n", "line 3: data is not a table" },
                { HEAD "[data]\n\"aa.toml\" = 1\n", "line 4: an entry of [data] is not a text" },
                { HEAD "[data]\naa.toml = ''\n", "line 4: an entry of [data] is not a text" },
                { HEAD "[data]\n\"aa.toml\" = \"a\\u0000b\"\n", "line 4: an entry of [data] is not a text" },
                { HEAD "[data]\n\"aa.toml\" = ''\n\"aa.toml\" = ''\n", "line 5: this is set a second time" },
                { HEAD "[data]\n\"aa.toml\" = ''\n[data]\n", "line 5: this is set a second time" },
                { HEAD HEAD, "line 3: this is set a second time" },
                { "a", "line 1: a key is not followed by '='" },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int r;

                assert_int_equal(initdata_encode(cases[i].toml, &f->encoded), 0);
                r = decode(f, f->encoded);
                if (r != -EBADMSG || !f->error || !startswith(f->error, cases[i].error))
                        fail_msg("'%s': %i, '%s'", cases[i].toml, r, strempty(f->error));
                clear(f);
        }
}

/* Made with gzip(1) and base64(1). */
static void the_container_is_checked_to_its_last_byte(void **state) {
        static const struct {
                const char *encoded;
                int result;
                const char *error;
        } cases[] = {
                { "", -EBADMSG, "it is not gzip inside base64" },
                { "H4sI", -EBADMSG, "it is not gzip inside base64" },
                { "!", -EBADMSG, "it is not base64" },
                { "YWxnb3JpdGhtID0gInNoYTI1NiIK", -EBADMSG, "it is not gzip inside base64" },       /* TOML without gzip */
        };
        Fixture *f = *state;
        size_t n;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                assert_int_equal(decode(f, cases[i].encoded), cases[i].result);
                assert_string_equal(f->error, cases[i].error);
                clear(f);
        }

        /* cut off anywhere, or with anything behind it */
        assert_int_equal(initdata_encode(HEAD "[data]\n", &f->encoded), 0);
        n = strlen(f->encoded);
        for (size_t i = 0; i < n; i++) {
                assert_int_equal(initdata_decode(f->encoded, i, &f->initdata, &f->error), -EBADMSG);
                free(TAKE_PTR(f->error));
        }
}

static void members_of_gzip_are_joined_and_garbage_is_refused(void **state) {
        Fixture *f = *state;

        /* { printf 'algorithm = "sha256"\n' | gzip -n; printf 'version = "0.1.0"\n[data]\n' | gzip -n; } | base64 -w0 */
        assert_int_equal(decode(f, "H4sIAAAAAAAAA0vMSc8vyizJyFWwVVAqzkg0MjVT4gIA6T4kZRUAAAAfiwgAAAAAAAADK0stKs7Mz1OwVVAy0DPUM1Diik5JLEmM5QIA5MjQVBkAAAA="), 0);
        clear(f);
        /* the same with an 'x' behind it */
        assert_int_equal(decode(f, "H4sIAAAAAAAAA0vMSc8vyizJyFWwVVAqzkg0MjVT4gIA6T4kZRUAAAAfiwgAAAAAAAADK0stKs7Mz1OwVVAy0DPUM1Diik5JLEmM5QIA5MjQVBkAAAB4"), -EBADMSG);
        assert_string_equal(f->error, "it is not gzip inside base64");
}

static void a_gzip_bomb_is_refused(void **state) {
        Fixture *f = *state;

        size_t size = INITDATA_SIZE_MAX + 1, packed = compressBound(size) + 64;
        _cleanup_(freep) char *text = malloc(size), *gzip = malloc(packed);
        z_stream z = { .next_in = (Bytef*) text, .avail_in = (uInt) size, .next_out = (Bytef*) gzip, .avail_out = (uInt) packed };

        assert_non_null(text);
        assert_non_null(gzip);
        memset(text, '#', size);
        assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        assert_int_equal(deflateEnd(&z), Z_OK);
        assert_true(z.total_out < 8192);

        gnutls_datum_t encoded;
        assert_int_equal(gnutls_base64_encode2(&(gnutls_datum_t) { (uint8_t*) gzip, z.total_out }, &encoded), 0);
        f->encoded = (char*) encoded.data;
        assert_int_equal(decode(f, f->encoded), -E2BIG);
        assert_string_equal(f->error, "it has more than 4194304 bytes of text");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        static const struct CMUnitTest tests[] = {
                TEST(the_dummy_has_upstreams_digest),
                TEST(digests_are_of_the_text_in_any_packing),
                TEST(a_digest_is_cut_or_filled_up_for_a_register),
                TEST(what_is_wrong_is_said),
                TEST(the_container_is_checked_to_its_last_byte),
                TEST(members_of_gzip_are_joined_and_garbage_is_refused),
                TEST(a_gzip_bomb_is_refused),
        };

        return cmocka_run_group_tests_name("initdata", tests, NULL, NULL);
}
