/* SPDX-License-Identifier: Apache-2.0 */
/* The three documents between Azure's WireServer and the agent of a VM (cloud-api-adaptor: src/cloud-api-adaptor/cmd/azure-ready/main.go;
 * Azure/WALinuxAgent: azurelinuxagent/common/protocol/wire.py). */
#pragma once

#include <stddef.h>

#define WIRE_VERSION "2015-04-05"               /* of the protocol, as upstream asks for */

typedef struct GoalState {
        char *incarnation, *container_id, *instance_id;
} GoalState;

void goal_state_done(GoalState *g);

/* Both: -EBADMSG if @text is not that document, or lacks what is needed; -ENOMEM. */
int wire_parse_versions(const char *text, size_t size, char **ret);     /* WIRE_VERSION if it is listed, else the first */
int wire_parse_goal_state(const char *text, size_t size, GoalState *ret);

/* wire_format_health() - "this VM is ready", in answer to @g; freed by the caller */
int wire_format_health(const GoalState *g, char **ret);
