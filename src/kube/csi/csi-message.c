/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/csi-message.h"

#include <json-c/json_tokener.h>

#include "basic/json.h"
#include "basic/util.h"
#include "proto-json/proto-json.h"
#include "proto/proto.h"

#define MEMBER(message, offset) ((void*) ((uint8_t*) (message) + (offset)))
#define MEMBER_CONST(message, offset) ((const void*) ((const uint8_t*) (message) + (offset)))

static const ProtobufCFieldDescriptor* find_field(const ProtobufCMessage *m, const char *field) {
        const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, field);

        assert(f);
        return f;
}

const char* message_get_string(const ProtobufCMessage *m, const char *field) {
        return strempty(*(const char* const*) MEMBER_CONST(m, find_field(m, field)->offset));
}

static int set_string(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, const char *value) {
        char **p = MEMBER(m, f->offset), *copy = strdup(value);

        if (!copy)
                return -ENOMEM;
        if (*p && *p != f->default_value)
                free(*p);
        *p = copy;
        return 0;
}

int message_set_string(ProtobufCMessage *m, const char *field, const char *value) {
        return set_string(m, find_field(m, field), value);
}

/* A map is a list of entries with a key and a value, both of which are there even if the wire had none. */
typedef struct Map {
        size_t *n;
        ProtobufCMessage ***entries;
        const ProtobufCMessageDescriptor *type;
} Map;

static Map get_map(const ProtobufCMessage *m, const char *field) {
        const ProtobufCFieldDescriptor *f = find_field(m, field);

        assert(f->label == PROTOBUF_C_LABEL_REPEATED && f->type == PROTOBUF_C_TYPE_MESSAGE);
        return (Map) { (size_t*) MEMBER_CONST(m, f->quantifier_offset), (ProtobufCMessage***) MEMBER_CONST(m, f->offset), f->descriptor };
}

static char* entry_part(const ProtobufCMessage *entry, unsigned part) {
        return *(char* const*) MEMBER_CONST(entry, entry->descriptor->fields[part].offset);
}

const char* message_map_get(const ProtobufCMessage *m, const char *field, const char *key) {
        Map map = get_map(m, field);

        for (size_t i = *map.n; i-- > 0;)       /* the last of several wins (protobuf: Encoding, Maps) */
                if (streq(strempty(entry_part((*map.entries)[i], 0)), key))
                        return strempty(entry_part((*map.entries)[i], 1));
        return NULL;
}

size_t message_map_drop(ProtobufCMessage *m, const char *field, const char *key) {
        Map map = get_map(m, field);
        size_t n = 0, kept = 0;

        for (size_t i = 0; i < *map.n; i++) {
                ProtobufCMessage *entry = (*map.entries)[i];
                char *value = entry_part(entry, 1);

                if (key && !streq(strempty(entry_part(entry, 0)), key)) {
                        (*map.entries)[kept++] = entry;
                        continue;
                }
                if (!isempty(value))
                        explicit_bzero(value, strlen(value));
                proto_free(entry);
                n++;
        }

        *map.n = kept;
        if (kept == 0) {
                free(*map.entries);
                *map.entries = NULL;
        }
        return n;
}

int message_map_set(ProtobufCMessage *m, const char *field, const char *key, const char *value) {
        Map map = get_map(m, field);
        ProtobufCMessage **entries, *entry;
        int r;

        (void) message_map_drop(m, field, key);
        entries = reallocarray(*map.entries, *map.n + 1, sizeof(*entries));
        if (!entries)
                return -ENOMEM;
        *map.entries = entries;
        entry = malloc(map.type->sizeof_message);
        if (!entry)
                return -ENOMEM;
        protobuf_c_message_init(map.type, entry);

        r = set_string(entry, &map.type->fields[0], key);
        if (r >= 0)
                r = set_string(entry, &map.type->fields[1], value);
        if (r < 0) {
                proto_free(entry);
                return r;
        }
        entries[(*map.n)++] = entry;
        return 0;
}

int message_pack(const ProtobufCMessage *m, uint8_t **ret, size_t *ret_size) {
        size_t size = protobuf_c_message_get_packed_size(m);
        uint8_t *data = malloc(MAX(size, (size_t) 1));

        if (!data)
                return -ENOMEM;
        *ret_size = protobuf_c_message_pack(m, data);
        *ret = data;
        return 0;
}

int message_to_text(const ProtobufCMessage *m, char **ret) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        const char *text;
        int r;

        r = proto_to_json(m, PROTO_JSON_CANONICAL, &o);
        if (r < 0)
                return r;
        text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN|JSON_C_TO_STRING_NOSLASHESCAPE);
        *ret = text ? strdup(text) : NULL;
        return *ret ? 0 : -ENOMEM;
}

int message_from_text(const ProtobufCMessageDescriptor *type, const char *text, ProtobufCMessage **ret, char **reterr) {
        _cleanup_(json_object_putp) json_object *o = NULL;
        int r;

        r = json_parse(text, strlen(text), &o, reterr);
        if (r < 0)
                return r;
        r = proto_from_json(type, o, PROTO_JSON_CANONICAL, ret, reterr);
        return r == -EINVAL ? -EBADMSG : r;
}
