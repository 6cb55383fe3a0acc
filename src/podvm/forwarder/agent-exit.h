/* SPDX-License-Identifier: Apache-2.0 */
/* How the agent's service has ended: a note that its unit leaves (kata-agent.service, ExecStopPost=). */
#pragma once

#include <stddef.h>
#include <systemd/sd-event.h>

#define AGENT_EXIT_TEXT_SIZE 160U

/**
 * agent_exit_parse() - what systemd calls the end of a service, for people
 * @note: "$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS" (systemd.exec(5)): three words of which any may be missing
 * @ret:  AGENT_EXIT_TEXT_SIZE; "the agent was killed by signal KILL"
 *
 * Anything is understood as an end.
 */
void agent_exit_parse(const char *note, char *ret);

/**
 * agent_exit_read() - is there a note at @path, and what does it say
 *
 * The note is the target of a symbolic link: one system call writes it, whole, and no shell is needed for that. Returns 1, 0, or -errno.
 */
int agent_exit_read(const char *path, char *ret);

/* Calls @handler when something is made in the note's directory. Returns 0, -ENOENT (no such directory), or another -errno. */
int agent_exit_watch(sd_event *event, const char *path, sd_event_inotify_handler_t handler, void *userdata, sd_event_source **ret);
