/* SPDX-License-Identifier: Apache-2.0 */
/* One function for each rule of TOML 1.0.0's grammar. Each takes the text from r->p on and leaves r->p behind what it read.
 *
 * What may be defined twice, and where, is the hard part of the language. Invariant: a table's origin says who may still add to it.
 *   ORIGIN_IMPLIED   named on the way to another: a header may still define it, and a dotted key may fill it
 *   ORIGIN_HEADER    defined by [table]: keys come from its own section only
 *   ORIGIN_SEALED    an inline table, or a written array: nobody
 *   ORIGIN_TABLES    an array of tables: [[table]] appends, and what goes through it means the last
 *   above            made by a dotted key: others of the same section, whose number this is; headers may only go through it */
#include "basic/toml.h"

#include <errno.h>
#include <stdio.h>

#include "basic/toml-scalar.h"
#include "basic/utf8.h"
#include "basic/util.h"

enum {
        ORIGIN_IMPLIED,
        ORIGIN_HEADER,
        ORIGIN_SEALED,
        ORIGIN_TABLES,
        ORIGIN_SECTION,         /* the first section's number */
};

typedef struct Reader {
        const char *p, *end;
        unsigned line;
        unsigned n_sections, n_values;
        char *buffer;           /* for the string at hand; as big as the text */
        char **reterr;
} Reader;

/* A key's parts, in the order of the text. */
typedef struct Key {
        char *parts[TOML_DEPTH_MAX];
        unsigned n;
} Key;

static int bad(const Reader *r, const char *what) {
        if (r->reterr && !*r->reterr && asprintf(r->reterr, "line %u: %s", r->line, what) < 0)
                *r->reterr = NULL;      /* asprintf() leaves it undefined */
        return -EBADMSG;
}

static char peek(const Reader *r) {
        return r->p < r->end ? *r->p : '\0';
}

static bool at_end(const Reader *r) {
        return r->p >= r->end;
}

/* Takes these characters, if they are next. */
static bool skip(Reader *r, const char *text) {
        size_t n = strlen(text);

        if ((size_t) (r->end - r->p) < n || memcmp(r->p, text, n) != 0)
                return false;
        r->p += n;
        return true;
}

static void skip_blanks(Reader *r) {
        while (peek(r) == ' ' || peek(r) == '\t')
                r->p++;
}

static bool skip_newline(Reader *r) {
        if (!skip(r, "\n") && !skip(r, "\r\n"))
                return false;
        r->line++;
        return true;
}

static bool is_control(char c) {
        return ((unsigned char) c < 0x20 && c != '\t') || c == 0x7f;
}

static int skip_comment(Reader *r) {
        if (peek(r) != '#')
                return 0;
        while (!at_end(r) && !is_control(*r->p))
                r->p++;
        return at_end(r) || *r->p == '\n' || (*r->p == '\r' && r->p + 1 < r->end && r->p[1] == '\n') ?
                0 : bad(r, "a comment has a control character");
}

/* Blanks, comments and line ends: what may stand between the items of an array. */
static int skip_space(Reader *r) {
        int k;

        do {
                skip_blanks(r);
                k = skip_comment(r);
                if (k < 0)
                        return k;
        } while (skip_newline(r));
        return 0;
}

static int end_line(Reader *r) {
        int k;

        skip_blanks(r);
        k = skip_comment(r);
        if (k < 0)
                return k;
        return at_end(r) || skip_newline(r) ? 0 : bad(r, "there is something behind the value");
}

/* ---- strings ---- */

static int read_unicode(Reader *r, unsigned n_digits, char **out) {
        uint32_t c = 0;
        size_t n;

        for (unsigned i = 0; i < n_digits; i++, r->p++) {
                char d = peek(r);
                unsigned v = d >= '0' && d <= '9' ? (unsigned) (d - '0') :
                             d >= 'a' && d <= 'f' ? (unsigned) (d - 'a') + 10 :
                             d >= 'A' && d <= 'F' ? (unsigned) (d - 'A') + 10 : 16;

                if (v > 15)
                        return bad(r, "a string has an escape that is none");
                c = c << 4 | v;
        }

        n = utf8_encode(c, *out);
        if (n == 0)
                return bad(r, "a string has an escape for what is no character");
        *out += n;
        return 0;
}

static int read_escape(Reader *r, char **out) {
        static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";
        const char *known;
        char c = peek(r);

        known = c ? strchr(from, c) : NULL;
        if (!known && c != 'u' && c != 'U')
                return bad(r, "a string has an escape that is none");
        r->p++;
        if (!known)
                return read_unicode(r, c == 'u' ? 4 : 8, out);
        *(*out)++ = to[known - from];
        return 0;
}

/* A backslash at the end of a line joins it with the next that is not blank. Returns 1 if there was one. */
static int skip_line_joint(Reader *r) {
        const char *begin = r->p;

        skip_blanks(r);
        if (!skip_newline(r)) {
                r->p = begin;
                return 0;
        }
        do
                skip_blanks(r);
        while (skip_newline(r));
        return 1;
}

/* Up to the delimiter, which may have one or two more of its quotation marks before it where the string has several lines. */
static int read_string_text(Reader *r, const char *delimiter, size_t *ret_size) {
        bool basic = delimiter[0] == '"', lines = delimiter[1];
        char *out = r->buffer;
        int k;

        for (;;) {
                char c = peek(r);

                if (at_end(r))
                        return bad(r, "a string does not end");
                if (skip(r, delimiter)) {
                        for (unsigned i = 0; lines && i < 2 && peek(r) == delimiter[0]; i++)
                                *out++ = *r->p++;
                        *ret_size = (size_t) (out - r->buffer);
                        return 0;
                }
                if (lines && skip_newline(r)) {
                        *out++ = '\n';
                        continue;
                }
                if (!lines && (c == '\n' || c == '\r'))
                        return bad(r, "a string does not end");
                if (is_control(c))
                        return bad(r, "a string has a control character");
                r->p++;
                if (c != '\\' || !basic) {
                        *out++ = c;
                        continue;
                }
                k = lines ? skip_line_joint(r) : 0;
                if (k == 0)
                        k = read_escape(r, &out);
                if (k < 0)
                        return k;
        }
}

/* Any of the four kinds of strings; a key may not have several lines. */
static int read_string(Reader *r, bool key, char **ret, size_t *ret_size) {
        static const char *const delimiters[] = { "\"\"\"", "'''", "\"", "'" };
        size_t i, size;
        char *text;
        int k;

        for (i = 0; !skip(r, delimiters[i]); i++)
                assert(i + 1 < ELEMENTSOF(delimiters));
        if (delimiters[i][1]) {
                if (key)
                        return bad(r, "a key has several lines");
                (void) skip_newline(r);
        }

        k = read_string_text(r, delimiters[i], &size);
        if (k < 0)
                return k;

        text = malloc(size + 1);
        if (!text)
                return -ENOMEM;
        *(char*) mempcpy(text, r->buffer, size) = '\0';
        *ret = text;
        *ret_size = size;
        return 0;
}

/* ---- keys ---- */

static void key_done(Key *k) {
        for (unsigned i = 0; i < k->n; i++)
                free(k->parts[i]);
        k->n = 0;
}

static bool is_bare(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static int read_key_part(Reader *r, char **ret) {
        _cleanup_(freep) char *text = NULL;
        size_t size;
        int k;

        if (peek(r) == '"' || peek(r) == '\'') {
                k = read_string(r, true, &text, &size);
                if (k < 0)
                        return k;
        } else {
                const char *begin = r->p;

                while (is_bare(peek(r)))
                        r->p++;
                size = (size_t) (r->p - begin);
                if (size == 0)
                        return bad(r, "here should be a key");
                text = strndup(begin, size);
                if (!text)
                        return -ENOMEM;
        }

        if (size > TOML_KEY_MAX)
                return bad(r, "a key is too long");
        if (strlen(text) != size)
                return bad(r, "a key has a NUL");
        *ret = TAKE_PTR(text);
        return 0;
}

/* "a", "a.b", "a . 'b'", and the blanks behind it */
static int read_key(Reader *r, Key *ret) {
        int k;

        for (;;) {
                if (ret->n >= TOML_DEPTH_MAX)
                        return bad(r, "a key has too many parts");
                k = read_key_part(r, ret->parts + ret->n);
                if (k < 0)
                        return k;
                ret->n++;

                skip_blanks(r);
                if (!skip(r, "."))
                        return 0;
                skip_blanks(r);
        }
}

/* ---- the tree ---- */

void toml_done(TomlValue *v) {
        FOREACH_ELEMENT(TomlValue, i, v->items, v->n_items)
                toml_done(i);
        free(v->items);
        free(v->key);
        free(v->text);
        *v = TOML_NULL;
}

static TomlValue* find_item(const TomlValue *table, const char *key) {
        if (table->type == TOML_TABLE)
                FOREACH_ELEMENT(TomlValue, i, table->items, table->n_items)
                        if (streq(i->key, key))
                                return i;

        return NULL;
}

const TomlValue* toml_get(const TomlValue *table, const char *key) {
        return find_item(table, key);
}

const TomlValue* toml_find(const TomlValue *root, const char *path) {
        while (root && path) {
                const char *dot = strchrnul(path, '.');
                const TomlValue *found = NULL;

                if (root->type == TOML_TABLE)
                        FOREACH_ELEMENT(const TomlValue, i, root->items, root->n_items)
                                if (strncmp(i->key, path, (size_t) (dot - path)) == 0 && !i->key[dot - path])
                                        found = i;
                root = found;
                path = *dot ? dot + 1 : NULL;
        }

        return root;
}

/* Adds to a table, under a key that is not in it, or to an array. @key: copied. @v: taken, on failure too. */
static int add_item(Reader *r, TomlValue *to, const char *key, TomlValue *v, TomlValue **ret) {
        int k = 0;

        if (key) {
                v->key = strdup(key);
                if (!v->key)
                        k = -ENOMEM;
        }
        if (k >= 0 && ++r->n_values > TOML_VALUES_MAX)
                k = bad(r, "there are too many values");
        if (k >= 0 && (to->n_items & (to->n_items - 1)) == 0) {         /* full: 0, or a power of two */
                TomlValue *grown = reallocarray(to->items, MAX(to->n_items * 2, (size_t) 1), sizeof(*grown));

                if (grown)
                        to->items = grown;
                else
                        k = -ENOMEM;
        }
        if (k < 0) {
                toml_done(v);
                return k;
        }

        to->items[to->n_items] = *v;
        if (ret)
                *ret = to->items + to->n_items;
        to->n_items++;
        return 0;
}

static int add_table(Reader *r, TomlValue *to, const char *key, unsigned origin, TomlValue **ret) {
        return add_item(r, to, key, &(TomlValue) { .type = TOML_TABLE, .line = r->line, .origin = origin }, ret);
}

static int twice(const Reader *r) {
        return bad(r, "this is set a second time");
}

/* The table that a header means by a part of its name before the last. */
static int go_through(Reader *r, TomlValue **table, const char *key) {
        TomlValue *next = find_item(*table, key);

        if (!next)
                return add_table(r, *table, key, ORIGIN_IMPLIED, table);
        if (next->type == TOML_ARRAY && next->origin == ORIGIN_TABLES)
                next = next->items + next->n_items - 1;
        else if (next->type != TOML_TABLE || next->origin == ORIGIN_SEALED)
                return twice(r);
        *table = next;
        return 0;
}

/* [a.b] */
static int open_table(Reader *r, TomlValue **table, const char *key) {
        TomlValue *known = find_item(*table, key);

        if (!known)
                return add_table(r, *table, key, ORIGIN_HEADER, table);
        if (known->type != TOML_TABLE || known->origin != ORIGIN_IMPLIED)
                return twice(r);
        known->origin = ORIGIN_HEADER;
        known->line = r->line;
        *table = known;
        return 0;
}

/* [[a.b]] */
static int open_element(Reader *r, TomlValue **table, const char *key) {
        TomlValue *array = find_item(*table, key);
        int k;

        if (!array) {
                k = add_item(r, *table, key, &(TomlValue) { .type = TOML_ARRAY, .line = r->line, .origin = ORIGIN_TABLES }, &array);
                if (k < 0)
                        return k;
        } else if (array->type != TOML_ARRAY || array->origin != ORIGIN_TABLES)
                return twice(r);
        return add_table(r, array, NULL, ORIGIN_HEADER, table);
}

/* The table that a dotted key of this section means by a part before its last. */
static int go_dotted(Reader *r, TomlValue **table, const char *key, unsigned section) {
        TomlValue *next = find_item(*table, key);

        if (!next)
                return add_table(r, *table, key, section, table);
        if (next->type != TOML_TABLE || (next->origin != ORIGIN_IMPLIED && next->origin != section))
                return twice(r);
        next->origin = section;
        *table = next;
        return 0;
}

/* ---- values ---- */

/* A number, a boolean, a date: everything up to what ends a value. */
static int read_word(Reader *r, TomlValue *v) {
        const char *begin = r->p;
        int k;

        while (is_bare(peek(r)) || (peek(r) && strchr("+.:", peek(r))))
                r->p++;
        /* A blank between date and time belongs to them. */
        if (r->p - begin == 10 && begin[4] == '-' && r->end - r->p > 2 && r->p[0] == ' ' && r->p[1] >= '0' && r->p[1] <= '9')
                for (r->p++; is_bare(peek(r)) || (peek(r) && strchr("+.:", peek(r)));)
                        r->p++;

        v->size = (size_t) (r->p - begin);
        k = toml_scalar_parse(begin, v->size, &v->type, &v->integer);
        if (k == -ERANGE)
                return bad(r, "a number is too big");
        if (k < 0)
                return bad(r, "here should be a value: texts stand between quotation marks");
        v->text = strndup(begin, v->size);
        return v->text ? 0 : -ENOMEM;
}

static int read_value(Reader *r, TomlValue *v, unsigned depth);
static int read_pair(Reader *r, TomlValue *table, unsigned section, unsigned depth);

static int read_array(Reader *r, TomlValue *v, unsigned depth) {
        int k;

        v->type = TOML_ARRAY;
        for (;;) {
                TomlValue item = { .line = r->line };

                k = skip_space(r);
                if (k < 0 || skip(r, "]"))
                        return k;

                k = read_value(r, &item, depth + 1);
                if (k < 0) {
                        toml_done(&item);
                        return k;
                }
                k = add_item(r, v, NULL, &item, NULL);
                if (k >= 0)
                        k = skip_space(r);
                if (k < 0)
                        return k;
                if (!skip(r, ",") && peek(r) != ']')
                        return bad(r, "an array does not go on with ',' or ']'");
        }
}

static int read_inline_table(Reader *r, TomlValue *v, unsigned depth) {
        unsigned section = ORIGIN_SECTION + r->n_sections++;
        int k;

        v->type = TOML_TABLE;
        skip_blanks(r);
        if (skip(r, "}"))
                return 0;
        for (;;) {
                k = read_pair(r, v, section, depth + 1);
                if (k < 0)
                        return k;
                skip_blanks(r);
                if (skip(r, "}"))
                        return 0;
                if (!skip(r, ","))
                        return bad(r, "an inline table does not go on with ',' or '}'");
                skip_blanks(r);
        }
}

static int read_value(Reader *r, TomlValue *v, unsigned depth) {
        char c = peek(r);

        v->line = r->line;
        v->origin = ORIGIN_SEALED;
        if (c == '"' || c == '\'') {
                v->type = TOML_STRING;
                return read_string(r, false, &v->text, &v->size);
        }
        if (c != '[' && c != '{')
                return read_word(r, v);
        if (depth >= TOML_DEPTH_MAX)
                return bad(r, "arrays or tables stand too deep in one another");
        r->p++;
        return c == '[' ? read_array(r, v, depth) : read_inline_table(r, v, depth);
}

/* a.b = value */
static int read_pair(Reader *r, TomlValue *table, unsigned section, unsigned depth) {
        _cleanup_(toml_done) TomlValue v = TOML_NULL;
        _cleanup_(key_done) Key key = {};
        const char *last;
        int k;

        k = read_key(r, &key);
        if (k < 0)
                return k;
        last = key.parts[key.n - 1];
        for (unsigned i = 0; i + 1 < key.n; i++) {
                k = go_dotted(r, &table, key.parts[i], section);
                if (k < 0)
                        return k;
        }
        if (find_item(table, last))
                return twice(r);
        if (!skip(r, "="))
                return bad(r, "a key is not followed by '='");

        skip_blanks(r);
        k = read_value(r, &v, depth);
        if (k < 0)
                return k;
        k = add_item(r, table, last, &v, NULL);
        v = TOML_NULL;                  /* taken */
        return k;
}

/* [a.b] or [[a.b]]; *table is what the pairs behind it belong to */
static int read_header(Reader *r, TomlValue *root, TomlValue **table) {
        _cleanup_(key_done) Key key = {};
        bool array;
        int k;

        array = skip(r, "[[");
        if (!array)
                (void) skip(r, "[");
        skip_blanks(r);
        k = read_key(r, &key);
        if (k < 0)
                return k;
        if (!skip(r, array ? "]]" : "]"))
                return bad(r, "a table's name does not end with ']'");

        *table = root;
        for (unsigned i = 0; i + 1 < key.n; i++) {
                k = go_through(r, table, key.parts[i]);
                if (k < 0)
                        return k;
        }
        k = (array ? open_element : open_table)(r, table, key.parts[key.n - 1]);
        return k < 0 ? k : end_line(r);
}

static int read_file(Reader *r, TomlValue *root) {
        unsigned section = ORIGIN_SECTION + r->n_sections++;
        TomlValue *table = root;
        int k;

        for (;;) {
                k = skip_space(r);
                if (k < 0 || at_end(r))
                        return k;
                if (*r->p == '[') {
                        section = ORIGIN_SECTION + r->n_sections++;
                        k = read_header(r, root, &table);
                } else {
                        k = read_pair(r, table, section, 0);
                        if (k >= 0)
                                k = end_line(r);
                }
                if (k < 0)
                        return k;
        }
}

/* The one place that knows of characters of more than a byte. */
static int check_utf8(Reader *r) {
        for (const char *p = r->p; p < r->end;) {
                uint32_t c;
                size_t n = utf8_decode(p, (size_t) (r->end - p), &c);

                if (n == 0)
                        return bad(r, "the text is no UTF-8");
                if (c == '\n')
                        r->line++;
                p += n;
        }

        r->line = 1;
        return 0;
}

int toml_parse(const char *text, size_t size, TomlValue *ret, char **reterr) {
        _cleanup_(toml_done) TomlValue root = { .type = TOML_TABLE, .line = 1, .origin = ORIGIN_HEADER };
        _cleanup_(freep) char *buffer = NULL;
        Reader r = { .p = text, .end = text + size, .line = 1, .reterr = reterr };
        int k;

        if (size > TOML_SIZE_MAX)
                return -EFBIG;
        k = check_utf8(&r);
        if (k < 0)
                return k;

        r.buffer = buffer = malloc(size + 1);           /* no string is longer than what it is written as */
        if (!buffer)
                return -ENOMEM;
        k = read_file(&r, &root);
        if (k < 0)
                return k;

        *ret = root;
        root = TOML_NULL;
        return 0;
}
