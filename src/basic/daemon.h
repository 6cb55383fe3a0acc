/* SPDX-License-Identifier: Apache-2.0 */
/* What each daemon's main() does alike: one event loop with signals and watchdog, sockets from systemd. */
#pragma once

#include <sys/types.h>
#include <systemd/sd-event.h>

#include "basic/main-func.h"

/**
 * daemon_event_new() - the daemon's one loop
 *
 * SIGTERM and SIGINT end it with status 0 and are blocked in the calling thread, so call it before any other thread starts;
 * SIGPIPE is ignored; the watchdog is fed while the loop turns, if systemd asked for it. Returns 0 or -errno.
 */
int daemon_event_new(sd_event **ret);

/* daemon_event_new_with() - the same, but these signals call @on_signal, which sees to the end */
int daemon_event_new_with(sd_event_signal_handler_t on_signal, void *userdata, sd_event **ret);

/* daemon_loop() - turn until told to exit, and tell systemd that the service stops. Returns the exit code, or -errno, which is logged. */
int daemon_loop(sd_event *event);

/**
 * daemon_take_socket() - take one listening stream socket that systemd passed under a name
 * @name: FileDescriptorName= of the socket unit. Without $LISTEN_FDNAMES, systemd's single descriptor is taken for it.
 *
 * May be called for several names; descriptors stay open and close-on-exec until taken. Returns the descriptor, -ENOENT if there
 * is none of that name, -EINVAL if it is no listening stream socket, or another -errno.
 */
int daemon_take_socket(const char *name);

/* daemon_take_fd() - the same for a descriptor of any kind, from the service manager's fd store. Returns it, -ENOENT, or another -errno. */
int daemon_take_fd(const char *name);

/* daemon_listen_unix() - listen on a path by hand, for tests and for use without systemd: mode 0600, an old *socket* there is
 * replaced, anything else is -EEXIST. Returns the descriptor or -errno. */
int daemon_listen_unix(const char *path);

/**
 * daemon_listen_tcp() - listen on an address by hand: "10.0.0.1:9443", "[::1]:9443", or ":9443" for all, also where there is no IPv6
 *
 * Port 0 is one that is free. Returns the descriptor, -EINVAL (no address), or another -errno.
 */
int daemon_listen_tcp(const char *address);

/**
 * daemon_refuse_callers() - close all connections that wait in the sockets that systemd passed
 *
 * For a service that cannot serve them: as long as one waits, systemd starts it again, however often it ends. Who was refused may come
 * back at a pace of his own.
 */
void daemon_refuse_callers(void);

/* main() of a service that systemd starts when somebody connects. */
#define DEFINE_SOCKET_SERVICE_MAIN_FUNCTION(run)                                \
        static int run_or_refuse(int argc, char *argv[]) {                      \
                int r = run(argc, argv);                                        \
                                                                                \
                if (r == EXIT_USAGE || r == EXIT_CONFIGURATION)                 \
                        daemon_refuse_callers();                                \
                return r;                                                       \
        }                                                                       \
        DEFINE_MAIN_FUNCTION(run_or_refuse)

/* daemon_print_version() - "NAME VERSION"; returns 0, the exit status */
int daemon_print_version(const char *name);
