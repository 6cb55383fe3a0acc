/* SPDX-License-Identifier: Apache-2.0 */
/* Two things make a KVM useless although it makes VMs. It may emulate each instruction (kvm_pvm, of hypervisors that give their
 * guests no VMX: measured 2.5 µs for each, a thousand times the normal), so that a kernel seems to hang; that shows in the CPU time
 * that a loop takes. Or interrupts may never arrive; so the probe's guest then waits with HLT for some of the in-kernel timer (8254
 * through 8259). A guest that gets none sleeps for ever inside KVM_RUN, so the probe is a child that is killed when its time is
 * over. */
#include "libvirt-accel.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "basic/util.h"

#define KVM_DEVICE "/dev/kvm"
#define PROBE_TIMEOUT_MSEC 5000
#define LOOP_CPU_USEC_MAX (100 * USEC_PER_MSEC)         /* for 300,000 rounds; a slow machine takes 1 ms */
#define GUEST_SIZE 0x10000
#define CODE 0x1000
#define HANDLER 0x2000
#define SIGNAL_PORT 0x510
#define TICKS 3

typedef enum Outcome {
        OUTCOME_WORKS,
        OUTCOME_NO_DEVICE,
        OUTCOME_OLD,
        OUTCOME_NO_VM,
        OUTCOME_NO_RUN,
        OUTCOME_ODD,
        OUTCOME_SLOW,
        _OUTCOME_MAX,
} Outcome;

static const char *const outcomes[_OUTCOME_MAX] = {
        [OUTCOME_WORKS] = "works",
        [OUTCOME_NO_DEVICE] = KVM_DEVICE " cannot be opened",
        [OUTCOME_OLD] = KVM_DEVICE " speaks another version",
        [OUTCOME_NO_VM] = "no VM with an interrupt controller and a timer can be made",
        [OUTCOME_NO_RUN] = "a virtual CPU does not run",
        [OUTCOME_ODD] = "a guest did something that it was not told to do",
        [OUTCOME_SLOW] = "instructions are emulated one by one",
};

/* Real mode, DS = SS = 0, SP = 0x8000. */
static const uint8_t code[] = {
        0xfa,                           /* cli */
        0x66, 0xb9, 0xe0, 0x93, 0x04, 0x00,     /* mov ecx, 300000 */
        0x66, 0x49,                     /* 1: dec ecx */
        0x75, 0xfc,                     /* jnz 1b */
        0xb0, 0x11, 0xe6, 0x20,         /* 8259: ICW1, edge, ICW4 follows */
        0xb0, 0x20, 0xe6, 0x21,         /* ICW2: vectors from 0x20 */
        0xb0, 0x04, 0xe6, 0x21,         /* ICW3 */
        0xb0, 0x01, 0xe6, 0x21,         /* ICW4: 8086 mode */
        0xb0, 0xfe, 0xe6, 0x21,         /* mask all but IRQ 0 */
        0xb0, 0x34, 0xe6, 0x43,         /* 8254: channel 0, both bytes, rate generator */
        0xb0, 0xa9, 0xe6, 0x40,         /* 1193 = 1 kHz */
        0xb0, 0x04, 0xe6, 0x40,
        0x31, 0xc9,                     /* xor cx, cx */
        0xfb,                           /* sti */
        0xf4,                           /* 1: hlt */
        0x83, 0xf9, TICKS,              /* cmp cx, TICKS */
        0x72, 0xfa,                     /* jb 1b */
        0xba, 0x10, 0x05,               /* mov dx, SIGNAL_PORT */
        0x88, 0xc8,                     /* mov al, cl */
        0xee,                           /* out dx, al */
        0xf4,                           /* hlt */
};

static const uint8_t handler[] = {
        0x41,                           /* inc cx */
        0xb0, 0x20, 0xe6, 0x20,         /* 8259: end of interrupt */
        0xcf,                           /* iret */
};

static Outcome run_guest(int kvm) {
        struct kvm_userspace_memory_region region = { .memory_size = GUEST_SIZE };
        struct kvm_pit_config pit = {};
        struct kvm_sregs sregs;
        struct kvm_regs regs = { .rip = CODE, .rsp = 0x8000, .rflags = 2 };
        struct kvm_run *run;
        uint8_t *memory;
        int vm, vcpu, size;

        if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
                return OUTCOME_OLD;
        vm = ioctl(kvm, KVM_CREATE_VM, 0);
        if (vm < 0)
                return OUTCOME_NO_VM;
        (void) ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000UL);       /* older Intel processors want a place of their own */
        if (ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 || ioctl(vm, KVM_CREATE_PIT2, &pit) < 0)
                return OUTCOME_NO_VM;

        memory = mmap(NULL, GUEST_SIZE, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
                return OUTCOME_NO_VM;
        region.userspace_addr = (uint64_t) (uintptr_t) memory;
        if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
                return OUTCOME_NO_VM;
        memcpy(memory + CODE, code, sizeof(code));
        memcpy(memory + HANDLER, handler, sizeof(handler));
        memory[0x20 * 4 + 1] = HANDLER >> 8;                    /* interrupt vector 0x20 = 0000:HANDLER */

        vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
        size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
        if (vcpu < 0 || size < (int) sizeof(struct kvm_run))
                return OUTCOME_NO_RUN;
        run = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED, vcpu, 0);
        if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
                return OUTCOME_NO_RUN;
        sregs.cs.base = sregs.cs.selector = 0;
        if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
                return OUTCOME_NO_RUN;

        for (;;) {
                if (ioctl(vcpu, KVM_RUN, 0) < 0) {
                        if (errno == EINTR || errno == EAGAIN)
                                continue;
                        return OUTCOME_NO_RUN;
                }
                if (run->exit_reason == KVM_EXIT_INTR)
                        continue;
                if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT && run->io.port == SIGNAL_PORT)
                        return ((uint8_t*) run)[run->io.data_offset] < TICKS ? OUTCOME_ODD :
                                now_usec(CLOCK_PROCESS_CPUTIME_ID) > LOOP_CPU_USEC_MAX ? OUTCOME_SLOW : OUTCOME_WORKS;
                return OUTCOME_ODD;
        }
}

int kvm_probe(char *ret_reason, size_t size) {
        _cleanup_(close_fdp) int kvm = -EBADF, pidfd = -EBADF;
        int status, n = -1;
        pid_t pid;

        kvm = open(KVM_DEVICE, O_RDWR|O_CLOEXEC);
        if (kvm < 0) {
                (void) snprintf(ret_reason, size, "%s: %s", outcomes[OUTCOME_NO_DEVICE], strerror(errno));
                return 0;
        }

        pid = fork();
        if (pid == 0)
                _exit(run_guest(kvm));
        if (pid < 0) {
                (void) snprintf(ret_reason, size, "the probe cannot be started: %s", strerror(errno));
                return 0;
        }

        pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        if (pidfd >= 0) {
                struct pollfd p = { .fd = pidfd, .events = POLLIN };

                do
                        n = poll(&p, 1, PROBE_TIMEOUT_MSEC);
                while (n < 0 && errno == EINTR);
        }
        if (n <= 0)
                (void) kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;

        if (n > 0 && WIFEXITED(status) && WEXITSTATUS(status) < _OUTCOME_MAX) {
                (void) snprintf(ret_reason, size, "%s", outcomes[WEXITSTATUS(status)]);
                return WEXITSTATUS(status) == OUTCOME_WORKS;
        }
        (void) snprintf(ret_reason, size, "%s", n > 0 ? "the probe crashed" : "a guest hangs");
        return 0;
}
