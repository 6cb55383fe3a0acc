/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of peerpod-node. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct Settings {
        char *kubeconfig;               /* NULL: kube_config_load() looks for one */
        char *node;                     /* metadata.name of our Node; never NULL after settings_load() */
        char *limit_text;
        int32_t limit;                  /* pod VMs that the node advertises; negative: not at all */
        char *state_dir;
        uint64_t register_timeout_usec;
        uint32_t records_max;
        bool check_settings;
} Settings;

#define SETTINGS_NULL ((Settings) {})

/* settings_load() - returns 0 to go on, 1 when the program should end with *ret_exit (logged), negative when memory is short */
int settings_load(int argc, char *argv[], Settings *ret, int *ret_exit);
void settings_done(Settings *s);
