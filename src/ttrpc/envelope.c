/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/envelope.h"

#include <errno.h>
#include <limits.h>
#include <sys/types.h>

#include "basic/util.h"
#include "ttrpc/utf8.h"

/* Wire types (protobuf.dev/programming-guides/encoding). 3 and 4 are proto2's groups: no proto3 sender makes them, so they are
 * refused instead of being followed into their depth. */
enum { WIRE_VARINT = 0, WIRE_I64 = 1, WIRE_LEN = 2, WIRE_I32 = 5 };

enum { REQUEST_SERVICE = 1, REQUEST_METHOD, REQUEST_PAYLOAD, REQUEST_TIMEOUT_NANO, REQUEST_METADATA };
enum { RESPONSE_STATUS = 1, RESPONSE_PAYLOAD };
enum { STATUS_CODE = 1, STATUS_MESSAGE };
enum { KEY_VALUE_KEY = 1, KEY_VALUE_VALUE };

#define VARINT_SIZE_MAX 10
#define FIELD_NUMBER_MAX ((UINT64_C(1) << 29) - 1)

typedef struct Field {
        uint32_t number;
        unsigned wire;
        uint64_t value;         /* WIRE_VARINT */
        TtrpcSlice bytes;       /* WIRE_LEN */
} Field;

static int varint_parse(const uint8_t *p, size_t left, uint64_t *ret) {
        uint64_t v = 0;

        for (size_t i = 0; i < VARINT_SIZE_MAX; i++) {
                if (i == left)
                        return -EBADMSG;
                if (i == VARINT_SIZE_MAX - 1 && p[i] > 1)       /* more than 64 bits */
                        return -EBADMSG;

                v |= (uint64_t) (p[i] & 0x7f) << (7 * i);
                if (p[i] < 0x80) {
                        *ret = v;
                        return i + 1;
                }
        }

        return -EBADMSG;
}

/* Reads one field. Returns the bytes used, at least 2, or -EBADMSG. */
static ssize_t field_parse(const uint8_t *p, size_t left, Field *ret) {
        size_t used, size = 0;
        uint64_t v;
        int n;

        n = varint_parse(p, left, &v);
        if (n < 0)
                return n;
        if (v >> 3 == 0 || v >> 3 > FIELD_NUMBER_MAX)
                return -EBADMSG;
        *ret = (Field) { .number = v >> 3, .wire = v & 7 };
        used = n;

        switch (ret->wire) {
        case WIRE_VARINT:
                n = varint_parse(p + used, left - used, &ret->value);
                if (n < 0)
                        return n;
                return used + n;
        case WIRE_LEN:
                n = varint_parse(p + used, left - used, &v);
                if (n < 0)
                        return n;
                used += n;
                if (v > left - used)
                        return -EBADMSG;
                size = v;
                break;
        case WIRE_I64:
                size = 8;
                break;
        case WIRE_I32:
                size = 4;
                break;
        default:
                return -EBADMSG;
        }

        if (left - used < size)
                return -EBADMSG;
        ret->bytes = (TtrpcSlice) { .data = p + used, .size = size };
        return used + size;
}

/* The next field of a message, in the form of a loop's condition: 1, 0 at the end, -EBADMSG. */
static int field_next(TtrpcSlice message, size_t *offset, Field *ret) {
        ssize_t n;

        if (*offset >= message.size)
                return 0;

        n = field_parse(message.data + *offset, message.size - *offset, ret);
        if (n < 0)
                return n;

        *offset += n;
        return 1;
}

static int take_string(const Field *f, TtrpcSlice *ret) {
        if (!utf8_is_valid(f->bytes.data, f->bytes.size))
                return -EBADMSG;

        *ret = f->bytes;
        return 0;
}

static int key_value_parse(TtrpcSlice message, TtrpcSlice *ret_key, TtrpcSlice *ret_value) {
        TtrpcSlice key = {}, value = {};
        size_t offset = 0;
        Field f;
        int r;

        while ((r = field_next(message, &offset, &f)) > 0) {
                if (f.wire != WIRE_LEN)
                        continue;
                if (f.number == KEY_VALUE_KEY)
                        r = take_string(&f, &key);
                else if (f.number == KEY_VALUE_VALUE)
                        r = take_string(&f, &value);
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;

        *ret_key = key;
        *ret_value = value;
        return 0;
}

/* Is this a field that the struct has a member for, so that it is not to be copied from .rest? A known number with another
 * wire type is an unknown field. */
static bool request_field_is_ours(const Field *f) {
        return (f->number >= REQUEST_SERVICE && f->number <= REQUEST_PAYLOAD && f->wire == WIRE_LEN) ||
                (f->number == REQUEST_TIMEOUT_NANO && f->wire == WIRE_VARINT);
}

static bool response_field_is_ours(const Field *f) {
        return (f->number == RESPONSE_STATUS || f->number == RESPONSE_PAYLOAD) && f->wire == WIRE_LEN;
}

static bool status_field_is_ours(const Field *f) {
        return (f->number == STATUS_CODE && f->wire == WIRE_VARINT) ||
                (f->number == STATUS_MESSAGE && f->wire == WIRE_LEN);
}

bool ttrpc_slice_is(TtrpcSlice s, const char *string) {
        size_t n = strlen(string);

        return s.size == n && (n == 0 || memcmp(s.data, string, n) == 0);
}

TtrpcSlice ttrpc_slice(const char *string) {
        return (TtrpcSlice) { .data = (const uint8_t*) string, .size = strlen(string) };
}

int ttrpc_request_parse(const uint8_t *data, size_t size, TtrpcRequest *ret) {
        TtrpcRequest request = { .rest = { .data = data, .size = size } };
        size_t offset = 0;
        Field f;
        int r;

        if (size > INT_MAX)
                return -EBADMSG;

        while ((r = field_next(request.rest, &offset, &f)) > 0) {
                TtrpcSlice key, value;

                r = 0;
                if (f.number == REQUEST_SERVICE && f.wire == WIRE_LEN)
                        r = take_string(&f, &request.service);
                else if (f.number == REQUEST_METHOD && f.wire == WIRE_LEN)
                        r = take_string(&f, &request.method);
                else if (f.number == REQUEST_PAYLOAD && f.wire == WIRE_LEN)
                        request.payload = f.bytes;
                else if (f.number == REQUEST_TIMEOUT_NANO && f.wire == WIRE_VARINT)
                        request.timeout_nano = (int64_t) f.value;
                else if (f.number == REQUEST_METADATA && f.wire == WIRE_LEN)
                        r = key_value_parse(f.bytes, &key, &value);     /* only judged here */
                if (r < 0)
                        return r;
        }
        if (r < 0)
                return r;

        *ret = request;
        return size;
}

int ttrpc_request_next_metadata(const TtrpcRequest *request, size_t *offset, TtrpcSlice *ret_key, TtrpcSlice *ret_value) {
        Field f;

        while (field_next(request->rest, offset, &f) > 0)
                if (f.number == REQUEST_METADATA && f.wire == WIRE_LEN)
                        return key_value_parse(f.bytes, ret_key, ret_value) >= 0;

        return 0;
}

static int status_parse(TtrpcSlice message, TtrpcResponse *response) {
        size_t offset = 0;
        Field f;
        int r;

        while ((r = field_next(message, &offset, &f)) > 0) {
                if (f.number == STATUS_CODE && f.wire == WIRE_VARINT)
                        response->code = (int32_t) f.value;
                else if (f.number == STATUS_MESSAGE && f.wire == WIRE_LEN) {
                        r = take_string(&f, &response->message);
                        if (r < 0)
                                return r;
                }
        }
        if (r < 0)
                return r;

        response->status_rest = message;
        return 0;
}

int ttrpc_response_parse(const uint8_t *data, size_t size, TtrpcResponse *ret) {
        TtrpcResponse response = { .rest = { .data = data, .size = size } };
        size_t offset = 0;
        Field f;
        int r;

        if (size > INT_MAX)
                return -EBADMSG;

        while ((r = field_next(response.rest, &offset, &f)) > 0) {
                if (f.number == RESPONSE_STATUS && f.wire == WIRE_LEN) {
                        r = status_parse(f.bytes, &response);   /* several are merged, as for any message field */
                        if (r < 0)
                                return r;
                } else if (f.number == RESPONSE_PAYLOAD && f.wire == WIRE_LEN)
                        response.payload = f.bytes;
        }
        if (r < 0)
                return r;

        *ret = response;
        return size;
}

static size_t varint_size(uint64_t v) {
        size_t n = 1;

        for (; v >= 0x80; v >>= 7)
                n++;

        return n;
}

static uint8_t* varint_write(uint64_t v, uint8_t *p) {
        for (; v >= 0x80; v >>= 7)
                *p++ = v | 0x80;
        *p++ = v;
        return p;
}

/* Fields 1 to 15 only, whose tag is one byte. Like every proto3 writer these leave out what is empty or zero. */
static size_t bytes_size(size_t size) {
        return size > 0 ? 1 + varint_size(size) + size : 0;
}

static uint8_t* tag_write(unsigned number, unsigned wire, uint64_t value, uint8_t *p) {
        *p++ = number << 3 | wire;
        return varint_write(value, p);
}

static uint8_t* bytes_write(unsigned number, const void *data, size_t size, uint8_t *p) {
        if (size == 0)
                return p;

        p = tag_write(number, WIRE_LEN, size, p);
        memcpy(p, data, size);
        return p + size;
}

/* Copies, or with @p NULL only counts, the fields of @message that are not ours. A malformed tail is left away. */
static size_t rest_write(TtrpcSlice message, bool (*is_ours)(const Field*), uint8_t *p) {
        size_t written = 0;
        Field f;

        for (size_t offset = 0, start = 0; field_next(message, &offset, &f) > 0; start = offset) {
                if (is_ours(&f))
                        continue;
                if (p)
                        memcpy(p + written, message.data + start, offset - start);
                written += offset - start;
        }

        return written;
}

static size_t key_value_size(const TtrpcMetadata *m) {
        return bytes_size(strlen(m->key)) + bytes_size(strlen(strempty(m->value)));
}

size_t ttrpc_request_head_size(const TtrpcRequest *r) {
        return bytes_size(r->service.size) + bytes_size(r->method.size) + bytes_size(r->payload.size) - r->payload.size;
}

size_t ttrpc_request_tail_size(const TtrpcRequest *r) {
        size_t size = rest_write(r->rest, request_field_is_ours, NULL);

        if (r->timeout_nano != 0)
                size += 1 + varint_size((uint64_t) r->timeout_nano);

        for (const TtrpcMetadata *m = r->metadata; m && m->key; m++) {
                size_t n = key_value_size(m);

                size += 1 + varint_size(n) + n;
        }

        return size;
}

size_t ttrpc_request_size(const TtrpcRequest *r) {
        return ttrpc_request_head_size(r) + r->payload.size + ttrpc_request_tail_size(r);
}

uint8_t* ttrpc_request_write_head(const TtrpcRequest *r, uint8_t *p) {
        p = bytes_write(REQUEST_SERVICE, r->service.data, r->service.size, p);
        p = bytes_write(REQUEST_METHOD, r->method.data, r->method.size, p);
        return r->payload.size > 0 ? tag_write(REQUEST_PAYLOAD, WIRE_LEN, r->payload.size, p) : p;
}

uint8_t* ttrpc_request_write_tail(const TtrpcRequest *r, uint8_t *p) {
        if (r->timeout_nano != 0)
                p = tag_write(REQUEST_TIMEOUT_NANO, WIRE_VARINT, (uint64_t) r->timeout_nano, p);

        p += rest_write(r->rest, request_field_is_ours, p);

        for (const TtrpcMetadata *m = r->metadata; m && m->key; m++) {
                p = tag_write(REQUEST_METADATA, WIRE_LEN, key_value_size(m), p);
                p = bytes_write(KEY_VALUE_KEY, m->key, strlen(m->key), p);
                p = bytes_write(KEY_VALUE_VALUE, m->value, strlen(strempty(m->value)), p);
        }

        return p;
}

uint8_t* ttrpc_request_write(const TtrpcRequest *r, uint8_t *p) {
        p = ttrpc_request_write_head(r, p);
        if (r->payload.size > 0)
                p = mempcpy(p, r->payload.data, r->payload.size);
        return ttrpc_request_write_tail(r, p);
}

/* With code 0 and nothing else the Status is left away, as the Go server does. */
static size_t status_size(const TtrpcResponse *r) {
        return (r->code != 0 ? 1 + varint_size((uint64_t) (int64_t) r->code) : 0) + bytes_size(r->message.size) +
                rest_write(r->status_rest, status_field_is_ours, NULL);
}

size_t ttrpc_response_head_size(const TtrpcResponse *r) {
        return bytes_size(status_size(r)) + bytes_size(r->payload.size) - r->payload.size;
}

size_t ttrpc_response_tail_size(const TtrpcResponse *r) {
        return rest_write(r->rest, response_field_is_ours, NULL);
}

size_t ttrpc_response_size(const TtrpcResponse *r) {
        return ttrpc_response_head_size(r) + r->payload.size + ttrpc_response_tail_size(r);
}

uint8_t* ttrpc_response_write_head(const TtrpcResponse *r, uint8_t *p) {
        size_t n = status_size(r);

        if (n > 0) {
                p = tag_write(RESPONSE_STATUS, WIRE_LEN, n, p);
                if (r->code != 0)
                        p = tag_write(STATUS_CODE, WIRE_VARINT, (uint64_t) (int64_t) r->code, p);
                p = bytes_write(STATUS_MESSAGE, r->message.data, r->message.size, p);
                p += rest_write(r->status_rest, status_field_is_ours, p);
        }

        return r->payload.size > 0 ? tag_write(RESPONSE_PAYLOAD, WIRE_LEN, r->payload.size, p) : p;
}

uint8_t* ttrpc_response_write_tail(const TtrpcResponse *r, uint8_t *p) {
        return p + rest_write(r->rest, response_field_is_ours, p);
}

uint8_t* ttrpc_response_write(const TtrpcResponse *r, uint8_t *p) {
        p = ttrpc_response_write_head(r, p);
        if (r->payload.size > 0)
                p = mempcpy(p, r->payload.data, r->payload.size);
        return ttrpc_response_write_tail(r, p);
}
