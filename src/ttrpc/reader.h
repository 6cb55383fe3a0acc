/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of a stream in, whole frames out, each in place in the reader's buffer.
 *
 * The buffer grows only with bytes that really came: a header that promises 4 MiB and sends nothing more costs nothing more.
 * The body of a frame above TTRPC_DATA_MAX is passed over without being kept.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "ttrpc/frame.h"

typedef struct TtrpcReader {
        uint8_t *buffer;
        size_t capacity;
        size_t start, end;              /* the bytes not yet taken */
        unsigned n_quiet;               /* since the last big frame */
        uint32_t n_discard;             /* bytes of an oversize body still to come */
        TtrpcHeader oversize;           /* its header, to be handed out at its end */
        bool oversize_pending;
} TtrpcReader;

#define TTRPC_READER_NULL ((TtrpcReader) {})

typedef struct TtrpcFrame {
        TtrpcHeader header;
        const uint8_t *data;            /* header.length bytes, until the next ttrpc_reader_get_room(); NULL if oversize or empty */
        bool oversize;                  /* length is above TTRPC_DATA_MAX, the body was passed over */
} TtrpcFrame;

void ttrpc_reader_done(TtrpcReader *r);

/**
 * ttrpc_reader_get_room() - where the next bytes of the stream shall go
 *
 * Invalidates the data of frames handed out before. Room is never 0. Follow it with ttrpc_reader_add(), and that with
 * ttrpc_reader_next() until there is no whole frame left. Returns 0, -ENOMEM, -ENOBUFS (frames were left: too many of them).
 */
int ttrpc_reader_get_room(TtrpcReader *r, uint8_t **ret, size_t *ret_size);
void ttrpc_reader_add(TtrpcReader *r, size_t size);

/**
 * ttrpc_reader_receive() - one recv() from a non-blocking socket into the room
 *
 * Returns the number of bytes, 0 at the end of the stream, -EAGAIN, another errno, -ENOMEM. @ret_more (or NULL) says
 * whether the room was filled, so that there may be more to read without waiting.
 */
ssize_t ttrpc_reader_receive(TtrpcReader *r, int fd, bool *ret_more);

/**
 * ttrpc_reader_next() - take the next whole frame
 *
 * Returns 1 with a frame in @ret; 0 = more bytes needed; -EBADMSG = not ttrpc, close the connection.
 */
int ttrpc_reader_next(TtrpcReader *r, TtrpcFrame *ret);

/* Did the stream stop inside a frame? To be asked at its end. */
bool ttrpc_reader_is_partial(const TtrpcReader *r);
