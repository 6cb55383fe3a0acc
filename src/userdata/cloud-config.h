/* SPDX-License-Identifier: Apache-2.0 */
/* The cloud-config document that carries a pod VM's files: the writer of the worker, the reader of the VM. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "basic/cleanup.h"

/* What one document may ask of us. The largest file upstream sends is auth.json with 12288 bytes; clouds end at
 * 64 KiB of user data, a seed disk has no limit of its own. */
#define CLOUD_CONFIG_SIZE_MAX ((size_t) 1 << 20)                /* the text */
#define CLOUD_CONFIG_CONTENT_MAX ((size_t) 4 << 20)             /* all decoded contents together */
#define CLOUD_CONFIG_FILES_MAX 64U
#define CLOUD_CONFIG_WARNINGS_MAX 16U

#define MODE_INVALID ((mode_t) -1)

/* One entry of write_files. */
typedef struct CloudConfigFile {
        char *path;             /* absolute */
        char *owner;            /* NULL = not given; otherwise the text, not looked up */
        mode_t mode;            /* permission bits; MODE_INVALID = not given */
        char *content;          /* decoded, NUL added behind it; never NULL */
        size_t size;
} CloudConfigFile;

typedef struct CloudConfig {
        CloudConfigFile *files;
        size_t n_files;
        char **warnings;        /* NULL-terminated or NULL: what was skipped, a sentence each, for the caller's log */
        size_t n_warnings;
} CloudConfig;

#define CLOUD_CONFIG_NULL (CloudConfig) {}

/* What the writer is given; all strings are borrowed. */
typedef struct CloudConfigEntry {
        const char *path;
        const char *owner;              /* NULL or "" = no such key; the same for the next three */
        const char *permissions;
        const char *encoding;           /* written as it is: the content is not encoded here */
        const char *append;
        const char *content;            /* NULL with size 0 = no such key, an empty file */
        size_t size;
} CloudConfigEntry;

/**
 * cloud_config_format() - write a document, byte for byte as upstream does
 * @ret:    text with a NUL behind it; freed by the caller with erase_free(), as it may hold secrets
 * @reterr: filled on failure only, freed by the caller; names the entry and the reason, never content. May be NULL, and *@reterr
 *          must be NULL before: some failures, such as no memory, have no text
 *
 * Layout of cloud-api-adaptor: src/cloud-providers/util/cloudinit/cloudconfig.go. Its literal blocks always end in
 * one newline: content without one gets it, and content that would come out different for any other reason (two
 * final newlines, a first line that begins with a blank, control characters, no UTF-8, …) is refused.
 * Upstream's reader knows path and content only, so give it no more than these.
 *
 * Returns 0, -EINVAL (cannot be represented), -E2BIG (limits above), -ENOMEM.
 */
int cloud_config_format(const CloudConfigEntry *entries, size_t n_entries, char **ret, size_t *ret_size, char **reterr);

/**
 * cloud_config_parse() - read a document
 * @data:   need not end in NUL; at most CLOUD_CONFIG_SIZE_MAX bytes
 * @ret:    untouched on failure; cloud_config_done() when done with it
 * @reterr: filled on failure only, freed by the caller: line and reason, never content. May be NULL
 *
 * One YAML document: a mapping, or nothing at all (no files). Known are write_files and in its entries path,
 * content, permissions, owner, encoding (b64, gz+b64 and cloud-init's other names for them) and append (false only).
 * Other keys are skipped and named in @ret->warnings. Refused: aliases, anchors, duplicate keys, wrong types,
 * what is above a limit. Does not log.
 *
 * Returns 0, -EBADMSG (not what it should be), -E2BIG (a limit), -EOPNOTSUPP (append, unknown encoding), -ENOMEM.
 */
int cloud_config_parse(const void *data, size_t size, CloudConfig *ret, char **reterr);

/* NULL if no entry has this path; if several have, the last one (it would have been written last). */
const CloudConfigFile* cloud_config_find(const CloudConfig *c, const char *path);

/* Frees everything, contents erased; the object may be used again. */
void cloud_config_done(CloudConfig *c);
