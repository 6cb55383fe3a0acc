/* SPDX-License-Identifier: Apache-2.0 */
#include "http/http-daemon.h"

#include <string.h>
#include <sys/epoll.h>

#include "basic/log.h"
#include "basic/util.h"

void http_daemon_run(HttpDaemon *d) {
        MHD_UNSIGNED_LONG_LONG msec;
        int r;

        (void) MHD_run(d->mhd);

        if (MHD_get_timeout(d->mhd, &msec) != MHD_YES) {
                (void) sd_event_source_set_enabled(d->timer, SD_EVENT_OFF);
                return;
        }
        r = sd_event_source_set_time_relative(d->timer, msec * USEC_PER_MSEC);
        if (r >= 0)
                r = sd_event_source_set_enabled(d->timer, SD_EVENT_ONESHOT);
        if (r < 0)
                log_error_errno(r, "Failed to set a timer: %m");
}

static int on_timer(sd_event_source *es, uint64_t usec, void *userdata) {
        http_daemon_run(userdata);
        return 0;
}

static int on_io(sd_event_source *es, int fd, uint32_t revents, void *userdata) {
        http_daemon_run(userdata);
        return 0;
}

static PRINTF(2, 0) void on_log(void *cls, const char *format, va_list ap) {
        if (LOG_DEBUG > log_get_max_level())
                return;
        (void) log_internalv(/* context= */ NULL, LOG_DEBUG, /* message_id= */ NULL, 0, __FILE__, __LINE__, __func__, format, ap);
}

int http_daemon_init(HttpDaemon *d, sd_event *event, const HttpDaemonSpec *spec) {
        const union MHD_DaemonInfo *info;
        int r;

        d->mhd = MHD_start_daemon(MHD_USE_EPOLL|MHD_USE_NO_LISTEN_SOCKET|MHD_USE_ERROR_LOG|spec->flags,
                                  /* port= */ 0, NULL, NULL, spec->on_request, spec->userdata,
                                  MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
                                  MHD_OPTION_CONNECTION_LIMIT, spec->connections_max,
                                  MHD_OPTION_CONNECTION_MEMORY_LIMIT, spec->memory_max,
                                  MHD_OPTION_NOTIFY_COMPLETED, spec->on_request_over, spec->userdata,
                                  MHD_OPTION_NOTIFY_CONNECTION, spec->on_connection, spec->userdata,
                                  MHD_OPTION_ARRAY, spec->options,
                                  MHD_OPTION_END);
        if (!d->mhd)
                return -EIO;
        info = MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_EPOLL_FD);
        if (!info)
                return -EOPNOTSUPP;
        r = sd_event_add_io(event, &d->io, info->epoll_fd, EPOLLIN, on_io, d);
        if (r < 0)
                return r;
        return sd_event_add_time_relative(event, &d->timer, CLOCK_MONOTONIC, 0, 1, on_timer, d);
}

void http_daemon_done(HttpDaemon *d) {
        d->io = sd_event_source_disable_unref(d->io);
        d->timer = sd_event_source_disable_unref(d->timer);
        if (d->mhd)
                MHD_stop_daemon(d->mhd);
        d->mhd = NULL;
}

void http_daemon_add(HttpDaemon *d, int fd, const struct sockaddr *sa, socklen_t size) {
        /* Takes the descriptor, on failure too. */
        if (MHD_add_connection(d->mhd, fd, sa, size) != MHD_YES)
                log_debug("A connection was refused.");
        http_daemon_run(d);             /* which is when it begins to count */
}

enum MHD_Result http_answer(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response, const char *type,
                            const char *allow, bool last) {
        enum MHD_Result r = MHD_YES;

        if (!response)
                return MHD_NO;
        r &= MHD_add_response_header(response, "Content-Type", type);
        if (allow)
                r &= MHD_add_response_header(response, "Allow", allow);
        if (last)
                r &= MHD_add_response_header(response, "Connection", "close");
        if (r == MHD_YES)
                r = MHD_queue_response(connection, status, response);
        MHD_destroy_response(response);
        return r;
}

enum MHD_Result http_answer_text(struct MHD_Connection *connection, unsigned status, const char *text, const char *allow, bool last) {
        return http_answer(connection, status, MHD_create_response_from_buffer(strlen(text), (void*) text, MHD_RESPMEM_PERSISTENT),
                           "text/plain; charset=utf-8", allow, last);
}

/* libmicrohttpd sees the end and closes it; the descriptor is its own. */
void http_end_connection(struct MHD_Connection *connection) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

        if (info)
                (void) shutdown(info->connect_fd, SHUT_RDWR);
}
