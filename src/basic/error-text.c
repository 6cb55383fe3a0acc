/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/error-text.h"

#include <stdarg.h>
#include <stdio.h>

int error_text(char **reterr, int error, const char *format, ...) {
        va_list ap;

        if (!reterr)
                return error;

        va_start(ap, format);
        if (vasprintf(reterr, format, ap) < 0)
                *reterr = NULL;
        va_end(ap);
        return error;
}
