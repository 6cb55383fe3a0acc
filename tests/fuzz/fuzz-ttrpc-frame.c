/* SPDX-License-Identifier: Apache-2.0 */
/* Headers, envelopes and the reader. What must hold for any bytes: nothing is read past the end, not more used than there is,
 * parse → write → parse is the identity, and a stream gives the same frames whole and byte by byte. */
#include "basic/util.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"
#include "ttrpc/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool slice_is_same(TtrpcSlice a, TtrpcSlice b) {
        return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static void check_request(const uint8_t *data, size_t size) {
        TtrpcSlice key, value, key2, value2;
        size_t n, offset = 0, offset2 = 0;
        TtrpcRequest r, again;
        uint8_t *wire, *wire2;
        int k;

        k = ttrpc_request_parse(data, size, &r);
        if (k < 0)
                return;
        assert((size_t) k == size);

        n = ttrpc_request_size(&r);
        assert(n <= size + 64);         /* shortest form: nothing grows but the order of fields */
        wire = malloc(n ?: 1);
        assert(wire);
        assert(ttrpc_request_write(&r, wire) == wire + n);
        k = ttrpc_request_parse(wire, n, &again);
        assert((size_t) k == n);
        assert(slice_is_same(r.service, again.service));
        assert(slice_is_same(r.method, again.method));
        assert(slice_is_same(r.payload, again.payload));
        assert(r.timeout_nano == again.timeout_nano);
        while (ttrpc_request_next_metadata(&r, &offset, &key, &value) > 0) {
                k = ttrpc_request_next_metadata(&again, &offset2, &key2, &value2);
                assert(k == 1);
                assert(slice_is_same(key, key2) && slice_is_same(value, value2));
        }
        assert(ttrpc_request_next_metadata(&again, &offset2, &key2, &value2) == 0);

        assert(ttrpc_request_size(&again) == n);
        wire2 = malloc(n ?: 1);
        assert(wire2);
        assert(ttrpc_request_write(&again, wire2) == wire2 + n);
        assert(memcmp(wire, wire2, n) == 0);
        free(wire2);
        free(wire);
}

static void check_response(const uint8_t *data, size_t size) {
        TtrpcResponse r, again;
        uint8_t *wire;
        size_t n;
        int k;

        k = ttrpc_response_parse(data, size, &r);
        if (k < 0)
                return;
        assert((size_t) k == size);

        n = ttrpc_response_size(&r);
        wire = malloc(n ?: 1);
        assert(wire);
        assert(ttrpc_response_write(&r, wire) == wire + n);
        k = ttrpc_response_parse(wire, n, &again);
        assert((size_t) k == n);
        assert(r.code == again.code);
        assert(slice_is_same(r.message, again.message));
        assert(slice_is_same(r.payload, again.payload));
        assert(ttrpc_response_size(&again) == n);
        free(wire);
}

/* A number that any difference between two sequences of frames changes (FNV-1a). */
static uint64_t hash(uint64_t h, const void *data, size_t size) {
        for (const uint8_t *p = data; size > 0; size--)
                h = (h ^ *p++) * UINT64_C(0x100000001b3);

        return h;
}

static uint64_t read_frames(const uint8_t *data, size_t size, size_t step) {
        uint64_t h = UINT64_C(0xcbf29ce484222325);
        TtrpcReader r = TTRPC_READER_NULL;
        TtrpcFrame frame;
        size_t used = 0;
        int k = 0;

        while (k >= 0 && used < size) {
                size_t room, n;
                uint8_t *p;

                if (ttrpc_reader_get_room(&r, &p, &room) < 0)
                        abort();
                n = MIN(room, step);
                n = MIN(n, size - used);
                memcpy(p, data + used, n);
                ttrpc_reader_add(&r, n);
                used += n;

                while ((k = ttrpc_reader_next(&r, &frame)) > 0) {
                        uint8_t header[TTRPC_HEADER_SIZE];

                        assert(frame.oversize == (frame.header.length > TTRPC_DATA_MAX));
                        ttrpc_header_write(&frame.header, header);
                        h = hash(h, header, sizeof(header));
                        if (!frame.oversize) {
                                h = hash(h, frame.data, frame.header.length);
                                check_request(frame.data, frame.header.length);
                                check_response(frame.data, frame.header.length);
                        }
                }
        }
        assert(r.capacity <= 2 * size + (32U << 10));   /* memory for what came, not for what was promised */
        ttrpc_reader_done(&r);
        return hash(h, &k, sizeof(k));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        uint8_t wire[TTRPC_HEADER_SIZE];
        TtrpcHeader h;
        uint64_t whole;
        int k;

        k = ttrpc_header_parse(data, size, &h);
        assert(k <= (int) MIN(size, (size_t) TTRPC_HEADER_SIZE));
        if (k > 0) {
                ttrpc_header_write(&h, wire);
                assert(memcmp(wire, data, sizeof(wire)) == 0);
        }

        check_request(data, size);
        check_response(data, size);

        whole = read_frames(data, size, SIZE_MAX);
        if (read_frames(data, size, 1) != whole || read_frames(data, size, 7) != whole)
                abort();
        return 0;
}
