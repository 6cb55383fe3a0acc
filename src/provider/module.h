/* SPDX-License-Identifier: Apache-2.0 */
/* Finding, checking and loading the one provider module that this process serves. */
#pragma once

#include "provider/peerpod-provider.h"

#define MODULE_NAME_MAX 32

/* An external module, by upstream's variables (cloud-api-adaptor: src/cloud-providers/table.go). */
typedef struct ModuleExternal {
        const char *enable;     /* "true" exactly, or "false", or empty */
        const char *path;
        const char *hash;       /* SHA-256 of the file, lower-case hex */
} ModuleExternal;

/**
 * module_load() - load NAME.so from @directory, or the external module if one is enabled
 * @ret: the descriptor; it stays loaded for the rest of the process (libraries below it have threads and exit handlers)
 *
 * A module that was asked for and fails a check is refused, never replaced by another one of the same name. The file of an
 * external module is opened once; what was hashed is what is loaded, through /proc/self/fd/N.
 *
 * Returns 0; -EINVAL after logging what is wrong: all failures are the configuration's; -ENOMEM.
 */
int module_load(const char *directory, const char *name, const ModuleExternal *external, const PeerpodProvider **ret);

/* module_check_descriptor() - does it fit our version and its file's name? @path is for the log. Returns 0, -EINVAL (logged). */
int module_check_descriptor(const PeerpodProvider *p, const char *name, const char *path);
