/* SPDX-License-Identifier: Apache-2.0 */
/* The status codes that a call ends with (google.rpc.Code), and how our error numbers become them. */
#pragma once

#include <errno.h>

typedef enum TtrpcCode {
        TTRPC_OK                  = 0,
        TTRPC_CANCELLED           = 1,
        TTRPC_UNKNOWN             = 2,
        TTRPC_INVALID_ARGUMENT    = 3,
        TTRPC_DEADLINE_EXCEEDED   = 4,
        TTRPC_NOT_FOUND           = 5,
        TTRPC_ALREADY_EXISTS      = 6,
        TTRPC_PERMISSION_DENIED   = 7,
        TTRPC_RESOURCE_EXHAUSTED  = 8,
        TTRPC_FAILED_PRECONDITION = 9,
        TTRPC_ABORTED             = 10,
        TTRPC_OUT_OF_RANGE        = 11,
        TTRPC_UNIMPLEMENTED       = 12,
        TTRPC_INTERNAL            = 13,
        TTRPC_UNAVAILABLE         = 14,
        TTRPC_DATA_LOSS           = 15,
        TTRPC_UNAUTHENTICATED     = 16,
        _TTRPC_CODE_MAX,
        _TTRPC_CODE_INVALID       = -EINVAL,
} TtrpcCode;

/**
 * ttrpc_code_to_string() - the name as google/rpc/code.proto spells it, e.g. "NOT_FOUND"
 *
 * For a number that is no code (a peer may send any): "CODE_OUT_OF_RANGE". Never NULL.
 */
const char* ttrpc_code_to_string(int code);

/**
 * ttrpc_code_from_errno() - the code for a handler's negative errno (the sign is ignored, 0 is OK)
 *
 * What the Go server maps keeps its code (containerd/ttrpc: services.go, convertCode): ECANCELED 1, ETIMEDOUT 4, ENOENT 5,
 * EEXIST 6, EPERM and EACCES 7, EINVAL 3. Ours on top: ENOMEM, ENOBUFS, EDQUOT, EMFILE, ENFILE and EMSGSIZE 8, EBUSY and
 * ESTALE 9, EOPNOTSUPP and ENOSYS 12, ECONNREFUSED, ENOTCONN, ECONNRESET, EPIPE, EHOSTUNREACH and ENETUNREACH 14.
 * Everything else is 2.
 */
TtrpcCode ttrpc_code_from_errno(int error);
