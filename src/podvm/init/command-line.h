/* SPDX-License-Identifier: Apache-2.0 */
/* Whether something was appended to the kernel command line that the image was built with. */
#pragma once
#include <stdbool.h>

/**
 * command_line_is_sealed() - whether the line ends where the image's own ends
 * @line: as in /proc/cmdline
 *
 * The line of a production image ends in the word "--". The kernel reads no parameters behind it (linux: kernel/params.c, parse_args())
 * but systemd would. systemd-stub appends what SMBIOS strings and add-ons on the ESP give it (systemd: src/boot/stub.c, run()); so
 * nothing was appended if the first such word is the last one.
 */
bool command_line_is_sealed(const char *line);
