/* SPDX-License-Identifier: Apache-2.0 */
/* The Request and Response messages in the frames: parsed in place and written around a payload, without copies.
 *
 * (containerd/ttrpc: request.proto; google/rpc/status.proto.) Parsing allocates nothing: what comes out are slices of the bytes
 * that went in. Writing is split in head, payload and tail, so that a payload can go out from where it lies:
 *
 *         p = ttrpc_request_write_head(&r, buffer);       service, method, and the payload's tag and length
 *         … r.payload, by copy or by a third iovec …
 *         p = ttrpc_request_write_tail(&r, p);            timeout, metadata, and what we do not know
 *
 * A field that this file does not know is kept: parse, change some field of the struct, write, and the rest of the message is
 * still there. So a relay may edit a payload without dropping a newer peer's fields.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct TtrpcSlice {
        const uint8_t *data;    /* borrowed; not NUL-terminated; may be NULL if size is 0 */
        size_t size;
} TtrpcSlice;

/* For the writing side: an array ended by a NULL key. Keys are compared in lower case and may repeat. */
typedef struct TtrpcMetadata {
        const char *key;
        const char *value;
} TtrpcMetadata;

typedef struct TtrpcRequest {
        TtrpcSlice service;             /* "hypervisor.Hypervisor" */
        TtrpcSlice method;              /* "CreateVM" */
        TtrpcSlice payload;
        int64_t timeout_nano;           /* remaining time when sent; 0 = none, negative = expired already */
        const TtrpcMetadata *metadata;  /* written after the fields in .rest; never set by the parser */
        TtrpcSlice rest;                /* an envelope from which all fields but the four above are copied when writing */
} TtrpcRequest;

typedef struct TtrpcResponse {
        int32_t code;                   /* TtrpcCode, but a peer may send any number */
        TtrpcSlice message;
        TtrpcSlice payload;
        TtrpcSlice status_rest;         /* a Status from which all fields but code and message are copied when writing */
        TtrpcSlice rest;                /* a Response from which all fields but status and payload are copied when writing */
} TtrpcResponse;

/**
 * ttrpc_slice_is() - does the slice hold exactly this string?
 */
bool ttrpc_slice_is(TtrpcSlice s, const char *string);

/* A slice of a C string, which must live as long. */
TtrpcSlice ttrpc_slice(const char *string);

/**
 * ttrpc_request_parse() - read a Request that lies whole in @data
 *
 * As proto3 has it: the last of several values counts, missing ones are empty, unknown fields and known ones with another
 * wire type are passed over. Strings must be UTF-8. .rest is the whole of @data, where the metadata are found too.
 *
 * Returns the number of bytes used, which is @size; -EBADMSG if it is no such message. @ret is untouched then.
 */
int ttrpc_request_parse(const uint8_t *data, size_t size, TtrpcRequest *ret);

/**
 * ttrpc_request_next_metadata() - walk over the metadata of a parsed request
 * @offset: start with 0; the walk's own
 *
 * Returns 1 with the next pair in the outputs, 0 at the end.
 */
int ttrpc_request_next_metadata(const TtrpcRequest *r, size_t *offset, TtrpcSlice *ret_key, TtrpcSlice *ret_value);

size_t ttrpc_request_head_size(const TtrpcRequest *r);
size_t ttrpc_request_tail_size(const TtrpcRequest *r);
size_t ttrpc_request_size(const TtrpcRequest *r);               /* head + payload + tail */
uint8_t* ttrpc_request_write_head(const TtrpcRequest *r, uint8_t *p);
uint8_t* ttrpc_request_write_tail(const TtrpcRequest *r, uint8_t *p);
uint8_t* ttrpc_request_write(const TtrpcRequest *r, uint8_t *p); /* all three; each returns the place behind what it wrote */

/**
 * ttrpc_response_parse() - read a Response that lies whole in @data; as ttrpc_request_parse()
 *
 * A missing Status, as the Go server sends for success, and an empty one, as the Rust server does, are both code 0.
 */
int ttrpc_response_parse(const uint8_t *data, size_t size, TtrpcResponse *ret);

size_t ttrpc_response_head_size(const TtrpcResponse *r);
size_t ttrpc_response_tail_size(const TtrpcResponse *r);
size_t ttrpc_response_size(const TtrpcResponse *r);
uint8_t* ttrpc_response_write_head(const TtrpcResponse *r, uint8_t *p);
uint8_t* ttrpc_response_write_tail(const TtrpcResponse *r, uint8_t *p);
uint8_t* ttrpc_response_write(const TtrpcResponse *r, uint8_t *p);
