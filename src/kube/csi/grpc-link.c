/* SPDX-License-Identifier: Apache-2.0 */
#include "kube/csi/grpc-link.h"

#include <sys/socket.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"

#define READ_SIZE (32U << 10)
#define STALLED_USEC (60 * USEC_PER_SEC)

int grpc_h2_to_errno(int error) {
        switch (error) {
        case 0:
                return 0;
        case NGHTTP2_ERR_NOMEM:
                return -ENOMEM;
        case NGHTTP2_ERR_EOF:
                return -ECONNRESET;
        case NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE:
        case NGHTTP2_ERR_START_STREAM_NOT_ALLOWED:
                return -ESHUTDOWN;
        case NGHTTP2_ERR_INVALID_ARGUMENT:
                return -EINVAL;
        default:
                return -EPROTO;
        }
}

/* Returns 0 also when the socket takes no more for now. */
static int link_write(GrpcLink *l) {
        for (;;) {
                const uint8_t *data;
                ssize_t n;

                while (l->output_sent < l->output_size) {
                        n = send(sd_event_source_get_io_fd(l->io), l->output + l->output_sent, l->output_size - l->output_sent, MSG_NOSIGNAL);
                        if (n < 0)
                                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
                        l->output_sent += (size_t) n;
                        (void) sd_event_source_set_time_relative(l->stalled, STALLED_USEC);
                }
                l->output = erase_free(l->output, l->output_size);
                l->output_size = l->output_sent = 0;

                n = nghttp2_session_mem_send(l->session, &data);
                if (n <= 0)
                        return n < 0 ? grpc_h2_to_errno((int) n) : 0;
                l->output = malloc((size_t) n);
                if (!l->output)
                        return -ENOMEM;
                memcpy(l->output, data, (size_t) n);
                l->output_size = (size_t) n;
        }
}

static int link_read(GrpcLink *l) {
        uint8_t buffer[READ_SIZE];
        ssize_t n, used;

        n = recv(sd_event_source_get_io_fd(l->io), buffer, sizeof(buffer), 0);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (n == 0)
                return -ECONNRESET;

        used = nghttp2_session_mem_recv(l->session, buffer, (size_t) n);
        explicit_bzero(buffer, (size_t) n);
        return used < 0 ? grpc_h2_to_errno((int) used) : 0;
}

static int link_update(GrpcLink *l) {
        bool pending = l->output_sent < l->output_size;
        int r;

        r = sd_event_source_set_io_events(l->io, pending ? EPOLLIN|EPOLLOUT : EPOLLIN);
        if (r < 0)
                return r;
        if (!pending)
                return sd_event_source_set_enabled(l->stalled, SD_EVENT_OFF);

        return sd_event_source_set_enabled(l->stalled, SD_EVENT_ONESHOT);
}

static int on_io(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        GrpcLink *l = userdata;
        int r = 0;

        if (revents & (EPOLLIN|EPOLLHUP|EPOLLERR))
                r = link_read(l);
        if (r >= 0)
                r = link_write(l);
        if (r >= 0)
                r = link_update(l);

        if (r < 0)
                l->over(l, r);
        else if (!nghttp2_session_want_read(l->session) && !nghttp2_session_want_write(l->session) && l->output_sent == l->output_size)
                l->over(l, 0);
        return 0;
}

static int on_stalled(sd_event_source *es, uint64_t usec, void *userdata) {
        GrpcLink *l = userdata;

        l->over(l, -ETIMEDOUT);
        return 0;
}

static int session_new(GrpcLink *l, bool server, const nghttp2_session_callbacks *callbacks, uint32_t n_streams) {
        const nghttp2_settings_entry settings[] = {
                { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, n_streams },
                { NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, GRPC_HEADER_LIST_MAX },
                { NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
        };
        nghttp2_option *option;
        int r;

        r = nghttp2_option_new(&option);
        if (r < 0)
                return grpc_h2_to_errno(r);
        /* Some clients have their socket's path as :authority, which is none (grpc-go's before 1.34): the headers are looked at here. */
        nghttp2_option_set_no_http_messaging(option, 1);
        r = server ? nghttp2_session_server_new2(&l->session, callbacks, l, option) :
                     nghttp2_session_client_new2(&l->session, callbacks, l, option);
        nghttp2_option_del(option);
        if (r < 0)
                return grpc_h2_to_errno(r);

        /* A server cannot push and must not say so. */
        r = nghttp2_submit_settings(l->session, NGHTTP2_FLAG_NONE, settings, server ? ELEMENTSOF(settings) - 1 : ELEMENTSOF(settings));
        return grpc_h2_to_errno(r);
}

int grpc_link_init(GrpcLink *l, sd_event *event, int fd, bool server, const nghttp2_session_callbacks *callbacks, uint32_t n_streams,
                   void (*over)(GrpcLink *l, int error)) {
        _cleanup_(close_fdp) int owned = fd;
        int r;

        *l = (GrpcLink) { .over = over };
        r = fd_set_nonblocking(fd, true);
        if (r < 0)
                return r;
        r = session_new(l, server, callbacks, n_streams);
        if (r < 0)
                return r;
        r = sd_event_add_time_relative(event, &l->stalled, CLOCK_MONOTONIC, STALLED_USEC, 0, on_stalled, l);
        if (r < 0)
                return r;
        r = sd_event_source_set_enabled(l->stalled, SD_EVENT_OFF);
        if (r < 0)
                return r;
        r = sd_event_add_io(event, &l->io, fd, EPOLLIN|EPOLLOUT, on_io, l);
        if (r < 0)
                return r;
        r = sd_event_source_set_io_fd_own(l->io, true);
        if (r < 0)
                return r;

        (void) TAKE_FD(owned);
        return 0;
}

void grpc_link_done(GrpcLink *l) {
        sd_event_source_disable_unref(l->io);
        sd_event_source_disable_unref(l->stalled);
        nghttp2_session_del(l->session);
        (void) erase_free(l->output, l->output_size);
        *l = GRPC_LINK_NULL;
}

void grpc_link_kick(GrpcLink *l) {
        int r;

        r = sd_event_source_set_io_events(l->io, EPOLLIN|EPOLLOUT);
        if (r < 0)
                log_warning_errno(r, "Failed to wait until a connection can be written to: %m");
}
