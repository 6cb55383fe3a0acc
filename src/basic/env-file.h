/* SPDX-License-Identifier: Apache-2.0 */
/* Files of environment variables, as systemd's EnvironmentFile= reads them (systemd.exec(5)). */
#pragma once

#include <stddef.h>

/* @key is a valid name, @value has no NUL byte; both are borrowed. A negative return ends the parsing. */
typedef int (*EnvFileHandler)(const char *key, const char *value, void *userdata);

/**
 * env_file_parse() - find the assignments of a file
 * @text: @size bytes; lines that are no assignment are skipped, as systemd skips them
 *
 * Returns 0, -ENOMEM, -EBADMSG (a NUL byte), or what the handler returned.
 */
int env_file_parse(const char *text, size_t size, EnvFileHandler handler, void *userdata);
