/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "basic/util.h"

#define BLOCK_SIZE (16U << 10)
#define IOV_QUEUE_MAX 16
#define IOV_EXTRA_MAX 4

struct TtrpcBlock {
        TtrpcBlock *next;
        size_t capacity;
        size_t start, end;
        uint8_t data[];
};

void ttrpc_writer_done(TtrpcWriter *w) {
        for (TtrpcBlock *b; (b = w->first);) {
                w->first = b->next;
                free(b);
        }
        free(w->spare);
        *w = TTRPC_WRITER_NULL;
}

static TtrpcBlock* writer_new_block(TtrpcWriter *w, size_t size) {
        TtrpcBlock *b;

        if (w->spare && size <= w->spare->capacity)
                b = TAKE_PTR(w->spare);
        else {
                size = MAX(size, (size_t) BLOCK_SIZE);
                b = malloc(sizeof(TtrpcBlock) + size);
                if (!b)
                        return NULL;
                b->capacity = size;
        }

        b->next = NULL;
        b->start = b->end = 0;
        return b;
}

static void writer_free_block(TtrpcWriter *w, TtrpcBlock *b) {
        if (!w->spare && b->capacity == BLOCK_SIZE)
                w->spare = b;
        else
                free(b);
}

int ttrpc_writer_reserve(TtrpcWriter *w, size_t size, uint8_t **ret) {
        if (!w->last || w->last->capacity - w->last->end < size) {
                TtrpcBlock *b = writer_new_block(w, size);

                if (!b)
                        return -ENOMEM;
                if (w->last)
                        w->last->next = b;
                else
                        w->first = b;
                w->last = b;
        }

        *ret = w->last->data + w->last->end;
        return 0;
}

void ttrpc_writer_commit(TtrpcWriter *w, size_t size) {
        assert(size <= w->last->capacity - w->last->end);

        w->last->end += size;
        w->n_bytes += size;
}

int ttrpc_writer_append(TtrpcWriter *w, const struct iovec *iov, size_t n_iov) {
        size_t size = 0;
        uint8_t *p;
        int r;

        for (size_t i = 0; i < n_iov; i++)
                size += iov[i].iov_len;
        if (size == 0)
                return 0;

        r = ttrpc_writer_reserve(w, size, &p);
        if (r < 0)
                return r;

        for (size_t i = 0; i < n_iov; i++)
                if (iov[i].iov_len > 0)
                        p = mempcpy(p, iov[i].iov_base, iov[i].iov_len);
        ttrpc_writer_commit(w, size);
        return 0;
}

/* Takes away what was written; blocks that a failed commit left empty go too. */
static void writer_consume(TtrpcWriter *w, size_t size) {
        assert(size <= w->n_bytes);
        w->n_bytes -= size;

        for (TtrpcBlock *b; (b = w->first);) {
                size_t n = MIN(size, b->end - b->start);

                b->start += n;
                size -= n;
                if (b->start < b->end)
                        break;

                w->first = b->next;
                if (!w->first)
                        w->last = NULL;
                writer_free_block(w, b);
        }
}

/* One sendmsg() of the queue and, if all of it fits in the vector, of @extra. Returns the number of bytes or -errno. */
static ssize_t writer_write_once(TtrpcWriter *w, int fd, const struct iovec *extra, size_t n_extra) {
        struct iovec iov[IOV_QUEUE_MAX + IOV_EXTRA_MAX];
        struct msghdr msg = { .msg_iov = iov };
        TtrpcBlock *b;
        ssize_t n;

        for (b = w->first; b && msg.msg_iovlen < IOV_QUEUE_MAX; b = b->next)
                iov[msg.msg_iovlen++] = (struct iovec) { .iov_base = b->data + b->start, .iov_len = b->end - b->start };
        if (!b)
                for (size_t i = 0; i < n_extra; i++)
                        iov[msg.msg_iovlen++] = extra[i];

        do
                n = sendmsg(fd, &msg, MSG_NOSIGNAL|MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

int ttrpc_writer_flush(TtrpcWriter *w, int fd) {
        while (w->n_bytes > 0) {
                ssize_t n = writer_write_once(w, fd, NULL, 0);

                if (n == -EAGAIN)
                        return 1;
                if (n < 0)
                        return n;
                writer_consume(w, n);
        }

        return 0;
}

int ttrpc_writer_send(TtrpcWriter *w, int fd, const struct iovec *iov, size_t n_iov) {
        struct iovec left[IOV_EXTRA_MAX];
        size_t n_left = 0;
        int r;

        assert(n_iov <= IOV_EXTRA_MAX);
        for (size_t i = 0; i < n_iov; i++)
                if (iov[i].iov_len > 0)
                        left[n_left++] = iov[i];

        while (w->n_bytes > 0 || n_left > 0) {
                size_t queued = w->n_bytes, done = 0;
                ssize_t n;

                n = writer_write_once(w, fd, left, n_left);
                if (n == -EAGAIN)
                        break;
                if (n < 0)
                        return n;

                writer_consume(w, MIN((size_t) n, queued));
                for (size_t rest = (size_t) n > queued ? n - queued : 0; done < n_left && rest > 0;) {
                        size_t k = MIN(rest, left[done].iov_len);

                        left[done].iov_base = (uint8_t*) left[done].iov_base + k;
                        left[done].iov_len -= k;
                        rest -= k;
                        if (left[done].iov_len == 0)
                                done++;
                }
                n_left -= done;
                memmove(left, left + done, n_left * sizeof(left[0]));
        }

        r = ttrpc_writer_append(w, left, n_left);
        if (r < 0)
                return r;

        return w->n_bytes > 0;
}
