/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/backdoor.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>

#define MAGIC UINT32_C(0x564d5868)      /* "VMXh" */
#define PORT UINT32_C(0x5658)           /* "VX" */

static sigjmp_buf refused;

static void on_fault(int signal) {
        siglongjmp(refused, 1);
}

int backdoor_call(BackdoorRegisters *r) {
        struct sigaction fault = { .sa_handler = on_fault }, before;
        volatile int result = 0;

        /* The hypervisor sees the instruction before the CPU checks whether we may do I/O; without one, or with
         * monitor_control.restrict_backdoor, it is the fault that it looks like. */
        if (sigaction(SIGSEGV, &fault, &before) < 0)
                return -errno;

        if (sigsetjmp(refused, /* savemask= */ 1) == 0) {
                uint32_t ax = MAGIC, bx = r->bx, cx = r->cx, dx = (r->dx & UINT32_C(0xffff0000)) | PORT, si = r->si, di = r->di;

                __asm__ volatile ("inl %%dx, %%eax"
                                  : "+a" (ax), "+b" (bx), "+c" (cx), "+d" (dx), "+S" (si), "+D" (di)
                                  :
                                  : "memory", "cc");
                *r = (BackdoorRegisters) { .bx = bx, .cx = cx, .dx = dx, .si = si, .di = di };
        } else
                result = -EPERM;

        (void) sigaction(SIGSEGV, &before, NULL);
        return result;
}
