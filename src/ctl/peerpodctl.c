/* SPDX-License-Identifier: Apache-2.0 */
/* peerpodctl: look at pod VMs, stop them, speak to their agents, and play Kata's shim by hand. */
#include <stdio.h>

#include "basic/main-func.h"
#include "ctl/ctl.h"

int main(int argc, char *argv[]) {
        Arguments arg = {};
        CommandLine line;
        char *error = NULL;
        int r;

        r = command_line_parse(&command_table, argc, argv, &arg, &line, &error);
        if (r == -EINVAL)
                r = complain_usage("%s", strempty(error));
        else if (r >= 0 && line.version) {
                (void) puts("peerpodctl " PEERPOD_VERSION);
                r = flush_stdout();
        } else if (r >= 0 && (line.help || !line.command)) {
                command_table_print_help(&command_table, line.command, stdout);
                r = flush_stdout();
        } else if (r >= 0)
                r = line.command->run(&line);

        if (r < 0)
                r = complain("%s", strerror(-r));

        free(error);
        command_line_done(&line);
        return r;
}
