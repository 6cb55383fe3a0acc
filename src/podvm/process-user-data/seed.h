/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the seed directory: a disk that the host attached, a file that it bound there, or a directory that somebody fills. */
#pragma once

#include <stdbool.h>

#include "podvm/process-user-data/source.h"

/* seed_has() - is there anything at @path below the seed directory */
bool seed_has(const SourceSettings *s, const char *path);

/* seed_read() - Source.fetch() for one file. -EAGAIN while somebody has it open for writing, as an upload over SFTP does. */
int seed_read(const SourceSettings *s, const char *path, char **ret, size_t *ret_size, char **reterr);
