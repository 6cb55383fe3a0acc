/* SPDX-License-Identifier: Apache-2.0 */
/* Protobuf messages as JSON and back, by their descriptors, so that a new message needs no code here. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "basic/json.h"

/* Names in the JSON:
 *   - PLAIN: those of the .proto; scalars and lists are always there, 64-bit numbers are numbers;
 *   - OCI: as PLAIN, but read without regard to case, and unknown ones are passed over: a config.json becomes a Spec ("ociVersion" is
 *     "Version");
 *   - CANONICAL: protobuf's own mapping, as other implementations write it: lowerCamelCase (those of the .proto are read, too), what has its
 *     default value is left out, 64-bit numbers are text.
 *
 * In all of them sub-messages and optional fields are there when set; 64-bit numbers are read as text, too; enums are names (read as numbers,
 * too), bytes are base64; a map, which protobuf-c knows as a list of entries with a key and a value, is an object. */
typedef enum ProtoJsonForm {
        PROTO_JSON_PLAIN,
        PROTO_JSON_OCI,
        PROTO_JSON_CANONICAL,
} ProtoJsonForm;

/**
 * proto_to_json() - every field of a message
 * @ret: json_object_put() it
 *
 * Text that is not UTF-8 (the message may come from a pod VM) has U+FFFD in place of the bad bytes.
 * Returns 0 or -ENOMEM.
 */
int proto_to_json(const ProtobufCMessage *message, ProtoJsonForm form, json_object **ret);

/**
 * proto_from_json() - make a message from an object
 * @ret:     protobuf_c_message_free_unpacked(…, NULL) it
 * @reterr:  filled on -EINVAL only: where and why, as in "Process.Args[1]: not a string"; the caller frees it
 *
 * Returns 0, -EINVAL or -ENOMEM.
 */
int proto_from_json(const ProtobufCMessageDescriptor *descriptor, json_object *object, ProtoJsonForm form,
                    ProtobufCMessage **ret, char **reterr);
