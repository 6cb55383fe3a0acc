/* SPDX-License-Identifier: Apache-2.0 */
/* Checked traffic through proxy and forwarder, and somebody in the middle who cuts connections at chosen bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "relay-rig.h"

typedef struct Load Load;

typedef struct LoadCounts {
        uint64_t n_calls, n_failed, n_wrong;    /* answered; with an error; with other bytes than it must have */
        uint64_t n_bytes;                       /* of payloads, checked */
        uint64_t n_checks;                      /* Health.Check, SERVING */
        uint64_t n_polls_ended;                 /* long polls: none must end */
        int last_error, last_code;
        char last_message[128];
} LoadCounts;

/* Four connections: small calls, reads of 1 MiB, writes of up to 1 MiB, reads of 3 MiB and more than one of each in flight; a
 * Health.Check each 200 ms and four long polls on the way of each. */
Load* load_start(sd_event *event, const Rig *r);
const LoadCounts* load_counts(const Load *l);

/* Turns the loop until @n more calls have been answered; false if that takes longer than @timeout_usec. */
bool load_wait_calls(Load *l, uint64_t n, uint64_t timeout_usec);
void load_run(Load *l, uint64_t usec);

/* No new calls; turns the loop until those in flight are answered. Long polls stay open. */
bool load_drain(Load *l, uint64_t timeout_usec);
Load* load_free(Load *l);

/* Listens on a port of its own, and carries bytes to @port and back. */
typedef struct Middle Middle;
Middle* middle_new(sd_event *event, uint16_t port, uint16_t *ret_port);
Middle* middle_free(Middle *m);

/* Resets all connections when so many more bytes, of both ways, have passed; what would be passed in the same write is cut there. */
void middle_cut_after(Middle *m, uint64_t n_bytes);
bool middle_is_armed(const Middle *m);
uint64_t middle_get_n_cuts(const Middle *m);
