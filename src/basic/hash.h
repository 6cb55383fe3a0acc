/* SPDX-License-Identifier: Apache-2.0 */
/* uthash, without its exit() when memory is short: an element that could not be added has hh.tbl == NULL (hash_added()). */
#pragma once

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) ((void) (element))
#include <uthash.h>

/* Was the element of a HASH_ADD…() taken? It must have been zeroed before. */
#define hash_added(element) ((element)->hh.tbl != NULL)
