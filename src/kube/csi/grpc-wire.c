/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/grpc-wire.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>

#include "basic/utf8.h"
#include "basic/util.h"

#define TIMEOUT_DIGITS_MAX 8U
#define TIMEOUT_VALUE_MAX UINT64_C(99999999)

/* From fine to coarse. */
static const struct {
        char unit;
        uint64_t nsec;
} timeout_units[] = {
        { 'n', 1 },
        { 'u', 1000 },
        { 'm', UINT64_C(1000000) },
        { 'S', UINT64_C(1000000000) },
        { 'M', UINT64_C(60000000000) },
        { 'H', UINT64_C(3600000000000) },
};

int grpc_timeout_parse(const char *s, size_t size, uint64_t *ret_usec) {
        uint64_t value = 0;

        if (size < 2 || size > TIMEOUT_DIGITS_MAX + 1)
                return -EINVAL;
        for (size_t i = 0; i < size - 1; i++) {
                if (s[i] < '0' || s[i] > '9')
                        return -EINVAL;
                value = value * 10 + (uint64_t) (s[i] - '0');
        }

        for (size_t i = 0; i < ELEMENTSOF(timeout_units); i++)
                if (timeout_units[i].unit == s[size - 1]) {
                        *ret_usec = timeout_units[i].nsec < NSEC_PER_USEC ? (value + NSEC_PER_USEC - 1) / NSEC_PER_USEC :
                                value * (timeout_units[i].nsec / NSEC_PER_USEC);
                        return 0;
                }

        return -EINVAL;
}

void grpc_timeout_format(uint64_t usec, char ret[static GRPC_TIMEOUT_SIZE]) {
        size_t i = 1;
        uint64_t value = usec;

        while (value > TIMEOUT_VALUE_MAX && i < ELEMENTSOF(timeout_units) - 1) {
                uint64_t unit = timeout_units[++i].nsec / NSEC_PER_USEC;

                value = usec / unit + (usec % unit > 0);
        }

        (void) snprintf(ret, GRPC_TIMEOUT_SIZE, "%u%c", (unsigned) MIN(value, TIMEOUT_VALUE_MAX), timeout_units[i].unit);
}

bool grpc_content_type_is_valid(const char *s, size_t size) {
        static const char name[] = "application/grpc";
        size_t n = sizeof(name) - 1;

        return size >= n && memcmp(s, name, n) == 0 && (size == n || s[n] == '+' || s[n] == ';');
}

char* grpc_text_encode(const char *s) {
        static const char digits[] = "0123456789ABCDEF";
        size_t size = strnlen(s, GRPC_TEXT_MAX);
        char *text, *p;

        p = text = malloc(size * 3 + 1);
        if (!text)
                return NULL;
        for (size_t i = 0; i < size; i++) {
                uint8_t c = (uint8_t) s[i];

                if (c >= 0x20 && c <= 0x7e && c != '%')
                        *p++ = (char) c;
                else {
                        *p++ = '%';
                        *p++ = digits[c >> 4];
                        *p++ = digits[c & 15];
                }
        }
        *p = '\0';
        return text;
}

static int hex_digit(char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

char* grpc_text_decode(const char *s, size_t size) {
        size_t n = 0;
        char *text;

        size = MIN(size, (size_t) GRPC_TEXT_MAX * 3);
        text = malloc(size + 1);
        if (!text)
                return NULL;
        for (size_t i = 0; i < size; i++) {
                int high = s[i] == '%' && size - i > 2 ? hex_digit(s[i + 1]) : -1;
                int low = high >= 0 ? hex_digit(s[i + 2]) : -1;

                if (low >= 0)
                        i += 2;
                text[n++] = low >= 0 ? (char) (high << 4 | low) : s[i];
                if (text[n - 1] == '\0')
                        text[n - 1] = '?';
        }
        text[n] = '\0';

        for (size_t i = 0, length; i < n; i += length) {
                uint32_t c;

                length = utf8_decode(text + i, n - i, &c);
                if (length == 0) {
                        text[i] = '?';
                        length = 1;
                }
        }
        return text;
}

TtrpcCode grpc_code_from_http(unsigned status) {
        switch (status) {
        case 400:
                return TTRPC_INTERNAL;
        case 401:
                return TTRPC_UNAUTHENTICATED;
        case 403:
                return TTRPC_PERMISSION_DENIED;
        case 404:
                return TTRPC_UNIMPLEMENTED;
        case 429:
        case 502:
        case 503:
        case 504:
                return TTRPC_UNAVAILABLE;
        default:
                return TTRPC_UNKNOWN;
        }
}

TtrpcCode grpc_code_from_h2(uint32_t error_code) {
        switch (error_code) {
        case NGHTTP2_REFUSED_STREAM:
                return TTRPC_UNAVAILABLE;
        case NGHTTP2_CANCEL:
                return TTRPC_CANCELLED;
        case NGHTTP2_ENHANCE_YOUR_CALM:
                return TTRPC_RESOURCE_EXHAUSTED;
        case NGHTTP2_INADEQUATE_SECURITY:
                return TTRPC_PERMISSION_DENIED;
        default:
                return TTRPC_INTERNAL;
        }
}

int grpc_code_parse(const char *s, size_t size, TtrpcCode *ret) {
        unsigned code = 0;

        if (size == 0 || size > 9)
                return -EINVAL;
        for (size_t i = 0; i < size; i++) {
                if (s[i] < '0' || s[i] > '9')
                        return -EINVAL;
                code = code * 10 + (unsigned) (s[i] - '0');
        }

        *ret = code < _TTRPC_CODE_MAX ? (TtrpcCode) code : TTRPC_UNKNOWN;
        return 0;
}

static int body_begin(GrpcBody *b) {
        if (b->prefix[0] == 1)
                return -EOPNOTSUPP;
        if (b->prefix[0] != 0)
                return -EBADMSG;
        b->length = read_be32(b->prefix + 1);
        return b->length > GRPC_MESSAGE_MAX ? -EMSGSIZE : 0;
}

int grpc_body_feed(GrpcBody *b, const uint8_t *data, size_t size) {
        int r;

        while (size > 0 && b->n_prefix < GRPC_PREFIX_SIZE) {
                b->prefix[b->n_prefix++] = *data++;
                size--;
                if (b->n_prefix == GRPC_PREFIX_SIZE && (r = body_begin(b)) < 0)
                        return r;
        }
        if (size == 0)
                return 0;
        if (size > b->length - b->size)
                return -E2BIG;

        if (size > b->capacity - b->size) {
                size_t capacity = MIN(MAX(b->size + size, b->capacity * 2), b->length);
                uint8_t *p = realloc(b->data, capacity);

                if (!p)
                        return -ENOMEM;
                b->data = p;
                b->capacity = capacity;
        }
        memcpy(b->data + b->size, data, size);
        b->size += size;
        return 0;
}

bool grpc_body_is_complete(const GrpcBody *b) {
        return b->n_prefix == GRPC_PREFIX_SIZE && b->size == b->length;
}

/* What passes here may hold secrets. */
void grpc_body_done(GrpcBody *b) {
        (void) erase_free(b->data, b->size);
        *b = GRPC_BODY_NULL;
}
