/* SPDX-License-Identifier: Apache-2.0 */
/* Protobuf messages as JSON and back, by their descriptors, so that a new message needs no code here. */
#include "proto-json/proto-json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <strings.h>

#include "basic/json.h"
#include "basic/text.h"
#include "basic/util.h"
#include "userdata/encode.h"

/* A member is read and written by its offset, which is what the generated descriptors are for. */
#define MEMBER(message, offset) ((void*) ((uint8_t*) (message) + (offset)))
#define MEMBER_CONST(message, offset) ((const void*) ((const uint8_t*) (message) + (offset)))

#define NAME_SIZE_MAX 64U                /* of a field of our .proto files */

static size_t scalar_size(ProtobufCType type) {
        switch (type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_SFIXED32:
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_FIXED32:
        case PROTOBUF_C_TYPE_ENUM:
        case PROTOBUF_C_TYPE_FLOAT:
                return 4;
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_SFIXED64:
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_FIXED64:
        case PROTOBUF_C_TYPE_DOUBLE:
                return 8;
        case PROTOBUF_C_TYPE_BOOL:
                return sizeof(protobuf_c_boolean);
        case PROTOBUF_C_TYPE_STRING:
        case PROTOBUF_C_TYPE_MESSAGE:
                return sizeof(void*);
        case PROTOBUF_C_TYPE_BYTES:
                return sizeof(ProtobufCBinaryData);
        }

        return 0;
}

/* protoc makes an entry message of a map, and whoever writes the entry by hand means a map, too. */
static bool field_is_map(const ProtobufCFieldDescriptor *f) {
        if (f->label != PROTOBUF_C_LABEL_REPEATED || f->type != PROTOBUF_C_TYPE_MESSAGE)
                return false;

        const ProtobufCMessageDescriptor *entry = f->descriptor;
        return entry->n_fields == 2 &&
                streq(entry->fields[0].name, "key") && entry->fields[0].type == PROTOBUF_C_TYPE_STRING &&
                streq(entry->fields[1].name, "value");
}

/* json-c's own integers, or the text that JavaScript needs of what is longer than its numbers. */
static json_object* int64_to_json(int64_t i, ProtoJsonForm form) {
        char text[24];

        if (form != PROTO_JSON_CANONICAL)
                return json_object_new_int64(i);
        (void) snprintf(text, sizeof(text), "%" PRIi64, i);
        return json_object_new_string(text);
}

static json_object* uint64_to_json(uint64_t u, ProtoJsonForm form) {
        char text[24];

        if (form != PROTO_JSON_CANONICAL)
                return json_object_new_uint64(u);
        (void) snprintf(text, sizeof(text), "%" PRIu64, u);
        return json_object_new_string(text);
}

static int value_to_json(const ProtobufCFieldDescriptor *f, const void *p, ProtoJsonForm form, json_object **ret) {
        json_object *o = NULL;

        switch (f->type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_SFIXED32:
                o = json_object_new_int(*(const int32_t*) p);
                break;
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_FIXED32:
                o = json_object_new_int64(*(const uint32_t*) p);
                break;
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_SFIXED64:
                o = int64_to_json(*(const int64_t*) p, form);
                break;
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_FIXED64:
                o = uint64_to_json(*(const uint64_t*) p, form);
                break;
        case PROTOBUF_C_TYPE_FLOAT:
                o = json_object_new_double(*(const float*) p);
                break;
        case PROTOBUF_C_TYPE_DOUBLE:
                o = json_object_new_double(*(const double*) p);
                break;
        case PROTOBUF_C_TYPE_BOOL:
                o = json_object_new_boolean(*(const protobuf_c_boolean*) p);
                break;
        case PROTOBUF_C_TYPE_ENUM: {
                const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int*) p);

                o = v ? json_object_new_string(v->name) : json_object_new_int(*(const int*) p);
                break;
        }
        case PROTOBUF_C_TYPE_STRING: {
                _cleanup_(freep) char *text = NULL;
                const char *s = *(const char* const*) p;

                text = text_make_utf8(s ? s : "");
                if (text)
                        o = json_object_new_string(text);
                break;
        }
        case PROTOBUF_C_TYPE_BYTES: {
                const ProtobufCBinaryData *b = p;
                _cleanup_(freep) char *text = NULL;

                if (base64_encode(b->data, b->len, &text) == 0)
                        o = json_object_new_string(text);
                break;
        }
        case PROTOBUF_C_TYPE_MESSAGE:
                return proto_to_json(*(const ProtobufCMessage* const*) p, form, ret);
        }

        if (!o)
                return -ENOMEM;

        *ret = o;
        return 0;
}

static int repeated_to_json(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m, ProtoJsonForm form, json_object **ret) {
        _cleanup_(json_object_putp) json_object *list = NULL;
        size_t n = *(const size_t*) MEMBER_CONST(m, f->quantifier_offset);
        const uint8_t *values = *(const uint8_t* const*) MEMBER_CONST(m, f->offset);
        bool map = field_is_map(f);
        int r;

        list = map ? json_object_new_object() : json_object_new_array();
        if (!list)
                return -ENOMEM;

        for (size_t i = 0; i < n; i++) {
                const void *p = values + i * scalar_size(f->type);
                _cleanup_(json_object_putp) json_object *value = NULL;
                _cleanup_(freep) char *key = NULL;

                if (map) {
                        const ProtobufCMessage *entry = *(const ProtobufCMessage* const*) p;
                        const ProtobufCFieldDescriptor *fields = entry->descriptor->fields;
                        const char *k = *(const char* const*) MEMBER_CONST(entry, fields[0].offset);

                        /* A value that is a message may be absent on the wire: null. */
                        if (fields[1].type != PROTOBUF_C_TYPE_MESSAGE ||
                            *(const void* const*) MEMBER_CONST(entry, fields[1].offset)) {
                                r = value_to_json(&fields[1], MEMBER_CONST(entry, fields[1].offset), form, &value);
                                if (r < 0)
                                        return r;
                        }

                        key = text_make_utf8(k ? k : "");
                        if (!key || json_object_object_add(list, key, value) < 0)
                                return -ENOMEM;
                } else {
                        r = value_to_json(f, p, form, &value);
                        if (r < 0)
                                return r;

                        if (json_object_array_add(list, value) < 0)
                                return -ENOMEM;
                }
                (void) TAKE_PTR(value);
        }

        *ret = TAKE_PTR(list);
        return 0;
}

static bool field_is_set(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m) {
        if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
                return *(const uint32_t*) MEMBER_CONST(m, f->quantifier_offset) == f->id;
        if (f->type == PROTOBUF_C_TYPE_MESSAGE)
                return *(const void* const*) MEMBER_CONST(m, f->offset);
        if (f->label == PROTOBUF_C_LABEL_OPTIONAL)
                return f->type == PROTOBUF_C_TYPE_STRING ?
                        *(const void* const*) MEMBER_CONST(m, f->offset) != NULL :
                        *(const protobuf_c_boolean*) MEMBER_CONST(m, f->quantifier_offset);
        return true;
}

/* Has it the value that a reader assumes for what is not there? */
static bool field_is_default(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m) {
        static const uint8_t zero[sizeof(uint64_t)] = {};
        const void *p = MEMBER_CONST(m, f->offset);

        if (f->label == PROTOBUF_C_LABEL_REPEATED)
                return *(const size_t*) MEMBER_CONST(m, f->quantifier_offset) == 0;
        if (f->label != PROTOBUF_C_LABEL_NONE || f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF || f->type == PROTOBUF_C_TYPE_MESSAGE)
                return false;                   /* field_is_set() knows */
        if (f->type == PROTOBUF_C_TYPE_STRING)
                return isempty(*(const char* const*) p);
        if (f->type == PROTOBUF_C_TYPE_BYTES)
                return ((const ProtobufCBinaryData*) p)->len == 0;
        return memcmp(p, zero, scalar_size(f->type)) == 0;
}

/* A name as protobuf's JSON has it (protobuf: src/google/protobuf/descriptor.cc, ToJsonName). */
static void camel_case(const char *name, char *ret, size_t size) {
        bool upper = false;
        size_t n = 0;

        for (; *name && n < size - 1; name++) {
                if (*name == '_') {
                        upper = true;
                        continue;
                }
                ret[n++] = upper && *name >= 'a' && *name <= 'z' ? (char) (*name - 'a' + 'A') : *name;
                upper = false;
        }
        ret[n] = '\0';
}

int proto_to_json(const ProtobufCMessage *m, ProtoJsonForm form, json_object **ret) {
        _cleanup_(json_object_putp) json_object *object = NULL;
        int r;

        object = json_object_new_object();
        if (!object)
                return -ENOMEM;

        for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
                const ProtobufCFieldDescriptor *f = m->descriptor->fields + i;
                char name[NAME_SIZE_MAX];
                json_object *value;

                if (form == PROTO_JSON_CANONICAL && field_is_default(f, m))
                        continue;
                if (f->label == PROTOBUF_C_LABEL_REPEATED)
                        r = repeated_to_json(f, m, form, &value);
                else if (field_is_set(f, m))
                        r = value_to_json(f, MEMBER_CONST(m, f->offset), form, &value);
                else
                        continue;
                if (r < 0)
                        return r;

                camel_case(f->name, name, sizeof(name));
                if (json_object_object_add(object, form == PROTO_JSON_CANONICAL ? name : f->name, value) < 0) {
                        json_object_put(value);
                        return -ENOMEM;
                }
        }

        *ret = TAKE_PTR(object);
        return 0;
}

/* Puts the name of the field in front of what went wrong below it. */
static int widen(char **reterr, const char *name, ssize_t index, int r) {
        char *inner = *reterr, *outer;
        char brackets[24] = "";
        int n;

        if (r != -EINVAL || !inner)
                return r;
        if (index >= 0)
                (void) snprintf(brackets, sizeof(brackets), "[%zd]", index);

        n = asprintf(&outer, "%s%s%s%s", name, brackets,
                     *inner == ' ' ? ":" : *inner == '[' ? "" : ".", inner);
        if (n < 0)
                return r;       /* the shorter text is still true */

        free(inner);
        *reterr = outer;
        return r;
}

static int integer_from_json(json_object *v, bool is_signed, unsigned bits, uint64_t *ret, char **reterr) {
        uint64_t u;

        if (json_object_is_type(v, json_type_string)) {
                const char *s = json_object_get_string(v);
                char *end = NULL;

                /* strtoull() alone would take blanks, signs and hexadecimal numbers. */
                if (s[0] == '\0' || s[strspn(s, "-0123456789")] != '\0')
                        return refuse_text(reterr, " not a number");
                errno = 0;
                u = s[0] == '-' ? (uint64_t) strtoll(s, &end, 10) : strtoull(s, &end, 10);
                if (*end != '\0')
                        return refuse_text(reterr, " not a number");
                if (errno != 0 || (s[0] == '-' && !is_signed) ||
                    (s[0] != '-' && is_signed && u > INT64_MAX))
                        return refuse_text(reterr, " number out of range");
        } else if (json_object_is_type(v, json_type_int)) {
                int64_t i = json_object_get_int64(v);   /* saturates */

                if (i < 0 && !is_signed)
                        return refuse_text(reterr, " number out of range");
                u = is_signed ? (uint64_t) i : json_object_get_uint64(v);
                if (is_signed && i == INT64_MAX && json_object_get_uint64(v) > INT64_MAX)
                        return refuse_text(reterr, " number out of range");
        } else
                return refuse_text(reterr, " not a number");

        if (bits == 32 && (is_signed ? (int64_t) u < INT32_MIN || (int64_t) u > INT32_MAX : u > UINT32_MAX))
                return refuse_text(reterr, " number out of range");

        *ret = u;
        return 0;
}

static int value_from_json(const ProtobufCFieldDescriptor *f, json_object *v, ProtoJsonForm form, void *p, char **reterr) {
        uint64_t u;
        int r;

        switch (f->type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_SFIXED32:
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_FIXED32:
                r = integer_from_json(v, f->type != PROTOBUF_C_TYPE_UINT32 && f->type != PROTOBUF_C_TYPE_FIXED32,
                                      /* bits= */ 32, &u, reterr);
                if (r < 0)
                        return r;
                *(uint32_t*) p = (uint32_t) u;
                return 0;
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_SFIXED64:
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_FIXED64:
                r = integer_from_json(v, f->type != PROTOBUF_C_TYPE_UINT64 && f->type != PROTOBUF_C_TYPE_FIXED64,
                                      /* bits= */ 64, &u, reterr);
                if (r < 0)
                        return r;
                *(uint64_t*) p = u;
                return 0;
        case PROTOBUF_C_TYPE_FLOAT:
        case PROTOBUF_C_TYPE_DOUBLE:
                if (!json_object_is_type(v, json_type_double) && !json_object_is_type(v, json_type_int))
                        return refuse_text(reterr, " not a number");
                if (f->type == PROTOBUF_C_TYPE_FLOAT)
                        *(float*) p = (float) json_object_get_double(v);
                else
                        *(double*) p = json_object_get_double(v);
                return 0;
        case PROTOBUF_C_TYPE_BOOL:
                if (!json_object_is_type(v, json_type_boolean))
                        return refuse_text(reterr, " not true or false");
                *(protobuf_c_boolean*) p = json_object_get_boolean(v);
                return 0;
        case PROTOBUF_C_TYPE_ENUM:
                if (json_object_is_type(v, json_type_string)) {
                        const ProtobufCEnumValue *e = protobuf_c_enum_descriptor_get_value_by_name(
                                        f->descriptor, json_object_get_string(v));

                        if (!e)
                                return refuse_text(reterr, " no such value: '%s'", json_object_get_string(v));
                        *(int*) p = e->value;
                        return 0;
                }
                r = integer_from_json(v, /* is_signed= */ true, /* bits= */ 32, &u, reterr);
                if (r < 0)
                        return r;
                *(int*) p = (int) u;
                return 0;
        case PROTOBUF_C_TYPE_STRING: {
                char *s;

                if (!json_object_is_type(v, json_type_string))
                        return refuse_text(reterr, " not a string");
                if (strlen(json_object_get_string(v)) != (size_t) json_object_get_string_len(v))
                        return refuse_text(reterr, " text with a NUL byte");
                s = strdup(json_object_get_string(v));
                if (!s)
                        return -ENOMEM;
                *(char**) p = s;
                return 0;
        }
        case PROTOBUF_C_TYPE_BYTES: {
                ProtobufCBinaryData *b = p;

                if (!json_object_is_type(v, json_type_string))
                        return refuse_text(reterr, " not a base64 string");
                r = base64_decode_strict(json_object_get_string(v), &b->data, &b->len);
                return r == -EINVAL ? refuse_text(reterr, " not a base64 string") : r;
        }
        case PROTOBUF_C_TYPE_MESSAGE:
                return proto_from_json(f->descriptor, v, form, p, reterr);
        }

        return refuse_text(reterr, " of a type unknown here");
}

/* What is in the message already when a later element fails is freed with it: the count grows last. */
static int repeated_from_json(const ProtobufCFieldDescriptor *f, json_object *v, ProtoJsonForm form,
                              ProtobufCMessage *m, char **reterr) {
        size_t *n = MEMBER(m, f->quantifier_offset), length;
        uint8_t *values;
        int r;

        if (!json_object_is_type(v, json_type_array))
                return refuse_text(reterr, " not a list");

        length = json_object_array_length(v);
        if (length == 0)
                return 0;

        values = calloc(length, scalar_size(f->type));
        if (!values)
                return -ENOMEM;
        *(uint8_t**) MEMBER(m, f->offset) = values;

        for (size_t i = 0; i < length; i++) {
                r = value_from_json(f, json_object_array_get_idx(v, i), form,
                                    values + i * scalar_size(f->type), reterr);
                if (r < 0)
                        return widen(reterr, "", (ssize_t) i, r);
                (*n)++;
        }

        return 0;
}

static int map_from_json(const ProtobufCFieldDescriptor *f, json_object *v, ProtoJsonForm form,
                         ProtobufCMessage *m, char **reterr) {
        const ProtobufCMessageDescriptor *d = f->descriptor;
        size_t *n = MEMBER(m, f->quantifier_offset);
        ProtobufCMessage **entries;
        int r;

        if (!json_object_is_type(v, json_type_object))
                return refuse_text(reterr, " not an object");
        if (json_object_object_length(v) == 0)
                return 0;

        entries = calloc((size_t) json_object_object_length(v), sizeof(*entries));
        if (!entries)
                return -ENOMEM;
        *(ProtobufCMessage***) MEMBER(m, f->offset) = entries;

        json_object_object_foreach(v, key, value) {
                ProtobufCMessage *entry;

                entry = malloc(d->sizeof_message);
                if (!entry)
                        return -ENOMEM;
                protobuf_c_message_init(d, entry);
                entries[(*n)++] = entry;

                char *copy = strdup(key);
                if (!copy)
                        return -ENOMEM;
                *(char**) MEMBER(entry, d->fields[0].offset) = copy;

                r = value_from_json(&d->fields[1], value, form, MEMBER(entry, d->fields[1].offset), reterr);
                if (r < 0)
                        return widen(reterr, key, -1, r);
        }

        return 0;
}

/* "Args" beside "args": json-c keeps both, and the second would leak the first. */
static bool field_is_fresh(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *m) {
        if (f->label == PROTOBUF_C_LABEL_REPEATED)
                return *(const size_t*) MEMBER_CONST(m, f->quantifier_offset) == 0;
        if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
                return *(const uint32_t*) MEMBER_CONST(m, f->quantifier_offset) == 0;
        if (f->type == PROTOBUF_C_TYPE_STRING)
                return *(const char* const*) MEMBER_CONST(m, f->offset) == f->default_value;
        if (f->type == PROTOBUF_C_TYPE_MESSAGE)
                return !*(const void* const*) MEMBER_CONST(m, f->offset);
        if (f->type == PROTOBUF_C_TYPE_BYTES)
                return !((const ProtobufCBinaryData*) MEMBER_CONST(m, f->offset))->data;
        return true;
}

static const ProtobufCFieldDescriptor* field_find(const ProtobufCMessageDescriptor *d, const char *name, ProtoJsonForm form) {
        if (form != PROTO_JSON_OCI) {
                const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(d, name);

                for (unsigned i = 0; !f && form == PROTO_JSON_CANONICAL && i < d->n_fields; i++) {
                        char camel[NAME_SIZE_MAX];

                        camel_case(d->fields[i].name, camel, sizeof(camel));
                        f = streq(camel, name) ? d->fields + i : NULL;
                }
                return f;
        }

        if (streq(name, "ociVersion"))
                name = "Version";
        for (unsigned i = 0; i < d->n_fields; i++)
                if (strcasecmp(d->fields[i].name, name) == 0)
                        return d->fields + i;

        return NULL;
}

static void message_freep(ProtobufCMessage **m) {
        if (*m)
                protobuf_c_message_free_unpacked(*m, NULL);
}

int proto_from_json(const ProtobufCMessageDescriptor *d, json_object *object, ProtoJsonForm form,
                    ProtobufCMessage **ret, char **reterr) {
        _cleanup_(message_freep) ProtobufCMessage *m = NULL;
        int r;

        if (!json_object_is_type(object, json_type_object))
                return refuse_text(reterr, " not an object");

        m = malloc(d->sizeof_message);
        if (!m)
                return -ENOMEM;
        protobuf_c_message_init(d, m);

        json_object_object_foreach(object, name, value) {
                const ProtobufCFieldDescriptor *f = field_find(d, name, form);

                if (!f) {
                        if (form == PROTO_JSON_OCI)
                                continue;
                        r = refuse_text(reterr, " %s has no such field", d->short_name);
                        return widen(reterr, name, -1, r);
                }
                if (!value)     /* null: not set, as in protobuf's own mapping */
                        continue;

                if (!field_is_fresh(f, m))
                        r = refuse_text(reterr, " set twice, or beside another of the same choice");
                else if (field_is_map(f))
                        r = map_from_json(f, value, form, m, reterr);
                else if (f->label == PROTOBUF_C_LABEL_REPEATED)
                        r = repeated_from_json(f, value, form, m, reterr);
                else {
                        r = value_from_json(f, value, form, MEMBER(m, f->offset), reterr);
                        if (r >= 0 && (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
                                *(uint32_t*) MEMBER(m, f->quantifier_offset) = f->id;
                        else if (r >= 0 && f->label == PROTOBUF_C_LABEL_OPTIONAL &&
                                 f->type != PROTOBUF_C_TYPE_MESSAGE && f->type != PROTOBUF_C_TYPE_STRING)
                                *(protobuf_c_boolean*) MEMBER(m, f->quantifier_offset) = true;
                }
                if (r < 0)
                        return widen(reterr, f->name, -1, r);
        }

        *ret = TAKE_PTR(m);
        return 0;
}
