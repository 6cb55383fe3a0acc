/* SPDX-License-Identifier: Apache-2.0 */
/* A process that can be recognized later, after its end and after our own restart, although its number may have gone to another one. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* @id: number of the process' inode in the kernel's pidfs, which no other process of this boot ever has. */
typedef struct ProcessId {
        pid_t pid;                      /* 0: none */
        uint64_t id;
} ProcessId;

#define PROCESS_ID_NULL ((ProcessId) {})

/* process_id_get() - a process that lives. Returns 0, -ESRCH, -EOPNOTSUPP (a kernel before 6.9 has no pidfs), -errno. */
int process_id_get(pid_t pid, ProcessId *ret);

/* process_id_is_alive() - Returns 1, 0 when it has ended for certain, -errno when that cannot be told. */
int process_id_is_alive(const ProcessId *p);
