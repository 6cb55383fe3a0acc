/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of gRPC's wire format that are no HTTP/2: time-outs, messages in DATA frames, status texts, and what it makes of HTTP's own errors
 * (grpc: doc/PROTOCOL-HTTP2.md, doc/http-grpc-status-mapping.md). The status codes are those of ttrpc/status.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ttrpc/status.h"

#define GRPC_MESSAGE_MAX (4U << 20)     /* what grpc-go takes by default (grpc-go: server.go, defaultServerMaxReceiveMessageSize) */
#define GRPC_PREFIX_SIZE 5U             /* compressed or not, length */
#define GRPC_TEXT_MAX 2048U             /* bytes of a status text: escaped, it has to fit into what peers take of headers */
#define GRPC_TIMEOUT_SIZE sizeof("99999999H")

/* grpc_timeout_parse() - the header grpc-timeout: one to eight digits and a unit, in µs, rounded up. Returns 0, -EINVAL. */
int grpc_timeout_parse(const char *s, size_t size, uint64_t *ret_usec);
/* grpc_timeout_format() - in the finest unit that has room; never less than @usec but for more than eleven thousand years */
void grpc_timeout_format(uint64_t usec, char ret[static GRPC_TIMEOUT_SIZE]);

/* grpc_content_type_is_valid() - "application/grpc", alone or with "+FORMAT" or ";PARAMETERS" behind it */
bool grpc_content_type_is_valid(const char *s, size_t size);

/* grpc_text_encode() - a status text for the header grpc-message, percent-encoded and cut to GRPC_TEXT_MAX bytes of the original. Newly
 * allocated; NULL: no memory. */
char* grpc_text_encode(const char *s);
/* grpc_text_decode() - the other way; an ill-formed escape stands for itself, what is not UTF-8 or NUL becomes '?'. NULL: no memory. */
char* grpc_text_decode(const char *s, size_t size);

TtrpcCode grpc_code_from_http(unsigned status);         /* of an answer that has no grpc-status */
TtrpcCode grpc_code_from_h2(uint32_t error_code);       /* of a stream that was reset */
/* grpc_code_parse() - the header grpc-status; any number that is no code is UNKNOWN. Returns 0, -EINVAL. */
int grpc_code_parse(const char *s, size_t size, TtrpcCode *ret);

/* The one message of a unary request or answer, as it comes in. */
typedef struct GrpcBody {
        uint8_t prefix[GRPC_PREFIX_SIZE];
        size_t n_prefix;
        uint8_t *data;
        size_t size, capacity, length;          /* arrived; allocated; announced */
} GrpcBody;

#define GRPC_BODY_NULL ((GrpcBody) {})

/**
 * grpc_body_feed() - more bytes of it
 *
 * Allocates in step with what has arrived, never for what is only announced. Returns 0, -EMSGSIZE (announces more than GRPC_MESSAGE_MAX),
 * -EOPNOTSUPP (compressed), -EBADMSG (another flag), -E2BIG (something behind the message), -ENOMEM.
 */
int grpc_body_feed(GrpcBody *b, const uint8_t *data, size_t size);
bool grpc_body_is_complete(const GrpcBody *b);
void grpc_body_done(GrpcBody *b);
