/* SPDX-License-Identifier: Apache-2.0 */
/* What Kata's configuration files use of TOML 1.0 (toml.io), read strictly. */
#include "ctl/toml.h"

#include <errno.h>
#include <stdio.h>

#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

#define STRING_MAX (64U << 10)
#define PATH_MAX_BYTES 1024U

typedef struct Reader {
        const char *p, *end;
        unsigned line;
        char **reterr;
        char table[PATH_MAX_BYTES];     /* "" at the top, else "a.b." */
        TomlFile *file;
} Reader;

static int bad(const Reader *r, const char *what) {
        if (r->reterr && !*r->reterr && asprintf(r->reterr, "line %u: %s", r->line, what) < 0)
                *r->reterr = NULL;      /* asprintf() leaves it undefined */
        return -EBADMSG;
}

static bool at_end(const Reader *r) {
        return r->p >= r->end;
}

static char peek(const Reader *r) {
        return at_end(r) ? '\0' : *r->p;
}

static void skip_blanks(Reader *r) {
        while (peek(r) == ' ' || peek(r) == '\t')
                r->p++;
}

static void skip_comment(Reader *r) {
        if (peek(r) == '#')
                while (!at_end(r) && *r->p != '\n')
                        r->p++;
}

static bool skip_newline(Reader *r) {
        if (peek(r) == '\r' && r->p + 1 < r->end && r->p[1] == '\n')
                r->p++;
        if (peek(r) != '\n')
                return false;
        r->p++;
        r->line++;
        return true;
}

/* Blanks, comments and line ends: what may stand between the items of an array. */
static void skip_space(Reader *r) {
        do {
                skip_blanks(r);
                skip_comment(r);
        } while (skip_newline(r));
}

static int end_line(Reader *r) {
        skip_blanks(r);
        skip_comment(r);
        if (at_end(r) || skip_newline(r))
                return 0;
        return bad(r, "there is something behind the value");
}

static bool is_bare(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/* The character that an escape stands for; 0: one that only this reader does not know, or none. */
static char unescape(char c) {
        switch (c) {
        case 'b':
                return '\b';
        case 't':
                return '\t';
        case 'n':
                return '\n';
        case 'f':
                return '\f';
        case 'r':
                return '\r';
        case '"':
        case '\\':
                return c;
        default:
                return 0;
        }
}

/* A string of one line, basic or literal. */
static int read_string(Reader *r, char **ret) {
        _cleanup_(freep) char *text = NULL;
        char quote = *r->p++;
        size_t n = 0;

        if (r->p + 1 < r->end && r->p[0] == quote && r->p[1] == quote)
                return bad(r, "strings of several lines are not understood here");

        text = malloc(MIN((size_t) (r->end - r->p), (size_t) STRING_MAX) + 1);
        if (!text)
                return -ENOMEM;

        for (;;) {
                char c = peek(r);

                if (at_end(r) || c == '\n')
                        return bad(r, "a string does not end");
                r->p++;
                if (c == quote)
                        break;
                if ((unsigned char) c < ' ' && c != '\t')
                        return bad(r, "a string has a control character");
                if (c == '\\' && quote == '"') {
                        c = unescape(peek(r));
                        if (c == 0)
                                return bad(r, "a string has an escape that is not understood here");
                        r->p++;
                }
                if (n >= STRING_MAX)
                        return bad(r, "a string is too long");
                text[n++] = c;
        }

        text[n] = '\0';
        *ret = TAKE_PTR(text);
        return 0;
}

static int append_key(const Reader *r, char *path, const char *part, size_t size) {
        size_t n = strlen(path);

        /* A part with a dot would be read as two. */
        if (size == 0 || memchr(part, '.', size))
                return bad(r, "a key is empty, or has a dot between quotation marks");
        if (n + size + 1 >= PATH_MAX_BYTES)
                return bad(r, "a key is too long");
        memcpy(path + n, part, size);
        path[n + size] = '\0';
        return 0;
}

/* "a", "a.b", "a.'b'": behind what @path has already. */
static int read_key(Reader *r, char *path) {
        for (unsigned depth = 0;; depth++) {
                _cleanup_(freep) char *quoted = NULL;
                const char *begin = r->p;
                int k;

                if (depth >= TOML_DEPTH_MAX)
                        return bad(r, "a key has too many parts");
                if (peek(r) == '"' || peek(r) == '\'') {
                        k = read_string(r, &quoted);
                        if (k < 0)
                                return k;
                        k = append_key(r, path, quoted, strlen(quoted));
                } else {
                        while (is_bare(peek(r)))
                                r->p++;
                        if (r->p == begin)
                                return bad(r, "here should be a key");
                        k = append_key(r, path, begin, r->p - begin);
                }
                if (k < 0)
                        return k;

                skip_blanks(r);
                if (peek(r) != '.')
                        return 0;
                r->p++;
                skip_blanks(r);
                if (strlen(path) + 1 >= PATH_MAX_BYTES)
                        return bad(r, "a key is too long");
                strcat(path, ".");
        }
}

/* A number, a boolean, a date: everything up to what ends a value. */
static int read_word(Reader *r, TomlValue *v) {
        const char *begin = r->p;
        char digits[32];
        size_t n = 0;
        bool negative;

        while (!at_end(r) && !strchr(" \t\r\n,]}#", *r->p)) {
                if (!is_bare(*r->p) && !strchr("+.:", *r->p))
                        return bad(r, "here should be a value");
                r->p++;
        }
        if (r->p == begin)
                return bad(r, "here should be a value");
        v->text = strndup(begin, r->p - begin);
        if (!v->text)
                return -ENOMEM;

        v->type = TOML_OTHER;
        if (streq(v->text, "true") || streq(v->text, "false")) {
                v->type = TOML_BOOL;
                v->integer = v->text[0] == 't';
                return 0;
        }

        negative = v->text[0] == '-';
        for (const char *p = v->text + (negative || v->text[0] == '+'); *p && n < sizeof(digits) - 1; p++)
                if (*p != '_')
                        digits[n++] = *p;
        digits[n] = '\0';
        uint64_t number;
        if (parse_u64(digits, &number) >= 0 && number <= INT64_MAX) {
                v->type = TOML_INTEGER;
                v->integer = negative ? -(int64_t) number : (int64_t) number;
        } else if (v->text[0] != '+' && v->text[0] != '-' && (v->text[0] < '0' || v->text[0] > '9') && !streq(v->text, "inf") &&
                   !streq(v->text, "nan"))
                return bad(r, "here should be a value: texts stand between quotation marks");
        return 0;
}

static void value_done(TomlValue *v) {
        free(v->path);
        free(v->text);
        strv_free(v->items);
        *v = (TomlValue) {};
}

static int read_value(Reader *r, TomlValue *v, unsigned depth);

static int read_array(Reader *r, TomlValue *v, unsigned depth) {
        if (depth >= TOML_DEPTH_MAX)
                return bad(r, "arrays stand too deep in one another");

        v->type = TOML_ARRAY;
        r->p++;
        for (;;) {
                TomlValue item = {};
                int k;

                skip_space(r);
                if (peek(r) == ']') {
                        r->p++;
                        return 0;
                }

                k = read_value(r, &item, depth + 1);
                if (k >= 0 && item.type == TOML_STRING)
                        k = strv_extend(&v->items, item.text);
                value_done(&item);
                if (k < 0)
                        return k;

                skip_space(r);
                if (peek(r) == ',')
                        r->p++;
                else if (peek(r) != ']')
                        return bad(r, "an array does not go on with ',' or ']'");
        }
}

static int read_value(Reader *r, TomlValue *v, unsigned depth) {
        switch (peek(r)) {
        case '"':
        case '\'':
                v->type = TOML_STRING;
                return read_string(r, &v->text);
        case '[':
                return read_array(r, v, depth);
        case '{':
                return bad(r, "inline tables are not understood here");
        default:
                return read_word(r, v);
        }
}

/* @v: taken */
static int add_value(Reader *r, TomlValue *v, const char *path) {
        TomlFile *f = r->file;
        TomlValue *grown;
        const TomlValue *other = toml_find(f, path);

        v->path = strdup(path);
        grown = v->path ? reallocarray(f->values, f->n_values + 1, sizeof(*grown)) : NULL;
        if (!grown) {
                value_done(v);
                return -ENOMEM;
        }
        f->values = grown;
        f->values[f->n_values++] = *v;
        *v = (TomlValue) {};

        if (other)
                return bad(r, "this is set a second time");
        if (f->n_values > TOML_VALUES_MAX)
                return bad(r, "there are too many values");
        return 0;
}

static int read_table(Reader *r) {
        bool array = r->p + 1 < r->end && r->p[1] == '[';
        TomlValue v = { .type = TOML_TABLE, .line = r->line };
        int k;

        r->p += array ? 2 : 1;
        r->table[0] = '\0';
        skip_blanks(r);
        k = read_key(r, r->table);
        if (k < 0)
                return k;
        for (unsigned i = 0; i < (array ? 2U : 1U); i++) {
                if (peek(r) != ']')
                        return bad(r, "a table's name does not end with ']'");
                r->p++;
        }

        /* Of an array of tables the elements would be told apart by nothing: refused, if it has more than one. */
        k = add_value(r, &v, r->table);
        if (k < 0)
                return k;
        if (strlen(r->table) + 1 >= PATH_MAX_BYTES)
                return bad(r, "a key is too long");
        strcat(r->table, ".");
        return end_line(r);
}

static int read_pair(Reader *r) {
        TomlValue v = { .line = r->line };
        char path[PATH_MAX_BYTES];
        int k;

        strcpy(path, r->table);
        k = read_key(r, path);
        if (k < 0)
                return k;
        if (peek(r) != '=')
                return bad(r, "a key is not followed by '='");
        r->p++;
        skip_blanks(r);

        k = read_value(r, &v, 0);
        if (k < 0) {
                value_done(&v);
                return k;
        }
        k = add_value(r, &v, path);
        return k < 0 ? k : end_line(r);
}

int toml_parse(const char *text, size_t size, TomlFile *ret, char **reterr) {
        _cleanup_(toml_done) TomlFile file = {};
        Reader r = { .p = text, .end = text + size, .line = 1, .reterr = reterr, .file = &file };

        if (size > TOML_SIZE_MAX)
                return -EFBIG;
        if (memchr(text, '\0', size))
                return bad(&r, "the file has a NUL byte");

        for (;;) {
                int k;

                skip_space(&r);
                if (at_end(&r))
                        break;
                k = *r.p == '[' ? read_table(&r) : read_pair(&r);
                if (k < 0)
                        return k;
        }

        *ret = file;
        file = (TomlFile) {};
        return 0;
}

void toml_done(TomlFile *f) {
        FOREACH_ELEMENT(TomlValue, v, f->values, f->n_values)
                value_done(v);
        free(f->values);
        *f = (TomlFile) {};
}

const TomlValue* toml_find(const TomlFile *f, const char *path) {
        FOREACH_ELEMENT(const TomlValue, v, f->values, f->n_values)
                if (streq(v->path, path))
                        return v;

        return NULL;
}
