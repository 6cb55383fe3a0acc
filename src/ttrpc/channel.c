/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/channel-internal.h"

#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "basic/util.h"

#define IOV_MAX_WRITE 16

static Channel* channel_unref(Channel *c) {
        assert(c->n_refs > 0);
        if (--c->n_refs > 0)
                return NULL;

        sd_event_source_disable_unref(c->io_source);
        sd_event_source_disable_unref(c->defer_source);
        byte_queue_done(&c->queue);
        channel_session_free(c);
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
        if (c->session)
                channel_session_bye(c);
        if (c->tls && c->open && c->error == 0)
                tls_session_bye(c->tls);
        c->fd = close_fd(c->fd);
        if (c->keeper && c->keeper->on_gone)
                c->keeper->on_gone(c, c->keeper_userdata);
        return channel_unref(c);
}

static size_t unsent(const Channel *c) {
        return c->queue.n_unsent + (c->tls ? tls_session_has_output(c->tls) : 0);
}

void channel_defer(Channel *c) {
        if (!c->closed)
                (void) sd_event_source_set_enabled(c->defer_source, SD_EVENT_ONESHOT);
}

void channel_update(Channel *c) {
        uint32_t events = 0;

        if (c->closed || c->hangup || c->told_closed)
                return;

        if (c->fd < 0)
                ;
        else if (!c->open)
                events = EPOLLIN | (unsent(c) > 0 ? EPOLLOUT : 0);
        else {
                if ((!c->paused && !c->eof) || (c->session && channel_session_looks_ahead(c)))
                        events |= EPOLLIN;
                if (unsent(c) > 0)
                        events |= EPOLLOUT;
        }

        if (c->io_source && events != c->events && sd_event_source_set_io_events(c->io_source, events) >= 0)
                c->events = events;

        /* A write may have taken along what TLS still kept: then EPOLLOUT, which would have told, never comes. */
        if (c->drained_wanted && unsent(c) <= c->drained_mark)
                channel_defer(c);
}

static bool input_waits(const Channel *c) {
        return c->in_start < c->in_end || (c->session && c->session->ahead > 0) || c->eof || (c->hangup && !c->eof) || (c->tls && tls_session_has_input(c->tls));
}

int channel_fail(Channel *c, int error) {
        if (c->error == 0) {
                c->error = error;
                channel_defer(c);
        }
        return c->error;
}

int channel_wire_failed(Channel *c, int error) {
        if (!c->session || c->session->state == SESSION_OVER)
                return channel_fail(c, error);
        if (c->wire_error == 0) {
                c->wire_error = error;
                channel_defer(c);
        }
        return -EAGAIN;
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

/* Writes what waits as far as the socket takes it. -EAGAIN: some is left. */
static int write_queue(Channel *c) {
        while (c->queue.n_unsent > 0) {
                struct iovec iov[IOV_MAX_WRITE];
                size_t n_iov = byte_queue_peek(&c->queue, iov, c->tls ? 1 : ELEMENTSOF(iov)), done;

                if (c->tls) {
                        ssize_t n = tls_session_write(c->tls, iov[0].iov_base, iov[0].iov_len);
                        if (n < 0)
                                return n;
                        done = n;
                } else {
                        int r = send_plain(c, iov, n_iov, &done);
                        if (r < 0)
                                return r;
                }

                byte_queue_sent(&c->queue, done);
                byte_queue_release(&c->queue, done);
        }

        return 0;
}

static int channel_flush(Channel *c) {
        int r;

        if (c->fd < 0)
                return 0;
        if (c->session)
                return channel_session_flush(c);

        r = write_queue(c);
        if (c->tls && (r >= 0 || r == -EAGAIN)) {
                int q = tls_session_flush(c->tls);
                if (q < 0)
                        r = q;
        }

        return r;
}

/* How much of the bytes goes out before the queue: all that the socket takes, if nothing is waiting. A session keeps all of them. */
static int write_now(Channel *c, const uint8_t *data, size_t size, size_t *ret) {
        size_t done = 0;

        if (c->error < 0)
                return c->error;
        assert(c->open);

        if (c->fd < 0 || c->session) {
                *ret = 0;
                return 0;
        }

        while (c->queue.n_unsent == 0 && done < size) {
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

/* The rest is in the queue, or is not. */
static int written(Channel *c, int r) {
        if (r < 0)                      /* a part of a frame is out: there is no way back */
                return channel_fail(c, r);
        if (c->session && c->fd >= 0) {
                r = channel_session_flush(c);
                if (r < 0 && r != -EAGAIN)
                        (void) channel_wire_failed(c, r);
        }
        channel_update(c);
        return 0;
}

int channel_write(Channel *c, const void *data, size_t size) {
        size_t done;
        int r;

        r = write_now(c, data, size, &done);
        if (r < 0)
                return r;
        return written(c, byte_queue_append(&c->queue, (const uint8_t*) data + done, size - done));
}

int channel_write_take(Channel *c, uint8_t *data, size_t size) {
        _cleanup_(freep) uint8_t *d = data;
        size_t done;
        int r;

        r = write_now(c, d, size, &done);
        if (r < 0)
                return r;
        if (done < size) {
                r = byte_queue_append_take(&c->queue, d, done, size);
                if (r >= 0)
                        d = NULL;
        }
        return written(c, r);
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
        if (c->session && channel_session_looks_ahead(c))
                channel_defer(c);
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
        if (c->session)
                return channel_session_read(c, data, size);
        if (c->fd < 0)
                return -EAGAIN;

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

static void tell_away(Channel *c) {
        int error = c->wire_error;
        char text[sizeof(c->text)];

        if (c->closed)
                return;
        /* Who refuses us, or ends, says why before he closes (RFC 8446, section 6.2; SESSION_END); whatever else is there will come again. */
        if (c->tls)
                channel_session_look_last(c);
        if (c->error < 0)
                return;
        (void) snprintf(text, sizeof(text), "%s", c->tls ? strempty(tls_session_error(c->tls)) : "");
        channel_lose_wire(c);
        c->keeper->on_away(c, error, text[0] ? text : NULL, c->keeper_userdata);
}

static void tell_up(Channel *c) {
        if (c->closed)
                return;
        c->tell_up = false;
        c->keeper->on_up(c, c->keeper_userdata);
}

static void tell_drained(Channel *c) {
        if (c->closed || !c->drained_wanted || unsent(c) > c->drained_mark)
                return;
        c->drained_wanted = false;
        c->handlers->on_drained(c, c->userdata);
}

static void tell_input(Channel *c) {
        if (c->closed || c->told_closed || !c->open)
                return;
        if (c->session && channel_session_looks_ahead(c))
                channel_session_look_ahead(c);
        if (c->paused)
                return;
        c->handlers->on_input(c, c->userdata);

        /* What is in TLS's buffers, or behind a hangup, will not be told by a poll. An EOF is told once by channel_fill(). */
        if (!c->closed && !c->paused && c->error == 0 && !c->eof && (c->hangup || (c->session && c->session->ahead > 0) || (c->tls && tls_session_has_input(c->tls))))
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
                                (void) channel_wire_failed(c, r);
                        else
                                tell_drained(c);
                }
                if ((revents & (EPOLLHUP|EPOLLERR)) && !c->closed) {
                        /* Cannot be masked, so the source goes; what is left to read is read by deferral, when input is
                         * not paused. */
                        c->hangup = true;
                        (void) sd_event_source_set_enabled(c->io_source, SD_EVENT_OFF);
                        channel_defer(c);
                        if (c->session || c->eof || c->hangup_is_end)   /* of a session, what is unread will be sent again */
                                (void) channel_wire_failed(c, -ECONNRESET);
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

        if (c->error == 0 && c->wire_error < 0)
                tell_away(c);
        if (c->error == 0 && c->tell_up)
                tell_up(c);
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

int channel_add_io(Channel *c) {
        return sd_event_add_io(sd_event_source_get_event(c->defer_source), &c->io_source, c->fd, c->events, on_io, c);
}

int channel_new_away(sd_event *event, const ChannelHandlers *handlers, void *userdata, Channel **ret) {
        _cleanup_(channel_freep) Channel *c = NULL;
        int r;

        c = new(Channel);
        if (!c)
                return -ENOMEM;
        *c = (Channel) { .n_refs = 1, .fd = -EBADF, .open = true, .handlers = handlers, .userdata = userdata };

        r = sd_event_add_defer(event, &c->defer_source, on_defer, c);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(c->defer_source, SD_EVENT_OFF);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

int channel_new(sd_event *event, int fd, TlsContext *tls, const char *server_name,
                const ChannelHandlers *handlers, void *userdata, Channel **ret) {
        _cleanup_(channel_freep) Channel *c = NULL;
        int r;

        r = channel_new_away(event, handlers, userdata, &c);
        if (r < 0) {
                close_fd(fd);
                return r;
        }
        c->fd = fd;
        c->open = !tls;

        if (tls) {
                r = tls_session_new(tls, fd, server_name, &c->tls);
                if (r < 0)
                        return r;
        }

        c->events = EPOLLIN | (tls ? EPOLLOUT : 0);     /* a client's handshake begins when the socket is writable: now */
        r = channel_add_io(c);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(c);
        return 0;
}

bool channel_is_away(const Channel *c) {
        return c->fd < 0 || c->wire_error < 0;
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

        while (c->open && c->fd >= 0 && c->wire_error == 0 && c->error == 0 && unsent(c) > 0) {
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

bool channel_has_alpn(const Channel *c) {
        return c->tls && tls_session_has_alpn(c->tls);
}

int channel_get_fingerprint(const Channel *c, uint8_t ret[TLS_FINGERPRINT_SIZE]) {
        return c->tls ? tls_session_get_fingerprint(c->tls, ret) : -ENOENT;
}

const char* channel_error(const Channel *c) {
        if (c->text[0])
                return c->text;
        return c->tls ? tls_session_error(c->tls) : NULL;
}

const char* channel_describe(const Channel *c) {
        return c->tls ? tls_session_describe(c->tls) : "plain";
}

int channel_fd(const Channel *c) {
        return c->fd;
}
