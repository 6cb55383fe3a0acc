/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/queue.h"

#include <errno.h>

#include "basic/util.h"

#define CHUNK_SIZE (64U * 1024U)
#define N_SPARE_MAX 16U

struct QueueChunk {
        QueueChunk *next;
        uint8_t *data;                  /* owned; of at least .size bytes */
        size_t start, end, size;
};

static void chunk_free(QueueChunk *k) {
        if (!k)
                return;
        free(k->data);
        free(k);
}

static void trim(ByteQueue *q, size_t max) {
        while (q->n_spare > max) {
                QueueChunk *k = q->spare;

                q->spare = k->next;
                q->n_spare--;
                chunk_free(k);
        }
}

static QueueChunk* take_spare(ByteQueue *q) {
        QueueChunk *k = q->spare;

        if (k) {
                q->spare = k->next;
                q->n_spare--;
        }
        return k;
}

void byte_queue_done(ByteQueue *q) {
        for (QueueChunk *k; (k = q->first);) {
                q->first = k->next;
                chunk_free(k);
        }
        trim(q, 0);
        *q = BYTE_QUEUE_NULL;
}

void byte_queue_trim(ByteQueue *q) {
        trim(q, 1);
}

static int append_chunk(ByteQueue *q, uint8_t *data, size_t start, size_t end, size_t size, QueueChunk *k) {
        if (!k) {
                k = new(QueueChunk);
                if (!k)
                        return -ENOMEM;
        }

        *k = (QueueChunk) { .data = data, .start = start, .end = end, .size = size };
        if (q->last)
                q->last->next = k;
        else
                q->first = k;
        q->last = k;
        return 0;
}

static void unsent_added(ByteQueue *q, size_t start, size_t size) {
        if (!q->next) {
                q->next = q->last;
                q->next_start = start;
        }
        q->n_unsent += size;
}

int byte_queue_append(ByteQueue *q, const void *data, size_t size) {
        const uint8_t *p = data;

        while (size > 0) {
                size_t n, start;

                if (!q->last || q->last->end == q->last->size) {
                        QueueChunk *k = take_spare(q);
                        uint8_t *memory = k ? k->data : malloc(CHUNK_SIZE);
                        int r = memory ? append_chunk(q, memory, 0, 0, CHUNK_SIZE, k) : -ENOMEM;

                        if (r < 0) {
                                free(memory);
                                return r;
                        }
                }

                start = q->last->end;
                n = MIN(size, q->last->size - start);
                memcpy(q->last->data + start, p, n);
                q->last->end += n;
                unsent_added(q, start, n);
                p += n;
                size -= n;
        }

        return 0;
}

int byte_queue_append_take(ByteQueue *q, uint8_t *data, size_t start, size_t size) {
        int r = append_chunk(q, data, start, size, size, NULL);

        if (r < 0)
                return r;
        unsent_added(q, start, size - start);
        return 0;
}

size_t byte_queue_peek(const ByteQueue *q, struct iovec *iov, size_t max) {
        size_t n = 0, start = q->next_start;

        for (QueueChunk *k = q->next; k && n < max; k = k->next) {
                iov[n++] = (struct iovec) { k->data + start, k->end - start };
                start = k->next ? k->next->start : 0;
        }
        return n;
}

void byte_queue_copy(const ByteQueue *q, uint8_t *buffer, size_t size) {
        size_t start = q->next_start;

        assert(size <= q->n_unsent);
        for (QueueChunk *k = q->next; size > 0; k = k->next, start = k ? k->start : 0) {
                size_t n = MIN(size, k->end - start);

                buffer = mempcpy(buffer, k->data + start, n);
                size -= n;
        }
}

void byte_queue_sent(ByteQueue *q, size_t size) {
        assert(size <= q->n_unsent);
        q->n_unsent -= size;
        q->n_kept += size;

        while (size > 0) {
                size_t n = MIN(size, q->next->end - q->next_start);

                q->next_start += n;
                size -= n;
                if (q->next_start == q->next->end) {
                        q->next = q->next->next;
                        q->next_start = q->next ? q->next->start : 0;
                }
        }
}

void byte_queue_release(ByteQueue *q, size_t size) {
        assert(size <= q->n_kept);
        q->n_kept -= size;

        while (size > 0) {
                QueueChunk *k = q->first;
                size_t n = MIN(size, k->end - k->start);

                k->start += n;
                size -= n;
                if (k->start < k->end)
                        break;

                q->first = k->next;
                if (!q->first)
                        q->last = NULL;
                if (q->n_spare < N_SPARE_MAX && k->size == CHUNK_SIZE) {
                        k->next = q->spare;
                        q->spare = k;
                        q->n_spare++;
                } else
                        chunk_free(k);
        }
}

void byte_queue_rewind(ByteQueue *q) {
        q->n_unsent += q->n_kept;
        q->n_kept = 0;
        q->next = q->first;
        q->next_start = q->first ? q->first->start : 0;
}
