/* SPDX-License-Identifier: Apache-2.0 */
/* main() around run(): logging opened, the exit status told to systemd. */
#pragma once

#include <stdlib.h>
#include <systemd/sd-daemon.h>

#include "basic/log.h"

/* Exit statuses (systemd.exec(5)); units say RestartPreventExitStatus=2 78. */
enum {
        EXIT_USAGE = 2,
        EXIT_CONFIGURATION = 78,
};

/* run() returns -errno (told to systemd, exit status 1) or an exit status: 0, EXIT_USAGE, EXIT_CONFIGURATION, or a command's own.
 * It logs its failures itself. */
#define DEFINE_MAIN_FUNCTION(run)                                       \
        int main(int argc, char *argv[]) {                              \
                int r;                                                  \
                                                                        \
                log_open();                                             \
                r = run(argc, argv);                                    \
                if (r < 0)                                              \
                        (void) sd_notifyf(0, "ERRNO=%i", -r);           \
                return r < 0 ? EXIT_FAILURE : r;                        \
        }                                                               \
        struct main_func_semicolon
