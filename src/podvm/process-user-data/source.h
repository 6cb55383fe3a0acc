/* SPDX-License-Identifier: Apache-2.0 */
/* Where user data comes from: one module for each kind of platform, asked in the order of the table. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct SourceSettings {
        const char *seed_dir;           /* where the seed disk is mounted, or somebody puts a file */
        uint64_t deadline_usec;         /* CLOCK_MONOTONIC; for all attempts together */
} SourceSettings;

typedef struct Source {
        const char *name;               /* for people */
        bool remote;                    /* a service that may not be ready yet, or have only a part of the data at first */

        /* Is this the platform? No network: a platform is known by its seed or by what its firmware says. */
        bool (*detect)(const SourceSettings *s);

        /* The cloud-config text, to be erased by the caller. -EHOSTUNREACH: there is no network yet; -EAGAIN: it may be there
         * later; -EBADMSG: it is not what it should be; -E2BIG: more than CLOUD_CONFIG_SIZE_MAX bytes; -EOPNOTSUPP: in a form
         * that we do not read; or another -errno. *reterr (NULL before) says in words what a person has to know, on
         * failure only, and never quotes data. */
        int (*fetch)(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr);

        /* NULL, or: take away what was processed, where others in the VM could read it as well. Returns 0 or -errno with *reterr. */
        int (*erase)(const SourceSettings *s, char **reterr);
} Source;

extern const Source source_nocloud, source_config_drive;                /* files */
extern const Source source_aws, source_azure, source_gcp, source_ibm, source_alibaba;   /* metadata services */
extern const Source source_vsphere;                                     /* the hypervisor's backdoor */

/* source_find() - the first of all sources that is at home here; NULL if none is */
const Source* source_find(const SourceSettings *s);

/* What the firmware says, by the kernel: @attribute is a file of /sys/class/dmi/id. */
bool dmi_is(const char *attribute, const char *value);
bool dmi_begins(const char *attribute, const char *prefix);
