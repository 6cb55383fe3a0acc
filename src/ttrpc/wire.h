/* SPDX-License-Identifier: Apache-2.0 */
/* Small changes in serialized protobuf messages, made in the bytes: what is not touched stays as it was, bit for bit, known to
 * our .proto files or not, and no message costs more memory than its size.
 * (https://protobuf.dev/programming-guides/encoding/) */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "ttrpc/envelope.h"

typedef enum WireType {
        WIRE_VARINT = 0,
        WIRE_FIXED64 = 1,
        WIRE_BYTES = 2,         /* strings, bytes, messages, map entries */
        WIRE_FIXED32 = 5,
} WireType;

typedef struct WireField {
        uint32_t number;
        WireType type;
        uint64_t varint;        /* WIRE_VARINT */
        TtrpcSlice bytes;       /* WIRE_BYTES */
        size_t start, end;      /* of the field with its tag, in the message */
        size_t length_at;       /* WIRE_BYTES: of the length */
} WireField;

/* Walks over a message's fields; *offset starts with 0. Returns 1, 0 at the end, -EBADMSG. */
int wire_next(TtrpcSlice message, size_t *offset, WireField *ret);

/* Checks that all fields can be walked over. Returns 0, -EBADMSG. */
int wire_check(TtrpcSlice message);

/**
 * wire_find() - the only field of this number, which holds bytes
 *
 * Returns 0, -ENOENT, -ENOTUNIQ (protobuf would merge them; no encoder writes that), -EBADMSG (not bytes, or no message).
 */
int wire_find(TtrpcSlice message, uint32_t number, WireField *ret);

/* The last value of a string field, as proto3 has it; empty if there is none. Returns 0, -EBADMSG. */
int wire_get_string(TtrpcSlice message, uint32_t number, TtrpcSlice *ret);

/* The value of a key in a map<string, string>, the last one. Returns 1, 0 if there is none, -EBADMSG. */
int wire_get_map(TtrpcSlice message, uint32_t number, const char *key, TtrpcSlice *ret);

/**
 * wire_append() - put bytes at the end of a message inside of messages
 * @path:  numbers of the fields that lead to it, from the outside; 0 ends them
 * @bytes: whole fields
 * @ret:   the new outer message, malloc()ed
 *
 * Returns 0, -ENOENT, -ENOTUNIQ, -EBADMSG as wire_find(), -E2BIG (more than four levels or 4 GiB), -ENOMEM.
 */
int wire_append(TtrpcSlice message, const uint32_t *path, TtrpcSlice bytes, uint8_t **ret, size_t *ret_size);

/* A copy without the fields of this number, malloc()ed. Returns 1, 0 if there are none (*ret untouched), -EBADMSG, -ENOMEM. */
int wire_remove(TtrpcSlice message, uint32_t number, uint8_t **ret, size_t *ret_size);

/* A field with a message of two strings, numbers 1 and 2 (a map's entry, LinuxNamespace), malloc()ed; appended to what *buffer
 * holds. Returns 0, -ENOMEM. */
int wire_add_pair(uint8_t **buffer, size_t *size, uint32_t number, const char *first, const char *second);

/* A field of bytes, as above. @data and *buffer do not overlap. Returns 0, -ENOMEM. */
int wire_add_bytes(uint8_t **buffer, size_t *size, uint32_t number, TtrpcSlice data);

/* What is there already, whole fields, as above. */
int wire_add_raw(uint8_t **buffer, size_t *size, const uint8_t *data, size_t n);
