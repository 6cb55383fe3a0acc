/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes that wait to be written to one stream, in order.
 *
 * Small frames share a block, so that many of them leave in one system call; a big payload is written straight from the
 * caller's memory, together with all that waits before it, and only what the socket does not take is copied.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct TtrpcBlock TtrpcBlock;

typedef struct TtrpcWriter {
        TtrpcBlock *first, *last;
        TtrpcBlock *spare;              /* one block kept, so that a quiet connection allocates nothing for each frame */
        size_t n_bytes;                 /* waiting */
} TtrpcWriter;

#define TTRPC_WRITER_NULL ((TtrpcWriter) {})

void ttrpc_writer_done(TtrpcWriter *w);

/**
 * ttrpc_writer_reserve() - @size contiguous bytes at the end of the queue
 *
 * Nothing is queued before ttrpc_writer_commit(), which takes at most as many. Returns 0, -ENOMEM.
 */
int ttrpc_writer_reserve(TtrpcWriter *w, size_t size, uint8_t **ret);
void ttrpc_writer_commit(TtrpcWriter *w, size_t size);

/* Queues a copy. Returns 0, -ENOMEM with nothing queued. */
int ttrpc_writer_append(TtrpcWriter *w, const struct iovec *iov, size_t n_iov);

/**
 * ttrpc_writer_flush() - write what the socket takes now
 *
 * Returns 0 if all is gone, 1 if some must wait for the socket, negative errno if the stream is broken (never -EAGAIN).
 */
int ttrpc_writer_flush(TtrpcWriter *w, int fd);

/**
 * ttrpc_writer_send() - write the queue and behind it @iov, directly from there; queue a copy of what the socket leaves
 * @n_iov: at most 4
 *
 * Returns as ttrpc_writer_flush(), also -ENOMEM; the stream is broken then too, for a frame may have been cut off.
 */
int ttrpc_writer_send(TtrpcWriter *w, int fd, const struct iovec *iov, size_t n_iov);
