/* SPDX-License-Identifier: Apache-2.0 */
/* guestinfo variables of a VMware VM, by the message channel of its backdoor
 * (open-vm-tools: open-vm-tools/lib/message/message.c and lib/include/guest_msg_def.h). */
#pragma once

#include <stddef.h>

#include "podvm/process-user-data/backdoor.h"

/**
 * guestinfo_get() - one variable
 * @call:     the backdoor
 * @key:      "guestinfo.userdata"
 * @size_max: of the value
 * @ret:      with a NUL behind it, to be erased; untouched on failure
 * @reterr:   a clause for people on failure
 *
 * Four bytes at a time: the other way, which moves all at once, does not work where memory is encrypted
 * (linux: drivers/gpu/drm/vmwgfx/vmwgfx_msg.c), and the 64 KiB that a variable may have take milliseconds.
 *
 * Returns 0; -ENODATA (there is no such variable); -E2BIG; -EBADMSG (not the protocol); -EAGAIN (no channel is free, or the VM was
 * moved in the middle of it each time); -EPERM, -EOPNOTSUPP (backdoor_call()); -ENOMEM.
 */
int guestinfo_get(BackdoorFunction call, const char *key, size_t size_max, char **ret, size_t *ret_size, char **reterr);

/* guestinfo_set() - change a variable of the VM. Returns as above; -EPERM also where the VM's settings forbid it. */
int guestinfo_set(BackdoorFunction call, const char *key, const char *value, char **reterr);
