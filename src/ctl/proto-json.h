/* SPDX-License-Identifier: Apache-2.0 */
/* Protobuf messages as JSON and back, by their descriptors, so that a new message needs no code here. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>

#include "basic/json.h"

/*
 * The form, protobuf's own JSON mapping with the .proto names:
 *   - scalars and lists are always there, sub-messages and optional fields only when set;
 *   - 64-bit numbers are numbers (read as text, too), enums are names (read as numbers, too), bytes are base64;
 *   - a map, which protobuf-c knows as a list of entries with a key and a value, is an object.
 */

/**
 * proto_to_json() - every field of a message
 * @ret: json_object_put() it
 *
 * Text that is not UTF-8 (the message may come from a pod VM) has U+FFFD in place of the bad bytes.
 * Returns 0 or -ENOMEM.
 */
int proto_to_json(const ProtobufCMessage *message, json_object **ret);

/**
 * proto_from_json() - make a message from an object
 * @lenient: names are compared without case and unknown ones are passed over: an OCI config.json becomes a Spec
 *           ("ociVersion" is "Version")
 * @ret:     protobuf_c_message_free_unpacked(…, NULL) it
 * @reterr:  filled on -EINVAL only: where and why, as in "Process.Args[1]: not a string"; the caller frees it
 *
 * Returns 0, -EINVAL or -ENOMEM.
 */
int proto_from_json(const ProtobufCMessageDescriptor *descriptor, json_object *object, bool lenient,
                    ProtobufCMessage **ret, char **reterr);
