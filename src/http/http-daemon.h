/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP/1.1 server by libmicrohttpd, turned by the daemon's own loop. Who connects, and what is answered, is its user's. */
#pragma once

#include <microhttpd.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

typedef struct HttpDaemonSpec {
        unsigned flags;                         /* MHD_USE_…, beside those that the loop needs */
        unsigned connections_max;
        size_t memory_max;                      /* of each connection, for request line and headers */
        const struct MHD_OptionItem *options;   /* others; the last is MHD_OPTION_END */
        MHD_AccessHandlerCallback on_request;
        MHD_RequestCompletedCallback on_request_over;
        MHD_NotifyConnectionCallback on_connection;
        void *userdata;                         /* for all three */
} HttpDaemonSpec;

typedef struct HttpDaemon {
        struct MHD_Daemon *mhd;
        sd_event_source *io;                    /* libmicrohttpd's epoll descriptor */
        sd_event_source *timer;                 /* when it wants to run for other reasons */
} HttpDaemon;

/* http_daemon_init() - @d: all zero; stays where it is. Returns 0 or -errno; http_daemon_done() is for either. */
int http_daemon_init(HttpDaemon *d, sd_event *event, const HttpDaemonSpec *spec);

/* http_daemon_done() - end all connections; not from within a callback */
void http_daemon_done(HttpDaemon *d);

/* http_daemon_add() - @fd: a new connection; taken. on_connection() is called before this returns. */
void http_daemon_add(HttpDaemon *d, int fd, const struct sockaddr *sa, socklen_t size);

/* http_daemon_run() - after a connection was resumed; not from within a callback */
void http_daemon_run(HttpDaemon *d);

/**
 * http_answer() - queue a response
 * @response: taken, on failure too; NULL: memory is short
 * @allow:    the methods there are instead, or NULL
 * @last:     the connection ends with it
 *
 * Returns what on_request() is to return.
 */
enum MHD_Result http_answer(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response, const char *type,
                            const char *allow, bool last);

/* http_answer_text() - the same for plain text; @text is borrowed for good */
enum MHD_Result http_answer_text(struct MHD_Connection *connection, unsigned status, const char *text, const char *allow, bool last);

/* http_end_connection() - without an answer, as soon as the loop turns */
void http_end_connection(struct MHD_Connection *connection);
