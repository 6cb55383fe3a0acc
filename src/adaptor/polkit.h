/* SPDX-License-Identifier: Apache-2.0 */
/* Asks polkit whether the caller of a bus method may do what he asks for, without holding up the loop.
 *
 * The handler of the method calls polkit_check_async() before it does anything. The first time it returns 0: polkit was asked, and the
 * handler returns 1 at once. With the answer the same message is put in front of the queue again, the handler runs once more from its
 * first line, and polkit_check_async() now knows the answer. */
#pragma once

#include <systemd/sd-bus.h>

#include "basic/cleanup.h"

#define POLKIT_ACTION_MANAGE "org.confidentialcontainers.peerpod.manage"

typedef struct Polkit Polkit;

int polkit_new(Polkit **ret);
Polkit* polkit_free(Polkit *p);                 /* questions under way are forgotten */
DEFINE_CLEANUP(Polkit*, polkit_free);

/**
 * polkit_check_async() - may the sender of @call do @action
 * @details: pairs of key and value that polkit's rules and its question to the user see; NULL-terminated; may be NULL
 *
 * Root and our own user may do everything. Returns 1 (yes), 0 (asked: return 1 from the handler), negative with @error set (no, or it
 * could not be asked; where polkit is not installed that is "no").
 */
int polkit_check_async(Polkit *p, sd_bus_message *call, const char *action, const char *const *details, sd_bus_error *error);
