/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/proto.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct Budget {
        size_t left;
        bool exceeded, oom;
} Budget;

static void* budget_alloc(void *userdata, size_t size) {
        Budget *b = userdata;
        void *p;

        if (size > b->left) {
                b->exceeded = true;
                return NULL;
        }

        p = malloc(size);
        if (!p) {
                b->oom = true;
                return NULL;
        }

        b->left -= size;
        return p;
}

static void budget_free(void *userdata, void *p) {
        /* What was taken once stays counted: protobuf-c frees during unpacking only what it replaces. */
        free(p);
}

int proto_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t size, ProtobufCMessage **ret) {
        Budget budget = { .left = PROTO_MEMORY_MAX };
        ProtobufCAllocator allocator = {
                .alloc = budget_alloc,
                .free = budget_free,
                .allocator_data = &budget,
        };
        ProtobufCMessage *m;

        /* The library's default allocator is malloc() and free() too, so whoever frees the message need not know ours. */
        m = protobuf_c_message_unpack(type, &allocator, size, data);
        if (!m)
                return budget.exceeded ? -E2BIG : budget.oom ? -ENOMEM : -EBADMSG;

        *ret = m;
        return 0;
}

void proto_free(ProtobufCMessage *message) {
        if (message)
                protobuf_c_message_free_unpacked(message, NULL);
}
