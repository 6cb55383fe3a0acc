/* SPDX-License-Identifier: Apache-2.0 */
/* On libyaml's events, so that depth and number are bounded while the tree grows. */
#include "kube/kube-yaml.h"

#include <json-c/json_object.h>
#include <json-c/json_object_iterator.h>
#include <stdio.h>
#include <yaml.h>

#include "basic/error-text.h"
#include "basic/util.h"

typedef struct Reader {
        yaml_parser_t parser;
        yaml_event_t event;             /* the current one */
        unsigned n_events;
        char **reterr;
} Reader;

static int read_value(Reader *r, unsigned depth, json_object **ret);

static int refuse(Reader *r, const char *why) {
        return error_text(r->reterr, -EBADMSG, "line %zu: %s", r->event.start_mark.line + 1, why);
}

static int next(Reader *r) {
        yaml_event_delete(&r->event);
        if (!yaml_parser_parse(&r->parser, &r->event)) {
                if (r->parser.error == YAML_MEMORY_ERROR)
                        return -ENOMEM;
                /* libyaml's texts are constants; none quotes the document. */
                return error_text(r->reterr, -EBADMSG, "line %zu: no YAML: %s", r->parser.problem_mark.line + 1, r->parser.problem ?: "unreadable");
        }
        if (++r->n_events > KUBE_YAML_EVENTS_MAX)
                return refuse(r, "the document has too many pieces");
        return r->event.type;
}

static bool is_one_of(const char *s, const char *const *words) {
        for (; *words; words++)
                if (streq(s, *words))
                        return true;
        return false;
}

static int make_scalar(Reader *r, json_object **ret) {
        static const char *const nulls[] = { "", "~", "null", "Null", "NULL", NULL }, *const trues[] = { "true", "True", "TRUE", NULL },
                *const falses[] = { "false", "False", "FALSE", NULL };
        const char *s = (const char*) r->event.data.scalar.value, *tag = (const char*) r->event.data.scalar.tag;
        bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !tag;
        size_t n = r->event.data.scalar.length;

        if (r->event.data.scalar.anchor)
                return refuse(r, "anchors are not accepted");
        if (tag && !streq(tag, YAML_STR_TAG) && !streq(tag, "!"))
                return refuse(r, "this type is not accepted");
        if (strlen(s) != n || n > INT32_MAX)
                return refuse(r, "a string holds a NUL byte");
        if (plain && is_one_of(s, nulls)) {
                *ret = NULL;
                return 0;
        }
        *ret = plain && is_one_of(s, trues) ? json_object_new_boolean(true) :
                plain && is_one_of(s, falses) ? json_object_new_boolean(false) : json_object_new_string_len(s, (int) n);
        return *ret ? 0 : -ENOMEM;
}

/* A borrowed tree of null (0) is an element, too; json-c takes NULL for it. */
static int read_sequence(Reader *r, unsigned depth, json_object **ret) {
        _cleanup_(json_object_putp) json_object *array = json_object_new_array();
        int type;

        if (!array)
                return -ENOMEM;
        while ((type = next(r)) != YAML_SEQUENCE_END_EVENT) {
                json_object *v = NULL;
                int k;

                if (type < 0)
                        return type;
                k = read_value(r, depth + 1, &v);
                if (k < 0)
                        return k;
                if (json_object_array_add(array, v) < 0) {
                        json_object_put(v);
                        return -ENOMEM;
                }
        }
        *ret = TAKE_PTR(array);
        return 0;
}

static int read_key(Reader *r, json_object *object, char **ret) {
        const char *key = (const char*) r->event.data.scalar.value;

        if (r->event.type != YAML_SCALAR_EVENT || r->event.data.scalar.anchor || strlen(key) != r->event.data.scalar.length)
                return refuse(r, "a key is no plain string");
        if (json_object_object_get_ex(object, key, NULL))
                return refuse(r, "a key is there twice");
        *ret = strdup(key);
        return *ret ? 0 : -ENOMEM;
}

static int read_mapping(Reader *r, unsigned depth, json_object **ret) {
        _cleanup_(json_object_putp) json_object *object = json_object_new_object();
        int type;

        if (!object)
                return -ENOMEM;
        while ((type = next(r)) != YAML_MAPPING_END_EVENT) {
                _cleanup_(freep) char *key = NULL;
                json_object *v = NULL;
                int k;

                if (type < 0)
                        return type;
                if ((k = read_key(r, object, &key)) < 0 || (k = next(r)) < 0 || (k = read_value(r, depth + 1, &v)) < 0)
                        return k;
                if (json_object_object_add(object, key, v) < 0) {
                        json_object_put(v);
                        return -ENOMEM;
                }
        }
        *ret = TAKE_PTR(object);
        return 0;
}

/* The value that the current event begins; the current event is its last one afterwards. */
static int read_value(Reader *r, unsigned depth, json_object **ret) {
        if (depth > KUBE_YAML_DEPTH_MAX)
                return refuse(r, "nested too deeply");
        switch (r->event.type) {
        case YAML_SCALAR_EVENT:
                return make_scalar(r, ret);
        case YAML_SEQUENCE_START_EVENT:
                return r->event.data.sequence_start.anchor ? refuse(r, "anchors are not accepted") : read_sequence(r, depth, ret);
        case YAML_MAPPING_START_EVENT:
                return r->event.data.mapping_start.anchor ? refuse(r, "anchors are not accepted") : read_mapping(r, depth, ret);
        case YAML_ALIAS_EVENT:
                return refuse(r, "aliases are not accepted");
        default:
                return refuse(r, "the document ends too early");
        }
}

static int read_document(Reader *r, json_object **ret) {
        int type, k;

        if ((type = next(r)) < 0 || (type = next(r)) < 0)
                return type;
        if (type != YAML_DOCUMENT_START_EVENT)
                return refuse(r, "there is no document");
        if ((type = next(r)) < 0)
                return type;
        if (type != YAML_MAPPING_START_EVENT)
                return refuse(r, "the document is no mapping");
        k = read_value(r, 1, ret);
        if (k < 0)
                return k;
        if ((type = next(r)) < 0 || (type = next(r)) < 0)
                return type;
        return type == YAML_STREAM_END_EVENT ? 0 : refuse(r, "there is more than one document");
}

int kube_yaml_parse(const char *text, size_t size, json_object **ret, char **reterr) {
        Reader reader = { .reterr = reterr };
        json_object *o = NULL;
        int r;

        if (!yaml_parser_initialize(&reader.parser))
                return -ENOMEM;
        yaml_parser_set_input_string(&reader.parser, (const unsigned char*) text, size);
        r = read_document(&reader, &o);
        yaml_event_delete(&reader.event);
        yaml_parser_delete(&reader.parser);
        if (r < 0) {
                kube_json_erase(o);
                json_object_put(o);
                return r;
        }
        *ret = o;
        return 0;
}

void kube_json_erase(json_object *o) {
        if (json_object_is_type(o, json_type_string))
                explicit_bzero((char*) json_object_get_string(o), (size_t) json_object_get_string_len(o));
        else if (json_object_is_type(o, json_type_array))
                for (size_t i = 0; i < json_object_array_length(o); i++)
                        kube_json_erase(json_object_array_get_idx(o, i));
        else if (json_object_is_type(o, json_type_object)) {
                struct json_object_iterator i = json_object_iter_begin(o), end = json_object_iter_end(o);

                for (; !json_object_iter_equal(&i, &end); json_object_iter_next(&i))
                        kube_json_erase(json_object_iter_peek_value(&i));
        }
}
