/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/util.h"

#define BUFFER_SIZE (16U << 10)                         /* to begin with, and again after big frames */
#define BUFFER_SIZE_MAX (TTRPC_HEADER_SIZE + TTRPC_DATA_MAX)
#define BUFFER_SIZE_KEEP (128U << 10)                   /* not worth giving back */
#define ROOM_MIN (4U << 10)                             /* less room: move what is left of a frame to the front first */
#define QUIET_MAX 16                                    /* so often emptied without a big frame: give the big buffer back */

void ttrpc_reader_done(TtrpcReader *r) {
        free(r->buffer);
        *r = TTRPC_READER_NULL;
}

static void reader_shrink(TtrpcReader *r) {
        if (r->capacity <= BUFFER_SIZE_KEEP || ++r->n_quiet < QUIET_MAX)
                return;

        free(r->buffer);
        r->buffer = NULL;
        r->capacity = 0;
        r->n_quiet = 0;
}

static int reader_grow(TtrpcReader *r) {
        size_t capacity = r->capacity > 0 ? MIN(2 * r->capacity, (size_t) BUFFER_SIZE_MAX) : BUFFER_SIZE;
        uint8_t *p;

        if (capacity == r->capacity)    /* it holds a whole frame, which the caller did not take */
                return -ENOBUFS;

        p = realloc(r->buffer, capacity);
        if (!p)
                return -ENOMEM;

        r->buffer = p;
        r->capacity = capacity;
        return 0;
}

int ttrpc_reader_get_room(TtrpcReader *r, uint8_t **ret, size_t *ret_size) {
        if (r->start == r->end) {
                r->start = r->end = 0;
                reader_shrink(r);
        }

        if (r->start > 0 && r->capacity - r->end < ROOM_MIN) {
                memmove(r->buffer, r->buffer + r->start, r->end - r->start);
                r->end -= r->start;
                r->start = 0;
        }

        if (r->end == r->capacity) {
                int k = reader_grow(r);
                if (k < 0)
                        return k;
        }

        *ret = r->buffer + r->end;
        *ret_size = r->capacity - r->end;
        return 0;
}

void ttrpc_reader_add(TtrpcReader *r, size_t size) {
        assert(size <= r->capacity - r->end);
        r->end += size;
}

ssize_t ttrpc_reader_receive(TtrpcReader *r, int fd, bool *ret_more) {
        size_t room;
        uint8_t *p;
        ssize_t n;
        int k;

        k = ttrpc_reader_get_room(r, &p, &room);
        if (k < 0)
                return k;

        do
                n = recv(fd, p, room, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;

        ttrpc_reader_add(r, n);
        if (ret_more)
                *ret_more = (size_t) n == room;
        return n;
}

static int reader_pass_over(TtrpcReader *r, TtrpcFrame *ret) {
        size_t n = MIN(r->end - r->start, (size_t) r->n_discard);

        r->start += n;
        r->n_discard -= n;
        if (r->n_discard > 0)
                return 0;

        r->oversize_pending = false;
        *ret = (TtrpcFrame) { .header = r->oversize, .oversize = true };
        return 1;
}

int ttrpc_reader_next(TtrpcReader *r, TtrpcFrame *ret) {
        TtrpcHeader h;
        int k;

        if (r->oversize_pending)
                return reader_pass_over(r, ret);

        if (r->start == r->end)
                return 0;
        k = ttrpc_header_parse(r->buffer + r->start, r->end - r->start, &h);
        if (k <= 0)
                return k;

        if (h.length > TTRPC_DATA_MAX) {
                r->start += TTRPC_HEADER_SIZE;
                r->n_discard = h.length;
                r->oversize = h;
                r->oversize_pending = true;
                return reader_pass_over(r, ret);
        }

        if (r->end - r->start - TTRPC_HEADER_SIZE < h.length)
                return 0;

        *ret = (TtrpcFrame) {
                .header = h,
                .data = h.length > 0 ? r->buffer + r->start + TTRPC_HEADER_SIZE : NULL,
        };
        r->start += TTRPC_HEADER_SIZE + h.length;
        if (h.length > BUFFER_SIZE_KEEP)
                r->n_quiet = 0;
        return 1;
}

bool ttrpc_reader_is_partial(const TtrpcReader *r) {
        return r->oversize_pending || r->start < r->end;
}
