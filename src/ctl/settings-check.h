/* SPDX-License-Identifier: Apache-2.0 */
/* The files in /etc/peerpod/: who may read them, what they set, and what the services make of it. */
#pragma once

#include "ctl/findings.h"

/**
 * settings_check() - look at @directory/peer-pods-cm.env and peer-pods-secret.env
 * @programs: directory of the services' programs, each of which is asked by --check-settings
 *
 * Values are never shown. Returns 0 or -ENOMEM.
 */
int settings_check(Findings *f, const char *directory, const char *programs);
