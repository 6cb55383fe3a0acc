/* SPDX-License-Identifier: Apache-2.0 */
/* Initdata on the way to the pod VM: TOML text, gzip, base64 (confidential-containers: trustee, kbs/docs/initdata.md). */
#pragma once

#include <stddef.h>

/**
 * initdata_encode() - what goes to the pod VM as /run/peerpod/initdata
 * @toml: as the shim sends it: it has undone base64 and gzip already
 * @ret:  newly allocated, without line breaks
 *
 * The digest that is measured is taken over the TOML bytes, so compressing them again is harmless. Returns 0, -ENOMEM.
 */
int initdata_encode(const char *toml, char **ret);

/**
 * initdata_check() - see whether an encoded document, from the node's configuration, is one
 * @ret_error: why not, for people, newly allocated
 *
 * Returns 0, -EBADMSG, -E2BIG, -ENOMEM.
 */
int initdata_check(const char *encoded, char **ret_error);
