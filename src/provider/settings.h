/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-providerd's settings: its own, and those of the module, from one command line and one environment. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "provider/module.h"

typedef struct Settings {
        /* options_load() writes these; the module's values lie behind the struct */
        char *provider, *module_directory, *state_directory, *socket, *peer_user;
        char *external_enable, *external_path, *external_hash;
        uint32_t n_workers, n_threads, n_queue;
        uint64_t patience_usec;
        uint64_t create_timeout_usec, delete_timeout_usec, find_timeout_usec, stop_timeout_usec;
        bool check, check_settings, print_options, verify;

        const PeerpodProvider *module;
        const char **values;            /* as PeerpodConfig has them; owned strings, secrets among them */
} Settings;

/**
 * settings_load() - read the command line and the environment, and load the module that they name
 *
 * Returns 0; 1 with *ret_exit when the program should end now (logged); -ENOMEM. Main thread, before there are others.
 */
int settings_load(int argc, char *argv[], Settings **ret, int *ret_exit);
Settings* settings_free(Settings *s);
DEFINE_CLEANUP(Settings*, settings_free);
