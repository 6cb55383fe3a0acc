/* SPDX-License-Identifier: Apache-2.0 */
/* How the end of the agent's service is told. The notes are what systemd 257 sets for ExecStopPost= (systemd.exec(5), $SERVICE_RESULT). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "basic/util.h"
#include "podvm/forwarder/agent-exit.h"

static void ends_are_told_in_words(void **state) {
        static const struct {
                const char *note, *text;
        } cases[] = {
                { "success exited 0",         "the agent has ended by itself" },
                { "exit-code exited 3",       "the agent has ended with exit status 3" },
                { "signal killed KILL",       "the agent was killed by signal KILL" },
                { "core-dump dumped SEGV",    "the agent has crashed with signal SEGV" },
                { "signal killed RTMIN+4",    "the agent was killed by signal RTMIN+4" },
                { "oom-kill killed KILL",     "the agent was killed because the VM ran out of memory" },
                { "watchdog killed ABRT",     "the agent was ended because it hung" },
                { "resources",                "the agent could not be started (resources)" },
                { "exit-code exited 203",     "the agent has ended with exit status 203" },
                { "",                         "the agent has ended" },
                { "   ",                      "the agent has ended" },
                { "signal killed K\nI/L%n",  "the agent was killed by signal KILn" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char text[AGENT_EXIT_TEXT_SIZE];

                agent_exit_parse(cases[i].note, text);
                assert_string_equal(text, cases[i].text);
        }
}

static void a_note_is_a_symbolic_link(void **state) {
        char dir[] = "/tmp/agent-exit-XXXXXX", path[64], text[AGENT_EXIT_TEXT_SIZE];

        assert_non_null(mkdtemp(dir));
        (void) snprintf(path, sizeof(path), "%s/note", dir);
        assert_int_equal(agent_exit_read(path, text), 0);
        assert_int_equal(symlink("signal killed KILL", path), 0);
        assert_int_equal(agent_exit_read(path, text), 1);
        assert_string_equal(text, "the agent was killed by signal KILL");
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rmdir(dir), 0);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(ends_are_told_in_words),
                cmocka_unit_test(a_note_is_a_symbolic_link),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
