/* SPDX-License-Identifier: Apache-2.0 */
#include "adaptor/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "basic/util.h"

static const struct {
        const char *name;
        TtrpcCode code;
} codes[] = {
        { PEERPOD_ERROR_INVALID_ARGUMENT,    TTRPC_INVALID_ARGUMENT },
        { PEERPOD_ERROR_NOT_FOUND,           TTRPC_NOT_FOUND },
        { PEERPOD_ERROR_ALREADY_EXISTS,      TTRPC_ALREADY_EXISTS },
        { PEERPOD_ERROR_EXHAUSTED,           TTRPC_RESOURCE_EXHAUSTED },
        { PEERPOD_ERROR_FAILED_PRECONDITION, TTRPC_FAILED_PRECONDITION },
        { PEERPOD_ERROR_UNAVAILABLE,         TTRPC_UNAVAILABLE },
        { PEERPOD_ERROR_TIMED_OUT,           TTRPC_DEADLINE_EXCEEDED },
        { PEERPOD_ERROR_CANCELLED,           TTRPC_CANCELLED },
        { PEERPOD_ERROR_UNAUTHENTICATED,     TTRPC_UNAUTHENTICATED },
        { PEERPOD_ERROR_INTERNAL,            TTRPC_INTERNAL },
        { PEERPOD_ERROR_THROTTLED,           TTRPC_UNAVAILABLE },
        /* what sd-bus, the broker and systemd say of themselves */
        { SD_BUS_ERROR_INVALID_ARGS,         TTRPC_INTERNAL },
        { SD_BUS_ERROR_ACCESS_DENIED,        TTRPC_PERMISSION_DENIED },
        { SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, TTRPC_PERMISSION_DENIED },
        { SD_BUS_ERROR_NO_MEMORY,            TTRPC_RESOURCE_EXHAUSTED },
        { SD_BUS_ERROR_LIMITS_EXCEEDED,      TTRPC_RESOURCE_EXHAUSTED },
        { SD_BUS_ERROR_NO_REPLY,             TTRPC_UNAVAILABLE },
        { SD_BUS_ERROR_TIMEOUT,              TTRPC_DEADLINE_EXCEEDED },
        { SD_BUS_ERROR_SERVICE_UNKNOWN,      TTRPC_UNAVAILABLE },
        { SD_BUS_ERROR_NAME_HAS_NO_OWNER,    TTRPC_UNAVAILABLE },
};

static const struct {
        int error;
        const char *name;
} names[] = {
        { EINVAL,       PEERPOD_ERROR_INVALID_ARGUMENT },
        { ENOENT,       PEERPOD_ERROR_NOT_FOUND },
        { EEXIST,       PEERPOD_ERROR_ALREADY_EXISTS },
        { ENOMEM,       PEERPOD_ERROR_EXHAUSTED },
        { ENOSPC,       PEERPOD_ERROR_EXHAUSTED },
        { EDQUOT,       PEERPOD_ERROR_EXHAUSTED },
        { E2BIG,        PEERPOD_ERROR_EXHAUSTED },
        { EFBIG,        PEERPOD_ERROR_EXHAUSTED },
        { EMFILE,       PEERPOD_ERROR_EXHAUSTED },
        { ENFILE,       PEERPOD_ERROR_EXHAUSTED },
        { ETIMEDOUT,    PEERPOD_ERROR_TIMED_OUT },
        { ECANCELED,    PEERPOD_ERROR_CANCELLED },
        { ECONNREFUSED, PEERPOD_ERROR_UNAVAILABLE },
        { ENOTCONN,     PEERPOD_ERROR_UNAVAILABLE },
        { ECONNRESET,   PEERPOD_ERROR_UNAVAILABLE },
};

const char* error_get_text(const sd_bus_error *error) {
        return error->message ?: error->name ?: "unknown error";
}

TtrpcCode error_to_code(const sd_bus_error *error) {
        for (size_t i = 0; i < ELEMENTSOF(codes); i++)
                if (sd_bus_error_has_name(error, codes[i].name))
                        return codes[i].code;

        return TTRPC_UNKNOWN;
}

int error_set_errno(sd_bus_error *error, int r, const char *format, ...) {
        const char *name = PEERPOD_ERROR_INTERNAL;
        _cleanup_(freep) char *text = NULL;
        va_list ap;
        int n;

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (names[i].error == abs(r))
                        name = names[i].name;

        va_start(ap, format);
        n = vasprintf(&text, format, ap);
        va_end(ap);
        if (n < 0) {
                text = NULL;            /* vasprintf() leaves it undefined */
                (void) sd_bus_error_set(error, name, "Out of memory");
        } else
                (void) sd_bus_error_setf(error, name, "%s: %s", text, strerror(abs(r)));

        return -abs(r);
}

void error_wrap(sd_bus_error *error, const char *format, ...) {
        _cleanup_(sd_bus_error_free) sd_bus_error wrapped = SD_BUS_ERROR_NULL;
        _cleanup_(freep) char *text = NULL;
        va_list ap;
        int n;

        va_start(ap, format);
        n = vasprintf(&text, format, ap);
        va_end(ap);
        if (n < 0) {
                text = NULL;
                return;
        }

        (void) sd_bus_error_setf(&wrapped, error->name, "%s: %s", text, error_get_text(error));
        if (sd_bus_error_is_set(&wrapped) && streq(wrapped.name, error->name)) {
                sd_bus_error_free(error);
                (void) sd_bus_error_move(error, &wrapped);
        }
}
