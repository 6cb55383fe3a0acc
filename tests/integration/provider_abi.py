# SPDX-License-Identifier: Apache-2.0
"""The binary interface of the provider modules (src/provider/peerpod-provider.h) by ctypes, for tests that load a module into their own process."""
import ctypes

ERRORS = ["none", "invalid-argument", "not-found", "already-exists", "exhausted", "failed-precondition", "unavailable", "timed-out", "cancelled",
          "unauthenticated", "internal", "throttled"]
P, S, U32, U64, I32 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32
LOG = ctypes.CFUNCTYPE(None, P, ctypes.c_int, S)


def struct_of(name, *fields):
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


Error = struct_of("Error", ("size", U32), ("kind", U32), ("text", ctypes.c_char * 1024))
Call = struct_of("Call", ("size", U32), ("cancel_fd", I32), ("deadline_usec", U64), ("log", LOG), ("log_userdata", P))
Option = struct_of("Option", ("name", S), ("env", S), ("default_value", S), ("help", S), ("type", U32), ("flags", U32), ("minimum", U64), ("maximum", U64))
Config = struct_of("Config", ("size", U32), ("n_values", U32), ("values", ctypes.POINTER(S)), ("state_directory", S), ("log", LOG), ("log_userdata", P))
Spec = struct_of("Spec", ("size", U32), ("vcpus", U32), ("memory_mib", U64), ("gpus", U32), ("flags", U32), ("name", S), ("sandbox_id", S), ("node", S),
                 ("machine_type", S), ("image", S), ("pod_name", S), ("pod_namespace", S), ("user_data", S), ("user_data_size", U64),
                 ("volumes", ctypes.POINTER(S)), ("n_volumes", U64), ("gpu_model", S))
Instance = struct_of("Instance", ("size", U32), ("n_addresses", U32), ("id", ctypes.c_char * 512), ("type", ctypes.c_char * 64),
                     ("addresses", (ctypes.c_char * 46) * 16))
Key = struct_of("Key", ("size", U32), ("reserved", U32), ("name", S), ("sandbox_id", S), ("id", S))
FOUND = ctypes.CFUNCTYPE(ctypes.c_int, P, ctypes.POINTER(Key))
pointer = ctypes.POINTER
OPEN = ctypes.CFUNCTYPE(ctypes.c_int, pointer(Config), pointer(Call), pointer(P), pointer(Error))
VERIFY = ctypes.CFUNCTYPE(ctypes.c_int, P, pointer(Call), pointer(Error))
CREATE = ctypes.CFUNCTYPE(ctypes.c_int, P, pointer(Call), pointer(Spec), pointer(Instance), pointer(Error))
REMOVE = ctypes.CFUNCTYPE(ctypes.c_int, P, pointer(Call), pointer(Key), pointer(Error))
FIND = ctypes.CFUNCTYPE(ctypes.c_int, P, pointer(Call), S, FOUND, P, pointer(Error))
CLOSE = ctypes.CFUNCTYPE(None, P)
Provider = struct_of("Provider", ("abi_version", U32), ("size", U32), ("name", S), ("description", S), ("options", pointer(Option)), ("n_options", U32),
                     ("option_size", U32), ("user_data_size_max", U64), ("open", OPEN), ("verify", VERIFY), ("create", CREATE), ("remove", REMOVE),
                     ("find", FIND), ("close", CLOSE), ("volumes_max", U32), ("reserved", U32))
