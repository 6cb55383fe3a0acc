/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/frame.h"

#include <errno.h>

#include "basic/util.h"

int ttrpc_header_parse(const uint8_t *data, size_t size, TtrpcHeader *ret) {
        if (size > 0 && data[0] != 0)
                return -EBADMSG;
        if (size < TTRPC_HEADER_SIZE)
                return 0;

        *ret = (TtrpcHeader) {
                .length = read_be32(data),
                .stream_id = read_be32(data + 4),
                .type = data[8],
                .flags = data[9],
        };
        return TTRPC_HEADER_SIZE;
}

uint8_t* ttrpc_header_write(const TtrpcHeader *h, uint8_t *p) {
        write_be32(p, h->length);
        write_be32(p + 4, h->stream_id);
        p[8] = h->type;
        p[9] = h->flags;
        return p + TTRPC_HEADER_SIZE;
}
