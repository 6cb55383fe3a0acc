/* SPDX-License-Identifier: Apache-2.0 */
/* The 10-byte header that every ttrpc frame starts with (containerd/ttrpc: PROTOCOL.md, channel.go). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define TTRPC_HEADER_SIZE 10
#define TTRPC_DATA_MAX (UINT32_C(4) << 20)      /* equal is allowed: containerd/ttrpc, channel.go */

typedef enum TtrpcType {
        TTRPC_TYPE_REQUEST  = 1,        /* client → server, opens the stream; data is a Request envelope */
        TTRPC_TYPE_RESPONSE = 2,        /* server → client, ends the stream; data is a Response envelope */
        TTRPC_TYPE_DATA     = 3,        /* both ways; data is a bare message */
} TtrpcType;

typedef enum TtrpcFlags {
        TTRPC_FLAG_REMOTE_CLOSED = 1 << 0,      /* on Request and Data: the sender sends nothing more */
        TTRPC_FLAG_REMOTE_OPEN   = 1 << 1,      /* on Request: Data frames will follow */
        TTRPC_FLAG_NO_DATA       = 1 << 2,      /* on Data: no message here, not even an empty one */
} TtrpcFlags;

typedef struct TtrpcHeader {
        uint32_t length;        /* of the data after the header; may be above TTRPC_DATA_MAX: then the frame is to be discarded */
        uint32_t stream_id;     /* any value; odd ones are the client's, others do not exist */
        uint8_t type;           /* TtrpcType, or what a later version invents: ignore the frame then */
        uint8_t flags;          /* TtrpcFlags */
} TtrpcHeader;

/**
 * ttrpc_header_parse() - read a header from the first bytes of a frame
 * @data: may be NULL if @size is 0
 *
 * Judges only what makes the rest of the stream unreadable: the first byte of the length must be 0, for the largest frame has
 * 4 MiB, and who starts with anything else does not speak ttrpc (a TLS ClientHello has 0x16 there). A length above
 * TTRPC_DATA_MAX that passes this, up to 16 MiB, can be skipped and answered on its stream, as the Go server does; stream id
 * and type are judged where the answer is made.
 *
 * Returns TTRPC_HEADER_SIZE; 0 = not enough bytes to tell, which needs one byte for the refusal and ten for the rest;
 * -EBADMSG = not ttrpc, close the connection. @ret is untouched unless positive.
 */
int ttrpc_header_parse(const uint8_t *data, size_t size, TtrpcHeader *ret);

/* Writes TTRPC_HEADER_SIZE bytes, returns the place behind them. */
uint8_t* ttrpc_header_write(const TtrpcHeader *h, uint8_t *p);
