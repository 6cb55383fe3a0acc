/* SPDX-License-Identifier: Apache-2.0 */
/* An errno with words beside it, made where the fact is known. */
#pragma once

#include "basic/util.h"

/**
 * error_text() - fill a function's *reterr and return its error
 * @reterr: NULL where nobody wants words; newly allocated otherwise, and NULL where there is no memory for them
 * @error:  returned as it is
 */
int error_text(char **reterr, int error, const char *format, ...) PRINTF(3, 4);
