/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/wire.h"

#include "basic/util.h"

#define DEPTH_MAX 4U

static int get_varint(TtrpcSlice m, size_t *offset, uint64_t *ret) {
        uint64_t v = 0;

        for (unsigned shift = 0; shift < 70; shift += 7) {
                uint8_t b;

                if (*offset >= m.size)
                        return -EBADMSG;
                b = m.data[(*offset)++];
                if (shift == 63 && b > 1)
                        return -EBADMSG;
                v |= (uint64_t) (b & 0x7f) << shift;
                if (!(b & 0x80)) {
                        *ret = v;
                        return 0;
                }
        }

        return -EBADMSG;
}

static size_t varint_size(uint64_t v) {
        size_t n = 1;

        for (; v > 0x7f; v >>= 7)
                n++;
        return n;
}

static uint8_t* put_varint(uint8_t *p, uint64_t v) {
        for (; v > 0x7f; v >>= 7)
                *p++ = (v & 0x7f) | 0x80;
        *p++ = v;
        return p;
}

static uint8_t* put_bytes(uint8_t *p, const void *data, size_t size) {
        if (size > 0)
                memcpy(p, data, size);
        return p + size;
}

int wire_next(TtrpcSlice m, size_t *offset, WireField *ret) {
        WireField f = { .start = *offset };
        size_t at = *offset;
        uint64_t v;

        if (at == m.size)
                return 0;
        if (get_varint(m, &at, &v) < 0 || v > UINT32_MAX || v >> 3 == 0)
                return -EBADMSG;
        f.number = v >> 3;
        f.type = v & 7;

        switch (f.type) {

        case WIRE_VARINT:
                if (get_varint(m, &at, &f.varint) < 0)
                        return -EBADMSG;
                break;

        case WIRE_FIXED64:
        case WIRE_FIXED32: {
                size_t n = f.type == WIRE_FIXED64 ? 8 : 4;

                if (m.size - at < n)
                        return -EBADMSG;
                at += n;
                break;
        }

        case WIRE_BYTES:
                f.length_at = at;
                if (get_varint(m, &at, &v) < 0 || v > m.size - at)
                        return -EBADMSG;
                f.bytes = (TtrpcSlice) { m.data + at, v };
                at += v;
                break;

        default:                /* groups: not in proto3 */
                return -EBADMSG;
        }

        f.end = at;
        *offset = at;
        *ret = f;
        return 1;
}

int wire_check(TtrpcSlice m) {
        WireField f;
        size_t offset = 0;
        int r;

        while ((r = wire_next(m, &offset, &f)) > 0)
                ;
        return r;
}

int wire_find(TtrpcSlice m, uint32_t number, WireField *ret) {
        WireField f, found = {};
        size_t offset = 0;
        int r;

        while ((r = wire_next(m, &offset, &f)) > 0) {
                if (f.number != number)
                        continue;
                if (f.type != WIRE_BYTES)
                        return -EBADMSG;
                if (found.number != 0)
                        return -ENOTUNIQ;
                found = f;
        }
        if (r < 0)
                return r;
        if (found.number == 0)
                return -ENOENT;

        *ret = found;
        return 0;
}

int wire_get_string(TtrpcSlice m, uint32_t number, TtrpcSlice *ret) {
        TtrpcSlice s = {};
        WireField f;
        size_t offset = 0;
        int r;

        while ((r = wire_next(m, &offset, &f)) > 0)
                if (f.number == number && f.type == WIRE_BYTES)
                        s = f.bytes;
        if (r < 0)
                return r;

        *ret = s;
        return 0;
}

int wire_get_map(TtrpcSlice m, uint32_t number, const char *key, TtrpcSlice *ret) {
        WireField f;
        size_t offset = 0;
        int r, found = 0;

        while ((r = wire_next(m, &offset, &f)) > 0) {
                TtrpcSlice k, v;

                if (f.number != number || f.type != WIRE_BYTES)
                        continue;
                if (wire_get_string(f.bytes, 1, &k) < 0 || wire_get_string(f.bytes, 2, &v) < 0)
                        return -EBADMSG;
                if (ttrpc_slice_is(k, key)) {
                        *ret = v;
                        found = 1;
                }
        }

        return r < 0 ? r : found;
}

int wire_append(TtrpcSlice message, const uint32_t *path, TtrpcSlice bytes, uint8_t **ret, size_t *ret_size) {
        size_t length_at[DEPTH_MAX], begin[DEPTH_MAX], end[DEPTH_MAX], length[DEPTH_MAX], n = 0, grown = bytes.size, total, from = 0;
        TtrpcSlice m = message;
        uint8_t *new_message, *p;

        for (; path[n] != 0; n++) {
                WireField f;
                int r;

                if (n == DEPTH_MAX)
                        return -E2BIG;
                r = wire_find(m, path[n], &f);
                if (r < 0)
                        return r;
                length_at[n] = (m.data - message.data) + f.length_at;
                begin[n] = f.bytes.data - message.data;
                end[n] = begin[n] + f.bytes.size;
                m = f.bytes;
        }
        if (wire_check(m) < 0)
                return -EBADMSG;

        /* From the inside out: each message grows by the bytes and by the lengths of those within that got longer. */
        for (size_t i = n; i-- > 0;) {
                length[i] = end[i] - begin[i] + grown;
                grown += varint_size(length[i]) - (begin[i] - length_at[i]);
        }
        total = message.size + grown;
        if (total > UINT32_MAX)
                return -E2BIG;

        new_message = p = malloc(MAX(total, 1U));
        if (!p)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                p = put_bytes(p, message.data + from, length_at[i] - from);
                p = put_varint(p, length[i]);
                from = begin[i];
        }
        total = n > 0 ? end[n - 1] : message.size;
        p = put_bytes(p, message.data + from, total - from);
        p = put_bytes(p, bytes.data, bytes.size);
        p = put_bytes(p, message.data + total, message.size - total);

        *ret = new_message;
        *ret_size = p - new_message;
        return 0;
}

int wire_remove(TtrpcSlice m, uint32_t number, uint8_t **ret, size_t *ret_size) {
        _cleanup_(freep) uint8_t *copy = malloc(MAX(m.size, 1U));
        uint8_t *p = copy;
        WireField f;
        size_t offset = 0;
        int r, found = 0;

        if (!copy)
                return -ENOMEM;

        while ((r = wire_next(m, &offset, &f)) > 0)
                if (f.number == number)
                        found = 1;
                else
                        p = put_bytes(p, m.data + f.start, f.end - f.start);
        if (r < 0)
                return r;
        if (!found)
                return 0;

        *ret_size = p - copy;
        *ret = TAKE_PTR(copy);
        return 1;
}

int wire_add_pair(uint8_t **buffer, size_t *size, uint32_t number, const char *first, const char *second) {
        size_t n1 = strlen(first), n2 = strlen(second);
        size_t inner = 2 + varint_size(n1) + n1 + varint_size(n2) + n2;
        uint64_t tag = (uint64_t) number << 3 | WIRE_BYTES;
        uint8_t *p = realloc(*buffer, *size + varint_size(tag) + varint_size(inner) + inner);

        if (!p)
                return -ENOMEM;
        *buffer = p;

        p = put_varint(p + *size, tag);
        p = put_varint(p, inner);
        *p++ = 1 << 3 | WIRE_BYTES;
        p = put_varint(p, n1);
        p = put_bytes(p, first, n1);
        *p++ = 2 << 3 | WIRE_BYTES;
        p = put_varint(p, n2);
        p = put_bytes(p, second, n2);

        *size = p - *buffer;
        return 0;
}

int wire_add_bytes(uint8_t **buffer, size_t *size, uint32_t number, TtrpcSlice data) {
        uint64_t tag = (uint64_t) number << 3 | WIRE_BYTES;
        uint8_t *p = realloc(*buffer, *size + varint_size(tag) + varint_size(data.size) + data.size);

        if (!p)
                return -ENOMEM;
        *buffer = p;

        p = put_varint(p + *size, tag);
        p = put_varint(p, data.size);
        p = put_bytes(p, data.data, data.size);
        *size = p - *buffer;
        return 0;
}

int wire_add_raw(uint8_t **buffer, size_t *size, const uint8_t *data, size_t n) {
        uint8_t *p = realloc(*buffer, MAX(*size + n, (size_t) 1));

        if (!p)
                return -ENOMEM;
        *buffer = p;
        *size = put_bytes(p + *size, data, n) - p;
        return 0;
}
