/* SPDX-License-Identifier: Apache-2.0 */
/* Where user data comes from: one module for each kind of platform, asked in the order of the table. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct SourceSettings {
        const char *seed_dir;           /* where the seed disk is mounted */
        uint64_t deadline_usec;         /* CLOCK_MONOTONIC; for all attempts together */
} SourceSettings;

typedef struct Source {
        const char *name;               /* for people */

        /* Is this the platform? 1 yes, 0 no, negative: it is, and what makes it so cannot be read. No network: a platform
         * is known by its seed or by what its firmware says. */
        int (*detect)(const SourceSettings *s);

        /* The cloud-config text, to be erased by the caller. -E2BIG if it is bigger than CLOUD_CONFIG_SIZE_MAX; -EAGAIN if it
         * may be there later. *reterr (NULL before) says in words what a person has to know, on failure only. */
        int (*fetch)(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr);
} Source;

/* A seed disk in NoCloud's layout (cloud-init documentation, NoCloud), or a directory that somebody fills by SFTP. */
extern const Source source_nocloud;

/* source_find() - the first of all sources that is at home here; NULL if none is */
const Source* source_find(const SourceSettings *s);
