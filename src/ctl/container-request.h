/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainerRequest from a few options, as Kata's runtime would have made it from an OCI bundle. */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "ctl/ctl.h"

/**
 * container_request_new() - the request for "agent create-container"
 * @container_id: of the container and of its first process
 * @sandbox_id:   NULL if not known; the container of the same id is the sandbox's pause container
 * @config:       an OCI config.json (runtime-spec, config.md), or NULL for the default; options win over it
 * @argv:         NULL-terminated; empty: the config's
 * @ret:          a Grpc__CreateContainerRequest, proto_freep()
 * @reterr:       on -EINVAL; the caller frees it
 *
 * Returns 0, -EINVAL, -ENOMEM.
 */
int container_request_new(const char *container_id, const char *sandbox_id, const char *config, const Arguments *arg,
                          char *const *argv, ProtobufCMessage **ret, char **reterr);

/**
 * process_new() - the process of "agent exec": the environment and capabilities of the default config
 * @ret: a Grpc__Process, proto_freep()
 */
int process_new(const Arguments *arg, char *const *argv, ProtobufCMessage **ret, char **reterr);
