/* SPDX-License-Identifier: Apache-2.0 */
/* The reader stands on libyaml's event interface, one function for each level of the document, and never builds a
 * tree: so nesting, number of events and size are bounded by us, and an alias has nothing to refer to. */
#include "userdata/cloud-config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <yaml.h>

#include "basic/error-text.h"
#include "basic/utf8.h"
#include "basic/util.h"
#include "userdata/decode.h"

#define CLOUD_CONFIG_DEPTH_MAX 16U              /* a real document has three levels; the rest is for skipped keys */
#define CLOUD_CONFIG_EVENTS_MAX 16384U
#define CLOUD_CONFIG_KEY_SHOWN_MAX 64           /* of an unknown key, in a warning */

static void cloud_config_file_done(CloudConfigFile *f) {
        free(f->path);
        free(f->owner);
        erase_free(f->content, f->size);
        *f = (CloudConfigFile) { .mode = MODE_INVALID };
}

void cloud_config_done(CloudConfig *c) {
        for (size_t i = 0; i < c->n_files; i++)
                cloud_config_file_done(c->files + i);
        free(c->files);

        for (size_t i = 0; i < c->n_warnings; i++)
                free(c->warnings[i]);
        free(c->warnings);

        *c = CLOUD_CONFIG_NULL;
}

const CloudConfigFile* cloud_config_find(const CloudConfig *c, const char *path) {
        for (size_t i = c->n_files; i > 0; i--)
                if (streq(c->files[i - 1].path, path))
                        return c->files + i - 1;
        return NULL;
}

/* Octal, as cloud-init writes and reads it: "0644", "644", "0o600". */
static int parse_permissions(const char *s, mode_t *ret) {
        mode_t m = 0;

        if (s[0] == '0' && s[1] == 'o')
                s += 2;

        size_t n = strlen(s);
        if (n < 3 || n > 5)
                return -EBADMSG;

        for (; *s; s++) {
                if (*s < '0' || *s > '7')
                        return -EBADMSG;
                m = m << 3 | (mode_t) (*s - '0');
        }
        if (m > 07777)
                return -EBADMSG;

        *ret = m;
        return 0;
}

typedef enum Encoding {
        ENCODING_PLAIN,
        ENCODING_BASE64,
        ENCODING_GZIP_BASE64,
        _ENCODING_INVALID = -EINVAL,
} Encoding;

/* cloud-init, write_files: the names it takes. Plain gzip would need bytes that YAML text cannot hold. */
static Encoding encoding_from_string(const char *s) {
        static const struct {
                const char *name;
                Encoding encoding;
        } table[] = {
                { "text/plain",  ENCODING_PLAIN       },
                { "b64",         ENCODING_BASE64      },
                { "base64",      ENCODING_BASE64      },
                { "gz+b64",      ENCODING_GZIP_BASE64 },
                { "gz+base64",   ENCODING_GZIP_BASE64 },
                { "gzip+b64",    ENCODING_GZIP_BASE64 },
                { "gzip+base64", ENCODING_GZIP_BASE64 },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(table[i].name, s))
                        return table[i].encoding;
        return _ENCODING_INVALID;
}

/* Written unquoted, so it has to be a plain scalar that no YAML version takes for anything but a string. */
static bool path_is_plain(const char *s) {
        if (s[0] != '/')
                return false;
        for (; *s; s++)
                if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
                      strchr("/._+@=-", *s)))
                        return false;
        return true;
}

/* user, user:group */
static bool owner_is_plain(const char *s) {
        if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || *s == '_'))
                return false;
        for (; *s; s++)
                if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
                      strchr("_.-", *s) || (*s == ':' && s[1] && s[1] != ':')))
                        return false;
        return true;
}

/* The length of the UTF-8 sequence at p, 0 if it is none or a character that a literal block changes or may not hold:
 * YAML 1.1 section 5.1 (c-printable) without its line breaks other than LF (5.4), and without the byte order mark. */
static size_t block_character(const char *p, size_t left) {
        uint32_t c;
        size_t n = utf8_decode(p, left, &c);

        if (n <= 1)
                return n == 1 && (c == '\n' || c == '\t' || (c >= 0x20 && c < 0x7f)) ? 1 : 0;
        return c < 0xa0 || c == 0xfeff || c == 0xfffe || c == 0xffff || c == 0x2028 || c == 0x2029 ? 0 : n;
}

/* NULL if a literal block gives this content back (with its one final newline), otherwise the reason. */
static const char* content_obstacle(const char *content, size_t size) {
        size_t first;

        for (size_t i = 0; i < size;) {
                size_t n = block_character(content + i, size - i);
                if (n == 0)
                        return "it holds bytes that are no printable UTF-8 text";
                i += n;
        }

        /* The first line that is not empty fixes the block's indentation. */
        for (first = 0; first < size && content[first] == '\n'; first++)
                ;
        if (first == size)
                return "it is nothing but newlines";
        if (content[first] == ' ' || content[first] == '\t')
                return "its first line begins with a blank";
        if (size >= 2 && content[size - 1] == '\n' && content[size - 2] == '\n')
                return "it ends in more than one newline";
        return NULL;
}

static void put_content(FILE *f, const char *content, size_t size) {
        fputs("    content: |\n", f);
        for (size_t i = 0; i < size;) {
                const char *nl = memchr(content + i, '\n', size - i);
                size_t n = nl ? (size_t) (nl - content) - i : size - i;

                fputs("      ", f);
                (void) fwrite(content + i, 1, n, f);
                fputc('\n', f);
                i += n + 1;
        }
}

static int check_entry(const CloudConfigEntry *e, size_t i, char **reterr) {
        mode_t mode;
        const char *why;

        if (!e->path || !path_is_plain(e->path))
                return error_text(reterr, -EINVAL, "write_files[%zu]: this path cannot be written as a plain word", i);
        if (e->owner && e->owner[0] && !owner_is_plain(e->owner))
                return error_text(reterr, -EINVAL, "'%s': the owner is not of the form user:group", e->path);
        if (e->permissions && e->permissions[0] && parse_permissions(e->permissions, &mode) < 0)
                return error_text(reterr, -EINVAL, "'%s': the permissions are no octal number", e->path);
        if (e->encoding && e->encoding[0] && encoding_from_string(e->encoding) < 0)
                return error_text(reterr, -EINVAL, "'%s': unknown encoding", e->path);
        if (e->append && e->append[0] && !streq(e->append, "true") && !streq(e->append, "false"))
                return error_text(reterr, -EINVAL, "'%s': append is neither true nor false", e->path);

        if (e->size == 0)
                return 0;
        if (e->size > CLOUD_CONFIG_SIZE_MAX)
                return error_text(reterr, -E2BIG, "'%s': more than %zu bytes of content", e->path, CLOUD_CONFIG_SIZE_MAX);
        why = content_obstacle(e->content, e->size);
        if (why)
                return error_text(reterr, -EINVAL, "'%s': the content cannot be written as a literal block: %s", e->path, why);
        return 0;
}

static void put_key(FILE *f, const char *key, const char *value) {
        if (value && value[0])
                fprintf(f, "    %s: %s\n", key, value);
}

int cloud_config_format(const CloudConfigEntry *entries, size_t n_entries, char **ret, size_t *ret_size, char **reterr) {
        size_t size = 0;
        char *text = NULL;
        bool failed;
        FILE *f;
        int r;

        if (n_entries > CLOUD_CONFIG_FILES_MAX)
                return error_text(reterr, -E2BIG, "more than %u files", CLOUD_CONFIG_FILES_MAX);
        for (size_t i = 0; i < n_entries; i++) {
                r = check_entry(entries + i, i, reterr);
                if (r < 0)
                        return r;
        }

        f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;

        fputs("#cloud-config\n", f);
        if (n_entries > 0)
                fputs("\nwrite_files:\n", f);

        for (size_t i = 0; i < n_entries; i++) {
                const CloudConfigEntry *e = entries + i;

                fprintf(f, "  - path: %s\n", e->path);
                put_key(f, "owner", e->owner);
                put_key(f, "permissions", e->permissions);
                put_key(f, "encoding", e->encoding);
                put_key(f, "append", e->append);
                if (e->size > 0)
                        put_content(f, e->content, e->size);
        }

        failed = ferror(f);
        if (fclose(f) != 0 || failed) {
                erase_free(text, size);
                return -ENOMEM;
        }
        if (size > CLOUD_CONFIG_SIZE_MAX) {
                erase_free(text, size);
                return error_text(reterr, -E2BIG, "the document has more than %zu bytes", CLOUD_CONFIG_SIZE_MAX);
        }

        *ret = text;
        *ret_size = size;
        return 0;
}

typedef struct Reader {
        yaml_parser_t parser;
        yaml_event_t event;             /* the current one; next_event() frees the one before */
        unsigned n_events, depth;
        size_t content_size;            /* decoded so far */
        CloudConfig config;
        char **reterr;                  /* borrowed; may be NULL */
} Reader;

static void reader_done(Reader *r) {
        yaml_event_delete(&r->event);
        yaml_parser_delete(&r->parser);
        cloud_config_done(&r->config);
}

static int PRINTF(3, 4) refuse(Reader *r, int error, const char *format, ...) {
        _cleanup_(freep) char *text = NULL;
        va_list ap;

        if (!r->reterr)
                return error;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        if (!text)
                return error;
        return error_text(r->reterr, error, "line %zu: %s", r->event.start_mark.line + 1, text);
}

/* Moves on to the next event, which is in r->event and of the returned type. */
static int next_event(Reader *r) {
        yaml_event_delete(&r->event);

        if (!yaml_parser_parse(&r->parser, &r->event)) {
                if (r->parser.error == YAML_MEMORY_ERROR)
                        return -ENOMEM;
                /* libyaml's texts are constants; none quotes the document. */
                return error_text(r->reterr, -EBADMSG, "line %zu: no YAML: %s", r->parser.problem_mark.line + 1,
                            r->parser.problem ?: "unreadable");
        }

        if (++r->n_events > CLOUD_CONFIG_EVENTS_MAX)
                return refuse(r, -E2BIG, "more than %u pieces", CLOUD_CONFIG_EVENTS_MAX);

        switch (r->event.type) {
        case YAML_ALIAS_EVENT:
                return refuse(r, -EBADMSG, "aliases are not accepted");
        case YAML_SCALAR_EVENT:
                if (r->event.data.scalar.anchor)
                        return refuse(r, -EBADMSG, "anchors are not accepted");
                break;
        case YAML_SEQUENCE_START_EVENT:
        case YAML_MAPPING_START_EVENT:
                if (r->event.type == YAML_MAPPING_START_EVENT ? !!r->event.data.mapping_start.anchor
                                                              : !!r->event.data.sequence_start.anchor)
                        return refuse(r, -EBADMSG, "anchors are not accepted");
                if (++r->depth > CLOUD_CONFIG_DEPTH_MAX)
                        return refuse(r, -E2BIG, "nested more than %u levels deep", CLOUD_CONFIG_DEPTH_MAX);
                break;
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT:
                r->depth--;
                break;
        default:
                break;
        }
        return r->event.type;
}

/* Reads one value of any shape and drops it. */
static int skip_value(Reader *r) {
        unsigned depth = r->depth;
        int t;

        do {
                t = next_event(r);
                if (t < 0)
                        return t;
        } while (r->depth > depth);
        return 0;
}

/* Not quoted, and one of the words that YAML 1.1's null type has, or nothing. */
static bool scalar_is_null(const yaml_event_t *e) {
        static const char* const words[] = { "", "~", "null", "Null", "NULL" };

        if (!e->data.scalar.plain_implicit || e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
                return false;
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (streq((const char*) e->data.scalar.value, words[i]))
                        return true;
        return false;
}

/* The current event as a string, without NUL in it; key is for the message. */
static int scalar_text(Reader *r, const char *key, const char **ret) {
        const yaml_event_t *e = &r->event;

        if (e->type != YAML_SCALAR_EVENT)
                return refuse(r, -EBADMSG, "%s is not a string", key);
        if (e->data.scalar.tag && !streq((const char*) e->data.scalar.tag, YAML_STR_TAG) &&
            !streq((const char*) e->data.scalar.tag, "!"))
                return refuse(r, -EBADMSG, "%s has a type tag that is not accepted", key);
        if (strlen((const char*) e->data.scalar.value) != e->data.scalar.length)
                return refuse(r, -EBADMSG, "%s has a NUL in it", key);

        *ret = (const char*) e->data.scalar.value;
        return 0;
}

/* What can be said of a key that we do not know, without trusting it. */
static int warn_unknown_key(Reader *r, const char *key) {
        char shown[CLOUD_CONFIG_KEY_SHOWN_MAX + 1];
        char **p;
        size_t n;

        if (r->config.n_warnings >= CLOUD_CONFIG_WARNINGS_MAX)
                return 0;

        for (n = 0; key[n] && n < CLOUD_CONFIG_KEY_SHOWN_MAX; n++)
                shown[n] = key[n] >= 0x20 && key[n] < 0x7f ? key[n] : '?';
        shown[n] = 0;

        p = realloc(r->config.warnings, (r->config.n_warnings + 2) * sizeof(char*));
        if (!p)
                return -ENOMEM;
        r->config.warnings = p;
        p[r->config.n_warnings + 1] = NULL;

        if (asprintf(p + r->config.n_warnings, "line %zu: unknown key '%s', skipped",
                     r->event.start_mark.line + 1, shown) < 0) {
                p[r->config.n_warnings] = NULL;
                return -ENOMEM;
        }
        r->config.n_warnings++;
        return 0;
}

/* Keys of one mapping, to find one that is given twice: hashes first would be overkill for the few there may be. */
typedef struct KeySet {
        char **keys;
        size_t n;
} KeySet;

#define KEYS_MAX 64U

static void key_set_done(KeySet *s) {
        for (size_t i = 0; i < s->n; i++)
                free(s->keys[i]);
        free(s->keys);
        *s = (KeySet) {};
}

static int key_set_add(Reader *r, KeySet *s, const char *key) {
        char **p;

        for (size_t i = 0; i < s->n; i++)
                if (streq(s->keys[i], key))
                        return refuse(r, -EBADMSG, "a key is given twice");
        if (s->n >= KEYS_MAX)
                return refuse(r, -E2BIG, "more than %u keys in one mapping", KEYS_MAX);

        p = realloc(s->keys, (s->n + 1) * sizeof(char*));
        if (!p)
                return -ENOMEM;
        s->keys = p;

        p[s->n] = strdup(key);
        if (!p[s->n])
                return -ENOMEM;
        s->n++;
        return 0;
}

/* The entry's scalars as they stand; what they mean is settled when all keys are known. */
typedef struct RawFile {
        CloudConfigFile file;           /* path, owner, mode; content not decoded yet */
        Encoding encoding;
} RawFile;

static void raw_file_done(RawFile *f) {
        cloud_config_file_done(&f->file);
}

static int read_file_key(Reader *r, RawFile *raw, const char *key) {
        const char *text;
        int t;

        t = next_event(r);
        if (t < 0)
                return t;

        if (streq(key, "content")) {
                const yaml_event_t *e = &r->event;

                if (t != YAML_SCALAR_EVENT)
                        return refuse(r, -EBADMSG, "%s is not a string", key);
                if (e->data.scalar.tag && streq((const char*) e->data.scalar.tag, "tag:yaml.org,2002:binary"))
                        return refuse(r, -EOPNOTSUPP, "%s of type !!binary is not supported, use encoding: b64", key);
                if (scalar_is_null(e))
                        return 0;

                raw->file.content = malloc(e->data.scalar.length + 1);
                if (!raw->file.content)
                        return -ENOMEM;
                memcpy(raw->file.content, e->data.scalar.value, e->data.scalar.length + 1);
                raw->file.size = e->data.scalar.length;
                return 0;
        }

        t = scalar_text(r, key, &text);
        if (t < 0)
                return t;

        if (streq(key, "path")) {
                if (text[0] != '/')
                        return refuse(r, -EBADMSG, "%s is not absolute", key);
                raw->file.path = strdup(text);
                return raw->file.path ? 0 : -ENOMEM;
        }
        if (streq(key, "owner")) {
                raw->file.owner = strdup(text);
                return raw->file.owner ? 0 : -ENOMEM;
        }
        if (streq(key, "permissions")) {
                if (parse_permissions(text, &raw->file.mode) < 0)
                        return refuse(r, -EBADMSG, "%s is no octal number", key);
                return 0;
        }
        if (streq(key, "encoding")) {
                raw->encoding = encoding_from_string(text);
                if (raw->encoding < 0)
                        return refuse(r, -EOPNOTSUPP, "this %s is not supported", key);
                return 0;
        }

        /* append, the last of the known keys: what it would be added to is not ours to know. */
        if (!streq(text, "false"))
                return refuse(r, -EOPNOTSUPP, "%s is not supported", key);
        return 0;
}

static bool file_key_is_known(const char *key) {
        static const char* const known[] = { "path", "content", "owner", "permissions", "encoding", "append" };

        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                if (streq(known[i], key))
                        return true;
        return false;
}

static int decode_content(Reader *r, RawFile *raw) {
        size_t size, left = CLOUD_CONFIG_CONTENT_MAX - r->content_size;
        CloudConfigFile *f = &raw->file;
        char *decoded;
        int e;

        if (!f->content) {
                f->content = strdup("");
                return f->content ? 0 : -ENOMEM;
        }

        if (raw->encoding != ENCODING_PLAIN) {
                e = base64_decode(f->content, f->size, &decoded, &size);
                if (e < 0)
                        return e == -ENOMEM ? e : refuse(r, e, "the content of this file is no base64");
                erase_free(f->content, f->size);
                f->content = decoded;
                f->size = size;
        }

        if (raw->encoding == ENCODING_GZIP_BASE64) {
                e = gzip_decode(f->content, f->size, left, &decoded, &size);
                if (e == -E2BIG)
                        return refuse(r, e, "more than %zu bytes of content", CLOUD_CONFIG_CONTENT_MAX);
                if (e < 0)
                        return e == -ENOMEM ? e : refuse(r, e, "the content of this file is no gzip");
                erase_free(f->content, f->size);
                f->content = decoded;
                f->size = size;
        }

        if (f->size > left)
                return refuse(r, -E2BIG, "more than %zu bytes of content", CLOUD_CONFIG_CONTENT_MAX);
        r->content_size += f->size;
        return 0;
}

/* One entry; its mapping has just begun. */
static int read_file(Reader *r) {
        _cleanup_(raw_file_done) RawFile raw = { .file.mode = MODE_INVALID };
        _cleanup_(key_set_done) KeySet seen = {};
        CloudConfigFile *p;
        int t;

        for (;;) {
                _cleanup_(freep) char *key = NULL;
                const char *text;

                t = next_event(r);
                if (t < 0)
                        return t;
                if (t == YAML_MAPPING_END_EVENT)
                        break;

                t = scalar_text(r, "a key", &text);
                if (t < 0)
                        return t;
                t = key_set_add(r, &seen, text);
                if (t < 0)
                        return t;

                if (!file_key_is_known(text)) {
                        t = warn_unknown_key(r, text);
                        if (t >= 0)
                                t = skip_value(r);
                } else {
                        key = strdup(text);             /* the event is gone with the next one */
                        t = key ? read_file_key(r, &raw, key) : -ENOMEM;
                }
                if (t < 0)
                        return t;
        }

        if (!raw.file.path)
                return refuse(r, -EBADMSG, "a file without path");
        t = decode_content(r, &raw);
        if (t < 0)
                return t;

        if (r->config.n_files >= CLOUD_CONFIG_FILES_MAX)
                return refuse(r, -E2BIG, "more than %u files", CLOUD_CONFIG_FILES_MAX);
        p = realloc(r->config.files, (r->config.n_files + 1) * sizeof(CloudConfigFile));
        if (!p)
                return -ENOMEM;
        r->config.files = p;
        p[r->config.n_files++] = raw.file;
        raw.file = (CloudConfigFile) { .mode = MODE_INVALID };
        return 0;
}

static int read_write_files(Reader *r) {
        int t;

        t = next_event(r);
        if (t < 0)
                return t;
        if (t == YAML_SCALAR_EVENT && scalar_is_null(&r->event))
                return 0;
        if (t != YAML_SEQUENCE_START_EVENT)
                return refuse(r, -EBADMSG, "write_files is not a list");

        for (;;) {
                t = next_event(r);
                if (t < 0)
                        return t;
                if (t == YAML_SEQUENCE_END_EVENT)
                        return 0;
                if (t != YAML_MAPPING_START_EVENT)
                        return refuse(r, -EBADMSG, "an entry of write_files is not a mapping");

                t = read_file(r);
                if (t < 0)
                        return t;
        }
}

/* The document's mapping has just begun. */
static int read_top(Reader *r) {
        _cleanup_(key_set_done) KeySet seen = {};

        for (;;) {
                const char *text;
                int t;

                t = next_event(r);
                if (t < 0)
                        return t;
                if (t == YAML_MAPPING_END_EVENT)
                        return 0;

                t = scalar_text(r, "a key", &text);
                if (t < 0)
                        return t;
                t = key_set_add(r, &seen, text);
                if (t < 0)
                        return t;

                if (streq(text, "write_files"))
                        t = read_write_files(r);
                else {
                        t = warn_unknown_key(r, text);
                        if (t >= 0)
                                t = skip_value(r);
                }
                if (t < 0)
                        return t;
        }
}

static int read_stream(Reader *r) {
        int t;

        t = next_event(r);                              /* stream start */
        if (t < 0)
                return t;
        t = next_event(r);
        if (t < 0)
                return t;
        if (t == YAML_STREAM_END_EVENT)
                return 0;

        t = next_event(r);                              /* behind the document start */
        if (t < 0)
                return t;
        if (t != YAML_MAPPING_START_EVENT)
                return refuse(r, -EBADMSG, "the document is not a mapping");
        t = read_top(r);
        if (t < 0)
                return t;

        t = next_event(r);                              /* document end */
        if (t < 0)
                return t;
        t = next_event(r);
        if (t < 0)
                return t;
        if (t != YAML_STREAM_END_EVENT)
                return refuse(r, -EBADMSG, "more than one document");
        return 0;
}

int cloud_config_parse(const void *data, size_t size, CloudConfig *ret, char **reterr) {
        int e;

        if (size > CLOUD_CONFIG_SIZE_MAX)
                return error_text(reterr, -E2BIG, "more than %zu bytes", CLOUD_CONFIG_SIZE_MAX);

        _cleanup_(reader_done) Reader r = { .reterr = reterr };

        if (!yaml_parser_initialize(&r.parser))
                return -ENOMEM;
        yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
        yaml_parser_set_input_string(&r.parser, size > 0 ? data : (const void*) "", size);

        e = read_stream(&r);
        if (e < 0)
                return e;

        *ret = r.config;
        r.config = CLOUD_CONFIG_NULL;
        return 0;
}
