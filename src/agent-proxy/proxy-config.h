/* SPDX-License-Identifier: Apache-2.0 */
/* proxy.json: what the adaptor tells the proxy of one sandbox. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/util.h"
#include "tls/session.h"

#define PROXY_CONFIG_SIZE_MAX (1U << 20)
#define PROXY_VOLUMES_MAX 256U
#define PROXY_GRACE_TIME_USEC_MAX (25 * 60 * USEC_PER_SEC)      /* the pod VM keeps a session for half an hour */

/* One of Kata's direct volumes that a disk was attached to the pod VM for (kata-containers: docs/design/direct-blk-device-assignment.md). */
typedef struct ProxyVolume {
        char *path;             /* source of the mount, as kubelet has it: "path" */
        char *disk_id;          /* the provider's id of the disk: "disk-id"; empty: no disk of its own */
        char *fs_type;          /* "fs-type", "ext4" by default */
        char *encrypt_type;     /* "encrypt-type", may be empty */
        char *key_id;           /* "key-id", may be empty */
} ProxyVolume;

typedef struct ProxyConfig {
        char *sandbox_id, *pod_name, *pod_namespace, *instance_id, *provider;
        char **addresses;
        uint16_t port;
        char *server_name;
        bool tls;
        TlsVersion tls_min_version;
        char **tls_cipher_suites;
        uint64_t connect_timeout_usec, grace_time_usec;
        char **volumes_elsewhere;       /* SHA-256 of the paths of volumes that may not be this pod's: "volumes-elsewhere" */
        ProxyVolume *volumes;
        size_t n_volumes;
} ProxyConfig;

#define PROXY_CONFIG_NULL ((ProxyConfig) {})

/**
 * proxy_config_parse() - read proxy.json
 * @ret:       untouched on failure; else free with proxy_config_done()
 * @ret_error: what is wrong with which key, newly allocated, may be NULL when memory is short
 *
 * Returns 0, -EBADMSG, -ENOMEM.
 */
int proxy_config_parse(const char *text, size_t size, ProxyConfig *ret, char **ret_error);
void proxy_config_done(ProxyConfig *c);
