/* SPDX-License-Identifier: Apache-2.0 */
/* Pauses between two looks at the cloud: short at first, then as long as its limits on requests like. */
#pragma once

#include "basic/util.h"
#include "provider/peerpod-provider.h"

#define PAUSE_FIRST_USEC (200 * USEC_PER_MSEC)
#define PAUSE_MAX_USEC (3 * USEC_PER_SEC)

/* pause_next() - waits *usec, and makes it longer; 0, or -ECANCELED, -ETIMEDOUT with *error set */
static inline int pause_next(const PeerpodCall *call, uint64_t *usec, PeerpodError *error) {
        int r = peerpod_call_wait(call, -1, 0, *usec, error);

        *usec = MIN(*usec * 3 / 2, PAUSE_MAX_USEC);
        return r;
}
