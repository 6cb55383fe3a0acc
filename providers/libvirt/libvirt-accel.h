/* SPDX-License-Identifier: Apache-2.0 */
/* Does KVM work here? /dev/kvm may exist, and open, and still not run a guest. */
#pragma once

#include <stddef.h>

/**
 * kvm_probe() - run a few instructions in a VM of our own, in a child process with a time limit
 * @ret_reason: why not, for people
 *
 * Main thread, before other threads exist. Returns 1 if KVM works, 0 if not.
 */
int kvm_probe(char *ret_reason, size_t size);
