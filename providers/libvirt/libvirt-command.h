/* SPDX-License-Identifier: Apache-2.0 */
/* Another program as one bounded step of a call. */
#pragma once

#include "provider/peerpod-provider.h"

/**
 * command_run() - run argv[0], found in $PATH, without a shell, until it ends or the call does; then it is killed
 *
 * Its standard input and output are /dev/null; the beginning of its standard error is part of the error's text. Returns 0 if its
 * exit status is 0, else negative with @error.
 */
int command_run(const PeerpodCall *call, const char *const argv[], PeerpodError *error);
