/* SPDX-License-Identifier: Apache-2.0 */
/* The agent of one sandbox, as the commands below "agent" reach it. */
#pragma once

#include "ctl/ctl.h"
#include "ctl/rpc.h"
#include "proto/agent.pb-c.h"
#include "proto/health.pb-c.h"

#define AGENT_CHUNK (1U << 20)          /* of CopyFile, as Kata's runtime cuts files */
#define AGENT_STREAM_CHUNK (32U << 10)  /* of ReadStdout, ReadStderr, WriteStdin */

/**
 * agent_connect() - to the line's SANDBOX or --socket=
 * @ret_id: the sandbox' whole id, owned by the caller, NULL where only a socket is known; may be NULL
 *
 * Returns 0, EXIT_FAILURE (told why), -ENOMEM.
 */
int agent_connect(const CommandLine *line, sd_event *event, TtrpcClient **ret, char **ret_id);

/* Agents end a stream with an empty answer, older ones with this error (kata-containers: src/agent/src/rpc.rs,
 * read_stream()), and know nothing of a process that has been waited for. */
bool agent_error_is_end_of_stream(int32_t code, const char *message);

/* A process' status as ours: agents give the exit code, or 128 plus the signal. */
int agent_exit_status(int32_t status);

/* "TERM", "SIGTERM", "15"; -EINVAL. */
int signal_from_text(const char *text);
