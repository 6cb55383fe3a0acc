/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/handover.h"

#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>

#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/util.h"

#define STATE_NAME "state"
#define STORE_TIMEOUT_USEC (5 * USEC_PER_SEC)

void handover_done(Handover *h) {
        if (h->reading)
                for (size_t i = 0; i < h->n_fds; i++)
                        close_fd(h->fds[i]);
        (void) erase_free(h->data, h->size);
        *h = HANDOVER_NULL;
}

void handover_fail(Handover *h, int error) {
        if (h->error == 0)
                h->error = error;
}

static uint8_t* extend(Handover *h, size_t size) {
        if (h->error < 0)
                return NULL;
        if (size > HANDOVER_SIZE_MAX - h->size) {
                handover_fail(h, -E2BIG);
                return NULL;
        }
        if (h->capacity - h->size < size) {
                size_t capacity = MAX(2 * h->capacity, h->size + size);
                uint8_t *p = realloc(h->data, capacity);

                if (!p) {
                        handover_fail(h, -ENOMEM);
                        return NULL;
                }
                h->data = p;
                h->capacity = capacity;
        }
        h->size += size;
        return h->data + h->size - size;
}

void handover_put(Handover *h, uint64_t value) {
        uint8_t *p = extend(h, sizeof(value));

        if (p)
                write_be64(p, value);
}

void handover_put_bytes(Handover *h, const void *data, size_t size) {
        uint8_t *p;

        handover_put(h, size);
        p = extend(h, size);
        if (p && size > 0)
                memcpy(p, data, size);
}

void handover_put_fd(Handover *h, int fd) {
        if (h->n_fds == HANDOVER_FDS_MAX) {
                handover_fail(h, -E2BIG);
                return;
        }
        h->fds[h->n_fds++] = fd;
}

uint64_t handover_get(Handover *h, uint64_t max) {
        uint64_t value;

        if (h->error == 0 && h->size - h->offset < sizeof(value))
                handover_fail(h, -EBADMSG);
        if (h->error < 0)
                return 0;
        value = read_be64(h->data + h->offset);
        if (value > max) {
                handover_fail(h, -EBADMSG);
                return 0;
        }
        h->offset += sizeof(value);
        return value;
}

const uint8_t* handover_get_bytes(Handover *h, size_t max, size_t *ret_size) {
        size_t size = handover_get(h, max);

        if (h->error == 0 && h->size - h->offset < size)
                handover_fail(h, -EBADMSG);
        if (h->error < 0) {
                *ret_size = 0;
                return NULL;
        }
        h->offset += size;
        *ret_size = size;
        return h->data + h->offset - size;
}

int handover_take_fd(Handover *h) {
        for (size_t i = 0; h->error == 0 && i < h->n_fds; i++)
                if (h->fds[i] >= 0)
                        return TAKE_FD(h->fds[i]);
        handover_fail(h, -EBADMSG);
        return -EBADF;
}

bool handover_is_possible(void) {
        const char *n = getenv("FDSTORE");

        return n && strtoul(n, NULL, 10) > 0 && getenv("NOTIFY_SOCKET");
}

static void fd_name(unsigned i, char name[16]) {
        (void) snprintf(name, 16, "fd-%u", i);
}

static int store_fd(const char *name, int fd) {
        char text[64];
        int r;

        /* Without FDPOLL=0 the manager would drop a connection whose other end has closed, and our numbering with it. */
        (void) snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
        r = sd_pid_notify_with_fds(0, /* unset_environment= */ false, text, &fd, 1);
        return r < 0 ? r : r == 0 ? -ENOTCONN : 0;
}

static void remove_stored(const char *name) {
        (void) sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

int handover_store(Handover *h) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char name[16];
        int r = h->error;

        if (r >= 0)
                r = fd = memfd_new_sealed("peerpod-state", h->data, h->size);
        for (size_t i = 0; i < h->n_fds && r >= 0; i++) {
                fd_name(i, name);
                r = store_fd(name, h->fds[i]);
        }
        /* The last: without it the others are nothing. */
        if (r >= 0)
                r = store_fd(STATE_NAME, fd);
        if (r >= 0)
                r = sd_notify_barrier(0, STORE_TIMEOUT_USEC);
        if (r < 0)
                remove_stored(STATE_NAME);
        return r < 0 ? r : 0;
}

int handover_load(Handover *ret) {
        _cleanup_(handover_done) Handover h = { .reading = true };
        _cleanup_(close_fdp) int state = -EBADF;
        char name[16], *data;
        int r;

        state = daemon_take_fd(STATE_NAME);
        for (; h.n_fds < HANDOVER_FDS_MAX; h.n_fds++) {
                fd_name(h.n_fds, name);
                h.fds[h.n_fds] = daemon_take_fd(name);
                if (h.fds[h.n_fds] < 0)
                        break;
                remove_stored(name);
        }
        if (state < 0)
                return 0;
        remove_stored(STATE_NAME);

        r = memfd_read_sealed(state, HANDOVER_SIZE_MAX, &data, &h.size);
        if (r < 0)
                return -EBADMSG;
        h.data = (uint8_t*) data;

        *ret = h;
        h = HANDOVER_NULL;
        return 1;
}
