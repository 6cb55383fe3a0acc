/* SPDX-License-Identifier: Apache-2.0 */
/* One error object on the way from a service to the shim: a name of ours and a text for people, in sd_bus_error. */
#pragma once

#include <systemd/sd-bus.h>

#include "basic/bus-private.h"
#include "basic/cleanup.h"
#include "ttrpc/status.h"

/* error_get_text() - for people; borrowed, never NULL */
const char* error_get_text(const sd_bus_error *error);

/* error_to_code() - what the shim gets for it; names that are not ours are UNKNOWN */
TtrpcCode error_to_code(const sd_bus_error *error);

/**
 * error_set_errno() - @error, which must be empty, gets our name for @r and "TEXT: strerror"
 *
 * Returns -|@r|.
 */
int error_set_errno(sd_bus_error *error, int r, const char *format, ...) __attribute__((format(printf, 3, 4)));

/**
 * error_wrap() - put context in front of the text, keep the name
 * @from: "create instance 'x'"; borrowed
 *
 * Where memory is short the error stays as it is.
 */
void error_wrap(sd_bus_error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
