/* SPDX-License-Identifier: Apache-2.0 */
/* What an agent proxy has counted, for peerpod-metrics(8): a page of fixed layout in the proxy's run-time directory.
 *
 * The proxy maps the page and writes to it with plain stores: no call, no wake-up, nobody to wait for. Whoever wants to know reads the file.
 * Each number is one aligned word and so never half written; between two of them there is no order. The proxy may have been taken over
 * by its pod VM, so that for the reader the file is hostile input: it is read, not mapped, as a mapped file could be cut under his
 * feet, and whatever stands in it is only ever a number of that sandbox. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "basic/cleanup.h"

#define PROXY_COUNTERS_FILE "counters"

/* Never reordered: a proxy lives on with the old program while its pod does. New ones go to the end. */
typedef enum ProxyCounter {
        /* The relay's (ttrpc/relay.h), which counts right here. */
        PROXY_CALLS,                    /* of the shim and of tools, that were passed on to the pod VM */
        PROXY_CALLS_FAILED,             /* of these, answered with an error, by the agent or by us */
        PROXY_BYTES_TO_VM,
        PROXY_BYTES_FROM_VM,
        PROXY_CALLS_IN_FLIGHT,          /* now */
        PROXY_CONNECTIONS,              /* now; of the shim and of tools */
        PROXY_LINKS,                    /* connections to the pod VM that came up */
        PROXY_LINKS_LOST,
        PROXY_LINKS_RESUMED,            /* of PROXY_LINKS, those that went on where the last one had ended */
        PROXY_LINK_UP,                  /* now; 0 or 1 */
        PROXY_BOOT_USEC,                /* from the proxy's start until the pod VM took its first connection */
        _PROXY_COUNTER_MAX,
} ProxyCounter;

typedef struct ProxyCounters {
        uint64_t *values;               /* in the page, or in memory that nobody reads */
        void *page;
} ProxyCounters;

/**
 * proxy_counters_open() - make the page, with zeros
 * @directory: NULL or "": count where nobody reads
 *
 * On failure it counts where nobody reads, too, so that a caller may go on: returns 0 or -errno (-ENOMEM: it must not be used).
 */
int proxy_counters_open(const char *directory, ProxyCounters *ret);
void proxy_counters_done(ProxyCounters *c);

static inline void proxy_counters_set(ProxyCounters *c, ProxyCounter which, uint64_t value) {
        __atomic_store_n(c->values + which, value, __ATOMIC_RELAXED);
}

static inline void proxy_counters_add(ProxyCounters *c, ProxyCounter which, uint64_t n) {
        proxy_counters_set(c, which, c->values[which] + n);     /* there is one writer */
}

/* What a reader makes of a page. An older proxy has fewer of them, a newer one more, which are passed over. */
typedef struct ProxyValues {
        uint64_t values[_PROXY_COUNTER_MAX];
        size_t n;                       /* how many of these there are */
} ProxyValues;

/* proxy_counters_parse() - returns 0, -EBADMSG */
int proxy_counters_parse(const uint8_t *data, size_t size, ProxyValues *ret);

/* proxy_counters_read() - the page in @directory, without following symlinks and without waiting for anything. Returns 0, -ENOENT, -EBADMSG
 * (no such page), or another -errno. */
int proxy_counters_read(const char *directory, ProxyValues *ret);
