/* SPDX-License-Identifier: Apache-2.0 */
/* The pool's addresses and the document that says who has which (cloud-api-adaptor: src/cloud-providers/byom/ip_allocation.md). No I/O.
 *
 * The document is upstream's, with more keys for each allocation: instanceName, sandboxID and state. An address is free if it is configured
 * and in no allocation; availableIPs is written for people and never believed. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "basic/json.h"

#define POOL_ADDRESSES_MAX 4096U

#define STATE_CLEANING "cleaning"       /* to be rebooted; else the machine serves its pod, or is about to */

/**
 * pool_parse() - "10.0.0.1,10.0.0.5-10.0.0.9" → strv of canonical addresses without repetitions
 * @range_max: what is more in one range is cut off
 * @ret_bad:   what cannot be parsed, newly allocated, on -EINVAL
 *
 * Returns 0, -EINVAL, -E2BIG (POOL_ADDRESSES_MAX), -ENOMEM.
 */
int pool_parse(const char *list, uint64_t range_max, char ***ret, char **ret_bad);

/* pool_hash() - where in the ring of free addresses an allocation begins to look: the first four bytes of the MD5 of its id */
uint32_t pool_hash(const char *allocation);

json_object* state_new(void);           /* NULL: no memory */
/* state_parse() - 0, -EBADMSG (not a state; *ret_error for people), -ENOMEM */
int state_parse(const char *text, size_t size, json_object **ret, char **ret_error);
/* state_text() - brings availableIPs, lastUpdated and version up to date first. Borrowed from @state; NULL: no memory. */
const char* state_text(json_object *state, char *const *addresses);

json_object* state_get(json_object *state, const char *allocation);            /* borrowed, or NULL */
const char* entry_get(json_object *entry, const char *key);                    /* "" if there is none */
bool state_has_address(json_object *state, const char *address);
/* state_name_owner() - another sandbox's id that has an instance of that name, or NULL */
const char* state_name_owner(json_object *state, const char *name, const char *sandbox_id);
int state_add(json_object *state, const char *allocation, const char *address, const char *node, const char *pod, const char *name,
              const char *sandbox_id);         /* 0, -ENOMEM */
void state_drop(json_object *state, const char *allocation);
