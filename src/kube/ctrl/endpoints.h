/* SPDX-License-Identifier: Apache-2.0 */
/* What the controller answers over HTTP: /metrics, and /healthz and /readyz. */
#pragma once

#include <stdbool.h>
#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "metrics/exposition.h"

typedef struct Endpoints Endpoints;

typedef struct EndpointsSpec {
        const char *metrics, *health;   /* "[HOST]:PORT", as --metrics-bind-address has it; "0": not served */
        int (*gather)(Exposition *e, void *userdata);
        bool (*is_ready)(void *userdata);
        void *userdata;
} EndpointsSpec;

/* endpoints_new() - listen. Returns 0 or -errno (logged); -EINVAL: an address. */
int endpoints_new(sd_event *event, const EndpointsSpec *spec, Endpoints **ret);
Endpoints* endpoints_free(Endpoints *e);
DEFINE_CLEANUP(Endpoints*, endpoints_free);
