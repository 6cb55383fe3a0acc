/* SPDX-License-Identifier: Apache-2.0 */
/* Named places at which a test may end a daemon with SIGKILL; nothing at all unless built with -Dcrash-points=true.
 *
 * A file /run/peerpod-crash/PROGRAM.NAME arms the place NAME of PROGRAM. Whoever removes it dies: so one file is one kill, however
 * many threads and processes come by. The names stand in the binary behind CRASH_POINT_PREFIX, where tests/crash finds all
 * of them. */
#pragma once

#ifdef CRASH_POINTS

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CRASH_POINT_PREFIX "crash-point:"
#define CRASH_POINT_DIR "/run/peerpod-crash"

static inline void crash_point_reach(const char *point) {
        char path[256];

        (void) snprintf(path, sizeof(path), CRASH_POINT_DIR "/%s.%s", program_invocation_short_name, point + strlen(CRASH_POINT_PREFIX));
        if (unlink(path) == 0)
                (void) kill(getpid(), SIGKILL);
}

#define crash_point(name) crash_point_reach(CRASH_POINT_PREFIX name)

/* Three places around what is one of many in a table: the initialiser of a member CrashPoints, and the place itself. */
typedef struct CrashPoints {
        const char *before, *after, *noted;
} CrashPoints;

#define CRASH_POINTS_AROUND(what) \
        { CRASH_POINT_PREFIX "before-" what, CRASH_POINT_PREFIX "after-" what, CRASH_POINT_PREFIX "noted-" what }
#define crash_point_of(points, moment) crash_point_reach((points).moment)

#else

typedef struct CrashPoints {} CrashPoints;

#define CRASH_POINTS_AROUND(what) {}
#define crash_point(name) ((void) 0)
#define crash_point_of(points, moment) ((void) (points))

#endif
