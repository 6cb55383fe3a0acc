/* SPDX-License-Identifier: Apache-2.0 */
/* A channel's way through a resumable session: records around its bytes, connections that come and go below them. */
#include "ttrpc/channel-internal.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include "basic/log.h"
#include "basic/util.h"

static bool wire_is_up(const Channel *c) {
        return c->fd >= 0 && c->wire_error == 0 && c->error == 0;
}

/* The peer has so many bytes more, which it may have got over a connection that we had already given up. */
static void release(Channel *c, size_t size) {
        if (size > c->queue.n_kept)
                byte_queue_sent(&c->queue, size - c->queue.n_kept);
        byte_queue_release(&c->queue, size);
}

/* A small record of ours is one of TLS's, with its header; it is taken whole or not at all. */
static int send_small(Channel *c, size_t size) {
        uint8_t record[SESSION_ACK_SIZE + SESSION_HEADER_SIZE + SESSION_SEND_MAX];
        size_t head = session_begin(c->session, size, record);
        ssize_t n;

        byte_queue_copy(&c->queue, record + head, size);
        n = tls_session_write(c->tls, record, head + size);
        if (n < 0)
                return n;
        assert((size_t) n == head + size);
        session_sent(c->session, size);
        byte_queue_sent(&c->queue, size);
        return 0;
}

/* The bytes of a big one go out from where they lie. */
static int send_header(Channel *c, size_t size) {
        uint8_t record[SESSION_ACK_SIZE + SESSION_HEADER_SIZE];
        size_t head = session_begin(c->session, size, record);
        ssize_t n = tls_session_write(c->tls, record, head);

        if (n < 0)
                return n;
        session_promise(c->session, size);
        return 0;
}

static int send_promised(Channel *c) {
        struct iovec iov;
        ssize_t n;

        (void) byte_queue_peek(&c->queue, &iov, 1);
        n = tls_session_write(c->tls, iov.iov_base, MIN(iov.iov_len, (size_t) c->session->promised));
        if (n < 0)
                return n;
        session_sent_promised(c->session, n);
        byte_queue_sent(&c->queue, n);
        return 0;
}

int channel_session_flush(Channel *c) {
        Session *s = c->session;
        int r = 0;

        if (!wire_is_up(c))
                return 0;

        while (r >= 0) {
                size_t size = MIN(session_room(s), c->queue.n_unsent);

                if (s->promised > 0)
                        r = send_promised(c);
                else if (size == 0 && !session_owes_ack(s))
                        break;
                else if (size <= SESSION_SEND_MAX)
                        r = send_small(c, size);
                else
                        r = send_header(c, MIN(size, (size_t) SESSION_DATA_MAX));
        }

        if (r >= 0 || r == -EAGAIN) {
                int q = tls_session_flush(c->tls);
                if (q < 0)
                        r = q;
        }

        /* What TLS has in its buffers no poll will tell of. */
        if (channel_session_looks_ahead(c))
                channel_defer(c);
        return r;
}

static void flush(Channel *c) {
        int r = channel_session_flush(c);

        if (r < 0 && r != -EAGAIN)
                (void) channel_wire_failed(c, r);
        channel_update(c);
}

static int over(Channel *c, int error, const char *text) {
        (void) snprintf(c->text, sizeof(c->text), "%s", text);
        return channel_fail(c, error);
}

/* Reads a part of a record that is no DATA. 1: go on, 0: there is no more for now. */
static int read_control(Channel *c) {
        Session *s = c->session;
        bool confirmed = s->state == SESSION_UP;
        SessionEvent event;
        ssize_t n;

        n = tls_session_read(c->tls, s->head + s->head_size, session_wants(s));
        if (n == -EAGAIN)
                return 0;
        if (n <= 0) {
                (void) channel_wire_failed(c, n < 0 ? n : -ECONNRESET);
                return 0;
        }

        if (session_control(s, n, &event) < 0) {
                (void) over(c, -EPROTO, "it broke the rules of the session");
                return 0;
        }
        if (event.end) {
                char text[SESSION_END_TEXT_MAX + 1];

                memcpy(text, event.end, event.end_size);
                text[event.end_size] = '\0';
                (void) over(c, -ESHUTDOWN, text);
                return 0;
        }
        if (event.over) {
                if (confirmed)
                        (void) channel_fail(c, -ECONNRESET);
                else
                        (void) over(c, -ESTALE, "it does not know the session any more");
                return 0;
        }

        release(c, event.release);
        if (!confirmed && s->state == SESSION_UP) {
                c->tell_up = true;
                channel_defer(c);
        }
        if (event.may_send)
                flush(c);
        return 1;
}

static size_t take_ahead(Channel *c, uint8_t *data, size_t size) {
        size_t n = MIN(size, (size_t) c->session->ahead);

        if (n == 0)
                return 0;
        memcpy(data, c->ahead + c->ahead_start, n);
        c->ahead_start += n;
        session_take_ahead(c->session, n);
        if (c->session->ahead == 0) {
                free(c->ahead);
                c->ahead = NULL;
                c->ahead_start = c->ahead_size = 0;
        }
        return n;
}

/* Some bytes were taken over: an ACK at once, or when there has been no reason to send one for a while. */
static void arm_ack(Channel *c) {
        Session *s = c->session;

        if (session_owes_ack(s))
                flush(c);
        else if (s->received != s->told && !c->ack_armed &&
                 sd_event_source_set_time_relative(c->ack_timer, SESSION_ACK_USEC) >= 0 &&
                 sd_event_source_set_enabled(c->ack_timer, SD_EVENT_ONESHOT) >= 0)
                c->ack_armed = true;
}

ssize_t channel_session_read(Channel *c, uint8_t *data, size_t size) {
        Session *s = c->session;
        size_t done = take_ahead(c, data, size);

        while (done < size && wire_is_up(c)) {
                ssize_t n;

                if (s->data_left == 0) {
                        if (read_control(c) == 0)
                                break;
                        continue;
                }

                n = tls_session_read(c->tls, data + done, MIN(size - done, (size_t) s->data_left));
                if (n == -EAGAIN)
                        break;
                if (n <= 0) {
                        (void) channel_wire_failed(c, n < 0 ? n : -ECONNRESET);
                        break;
                }
                session_data(s, n);
                done += n;
        }

        if (wire_is_up(c))
                arm_ack(c);
        if (done > 0)
                return done;
        return c->error < 0 ? c->error : -EAGAIN;
}

bool channel_session_looks_ahead(const Channel *c) {
        const Session *s = c->session;

        if (!c->paused || !wire_is_up(c))
                return false;
        return s->state == SESSION_GREETING || (s->state == SESSION_UP && c->queue.n_unsent > 0 && session_room(s) == 0);
}

/* A WELCOME is awaited; or the window is shut, and nobody wants the DATA behind which the ACK may be that opens it: both ends could
 * wait for the other one.
 * What is put aside is not acknowledged, so a window of it is the most there can be. */
void channel_session_look_ahead(Channel *c) {
        Session *s = c->session;

        while (channel_session_looks_ahead(c)) {
                size_t end = c->ahead_start + s->ahead;
                ssize_t n;

                if (s->data_left == 0) {
                        if (read_control(c) == 0)
                                break;
                        continue;
                }

                if (c->ahead_size - end < s->data_left) {
                        size_t size = MAX(2 * c->ahead_size, end + s->data_left);
                        uint8_t *p = realloc(c->ahead, size);

                        if (!p) {
                                (void) channel_fail(c, -ENOMEM);
                                break;
                        }
                        c->ahead = p;
                        c->ahead_size = size;
                }
                n = tls_session_read(c->tls, c->ahead + end, s->data_left);
                if (n == -EAGAIN)
                        break;
                if (n <= 0) {
                        (void) channel_wire_failed(c, n < 0 ? n : -ECONNRESET);
                        break;
                }
                session_data_ahead(s, n);
        }
}

void channel_session_look_last(Channel *c) {
        Session *s = c->session;
        uint8_t data[4096];

        tls_session_set_readable(c->tls);
        while (c->error == 0 && s->state != SESSION_AWAY) {
                ssize_t n;

                if (s->data_left == 0) {
                        if (read_control(c) == 0)
                                break;
                        continue;
                }
                n = tls_session_read(c->tls, data, MIN(sizeof(data), (size_t) s->data_left));
                if (n <= 0)
                        break;
                s->data_left -= n;
        }
}

static int on_ack_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Channel *c = userdata;

        c->ack_armed = false;
        byte_queue_trim(&c->queue);
        if (c->session->received != c->session->told && wire_is_up(c)) {
                c->session->ack_wanted = true;
                flush(c);
        }
        return 0;
}

void channel_session_bye(Channel *c) {
        uint8_t record[SESSION_END_SIZE_MAX];
        SessionRecord bye = { .type = SESSION_BYE };

        if (c->last_words)
                bye = (SessionRecord) { .type = SESSION_END, .length = strlen(c->last_words), .text = c->last_words };
        if (wire_is_up(c) && (c->session->state == SESSION_UP || c->session->state == SESSION_GREETING))
                (void) tls_session_write(c->tls, record, session_record_write(&bye, record));
        c->ack_timer = sd_event_source_disable_unref(c->ack_timer);
}

void channel_session_free(Channel *c) {
        sd_event_source_disable_unref(c->ack_timer);
        free(c->session);
        free(c->ahead);
        free(c->last_words);
}

void channel_set_last_words(Channel *c, const char *text) {
        char *copy = strndup(text, SESSION_END_TEXT_MAX);

        for (char *p = copy; p && *p; p++)
                if (*p < ' ' || *p > '~')
                        *p = '?';
        free(c->last_words);
        c->last_words = isempty(copy) ? NULL : copy;
        if (!c->last_words)
                free(copy);
}

static void write_greeting(Channel *c, const uint8_t *record, size_t size) {
        ssize_t n = tls_session_write(c->tls, record, size);

        if (n < 0)
                (void) channel_wire_failed(c, n);
        flush(c);
}

static void greet(Channel *c) {
        uint8_t record[SESSION_HELLO_SIZE];

        write_greeting(c, record, session_greet(c->session, record));
}

static void welcome(Channel *c, const SessionHello *hello, bool resumed) {
        uint8_t record[SESSION_WELCOME_SIZE];
        size_t n;
        int r;

        r = session_welcome(c->session, hello, resumed, record, &n);
        if (r < 0) {
                (void) over(c, r, "it broke the rules of the session");
                return;
        }
        release(c, n);
        write_greeting(c, record, r);
        if (!c->paused)
                channel_defer(c);       /* there may be input in TLS's buffers */
}

int channel_set_session(Channel *c, const Session *s, const ChannelKeeper *keeper, void *userdata) {
        int r;

        assert(!c->session && (c->fd < 0 || c->tls));

        r = sd_event_add_time(sd_event_source_get_event(c->defer_source), &c->ack_timer, CLOCK_MONOTONIC, USEC_INFINITY,
                              10 * USEC_PER_MSEC, on_ack_timer, c);
        if (r >= 0)
                r = sd_event_source_set_enabled(c->ack_timer, SD_EVENT_OFF);
        if (r < 0)
                return r;

        c->session = new(Session);
        if (!c->session)
                return -ENOMEM;
        *c->session = *s;
        c->keeper = keeper;
        c->keeper_userdata = userdata;
        return 0;
}

int channel_start_session(Channel *c, uint32_t keep_sec, const ChannelKeeper *keeper, void *userdata) {
        uint8_t id[SESSION_ID_SIZE];
        Session s;
        int r;

        if (getrandom(id, sizeof(id), 0) != sizeof(id))
                return -errno;
        session_init_client(&s, id, keep_sec);
        r = channel_set_session(c, &s, keeper, userdata);
        if (r < 0)
                return r;
        if (c->fd >= 0)
                greet(c);
        return 0;
}

int channel_accept_session(Channel *c, const SessionHello *hello, const ChannelKeeper *keeper, void *userdata) {
        Session s;
        int r;

        session_init_server(&s, hello);
        r = channel_set_session(c, &s, keeper, userdata);
        if (r < 0)
                return r;
        welcome(c, hello, /* resumed= */ false);
        return 0;
}

void channel_lose_wire(Channel *c) {
        c->wire_error = 0;
        c->tell_up = false;
        c->io_source = sd_event_source_disable_unref(c->io_source);
        c->tls = tls_session_free(c->tls);
        c->fd = close_fd(c->fd);
        c->events = 0;
        c->hangup = false;
        if (c->session->state == SESSION_OVER)
                return;

        session_set_away(c->session);
        byte_queue_rewind(&c->queue);
        free(c->ahead);
        c->ahead = NULL;
        c->ahead_start = c->ahead_size = 0;
        if (sd_event_source_set_enabled(c->ack_timer, SD_EVENT_OFF) >= 0)
                c->ack_armed = false;
}

static void take_wire(Channel *c, Channel *from) {
        assert(c->fd < 0 && from->fd >= 0 && from->open && !from->session && from->in_start == from->in_end);

        c->fd = TAKE_FD(from->fd);
        c->tls = TAKE_PTR(from->tls);
        c->io_source = TAKE_PTR(from->io_source);
        c->events = from->events;
        c->hangup = from->hangup;
        if (from->error < 0 || c->hangup)
                (void) channel_wire_failed(c, from->error < 0 ? from->error : -ECONNRESET);
        if (c->io_source)
                (void) sd_event_source_set_userdata(c->io_source, c);
        channel_free(from);
}

void channel_attach(Channel *c, Channel *from) {
        take_wire(c, from);
        if (c->session)
                greet(c);
        else
                channel_defer(c);
        channel_update(c);
}

void channel_resume_session(Channel *c, Channel *from, const SessionHello *hello) {
        if (c->fd >= 0)
                channel_lose_wire(c);
        take_wire(c, from);
        welcome(c, hello, /* resumed= */ true);
        channel_update(c);
}

void channel_set_keeper(Channel *c, const ChannelKeeper *keeper, void *userdata) {
        c->keeper = keeper;
        c->keeper_userdata = userdata;
}

void* channel_get_keeper_userdata(const Channel *c) {
        return c->keeper_userdata;
}

const Session* channel_session(const Channel *c) {
        return c->session;
}

void channel_give_up(Channel *c, int error, const char *text) {
        (void) over(c, error, text);
}
