/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes on their way out: those that were sent already and are kept in case they must be sent again, then those that were not. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct QueueChunk QueueChunk;

typedef struct ByteQueue {
        QueueChunk *first, *last;
        QueueChunk *spare;              /* some are kept: the allocator would give the pages back and fault them in again */
        size_t n_spare;
        QueueChunk *next;               /* the first with bytes not sent; NULL: all are */
        size_t next_start;              /* of those, in @next */
        size_t n_kept, n_unsent;
} ByteQueue;

#define BYTE_QUEUE_NULL ((ByteQueue) {})

void byte_queue_done(ByteQueue *q);

/* At the end. Returns 0, -ENOMEM; a part of the bytes may be queued then. */
int byte_queue_append(ByteQueue *q, const void *data, size_t size);

/* The same with malloc()ed memory, from @start on; taken unless it fails. */
int byte_queue_append_take(ByteQueue *q, uint8_t *data, size_t start, size_t size);

/* Where the bytes not sent lie, as far as @max vectors reach. Returns the number of vectors. */
size_t byte_queue_peek(const ByteQueue *q, struct iovec *iov, size_t max);

/* Copies the first @size bytes not sent, which must be there. */
void byte_queue_copy(const ByteQueue *q, uint8_t *buffer, size_t size);

void byte_queue_sent(ByteQueue *q, size_t size);        /* from not sent to kept */
void byte_queue_release(ByteQueue *q, size_t size);     /* the first of those that are kept: gone */
void byte_queue_trim(ByteQueue *q);                     /* gives memory back that a quiet stream does not need */
void byte_queue_rewind(ByteQueue *q);                   /* nothing is sent */
