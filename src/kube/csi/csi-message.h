/* SPDX-License-Identifier: Apache-2.0 */
/* Edits of CSI's messages by field name, so that the four kinds of requests that are kept need no code each. A field that the message does not
 * have is an error of ours. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#define CSI_PEERPOD_KEY "peerpod"       /* StorageClass parameter, or volume attribute: the volume takes part */

/* Borrowed, never NULL. */
const char* message_get_string(const ProtobufCMessage *m, const char *field);
int message_set_string(ProtobufCMessage *m, const char *field, const char *value);      /* 0, -ENOMEM */

/* Fields that are map<string, string>. */
const char* message_map_get(const ProtobufCMessage *m, const char *field, const char *key);     /* borrowed; NULL: it has none */
int message_map_set(ProtobufCMessage *m, const char *field, const char *key, const char *value); /* 0, -ENOMEM */
/* message_map_drop() - take out one key, or all of them with NULL; how many there were. What is dropped is overwritten: it may be a secret. */
size_t message_map_drop(ProtobufCMessage *m, const char *field, const char *key);

int message_pack(const ProtobufCMessage *m, uint8_t **ret, size_t *ret_size);           /* 0, -ENOMEM; *ret may hold secrets */

/* As protobuf's JSON, the form in which PeerpodVolume objects keep requests. message_from_text() returns 0, -EBADMSG with *reterr, -ENOMEM. */
int message_to_text(const ProtobufCMessage *m, char **ret);
int message_from_text(const ProtobufCMessageDescriptor *type, const char *text, ProtobufCMessage **ret, char **reterr);
