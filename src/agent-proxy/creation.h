/* SPDX-License-Identifier: Apache-2.0 */
/* Containers that are being created, which may mean that an image is being pulled: the journal is told when one has used half of its
 * time. */
#pragma once

#include <systemd/sd-event.h>

#include "basic/log.h"
#include "ttrpc/relay.h"

typedef struct Creation Creation;

typedef struct Creations {
        sd_event *event;                /* borrowed, as is the next */
        const LogContext *log;
        Creation *list;
} Creations;

/* After the relay, which calls back as long as it lives. */
void creations_done(Creations *cs);

/* For the rule of CreateContainer, when the request goes on. */
void creations_watch(Creations *cs, const TtrpcRequest *request, RelayEdit *edit);
