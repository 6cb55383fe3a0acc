/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets in the loop: a connection is taken only while there is room for it, and none for a while when descriptors are
 * short. The others wait in the sockets' backlogs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "basic/util.h"

#define LISTENERS_MAX 16U
#define LISTENERS_PAUSE_USEC (100 * USEC_PER_MSEC)      /* when no descriptor or memory is left for another connection */

/* Its user sets the first part, and does not move it afterwards. */
typedef struct Listeners {
        sd_event *event;                /* borrowed */
        /* @fd: non-blocking; taken */
        void (*accepted)(int fd, const struct sockaddr *sa, socklen_t size, void *userdata);
        bool (*has_room)(void *userdata);       /* may call listeners_pause(); NULL: there is always room */
        void *userdata;

        sd_event_source *sources[LISTENERS_MAX];
        size_t n_sources;
        sd_event_source *pause;
        bool paused;
        bool in_trouble;                /* and has said so */
} Listeners;

/* listeners_add() - @fd: a listening stream socket; taken, on failure too. Returns 0, -E2BIG or another -errno. */
int listeners_add(Listeners *l, int fd);

/* listeners_add_passed() - all sockets that systemd holds for us, whatever an admin made of the list. Returns 0 or -errno, which is logged. */
int listeners_add_passed(Listeners *l);

/* listeners_update() - has_room() may have another answer now */
void listeners_update(Listeners *l);

/* listeners_pause() - take none for so long, or for as long as has been said already; listeners_update() follows */
void listeners_pause(Listeners *l, uint64_t usec);

/* listeners_done() - close the sockets. May be called twice. */
void listeners_done(Listeners *l);
