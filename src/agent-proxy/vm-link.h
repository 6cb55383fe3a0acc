/* SPDX-License-Identifier: Apache-2.0 */
/* The proxy's link to its pod VM: made, asked whether the agent serves, missed when it is lost, and made again, until time is over. It
 * tells systemd (READY=1, STATUS=) and the counters how it stands, and ends the event loop when the VM is given up. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent-proxy/counters.h"
#include "agent-proxy/proxy-config.h"
#include "basic/cleanup.h"
#include "basic/handover.h"
#include "basic/log.h"
#include "ttrpc/relay.h"

typedef struct VmLink VmLink;

typedef struct VmLinkHandlers {
        void (*on_well)(void *userdata);        /* the agent answers, for the first time or again */
        void (*on_away)(void *userdata);        /* the link is lost, and its session waits: who cannot wait wants an answer */
} VmLinkHandlers;

/* All borrowed, but for the TLS context, which is referenced; they outlive the link. */
typedef struct VmLinkSettings {
        const ProxyConfig *config;      /* addresses, name, times */
        TlsContext *tls;                /* NULL: plain */
        Relay *relay;                   /* whose upstream this makes; on_upstream_lost() is for vm_link_lost() */
        ProxyCounters *counters;
        const LogContext *log;
        const VmLinkHandlers *handlers;
        void *userdata;
} VmLinkSettings;

/**
 * vm_link_new() - does nothing before vm_link_start()
 * @ret: vm_link_free(), after the relay, whose upstream calls back
 *
 * Returns 0, EXIT_CONFIGURATION (an address) or -ENOMEM; has logged what is wrong.
 */
int vm_link_new(sd_event *event, const VmLinkSettings *settings, VmLink **ret);
VmLink* vm_link_free(VmLink *v);
DEFINE_CLEANUP(VmLink*, vm_link_free);

/* vm_link_set_relay() - another one, in place of that which vm_link_restore() could not fill; before vm_link_start() */
void vm_link_set_relay(VmLink *v, Relay *relay);

/* vm_link_start() - connect; the time for it counts from vm_link_new(), or from vm_link_restore() */
void vm_link_start(VmLink *v);

/* vm_link_lost() - the relay has lost its upstream, with what was in flight. Connects again, for as long as is left. */
void vm_link_lost(VmLink *v, const char *text);

/* vm_link_expect_end() - is the agent about to end? Then it is no event if the link does, and it is missed for a shorter time. */
void vm_link_expect_end(VmLink *v, bool b);

/* vm_link_clients_changed() - the relay's: systemd is told before long */
void vm_link_clients_changed(VmLink *v);

/* vm_link_is_ready() - has the agent ever answered: clients may come in */
bool vm_link_is_ready(const VmLink *v);
/* vm_link_is_away() - is there nobody to answer now */
bool vm_link_is_away(const VmLink *v);

/* vm_link_store() - leave session and relay to the next process; as relay_store() */
void vm_link_store(VmLink *v, Handover *h, const char *text, uint64_t timeout_usec);

/* vm_link_restore() - take up what vm_link_store() has left, instead of beginning anew: the link is ready, and lost. Returns 0 or -errno;
 * the relay is of no more use then, and the link is as it was. */
int vm_link_restore(VmLink *v, Handover *h);
