/* SPDX-License-Identifier: Apache-2.0 */
/* What the operator has set, as every part of the webhook sees it. */
#pragma once

#include "tls/session.h"

typedef struct WebhookSettings {
        char **runtime_classes;         /* patterns of fnmatch(3) */
        char *vm_resource;              /* the extended resource that stands for one VM */
        char **gpu_resources;           /* patterns, too */
        char *certificate_dir;          /* has tls.crt and tls.key */
        char *min_version_name;
        TlsVersion min_version;
        char **cipher_suites;
        char *listen;
        uint64_t idle_usec, request_usec;
} WebhookSettings;
