/* SPDX-License-Identifier: Apache-2.0 */
/* State and descriptors for the next process of the same service, by way of the service manager's fd store
 * (systemd: docs/FILE_DESCRIPTOR_STORE.md).
 *
 * Numbers and bytes are written one after the other and read in the same order; the first thing that cannot be is remembered, and
 * whoever writes or reads asks once, at the end. What was taken out of the store is never left in it, so what is found there was
 * put there by a process that ended well.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

#define HANDOVER_FDS_MAX 128U
#define HANDOVER_SIZE_MAX (256U << 20)

typedef struct Handover {
        uint8_t *data;
        size_t size, capacity;          /* written; of a reader: all there is */
        size_t offset;                  /* reader */
        int fds[HANDOVER_FDS_MAX];      /* writer: borrowed; reader: owned until taken */
        size_t n_fds;
        bool reading;
        int error;                      /* the first, sticky */
} Handover;

#define HANDOVER_NULL ((Handover) {})

void handover_done(Handover *h);

/* Writing: errors are -ENOMEM, -E2BIG. */
void handover_put(Handover *h, uint64_t value);
void handover_put_bytes(Handover *h, const void *data, size_t size);
void handover_put_fd(Handover *h, int fd);      /* borrowed until handover_store() */
void handover_fail(Handover *h, int error);     /* remembers it, if it is the first */

/* Reading: 0, NULL, -EBADF for what is not there, and -EBADMSG is remembered. */
uint64_t handover_get(Handover *h, uint64_t max);
const uint8_t* handover_get_bytes(Handover *h, size_t max, size_t *ret_size);  /* borrowed from @h */
int handover_take_fd(Handover *h);

bool handover_is_possible(void);        /* a manager keeps descriptors for us ($FDSTORE) */

/**
 * handover_store() - give all to the manager
 *
 * When this returns 0 the manager has it. Otherwise (what was remembered, -ETIMEDOUT, …) nothing is in the store that would be used.
 */
int handover_store(Handover *h);

/**
 * handover_load() - take over what the process before has stored
 *
 * Returns 1, 0 = there is nothing, -EBADMSG = it is damaged; the store is empty then in any case. To be called once, before sockets are
 * taken.
 */
int handover_load(Handover *ret);
