/* SPDX-License-Identifier: Apache-2.0 */
#include "ttrpc/status.h"

#include <stdlib.h>

static const char *const names[_TTRPC_CODE_MAX] = {
        [TTRPC_OK]                  = "OK",
        [TTRPC_CANCELLED]           = "CANCELLED",
        [TTRPC_UNKNOWN]             = "UNKNOWN",
        [TTRPC_INVALID_ARGUMENT]    = "INVALID_ARGUMENT",
        [TTRPC_DEADLINE_EXCEEDED]   = "DEADLINE_EXCEEDED",
        [TTRPC_NOT_FOUND]           = "NOT_FOUND",
        [TTRPC_ALREADY_EXISTS]      = "ALREADY_EXISTS",
        [TTRPC_PERMISSION_DENIED]   = "PERMISSION_DENIED",
        [TTRPC_RESOURCE_EXHAUSTED]  = "RESOURCE_EXHAUSTED",
        [TTRPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
        [TTRPC_ABORTED]             = "ABORTED",
        [TTRPC_OUT_OF_RANGE]        = "OUT_OF_RANGE",
        [TTRPC_UNIMPLEMENTED]       = "UNIMPLEMENTED",
        [TTRPC_INTERNAL]            = "INTERNAL",
        [TTRPC_UNAVAILABLE]         = "UNAVAILABLE",
        [TTRPC_DATA_LOSS]           = "DATA_LOSS",
        [TTRPC_UNAUTHENTICATED]     = "UNAUTHENTICATED",
};

const char* ttrpc_code_to_string(int code) {
        return code >= 0 && code < _TTRPC_CODE_MAX ? names[code] : "CODE_OUT_OF_RANGE";
}

TtrpcCode ttrpc_code_from_errno(int error) {
        switch (abs(error)) {
        case 0:
                return TTRPC_OK;
        case ECANCELED:
                return TTRPC_CANCELLED;
        case ETIMEDOUT:
                return TTRPC_DEADLINE_EXCEEDED;
        case ENOENT:
                return TTRPC_NOT_FOUND;
        case EEXIST:
                return TTRPC_ALREADY_EXISTS;
        case EPERM:
        case EACCES:
                return TTRPC_PERMISSION_DENIED;
        case EINVAL:
                return TTRPC_INVALID_ARGUMENT;
        case ENOMEM:
        case ENOBUFS:
        case EDQUOT:
        case EMFILE:
        case ENFILE:
        case EMSGSIZE:
                return TTRPC_RESOURCE_EXHAUSTED;
        case EBUSY:
        case ESTALE:
                return TTRPC_FAILED_PRECONDITION;
        case EOPNOTSUPP:
        case ENOSYS:
                return TTRPC_UNIMPLEMENTED;
        case ECONNREFUSED:
        case ENOTCONN:
        case ECONNRESET:
        case EPIPE:
        case EHOSTUNREACH:
        case ENETUNREACH:
                return TTRPC_UNAVAILABLE;
        default:
                return TTRPC_UNKNOWN;
        }
}
