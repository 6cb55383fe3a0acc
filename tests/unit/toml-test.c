/* SPDX-License-Identifier: Apache-2.0 */
/* The TOML reader beyond what the official suite asks (toml-suite.py): its words, its limits, its types. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "basic/toml.h"
#include "basic/util.h"

typedef struct Fixture {
        TomlValue root;
        char *error, *text;
} Fixture;

static int setup(void **state) {
        *state = new0(Fixture, 1);
        return *state ? 0 : -1;
}

static void clear(Fixture *f) {
        toml_done(&f->root);
        free(f->error);
        free(f->text);
        *f = (Fixture) {};
}

static int teardown(void **state) {
        clear(*state);
        free(*state);
        return 0;
}

static const struct {
        const char *text, *error;
} refused[] = {
        { "a = 1\na = 2\n", "line 2: this is set a second time" },
        { "[a]\n[a]\n", "line 2: this is set a second time" },
        { "a = { b = 1 }\na.c = 2\n", "line 2: this is set a second time" },
        { "a.b = 1\n[a]\n", "line 2: this is set a second time" },
        { "\"a\" = 1\na = 2\n", "line 2: this is set a second time" },
        { "a = \"\"\"x\n", "line 2: a string does not end" },
        { "a = \"x\n", "line 1: a string does not end" },
        { "a = \"\\q\"\n", "line 1: a string has an escape that is none" },
        { "a = \"\\ud800\"\n", "line 1: a string has an escape for what is no character" },
        { "a = \"\\", "line 1: a string has an escape that is none" },
        { "a = '\x01'\n", "line 1: a string has a control character" },
        { "# \x7f\n", "line 1: a comment has a control character" },
        { "a = '\xff'\n", "line 1: the text is no UTF-8" },
        { "\n\na = '\xc0\x80'\n", "line 3: the text is no UTF-8" },
        { "a = yes\n", "line 1: here should be a value: texts stand between quotation marks" },
        { "a = 2026-02-29\n", "line 1: here should be a value: texts stand between quotation marks" },
        { "a = 9223372036854775808\n", "line 1: a number is too big" },
        { "a = 1 2\n", "line 1: there is something behind the value" },
        { "\n\na\n", "line 3: a key is not followed by '='" },
        { "[a\n", "line 1: a table's name does not end with ']'" },
        { "a = [ 1 2 ]\n", "line 1: an array does not go on with ',' or ']'" },
        { "a = { b = 1 c = 2 }\n", "line 1: an inline table does not go on with ',' or '}'" },
        { "= 1\n", "line 1: here should be a key" },
        { "\"\"\"a\"\"\" = 1\n", "line 1: a key has several lines" },
        { "\"a\\u0000b\" = 1\n", "line 1: a key has a NUL" },
        { "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q = 1\n", "line 1: a key has too many parts" },
};

static void errors_name_line_and_reason(void **state) {
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(refused); i++) {
                int r = toml_parse(refused[i].text, strlen(refused[i].text), &f->root, &f->error);

                if (r != -EBADMSG || !f->error || !streq(f->error, refused[i].error))
                        fail_msg("'%s': %i, '%s'", refused[i].text, r, strempty(f->error));
                clear(f);
        }
}

static void values_have_their_types(void **state) {
        static const char text[] =
                "s = \"a\\tb\\\"c\\u20ac\"\nl = 'a\\b'\nm = '''\none\r\ntwo'''\ni = -1_000\nh = 0xff\nb = true\nd = 1979-05-27\n"
                "f = 1.5\nz = \"a\\u0000b\"\na = ['x', 1, ['y'], 'z']\n[t]\nu.v = { w = 2 }\n[[t.x]]\n[[t.x]]\ny = 3\n";
        Fixture *f = *state;
        const TomlValue *a, *x;

        assert_int_equal(toml_parse(text, sizeof(text) - 1, &f->root, &f->error), 0);
        assert_string_equal(toml_get(&f->root, "s")->text, "a\tb\"c\xe2\x82\xac");
        assert_string_equal(toml_get(&f->root, "l")->text, "a\\b");
        assert_string_equal(toml_get(&f->root, "m")->text, "one\ntwo");
        assert_int_equal(toml_get(&f->root, "i")->integer, -1000);
        assert_int_equal(toml_get(&f->root, "h")->integer, 255);
        assert_int_equal(toml_get(&f->root, "b")->type, TOML_BOOL);
        assert_int_equal(toml_get(&f->root, "d")->type, TOML_DATE_LOCAL);
        assert_int_equal(toml_get(&f->root, "f")->type, TOML_FLOAT);
        assert_int_equal(toml_get(&f->root, "z")->size, 3);

        a = toml_get(&f->root, "a");
        assert_int_equal(a->type, TOML_ARRAY);
        assert_int_equal(a->n_items, 4);
        assert_string_equal(a->items[3].text, "z");

        assert_int_equal(toml_find(&f->root, "t.u.v.w")->integer, 2);
        assert_int_equal(toml_find(&f->root, "t.u.v.w")->line, 14);
        x = toml_find(&f->root, "t.x");
        assert_int_equal(x->n_items, 2);
        assert_int_equal(toml_get(x->items + 1, "y")->integer, 3);

        assert_null(toml_find(&f->root, "t.nothing"));
        assert_null(toml_find(&f->root, "s.nothing"));
        assert_null(toml_get(a, "x"));
}

/* Fills f->text with a head, and n times a piece. */
static size_t repeat(Fixture *f, const char *head, const char *piece, size_t n) {
        char *p;

        f->text = malloc(strlen(head) + n * strlen(piece) + 1);
        assert_non_null(f->text);
        p = stpcpy(f->text, head);
        for (size_t i = 0; i < n; i++)
                p = stpcpy(p, piece);
        return (size_t) (p - f->text);
}

static void limits_end_big_files(void **state) {
        static const struct {
                const char *head, *piece;
                size_t n;
                int result;
                const char *error;
        } cases[] = {
                { "a = ", "[", 1 << 20, -EBADMSG, "too deep" },
                { "a = ", "{a=", 1 << 20, -EBADMSG, "too deep" },
                { "a", ".a", 1 << 20, -EBADMSG, "too many parts" },
                { "", "[[a]]\n", 1 << 18, -EBADMSG, "too many values" },
                { "a = [", "1,", 1 << 20, -EBADMSG, "too many values" },
                { "", "x", TOML_KEY_MAX + 1, -EBADMSG, "too long" },
                { "#", "x", TOML_SIZE_MAX, -EFBIG, NULL },
                { "#", "x", TOML_SIZE_MAX - 1, 0, NULL },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                size_t size = repeat(f, cases[i].head, cases[i].piece, cases[i].n);
                int r = toml_parse(f->text, size, &f->root, &f->error);

                if (r != cases[i].result || (cases[i].error && !strstr(strempty(f->error), cases[i].error)))
                        fail_msg("case %zu: %i, '%s'", i, r, strempty(f->error));
                clear(f);
        }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        static const struct CMUnitTest tests[] = {
                TEST(errors_name_line_and_reason),
                TEST(values_have_their_types),
                TEST(limits_end_big_files),
        };

        return cmocka_run_group_tests_name("toml", tests, NULL, NULL);
}
