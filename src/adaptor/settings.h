/* SPDX-License-Identifier: Apache-2.0 */
/* The adaptor's settings: flags and variables of upstream where they concern it, and what they point to. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/cleanup.h"

typedef struct Settings {
        char *socket;                   /* NULL: the one that systemd passes */
        char *pods_dir, *runtime_dir, *state_dir;
        char *tunnel_socket, *provider_socket;
        char *node;                     /* owner tag */

        uint16_t forwarder_port;
        uint64_t proxy_timeout_usec, proxy_grace_time_usec, start_timeout_usec;
        char *tunnel_probe;             /* "require", "warn" or "off" */
        uint64_t shim_grace_usec;       /* 0: sandboxes whose shim is gone are left alone */
        uint64_t reconcile_usec;        /* 0: only at start */
        char *initdata;                 /* for pods without their own; encoded; NULL for none */
        bool enable_scratch_space;
        bool check_settings;            /* and end */
        uint32_t history_max;
        uint64_t hold_max_usec, hold_failed_usec;

        char **environment_files;       /* where the variables of these come from again at a reload */
        uint64_t certificate_check_usec, certificate_warning_usec;
        bool disable_tls, tls_skip_verify;
        char *tls_min_version;
        char **tls_cipher_suites;
        char *ca_cert_file, *cert_file, *cert_key_file;

        /* content of those files; NULL = made for each sandbox */
        char *ca_cert, *client_cert;
        char *client_key;               /* secret */
} Settings;

#define SETTINGS_NULL ((Settings) {})

/**
 * settings_load() - defaults, environment, command line, and the files that they name
 *
 * Returns 0, or 1 with the exit status in *ret_exit when the program is to end now (the reason is logged), or negative errno.
 */
int settings_load(int argc, char *argv[], Settings *ret, int *ret_exit);
void settings_done(Settings *s);

/**
 * settings_reload_tls() - read the environment files, the TLS settings and the files that they name again
 *
 * All or nothing: on failure, which is logged, @s stays as it was. Sandboxes that exist keep what they have. Returns 0, -EINVAL, -ENOMEM.
 */
int settings_reload_tls(int argc, char *argv[], Settings *s);
