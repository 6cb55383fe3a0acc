/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/init/command-line.h"

#include <string.h>

#define BLANK " \t\n"

bool command_line_is_sealed(const char *line) {
        for (;;) {
                line += strspn(line, BLANK);
                size_t n = strcspn(line, BLANK);
                if (n == 0)
                        return false;

                if (n == 2 && memcmp(line, "--", 2) == 0)
                        return line[2 + strspn(line + 2, BLANK)] == '\0';
                line += n;
        }
}
