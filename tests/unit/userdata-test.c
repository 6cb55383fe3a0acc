/* SPDX-License-Identifier: Apache-2.0 */
/* User data, both directions: upstream's bytes, hostile documents, and our writer against our reader. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <zlib.h>

#include "basic/json.h"
#include "basic/strv.h"
#include "basic/util.h"
#include "userdata/apf.h"
#include "userdata/cloud-config.h"
#include "userdata/decode.h"

/* What a test holds, so that a failing assertion leaks nothing. */
typedef struct Fixture {
        char *text, *error;
        size_t size;
        CloudConfig config;
        ApfConfig apf;
        char *buffer;
} Fixture;

static int setup(void **state) {
        *state = new0(Fixture, 1);
        return *state ? 0 : -1;
}

static void clear(Fixture *f) {
        f->text = erase_free(f->text, f->size);
        free(f->error);
        f->error = NULL;
        free(f->buffer);
        f->buffer = NULL;
        cloud_config_done(&f->config);
        apf_config_done(&f->apf);
}

static int teardown(void **state) {
        clear(*state);
        free(*state);
        return 0;
}

/* ---- cloud-config: the writer -------------------------------------------------------------------------------- */

/* The texts are what cloud-api-adaptor's template gives for the same input (src/cloud-providers/util/cloudinit/
 * cloudconfig.go, run with Go 1.24). */
static const struct {
        CloudConfigEntry entries[2];
        size_t n_entries;
        const char *text;
} golden[] = {
        { {}, 0, "#cloud-config\n" },
        { { { .path = "/123", .content = "Hello\n", .size = 6 },
            { .path = "/456", .owner = "root:root", .content = "Hello\nWorld\n", .size = 12 } }, 2,
          "#cloud-config\n\nwrite_files:\n  - path: /123\n    content: |\n      Hello\n"
          "  - path: /456\n    owner: root:root\n    content: |\n      Hello\n      World\n" },
        { { { .path = "/run/peerpod/apf.json", .content = "{\n    \"pod-network\": null\n}", .size = 27 },
            { .path = "/run/peerpod/scratch-space.marker" } }, 2,
          "#cloud-config\n\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: |\n      {\n"
          "          \"pod-network\": null\n      }\n  - path: /run/peerpod/scratch-space.marker\n" },
        { { { .path = "/a", .owner = "root", .permissions = "0600", .encoding = "b64", .append = "false",
              .content = "x\n\n  y\n", .size = 7 } }, 1,
          "#cloud-config\n\nwrite_files:\n  - path: /a\n    owner: root\n    permissions: 0600\n    encoding: b64\n"
          "    append: false\n    content: |\n      x\n      \n        y\n" },
        { { { .path = "/a", .content = "\nx", .size = 2 } }, 1,
          "#cloud-config\n\nwrite_files:\n  - path: /a\n    content: |\n      \n      x\n" },
};

static void the_writer_has_upstreams_bytes(void **state) {
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(golden); i++) {
                assert_int_equal(cloud_config_format(golden[i].entries, golden[i].n_entries, &f->text, &f->size, &f->error), 0);
                assert_string_equal(f->text, golden[i].text);
                assert_int_equal(f->size, strlen(golden[i].text));
                clear(f);
        }
}

static void the_writer_refuses_what_would_come_out_different(void **state) {
        static const struct {
                const char *why;
                CloudConfigEntry entry;
                const char *error;
        } cases[] = {
#define CONTENT(s) { .path = "/a", .content = (s), .size = sizeof(s) - 1 }
                { "blank fixes the indentation", CONTENT(" x\n"), "begins with a blank" },
                { "so does one behind an empty line", CONTENT("\n x\n"), "begins with a blank" },
                { "tab where indentation is looked for", CONTENT("\tx\n"), "begins with a blank" },
                { "clipped to one newline", CONTENT("x\n\n"), "more than one newline" },
                { "clipped to nothing", CONTENT("\n"), "nothing but newlines" },
                { "carriage return is a line break", CONTENT("x\r\ny\n"), "no printable UTF-8" },
                { "NUL", CONTENT("x\0y\n"), "no printable UTF-8" },
                { "DEL", CONTENT("x\x7f\n"), "no printable UTF-8" },
                { "escape", CONTENT("x\x1b[0m\n"), "no printable UTF-8" },
                { "NEL is a line break in YAML 1.1", CONTENT("x\xc2\x85y\n"), "no printable UTF-8" },
                { "LS likewise", CONTENT("x\xe2\x80\xa8y\n"), "no printable UTF-8" },
                { "byte order mark", CONTENT("\xef\xbb\xbfx\n"), "no printable UTF-8" },
                { "no UTF-8", CONTENT("x\xff\n"), "no printable UTF-8" },
                { "overlong UTF-8", CONTENT("x\xc0\xafy\n"), "no printable UTF-8" },
                { "surrogate", CONTENT("x\xed\xa0\x80y\n"), "no printable UTF-8" },
                { "cut UTF-8", CONTENT("x\xe2\x82"), "no printable UTF-8" },
#undef CONTENT
                { "no path", { .path = NULL }, "path" },
                { "relative path", { .path = "a" }, "path" },
                { "comment in a path", { .path = "/a #b" }, "path" },
                { "mapping in a path", { .path = "/a: b" }, "path" },
                { "line in a path", { .path = "/a\n  - path: /b" }, "path" },
                { "owner", { .path = "/a", .owner = "a: b" }, "owner" },
                { "owner", { .path = "/a", .owner = "root:" }, "owner" },
                { "permissions", { .path = "/a", .permissions = "rwx" }, "permissions" },
                { "permissions", { .path = "/a", .permissions = "0999" }, "permissions" },
                { "encoding", { .path = "/a", .encoding = "rot13" }, "encoding" },
                { "append", { .path = "/a", .append = "yes" }, "append" },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                if (cloud_config_format(&cases[i].entry, 1, &f->text, &f->size, &f->error) != -EINVAL)
                        fail_msg("not refused: %s", cases[i].why);
                assert_null(f->text);
                if (!strstr(f->error, cases[i].error))
                        fail_msg("%s: the error says '%s'", cases[i].why, f->error);
                clear(f);
        }
}

static void the_writer_refuses_more_than_the_reader_takes(void **state) {
        Fixture *f = *state;
        CloudConfigEntry entries[CLOUD_CONFIG_FILES_MAX + 1];

        for (size_t i = 0; i < ELEMENTSOF(entries); i++)
                entries[i] = (CloudConfigEntry) { .path = "/a" };
        assert_int_equal(cloud_config_format(entries, ELEMENTSOF(entries), &f->text, &f->size, &f->error), -E2BIG);
        clear(f);

        f->buffer = malloc(CLOUD_CONFIG_SIZE_MAX);
        assert_non_null(f->buffer);
        memset(f->buffer, 'x', CLOUD_CONFIG_SIZE_MAX);
        entries[0].content = f->buffer;
        entries[0].size = CLOUD_CONFIG_SIZE_MAX;
        assert_int_equal(cloud_config_format(entries, 1, &f->text, &f->size, &f->error), -E2BIG);
        assert_non_null(strstr(f->error, "document"));
}

/* ---- cloud-config: the reader -------------------------------------------------------------------------------- */

typedef struct Expected {
        const char *path, *content;
        size_t size;
        mode_t mode;
        const char *owner;
} Expected;

#define TEXT(s) (s), sizeof(s) - 1

static const struct {
        const char *name;
        const char *text;
        size_t size;
        Expected files[3];
        size_t n_files, n_warnings;
} good[] = {
        { "nothing at all", TEXT(""), {}, 0, 0 },
        { "a comment only, as upstream writes it", TEXT("#cloud-config\n"), {}, 0, 0 },
        { "empty list", TEXT("write_files: []"), {}, 0, 0 },
        { "no list", TEXT("write_files:\n"), {}, 0, 0 },
        { "upstream's layout", TEXT("#cloud-config\n\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: |\n"
                                    "      {\n          \"pod-network\": null\n      }\n"
                                    "  - path: /run/peerpod/scratch-space.marker\n"),
          { { "/run/peerpod/apf.json", TEXT("{\n    \"pod-network\": null\n}\n"), MODE_INVALID, NULL },
            { "/run/peerpod/scratch-space.marker", TEXT(""), MODE_INVALID, NULL } }, 2, 0 },
        { "other block scalars", TEXT("write_files:\n- path: /a\n  content: |-\n    x\n- path: /b\n  content: |+\n    y\n\n"
                                      "- {path: \"/c\", content: \"a\\tb\\0c\"}\n"),
          { { "/a", TEXT("x"), MODE_INVALID, NULL }, { "/b", TEXT("y\n\n"), MODE_INVALID, NULL },
            { "/c", TEXT("a\tb\0c"), MODE_INVALID, NULL } }, 3, 0 },
        { "JSON is YAML", TEXT("{\"write_files\":[{\"path\":\"/a\",\"content\":\"x\\n\"}]}"),
          { { "/a", TEXT("x\n"), MODE_INVALID, NULL } }, 1, 0 },
        { "modes and owner", TEXT("write_files:\n- path: /a\n  permissions: '0600'\n  owner: root:root\n"
                                  "- path: /b\n  permissions: 0o640\n- path: /c\n  permissions: 644\n"),
          { { "/a", TEXT(""), 0600, "root:root" }, { "/b", TEXT(""), 0640, NULL }, { "/c", TEXT(""), 0644, NULL } }, 3, 0 },
        { "base64", TEXT("write_files:\n- path: /a\n  encoding: b64\n  content: |\n    aGVs\n    bG8=\n"),
          { { "/a", TEXT("hello"), MODE_INVALID, NULL } }, 1, 0 },
        /* printf hello | gzip -n | base64 */
        { "gzip in base64, encoding given last", TEXT("write_files:\n- path: /a\n"
                                                      "  content: H4sIAAAAAAAAA8tIzcnJBwCGphA2BQAAAA==\n  encoding: gz+b64\n"),
          { { "/a", TEXT("hello"), MODE_INVALID, NULL } }, 1, 0 },
        { "plain words as text", TEXT("write_files:\n- path: /a\n  content: 123\n- path: /b\n  content: ~\n- path: /c\n  content: 'null'\n"),
          { { "/a", TEXT("123"), MODE_INVALID, NULL }, { "/b", TEXT(""), MODE_INVALID, NULL },
            { "/c", TEXT("null"), MODE_INVALID, NULL } }, 3, 0 },
        { "append: false is the default", TEXT("write_files:\n- {path: /a, append: false}\n"),
          { { "/a", TEXT(""), MODE_INVALID, NULL } }, 1, 0 },
        { "unknown keys are skipped whole", TEXT("runcmd:\n- [ls, {a: b}]\nusers: default\nwrite_files:\n- path: /a\n  defer: {x: [1, 2]}\n  content: x\n"),
          { { "/a", TEXT("x"), MODE_INVALID, NULL } }, 1, 3 },
        { "document markers", TEXT("---\nwrite_files: []\n...\n"), {}, 0, 0 },
};

static void documents_are_read(void **state) {
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                int r = cloud_config_parse(good[i].text, good[i].size, &f->config, &f->error);

                if (r < 0)
                        fail_msg("%s: %s", good[i].name, f->error);
                if (f->config.n_files != good[i].n_files || f->config.n_warnings != good[i].n_warnings)
                        fail_msg("%s: %zu files, %zu warnings", good[i].name, f->config.n_files, f->config.n_warnings);
                for (size_t k = 0; k < good[i].n_files; k++) {
                        const Expected *e = good[i].files + k;
                        const CloudConfigFile *file = f->config.files + k;

                        assert_string_equal(file->path, e->path);
                        if (file->size != e->size || memcmp(file->content, e->content, e->size) != 0)
                                fail_msg("%s: the content of '%s' is '%s'", good[i].name, e->path, file->content);
                        assert_int_equal(file->mode, e->mode);
                        assert_true(streq_ptr(file->owner, e->owner));
                }
                clear(f);
        }
}

static const struct {
        const char *name;
        const char *text;
        size_t size;
        int result;
        const char *error;
} bad[] = {
        { "a list", TEXT("- a\n"), -EBADMSG, "line 1: the document is not a mapping" },
        { "a word", TEXT("hello"), -EBADMSG, "not a mapping" },
        { "write_files is a mapping", TEXT("write_files: {}"), -EBADMSG, "write_files is not a list" },
        { "an entry is a word", TEXT("write_files: [a]"), -EBADMSG, "not a mapping" },
        { "path is a list", TEXT("write_files: [{path: [a]}]"), -EBADMSG, "path is not a string" },
        { "content is a mapping", TEXT("write_files: [{path: /a, content: {}}]"), -EBADMSG, "content is not a string" },
        { "no path", TEXT("write_files: [{content: x}]"), -EBADMSG, "a file without path" },
        { "relative path", TEXT("write_files: [{path: a}]"), -EBADMSG, "path is not absolute" },
        { "empty path", TEXT("write_files: [{path: ''}]"), -EBADMSG, "path is not absolute" },
        { "NUL in a path", TEXT("write_files: [{path: \"/a\\0b\"}]"), -EBADMSG, "path has a NUL" },
        { "NUL in a key", TEXT("write_files: [{\"path\\0\": /a}]"), -EBADMSG, "a key has a NUL" },
        { "NUL in the text", TEXT("write_files: [{path: /a\0}]"), -EBADMSG, "no YAML" },
        { "key given twice", TEXT("write_files: [{path: /a, path: /b}]"), -EBADMSG, "line 1: a key is given twice" },
        { "list given twice", TEXT("write_files: []\nwrite_files: []\n"), -EBADMSG, "line 2: a key is given twice" },
        { "unknown key given twice", TEXT("a: 1\na: 2\n"), -EBADMSG, "given twice" },
        { "key that is no word", TEXT("{[a]: b}"), -EBADMSG, "a key is not a string" },
        { "alias", TEXT("write_files: *a"), -EBADMSG, "aliases" },
        { "alias in what is skipped", TEXT("a: [*b]"), -EBADMSG, "aliases" },
        { "anchor", TEXT("a: &x [1]"), -EBADMSG, "anchors" },
        { "anchor at a word", TEXT("a: &x y"), -EBADMSG, "anchors" },
        { "billion laughs", TEXT("a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\nwrite_files: *c\n"), -EBADMSG, "anchors" },
        { "append", TEXT("write_files: [{path: /a, append: true}]"), -EOPNOTSUPP, "append is not supported" },
        { "unknown encoding", TEXT("write_files: [{path: /a, encoding: rot13}]"), -EOPNOTSUPP, "encoding is not supported" },
        { "binary", TEXT("write_files: [{path: /a, content: !!binary aGk=}]"), -EOPNOTSUPP, "!!binary" },
        { "tagged path", TEXT("write_files: [{path: !!int /a}]"), -EBADMSG, "type tag" },
        { "permissions", TEXT("write_files: [{path: /a, permissions: rw}]"), -EBADMSG, "permissions" },
        { "permissions", TEXT("write_files: [{path: /a, permissions: '77777'}]"), -EBADMSG, "permissions" },
        { "base64", TEXT("write_files: [{path: /a, encoding: b64, content: '!!'}]"), -EBADMSG, "base64" },
        { "cut base64", TEXT("write_files: [{path: /a, encoding: b64, content: 'aGk'}]"), -EBADMSG, "base64" },
        { "no gzip", TEXT("write_files: [{path: /a, encoding: gz+b64, content: 'aGk='}]"), -EBADMSG, "gzip" },
        { "cut gzip", TEXT("write_files: [{path: /a, encoding: gz+b64, content: H4sIAAAAAAAAA8tIzcnJ}]"), -EBADMSG, "gzip" },
        { "two documents", TEXT("write_files: []\n---\nwrite_files: []\n"), -EBADMSG, "more than one document" },
        { "cut flow", TEXT("write_files: [{path: /a"), -EBADMSG, "no YAML" },
        { "cut string", TEXT("write_files: [{path: \"/a"), -EBADMSG, "no YAML" },
        { "no UTF-8", TEXT("write_files: [{path: /\xff\xfe}]"), -EBADMSG, "no YAML" },
        { "UTF-16", TEXT("\xff\xfew\0r\0i\0"), -EBADMSG, "no YAML" },
        { "tab as indentation", TEXT("write_files:\n\t- path: /a\n"), -EBADMSG, "no YAML" },
        { "one level too deep", TEXT("a: [[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]"), -E2BIG, "nested" },
};

static void documents_are_refused_with_line_and_reason(void **state) {
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                int r = cloud_config_parse(bad[i].text, bad[i].size, &f->config, &f->error);

                if (r != bad[i].result)
                        fail_msg("%s: result %i, error '%s'", bad[i].name, r, strempty(f->error));
                if (!strstr(f->error, bad[i].error) || !startswith(f->error, "line "))
                        fail_msg("%s: the error says '%s'", bad[i].name, f->error);
                assert_int_equal(f->config.n_files, 0);
                clear(f);

                /* without somebody who reads the text */
                assert_int_equal(cloud_config_parse(bad[i].text, bad[i].size, &f->config, NULL), bad[i].result);
        }
}

static void an_error_never_quotes_content(void **state) {
        static const char secret[] = "write_files:\n- path: /a\n  content: \"hunter2\n";
        Fixture *f = *state;

        assert_int_equal(cloud_config_parse(TEXT(secret), &f->config, &f->error), -EBADMSG);
        assert_null(strstr(f->error, "hunter2"));
}

static char* repeat(Fixture *f, const char *prefix, const char *piece, size_t n) {
        size_t at = strlen(prefix), size = strlen(piece);

        f->size = at + n * size;
        f->text = malloc(f->size + 1);
        assert_non_null(f->text);
        memcpy(f->text, prefix, at);
        for (size_t i = 0; i < n; i++)
                memcpy(f->text + at + i * size, piece, size);
        f->text[f->size] = 0;
        return f->text;
}

static void limits_end_big_documents(void **state) {
        static const struct {
                const char *prefix, *piece;
                size_t n;
                const char *error;
        } cases[] = {
                { "", "#", CLOUD_CONFIG_SIZE_MAX + 1, "more than 1048576 bytes" },
                { "a: ", "[", 500000, "nested" },
                { "a: ", "{a: ", 200000, "nested" },
                { "a: [", "b,", 500000, "pieces" },
                { "write_files:\n", "- path: /a\n", CLOUD_CONFIG_FILES_MAX + 1, "more than 64 files" },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                repeat(f, cases[i].prefix, cases[i].piece, cases[i].n);
                assert_int_equal(cloud_config_parse(f->text, f->size, &f->config, &f->error), -E2BIG);
                if (!strstr(f->error, cases[i].error))
                        fail_msg("the error says '%s'", f->error);
                clear(f);
        }

        /* many keys: all different, in one mapping */
        f->text = malloc(64 * 1024);
        assert_non_null(f->text);
        f->size = 0;
        for (unsigned i = 0; i < 100; i++)
                f->size += sprintf(f->text + f->size, "k%u: 1\n", i);
        assert_int_equal(cloud_config_parse(f->text, f->size, &f->config, &f->error), -E2BIG);
        assert_non_null(strstr(f->error, "keys"));
}

static void warnings_are_few_and_printable(void **state) {
        static const char text[] = "\"a\\nb\\u00e9\": 1\n";
        Fixture *f = *state;

        assert_int_equal(cloud_config_parse(TEXT(text), &f->config, &f->error), 0);
        assert_string_equal(f->config.warnings[0], "line 1: unknown key 'a?b?" "?', skipped");
        assert_null(f->config.warnings[1]);
        clear(f);

        f->text = malloc(4096);
        assert_non_null(f->text);
        f->size = 0;
        for (unsigned i = 0; i < 50; i++)
                f->size += sprintf(f->text + f->size, "k%u: 1\n", i);
        assert_int_equal(cloud_config_parse(f->text, f->size, &f->config, &f->error), 0);
        assert_int_equal(f->config.n_warnings, CLOUD_CONFIG_WARNINGS_MAX);
}

/* gzip of @size bytes 'x', then base64 by hand: a libz of its own, not our decoder, makes it. */
static void gzip_of_x(size_t size, uint8_t **ret, size_t *ret_size) {
        static uint8_t x[65536];
        z_stream z = {};
        size_t room = size / 500 + 1024;

        memset(x, 'x', sizeof(x));
        *ret = malloc(room);
        assert_non_null(*ret);
        assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY), Z_OK);
        z.next_out = *ret;
        z.avail_out = room;
        for (size_t done = 0; done < size; done += MIN(sizeof(x), size - done)) {
                z.next_in = x;
                z.avail_in = MIN(sizeof(x), size - done);
                assert_int_equal(deflate(&z, Z_NO_FLUSH), Z_OK);
        }
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        *ret_size = room - z.avail_out;
        deflateEnd(&z);
}

static void gzip_stops_at_the_limit(void **state) {
        Fixture *f = *state;
        uint8_t *gz;
        size_t n;

        gzip_of_x(64 << 20, &gz, &n);
        f->buffer = (char*) gz;
        assert_int_equal(gzip_decode(gz, n, 4 << 20, &f->text, &f->size), -E2BIG);
        free(gz);
        f->buffer = NULL;

        gzip_of_x(4096, &gz, &n);
        f->buffer = (char*) gz;
        assert_int_equal(gzip_decode(gz, n, 4095, &f->text, &f->size), -E2BIG);
        assert_int_equal(gzip_decode(gz, n, 4096, &f->text, &f->size), 0);
        assert_int_equal(f->size, 4096);
        assert_int_equal(f->text[4096], 0);
        f->text = erase_free(f->text, f->size);

        /* RFC 1952 section 2.2: members follow one another; anything else behind them is refused */
        f->buffer = realloc(f->buffer, 2 * n + 1);
        assert_non_null(f->buffer);
        memcpy(f->buffer + n, f->buffer, n);
        assert_int_equal(gzip_decode(f->buffer, 2 * n, 10000, &f->text, &f->size), 0);
        assert_int_equal(f->size, 8192);
        f->text = erase_free(f->text, f->size);
        f->buffer[2 * n] = 'x';
        assert_int_equal(gzip_decode(f->buffer, 2 * n + 1, 10000, &f->text, &f->size), -EBADMSG);

        for (size_t cut = 0; cut < n; cut++)
                assert_int_equal(gzip_decode(f->buffer, cut, 10000, &f->text, &f->size), -EBADMSG);
        assert_int_equal(gzip_decode("", 0, 0, &f->text, &f->size), -EBADMSG);
}

static void a_gzip_bomb_in_a_document_is_refused(void **state) {
        static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        Fixture *f = *state;
        uint8_t *gz;
        size_t n;

        gzip_of_x(200 << 20, &gz, &n);
        f->buffer = (char*) gz;

        f->text = malloc(4096 + n * 2);
        assert_non_null(f->text);
        f->size = sprintf(f->text, "write_files:\n- path: /a\n  encoding: gz+b64\n  content: ");
        for (size_t i = 0; i < n - n % 3; i += 3) {
                uint32_t v = gz[i] << 16 | gz[i + 1] << 8 | gz[i + 2];

                for (int k = 18; k >= 0; k -= 6)
                        f->text[f->size++] = alphabet[v >> k & 63];
        }

        assert_int_equal(cloud_config_parse(f->text, f->size, &f->config, &f->error), -E2BIG);
        assert_non_null(strstr(f->error, "more than 4194304 bytes of content"));
}

static void base64_is_strict(void **state) {
        static const struct {
                const char *text;
                int result;
                const char *bytes;
        } cases[] = {
                /* RFC 4648 section 10 */
                { "", 0, "" }, { "Zg==", 0, "f" }, { "Zm8=", 0, "fo" }, { "Zm9v", 0, "foo" },
                { "Zm9vYg==", 0, "foob" }, { "Zm9vYmE=", 0, "fooba" }, { "Zm9vYmFy", 0, "foobar" },
                { " Z g\r\n=\t= ", 0, "f" },
                { "Zg", -EBADMSG, NULL }, { "Zg=", -EBADMSG, NULL }, { "Zg===", -EBADMSG, NULL }, { "Z===", -EBADMSG, NULL },
                { "=", -EBADMSG, NULL }, { "Zg==Zg==", -EBADMSG, NULL }, { "Zg=v", -EBADMSG, NULL },
                { "Zm-v", -EBADMSG, NULL }, { "Zm9v\x01", -EBADMSG, NULL },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int r = base64_decode(cases[i].text, strlen(cases[i].text), &f->text, &f->size);

                if (r != cases[i].result)
                        fail_msg("'%s': %i", cases[i].text, r);
                if (r == 0) {
                        assert_int_equal(f->size, strlen(cases[i].bytes));
                        assert_string_equal(f->text, cases[i].bytes);
                }
                clear(f);
        }
}

static void the_reader_gives_back_what_the_writer_was_given(void **state) {
        static const char *const contents[] = {
                "x", "x\n", "{\n    \"a\": \"b\"\n}", "\n\nx", "x\n\n\ny\n", "x \n", "x\n   \ny", "# no comment\n---\n...\n",
                "- a\n- b: c\n", "a: |\n  b\n", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n", "x\n\t\ttab\n", "%YAML 1.1\n", "'\"`@&*!|>\n",
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(contents); i++) {
                CloudConfigEntry e = { .path = "/run/peerpod/apf.json", .permissions = "0600", .owner = "root:root",
                                       .content = contents[i], .size = strlen(contents[i]) };
                const CloudConfigFile *file;
                size_t n = e.size;

                assert_int_equal(cloud_config_format(&e, 1, &f->text, &f->size, &f->error), 0);
                assert_int_equal(cloud_config_parse(f->text, f->size, &f->config, &f->error), 0);

                file = cloud_config_find(&f->config, "/run/peerpod/apf.json");
                assert_non_null(file);
                if (file->size == n + 1 && contents[i][n - 1] != '\n')          /* the block's newline */
                        assert_int_equal(file->content[n], '\n');
                else
                        assert_int_equal(file->size, n);
                assert_memory_equal(file->content, contents[i], n);
                assert_int_equal(file->mode, 0600);
                assert_null(cloud_config_find(&f->config, "/run/peerpod"));
                clear(f);
        }
}

/* ---- apf.json ------------------------------------------------------------------------------------------------ */

/* What Go 1.24's json.MarshalIndent(config, "", "    ") gives for upstream's structures (cloud-api-adaptor:
 * src/cloud-api-adaptor/pkg/forwarder/forwarder.go, pkg/podnetwork/tunneler/tunneler.go). */
static const char full_text[] =
        "{\n"
        "    \"pod-network\": {\n"
        "        \"podip\": \"10.244.0.19/24\",\n"
        "        \"pod-hw-addr\": \"0e:8f:62:f3:81:ad\",\n"
        "        \"interface\": \"eth0\",\n"
        "        \"worker-node-ip\": \"10.224.0.4/16\",\n"
        "        \"tunnel-type\": \"vxlan\",\n"
        "        \"routes\": [\n"
        "            {\n"
        "                \"dst\": \"0.0.0.0/0\",\n"
        "                \"gw\": \"10.244.0.1\",\n"
        "                \"dev\": \"eth0\"\n"
        "            }\n"
        "        ],\n"
        "        \"neighbors\": null,\n"
        "        \"mtu\": 1450,\n"
        "        \"index\": 1,\n"
        "        \"vxlan-port\": 4789,\n"
        "        \"vxlan-id\": 555001,\n"
        "        \"dedicated\": false,\n"
        "        \"external-net-via-pod-vm\": false\n"
        "    },\n"
        "    \"pod-namespace\": \"default\",\n"
        "    \"pod-name\": \"nginx\",\n"
        "    \"tls-server-key\": \"-----BEGIN PRIVATE KEY-----\\nk\\n-----END PRIVATE KEY-----\\n\",\n"
        "    \"tls-server-cert\": \"C\\n\",\n"
        "    \"tls-client-ca\": \"A\\n\",\n"
        "    \"tls-min-version\": \"VersionTLS12\",\n"
        "    \"tls-cipher-suites\": [\n"
        "        \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\",\n"
        "        \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"\n"
        "    ]\n"
        "}";

static const char full_network[] =
        "{\"podip\":\"10.244.0.19/24\",\"pod-hw-addr\":\"0e:8f:62:f3:81:ad\",\"interface\":\"eth0\","
        "\"worker-node-ip\":\"10.224.0.4/16\",\"tunnel-type\":\"vxlan\","
        "\"routes\":[{\"dst\":\"0.0.0.0/0\",\"gw\":\"10.244.0.1\",\"dev\":\"eth0\"}],\"neighbors\":null,"
        "\"mtu\":1450,\"index\":1,\"vxlan-port\":4789,\"vxlan-id\":555001,\"dedicated\":false,\"external-net-via-pod-vm\":false}";

static ApfConfig full_config(void) {
        static char *suites[] = { (char*) "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                                  (char*) "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", NULL };

        return (ApfConfig) {
                .pod_network = (char*) full_network, .pod_namespace = (char*) "default", .pod_name = (char*) "nginx",
                .tls_server_key = (char*) "-----BEGIN PRIVATE KEY-----\nk\n-----END PRIVATE KEY-----\n",
                .tls_server_cert = (char*) "C\n", .tls_client_ca = (char*) "A\n",
                .tls_min_version = (char*) "VersionTLS12", .tls_cipher_suites = suites,
        };
}

static void apf_json_has_upstreams_bytes(void **state) {
        Fixture *f = *state;
        ApfConfig c = full_config();

        assert_int_equal(apf_config_format(&c, &f->text, &f->size, &f->error), 0);
        assert_string_equal(f->text, full_text);
        assert_int_equal(f->size, sizeof(full_text) - 1);
        clear(f);

        c = APF_CONFIG_NULL;
        assert_int_equal(apf_config_format(&c, &f->text, &f->size, &f->error), 0);
        assert_string_equal(f->text, "{\n    \"pod-network\": null,\n    \"pod-namespace\": \"\",\n    \"pod-name\": \"\"\n}");
        clear(f);

        c.pod_network = (char*) "{\"routes\": [], \"x\": {}, \"mtu\": 0, \"f\": 1.50}";
        c.pod_namespace = (char*) "a<b>&\xe2\x80\xa8\"\\\t\x01\xc3\xa9";
        assert_int_equal(apf_config_format(&c, &f->text, &f->size, &f->error), 0);
        assert_string_equal(f->text, "{\n    \"pod-network\": {\n        \"routes\": [],\n        \"x\": {},\n        \"mtu\": 0,\n"
                            "        \"f\": 1.50\n    },\n"
                            "    \"pod-namespace\": \"a\\u003cb\\u003e\\u0026\\u2028\\\"\\\\\\t\\u0001\xc3\xa9\",\n    \"pod-name\": \"\"\n}");
}

static void apf_json_is_read_back(void **state) {
        Fixture *f = *state;
        ApfConfig c = full_config();

        assert_int_equal(apf_config_parse(TEXT(full_text), &f->apf, &f->error), 0);
        assert_string_equal(f->apf.pod_network, full_network);
        assert_string_equal(f->apf.pod_namespace, c.pod_namespace);
        assert_string_equal(f->apf.pod_name, c.pod_name);
        assert_string_equal(f->apf.tls_server_key, c.tls_server_key);
        assert_string_equal(f->apf.tls_server_cert, c.tls_server_cert);
        assert_string_equal(f->apf.tls_client_ca, c.tls_client_ca);
        assert_string_equal(f->apf.tls_min_version, c.tls_min_version);
        assert_true(strv_equal(f->apf.tls_cipher_suites, c.tls_cipher_suites));
        clear(f);

        /* found by the fuzz target: json-c's strict mode refused whatever was not ASCII */
        assert_int_equal(apf_config_parse(TEXT("{\"pod-name\":\"a\\u2000b \xe2\x82\xac\"}"), &f->apf, &f->error), 0);
        assert_string_equal(f->apf.pod_name, "a\xe2\x80\x80" "b \xe2\x82\xac");
        clear(f);

        /* unknown keys, null, a final newline as a block scalar adds it */
        assert_int_equal(apf_config_parse(TEXT("{\"pod-network\":null,\"pod-name\":null,\"sc-pp-prv\":\"AA==\",\"new\":[1]}\n"),
                                          &f->apf, &f->error), 0);
        assert_null(f->apf.pod_network);
        assert_null(f->apf.pod_name);
}

static void apf_json_is_refused_with_the_key_named(void **state) {
        static const struct {
                const char *text;
                size_t size;
                const char *error;
        } cases[] = {
                { TEXT(""), "ends too early" },
                { TEXT("[]"), "not an object" },
                { TEXT("{\"pod-name\":\"a\"} x"), "byte 17" },
                { TEXT("{\"pod-name\":\"a\""), "ends too early" },
                { TEXT("{\"pod-name\":1}"), "'pod-name'" },
                { TEXT("{\"pod-namespace\":{}}"), "'pod-namespace'" },
                { TEXT("{\"pod-network\":\"x\"}"), "'pod-network'" },
                { TEXT("{\"pod-network\":[]}"), "'pod-network'" },
                { TEXT("{\"tls-server-key\":[\"x\"]}"), "'tls-server-key'" },
                { TEXT("{\"tls-server-key\":\"a\\u0000b\"}"), "'tls-server-key'" },
                { TEXT("{\"tls-min-version\":\"VersionTLS11\"}"), "'tls-min-version'" },
                { TEXT("{\"tls-cipher-suites\":\"x\"}"), "'tls-cipher-suites'" },
                { TEXT("{\"tls-cipher-suites\":[1]}"), "'tls-cipher-suites'" },
                { TEXT("{\"pod-name\":\"\xff\"}"), "" },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int r = apf_config_parse(cases[i].text, cases[i].size, &f->apf, &f->error);

                if (r != -EBADMSG || !strstr(f->error, cases[i].error))
                        fail_msg("'%s': %i, '%s'", cases[i].text, r, strempty(f->error));
                clear(f);
        }

        repeat(f, "{\"pod-network\":", "{\"a\":", 10000);
        assert_int_equal(apf_config_parse(f->text, f->size, &f->apf, &f->error), -EBADMSG);
        clear(f);
}

static void apf_json_has_limits(void **state) {
        static const struct {
                const char *key;
                size_t size_max;
        } cases[] = {
                { "pod-name", APF_STRING_MAX }, { "tls-server-key", APF_PEM_MAX }, { "tls-client-ca", APF_PEM_MAX },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                for (size_t over = 0; over < 2; over++) {
                        size_t n = cases[i].size_max + over;
                        int r;

                        f->text = malloc(n + 100);
                        assert_non_null(f->text);
                        f->size = sprintf(f->text, "{\"%s\":\"", cases[i].key);
                        memset(f->text + f->size, 'x', n);
                        f->size += n;
                        f->size += sprintf(f->text + f->size, "\"}");

                        r = apf_config_parse(f->text, f->size, &f->apf, &f->error);
                        assert_int_equal(r, over ? -E2BIG : 0);
                        if (over)
                                assert_non_null(strstr(f->error, cases[i].key));
                        clear(f);
                }

        repeat(f, "{\"tls-cipher-suites\":[\"x\"", ",\"x\"", APF_CIPHER_SUITES_MAX);
        f->text = realloc(f->text, f->size + 3);
        assert_non_null(f->text);
        strcpy(f->text + f->size, "]}");
        f->size += 2;
        assert_int_equal(apf_config_parse(f->text, f->size, &f->apf, &f->error), -E2BIG);
        clear(f);

        repeat(f, "{", " ", APF_SIZE_MAX);
        assert_int_equal(apf_config_parse(f->text, f->size, &f->apf, &f->error), -E2BIG);
}

static void apf_json_is_not_written_from_nonsense(void **state) {
        static const struct {
                ApfConfig config;
                int result;
                const char *error;
        } cases[] = {
                { { .pod_network = (char*) "[]" }, -EINVAL, "'pod-network'" },
                { { .pod_network = (char*) "" }, -EINVAL, "'pod-network'" },
                { { .pod_network = (char*) "{\"a\":\"\\u0000\"}" }, -EINVAL, "'pod-network'" },
                { { .pod_network = (char*) "{\"a\":NaN}" }, -EINVAL, "'pod-network'" },
                { { .pod_name = (char*) "\xff" }, -EINVAL, "'pod-name'" },
                { { .tls_min_version = (char*) "1.3" }, -EINVAL, "'tls-min-version'" },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int r = apf_config_format(&cases[i].config, &f->text, &f->size, &f->error);

                if (r != cases[i].result || !strstr(f->error, cases[i].error))
                        fail_msg("case %zu: %i, '%s'", i, r, strempty(f->error));
                assert_null(f->text);
                clear(f);
        }
}

static void apf_json_fits_into_a_cloud_config(void **state) {
        Fixture *f = *state;
        /* everything that a YAML block could not hold, in a name */
        ApfConfig c = { .pod_name = (char*) " \x7f\xc2\x85\xe2\x80\xa8\xef\xbb\xbf\xef\xbf\xbe\r\n\t\x01" };
        CloudConfigEntry e = { .path = "/run/peerpod/apf.json" };

        assert_int_equal(apf_config_format(&c, &f->buffer, &e.size, &f->error), 0);
        e.content = f->buffer;
        assert_int_equal(cloud_config_format(&e, 1, &f->text, &f->size, &f->error), 0);
        assert_int_equal(cloud_config_parse(f->text, f->size, &f->config, &f->error), 0);
        assert_int_equal(apf_config_parse(f->config.files[0].content, f->config.files[0].size, &f->apf, &f->error), 0);
        assert_string_equal(f->apf.pod_name, c.pod_name);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        static const struct CMUnitTest tests[] = {
                TEST(the_writer_has_upstreams_bytes),
                TEST(the_writer_refuses_what_would_come_out_different),
                TEST(the_writer_refuses_more_than_the_reader_takes),
                TEST(documents_are_read),
                TEST(documents_are_refused_with_line_and_reason),
                TEST(an_error_never_quotes_content),
                TEST(limits_end_big_documents),
                TEST(warnings_are_few_and_printable),
                TEST(gzip_stops_at_the_limit),
                TEST(a_gzip_bomb_in_a_document_is_refused),
                TEST(base64_is_strict),
                TEST(the_reader_gives_back_what_the_writer_was_given),
                TEST(apf_json_has_upstreams_bytes),
                TEST(apf_json_is_read_back),
                TEST(apf_json_is_refused_with_the_key_named),
                TEST(apf_json_has_limits),
                TEST(apf_json_is_not_written_from_nonsense),
                TEST(apf_json_fits_into_a_cloud_config),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
