/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's connections: greeted, made into sessions or resumed, and kept while they are away (docs/session.md). */
#pragma once

#include <systemd/sd-event.h>

#include "basic/cleanup.h"
#include "basic/log.h"
#include "ttrpc/channel.h"
#include "ttrpc/relay.h"

typedef struct Workers Workers;

#define WORKERS_GREETINGS_MAX 16U               /* at once; with one more, the oldest is closed */
#define WORKERS_GREETING_USEC (15 * USEC_PER_SEC)
#define WORKERS_AWAY_MAX 4U                     /* sessions of one certificate without a connection; the oldest ends */
#define WORKERS_KEEP_SEC_MAX (30U * 60U)

/* @relay gets the connections; all are borrowed and outlive the workers, but for the relay, which is freed first. */
int workers_new(sd_event *event, Relay *relay, const LogContext *log, Workers **ret);
Workers* workers_free(Workers *ws);
DEFINE_CLEANUP(Workers*, workers_free);

/* The VM is about to end: every worker with a session is told why when its connection is closed, and who comes now is told at once. */
void workers_set_end(Workers *ws, const char *text);

/* For relay_store() and relay_restore(): to whom a session belongs. */
void workers_store(const Channel *channel, Handover *h);
int workers_restore(Workers *ws, Channel *channel, Handover *h);

/* @channel: open, input paused; taken. @peer: for people. */
void workers_add(Workers *ws, Channel *channel, const char *peer);
