/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/channel.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "basic/util.h"

#define CHUNK_SIZE (64U * 1024U)
#define IOV_MAX_WRITE 16

typedef struct Chunk Chunk;
struct Chunk {
        Chunk *next;
        uint8_t *data;                  /* owned; of at least .size bytes */
        size_t start, end, size;
};

struct Channel {
        unsigned n_refs;                /* the owner's, and one while a handler runs */
        int fd;
        bool closed;                    /* by the owner: no handler any more */
        bool open;                      /* handshake done, or there is none */
        bool paused;
        bool eof;                       /* the peer's half is closed */
        bool hangup;                    /* both halves are: the socket's source is off for good */
        bool hangup_is_end;
        bool told_closed;
        int error;                      /* -errno, sticky */
        bool drained_wanted;
        size_t drained_mark;

        const ChannelHandlers *handlers;
        void *userdata;
        TlsSession *tls;
        sd_event_source *io_source;
        sd_event_source *defer_source;  /* for what no poll will report */
        uint32_t events;                /* the mask that epoll has */

        uint8_t *in;
        size_t in_start, in_end;

        Chunk *first, *last, *spare;
        size_t n_queued;
};

static Chunk* chunk_free(Chunk *k) {
        if (!k)
                return NULL;
        free(k->data);
        free(k);
        return NULL;
}

static Channel* channel_unref(Channel *c) {
        assert(c->n_refs > 0);
        if (--c->n_refs > 0)
                return NULL;

        sd_event_source_disable_unref(c->io_source);
        sd_event_source_disable_unref(c->defer_source);
        while (c->first) {
                Chunk *k = c->first;
                c->first = k->next;
                chunk_free(k);
        }
        chunk_free(c->spare);
        tls_session_free(c->tls);
        free(c->in);
        close_fd(c->fd);
        free(c);
        return NULL;
}

Channel* channel_free(Channel *c) {
        if (!c)
                return NULL;
        assert(!c->closed);
        c->closed = true;

        /* The descriptor goes now, also if a handler of ours is still on the stack. */
        c->io_source = sd_event_source_disable_unref(c->io_source);
        c->defer_source = sd_event_source_disable_unref(c->defer_source);
        if (c->tls && c->open && c->error == 0)
                tls_session_bye(c->tls);
        c->fd = close_fd(c->fd);
        return channel_unref(c);
}

static size_t unsent(const Channel *c) {
        return c->n_queued + (c->tls ? tls_session_has_output(c->tls) : 0);
}

static void channel_defer(Channel *c) {
        if (!c->closed)
                (void) sd_event_source_set_enabled(c->defer_source, SD_EVENT_ONESHOT);
}

static void channel_update(Channel *c) {
        uint32_t events = 0;

        if (c->closed || c->hangup || c->told_closed)
                return;

        if (!c->open)
                events = EPOLLIN | (unsent(c) > 0 ? EPOLLOUT : 0);
        else {
                if (!c->paused && !c->eof)
                        events |= EPOLLIN;
                if (unsent(c) > 0)
                        events |= EPOLLOUT;
        }

        if (events != c->events && sd_event_source_set_io_events(c->io_source, events) >= 0)
                c->events = events;

        /* A write may have taken along what TLS still kept: then EPOLLOUT, which would have told, never comes. */
        if (c->drained_wanted && unsent(c) <= c->drained_mark)
                channel_defer(c);
}

static bool input_waits(const Channel *c) {
        return c->in_start < c->in_end || c->eof || (c->hangup && !c->eof) || (c->tls && tls_session_has_input(c->tls));
}

/* Remembers the first error and lets the loop tell it. */
static int channel_fail(Channel *c, int error) {
        if (c->error == 0) {
                c->error = error;
                channel_defer(c);
        }
        return c->error;
}

static int send_plain(Channel *c, const struct iovec *iov, size_t n_iov, size_t *ret) {
        struct msghdr mh = { .msg_iov = (struct iovec*) iov, .msg_iovlen = n_iov };
        ssize_t n;

        do
                n = sendmsg(c->fd, &mh, MSG_DONTWAIT|MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);

        if (n < 0)
                return -errno;
        *ret = n;
        return 0;
}

/* Writes the queue's head as far as the socket takes it. -EAGAIN: some is left. */
static int write_queue(Channel *c) {
        while (c->first) {
                size_t done;

                if (c->tls) {
                        ssize_t n = tls_session_write(c->tls, c->first->data + c->first->start, c->first->end - c->first->start);
                        if (n < 0)
                                return n;
                        done = n;
                } else {
                        struct iovec iov[IOV_MAX_WRITE];
                        size_t n_iov = 0;
                        int r;

                        for (Chunk *k = c->first; k && n_iov < IOV_MAX_WRITE; k = k->next)
                                iov[n_iov++] = (struct iovec) { k->data + k->start, k->end - k->start };
                        r = send_plain(c, iov, n_iov, &done);
                        if (r < 0)
                                return r;
                }

                c->n_queued -= done;
                while (c->first && done >= c->first->end - c->first->start) {
                        Chunk *k = c->first;

                        done -= k->end - k->start;
                        c->first = k->next;
                        if (!c->first)
                                c->last = NULL;
                        if (!c->spare && k->size == CHUNK_SIZE)
                                c->spare = k;
                        else
                                chunk_free(k);
                }
                if (c->first)
                        c->first->start += done;
        }

        return 0;
}

static int channel_flush(Channel *c) {
        int r = write_queue(c);

        if (c->tls && (r >= 0 || r == -EAGAIN)) {
                int q = tls_session_flush(c->tls);
                if (q < 0)
                        r = q;
        }

        return r;
}

static int append_chunk(Channel *c, uint8_t *data, size_t start, size_t end, size_t size, Chunk *k) {
        if (!k) {
                k = new(Chunk);
                if (!k)
                        return -ENOMEM;
        }

        *k = (Chunk) { .data = data, .start = start, .end = end, .size = size };
        if (c->last)
                c->last->next = k;
        else
                c->first = k;
        c->last = k;
        return 0;
}

static int append_copy(Channel *c, const uint8_t *data, size_t size) {
        while (size > 0) {
                size_t n;

                if (!c->last || c->last->end == c->last->size) {
                        Chunk *k = TAKE_PTR(c->spare);
                        uint8_t *p = k ? k->data : malloc(CHUNK_SIZE);
                        int r = p ? append_chunk(c, p, 0, 0, CHUNK_SIZE, k) : -ENOMEM;

                        if (r < 0) {
                                free(p);
                                return r;
                        }
                }

                n = MIN(size, c->last->size - c->last->end);
                memcpy(c->last->data + c->last->end, data, n);
                c->last->end += n;
                c->n_queued += n;
                data += n;
                size -= n;
        }

        return 0;
}

/* How much of the bytes goes out before the queue: all that the socket takes, if nothing is waiting. */
static int write_now(Channel *c, const uint8_t *data, size_t size, size_t *ret) {
        size_t done = 0;

        if (c->error < 0)
                return c->error;
        assert(c->open);

        while (!c->first && done < size) {
                size_t n;

                if (c->tls) {
                        ssize_t k = tls_session_write(c->tls, data + done, size - done);
                        if (k == -EAGAIN)
                                break;
                        if (k < 0)
                                return channel_fail(c, k);
                        n = k;
                } else {
                        int r = send_plain(c, &(struct iovec) { (void*) (data + done), size - done }, 1, &n);
                        if (r == -EAGAIN)
                                break;
                        if (r < 0)
                                return channel_fail(c, r);
                }
                done += n;
                if (done < size)        /* a short write: the socket is full, the next one would say so */
                        break;
        }

        if (c->tls) {
                int r = tls_session_flush(c->tls);
                if (r < 0 && r != -EAGAIN)
                        return channel_fail(c, r);
        }

        *ret = done;
        return 0;
}

int channel_write(Channel *c, const void *data, size_t size) {
        size_t done;
        int r;

        r = write_now(c, data, size, &done);
        if (r < 0)
                return r;
        if (done < size) {
                r = append_copy(c, (const uint8_t*) data + done, size - done);
                if (r < 0)              /* a part of a frame is out: there is no way back */
                        return channel_fail(c, r);
        }

        channel_update(c);
        return 0;
}

int channel_write_take(Channel *c, uint8_t *data, size_t size) {
        _cleanup_(freep) uint8_t *d = data;
        size_t done;
        int r;

        r = write_now(c, d, size, &done);
        if (r < 0)
                return r;
        if (done < size) {
                r = append_chunk(c, d, done, size, size, NULL);
                if (r < 0)
                        return channel_fail(c, r);
                c->n_queued += size - done;
                d = NULL;
        }

        channel_update(c);
        return 0;
}

size_t channel_queued(const Channel *c) {
        return unsent(c);
}

void channel_notify_drained(Channel *c, size_t mark) {
        c->drained_wanted = true;
        c->drained_mark = mark;
        if (unsent(c) <= mark)
                channel_defer(c);
}

void channel_pause_input(Channel *c) {
        c->paused = true;
        channel_update(c);
}

void channel_resume_input(Channel *c) {
        c->paused = false;
        if (c->open && input_waits(c))
                channel_defer(c);
        channel_update(c);
}

static ssize_t read_some(Channel *c, uint8_t *data, size_t size) {
        ssize_t n;

        if (c->error < 0)
                return c->error;
        if (c->eof)
                return 0;

        if (c->tls) {
                n = tls_session_read(c->tls, data, size);
                if (n != -EAGAIN && n <= 0)     /* TLS knows no half-closed streams: RFC 8446, section 6.1, would, but nobody uses it */
                        return n < 0 ? channel_fail(c, n) : channel_fail(c, -ECONNRESET);
        } else {
                do
                        n = recv(c->fd, data, size, MSG_DONTWAIT);
                while (n < 0 && errno == EINTR);
                if (n < 0)
                        n = errno == EAGAIN ? -EAGAIN : channel_fail(c, -errno);
                if (n == 0) {
                        c->eof = true;
                        channel_update(c);
                        if (c->hangup)
                                (void) channel_fail(c, -ECONNRESET);
                }
        }

        return n;
}

ssize_t channel_fill(Channel *c) {
        ssize_t n;

        if (!c->in) {
                c->in = malloc(CHANNEL_IN_SIZE);
                if (!c->in)
                        return channel_fail(c, -ENOMEM);
        }

        if (c->in_start > 0) {
                memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
                c->in_end -= c->in_start;
                c->in_start = 0;
        }
        if (c->in_end == CHANNEL_IN_SIZE)
                return -ENOBUFS;

        n = read_some(c, c->in + c->in_end, CHANNEL_IN_SIZE - c->in_end);
        if (n > 0)
                c->in_end += n;
        return n;
}

ssize_t channel_read_direct(Channel *c, uint8_t *data, size_t size) {
        assert(c->in_start == c->in_end);
        return read_some(c, data, size);
}

uint8_t* channel_data(Channel *c, size_t *ret_size) {
        *ret_size = c->in_end - c->in_start;
        return c->in + c->in_start;
}

void channel_consume(Channel *c, size_t size) {
        assert(size <= c->in_end - c->in_start);
        c->in_start += size;
        if (c->in_start == c->in_end)
                c->in_start = c->in_end = 0;    /* stay on the same few pages */
}

static void tell_closed(Channel *c) {
        if (c->closed || c->told_closed)
                return;
        c->told_closed = true;
        c->io_source = sd_event_source_disable_unref(c->io_source);
        c->handlers->on_closed(c, c->error, c->userdata);
}

static void tell_drained(Channel *c) {
        if (c->closed || !c->drained_wanted || unsent(c) > c->drained_mark)
                return;
        c->drained_wanted = false;
        c->handlers->on_drained(c, c->userdata);
}

static void tell_input(Channel *c) {
        if (c->closed || c->paused || c->told_closed || !c->open)
                return;
        c->handlers->on_input(c, c->userdata);

        /* What is in TLS's buffers, or behind a hangup, will not be told by a poll. An EOF is told once by channel_fill(). */
        if (!c->closed && !c->paused && c->error == 0 && !c->eof && (c->hangup || (c->tls && tls_session_has_input(c->tls))))
                channel_defer(c);
}

static void handshake(Channel *c) {
        int r = tls_session_handshake(c->tls);

        if (r < 0) {
                (void) channel_fail(c, r);
                return;
        }
        if (r > 0) {
                c->open = true;
                c->handlers->on_open(c, c->userdata);
                if (!c->closed && !c->paused && tls_session_has_input(c->tls))
                        channel_defer(c);
        }
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Channel *c = userdata;
        int r;

        c->n_refs++;

        if (c->tls)
                tls_session_set_readable(c->tls);

        if (!c->open)
                handshake(c);
        else {
                if (revents & EPOLLOUT) {
                        r = channel_flush(c);
                        if (r < 0 && r != -EAGAIN)
                                (void) channel_fail(c, r);
                        else
                                tell_drained(c);
                }
                if ((revents & (EPOLLHUP|EPOLLERR)) && !c->closed) {
                        /* Cannot be masked, so the source goes; what is left to read is read by deferral, when input is
                         * not paused. */
                        c->hangup = true;
                        (void) sd_event_source_set_enabled(c->io_source, SD_EVENT_OFF);
                        channel_defer(c);
                        if (c->eof || c->hangup_is_end)
                                (void) channel_fail(c, -ECONNRESET);
                } else if (revents & EPOLLIN)
                        tell_input(c);
        }

        if (!c->closed)
                channel_update(c);
        channel_unref(c);
        return 0;
}

static int on_defer(sd_event_source *source, void *userdata) {
        Channel *c = userdata;

        c->n_refs++;

        if (c->error == 0)
                tell_drained(c);
        if (c->error == 0)
                tell_input(c);
        if (c->error < 0)
                tell_closed(c);
        else if (!c->closed)
                channel_update(c);

        channel_unref(c);
        return 0;
}

int channel_new(sd_event *event, int fd, TlsContext *tls, const char *server_name,
                const ChannelHandlers *handlers, void *userdata, Channel **ret) {
        _cleanup_(channel_freep) Channel *c = NULL;
        int r;

        c = new(Channel);
        if (!c) {
                close_fd(fd);
                return -ENOMEM;
        }
        *c = (Channel) { .n_refs = 1, .fd = fd, .open = !tls, .handlers = handlers, .userdata = userdata };

        if (tls) {
                r = tls_session_new(tls, fd, server_name, &c->tls);
                if (r < 0)
                        return r;
        }

        c->events = EPOLLIN | (tls ? EPOLLOUT : 0);     /* a client's handshake begins when the socket is writable: now */
        r = sd_event_add_io(event, &c->io_source, fd, c->events, on_io, c);
        if (r < 0)
                return r;
        r = sd_event_add_defer(event, &c->defer_source, on_defer, c);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(c->defer_source, SD_EVENT_OFF);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

void channel_set_handlers(Channel *c, const ChannelHandlers *handlers, void *userdata) {
        c->handlers = handlers;
        c->userdata = userdata;
}

void channel_set_hangup_is_end(Channel *c) {
        c->hangup_is_end = true;
}

void channel_finish(Channel *c, uint64_t timeout_usec) {
        uint64_t end = usec_add(now_usec(CLOCK_MONOTONIC), timeout_usec);

        while (c->open && c->error == 0 && unsent(c) > 0) {
                uint64_t now = now_usec(CLOCK_MONOTONIC);
                int r = channel_flush(c);

                if (r != -EAGAIN || now >= end)
                        break;
                (void) poll(&(struct pollfd) { .fd = c->fd, .events = POLLOUT }, 1, (end - now) / USEC_PER_MSEC + 1);
        }
}

bool channel_is_tls(const Channel *c) {
        return c->tls;
}

const char* channel_error(const Channel *c) {
        return c->tls ? tls_session_error(c->tls) : NULL;
}

const char* channel_describe(const Channel *c) {
        return c->tls ? tls_session_describe(c->tls) : "plain";
}

int channel_fd(const Channel *c) {
        return c->fd;
}
