/* SPDX-License-Identifier: Apache-2.0 */
/* protobuf-c for bytes from outside: memory bounded, malformed told from short of memory. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#include "basic/cleanup.h"

/* What one message may take in memory. A wire byte can become eighty: an empty sub-message is two bytes there and a struct and a
 * pointer here. The largest frame's 4 MiB of strings and bytes fit many times. */
#define PROTO_MEMORY_MAX (64U << 20)

/**
 * proto_unpack() - make a message of @type from its wire form
 * @ret: proto_free(), or the type's own …__free_unpacked(…, NULL)
 *
 * Returns 0, -EBADMSG (malformed), -E2BIG (PROTO_MEMORY_MAX), -ENOMEM.
 */
int proto_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t size, ProtobufCMessage **ret);

/* NULL is fine. Fits _cleanup_() for any message type, as it looks at the message's own descriptor: _cleanup_(proto_freep). */
void proto_free(ProtobufCMessage *message);
static inline void proto_freep(void *p) {
        proto_free(*(ProtobufCMessage**) p);
}
