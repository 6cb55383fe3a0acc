/* SPDX-License-Identifier: Apache-2.0 */
/* One ttrpc call after the other, with errors that say which call it was. */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "proto/proto.h"
#include "ttrpc/client.h"

/* Of all functions here: 0, or EXIT_FAILURE with the reason on stderr, or -ENOMEM. */

/* A connection of its own for this run of the program, as Kata's Go runtime has one for each call to the hypervisor. */
int rpc_connect(sd_event *event, const char *path, TtrpcClient **ret);

/**
 * rpc_call() - make one call
 * @service: as protobuf-c generates it
 * @ret:     the answer, proto_freep(); may be NULL
 */
int rpc_call(TtrpcClient *client, const ProtobufCServiceDescriptor *service, const char *method,
             const ProtobufCMessage *request, uint64_t timeout_usec, ProtobufCMessage **ret);

/* rpc_complain() - "grpc.AgentService/ExecProcess: NOT_FOUND: …". Returns EXIT_FAILURE. */
int rpc_complain(const char *service, const char *method, int32_t code, const char *message);

/* rpc_print() - an answer on stdout: JSON, or lines of "path.of.field: value"; no line for what is empty or zero. */
int rpc_print(const ProtobufCMessage *m, bool json);

/* rpc_print_one() - the same for an answer of one field, which stands alone on its line */
int rpc_print_one(const ProtobufCMessage *m, const char *value, bool json);

/* rpc_find() - a method that this program has the messages of; @service with or without its package. NULL: none. */
const ProtobufCMethodDescriptor* rpc_find(const char *service, const char *method,
                                          const ProtobufCServiceDescriptor **ret_service);
