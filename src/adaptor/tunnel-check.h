/* SPDX-License-Identifier: Apache-2.0 */
/* A running sandbox's tunnel is probed because somebody asks on the bus. */
#pragma once

#include <systemd/sd-bus.h>

typedef struct Sandbox Sandbox;

/* tunnel_check_begin() - probe it, and answer @call with the result, "bs", or an error. Returns 0 or negative, with @error set or not. */
int tunnel_check_begin(Sandbox *s, sd_bus_message *call, sd_bus_error *error);

/* tunnel_checks_cancel() - the sandbox goes: who waits is told */
void tunnel_checks_cancel(Sandbox *s);
