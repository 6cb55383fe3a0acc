/* SPDX-License-Identifier: Apache-2.0 */
/* VMware's backdoor: registers go to the hypervisor and come back changed (open-vm-tools: open-vm-tools/lib/include/backdoor_def.h). */
#pragma once

#include <stdint.h>

typedef struct BackdoorRegisters {
        uint32_t bx, cx, dx, si, di;            /* ax and the low half of dx are the backdoor's own, as inputs */
} BackdoorRegisters;

/**
 * backdoor_call() - pass the registers to the hypervisor
 *
 * Returns 0; -EPERM if the hypervisor does not let programs through, or there is none; -EOPNOTSUPP on other machines than x86.
 * Not to be used by several threads.
 */
int backdoor_call(BackdoorRegisters *r);
typedef int (*BackdoorFunction)(BackdoorRegisters *r);
