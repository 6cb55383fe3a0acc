/* SPDX-License-Identifier: Apache-2.0 */
/* What in Kata's configuration keeps pods from starting on pod VMs, or lets more through than is meant. */
#pragma once

#include "ctl/findings.h"

typedef struct TomlValue TomlValue;

/**
 * kata_check() - look at what Kata's runtime would read
 * @files:              the configuration file and those of config.d/ beside it; a later one wins
 * @path:               of the first one, for people
 * @start_timeout_usec: of the adaptor; 0: not known
 *
 * Returns 0 or -ENOMEM.
 */
int kata_check(Findings *f, const TomlValue *files, size_t n_files, const char *path, const char *socket, uint64_t start_timeout_usec);

/* kata_check_file() - read @path, or the first one of Kata's usual places where there is one for remote hypervisors (NULL) */
int kata_check_file(Findings *f, const char *path, const char *socket, uint64_t start_timeout_usec);
