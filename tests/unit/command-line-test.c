/* SPDX-License-Identifier: Apache-2.0 */
/* command_line_is_sealed(): an image's kernel command line ends in its first "--". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "basic/util.h"
#include "podvm/init/command-line.h"

#define OWN "roothash=84447c34 console=ttyS0 panic=-1 --"

typedef struct Case {
        const char *name, *line;
        bool sealed;
} Case;

static const Case cases[] = {
        { "as built",                                   OWN "\n",                                       true },
        { "as the kernel pads it",                      OWN " \n",                                      true },
        { "no line feed",                               OWN,                                            true },
        { "a word appended by SMBIOS",                  OWN " systemd.unit=emergency.target\n",         false },
        { "an add-on's, which ends as ours",            OWN " init=/bin/sh --\n",                       false },
        { "the same end once more",                     OWN " --\n",                                    false },
        { "a tab in between",                           OWN "\trd.shell\n",                             false },
        { "a line feed in between",                     OWN "\nrd.shell\n",                             false },
        { "glued to the end",                           OWN "systemd.debug_shell\n",                    false },
        { "another line, without the end",              "roothash=00 console=ttyS0\n",                  false },
        { "a longer word that begins so",               "roothash=00 --x\n",                            false },
        { "a word that ends so",                        "roothash=00 x--\n",                            false },
        { "a shorter one",                              "roothash=00 -\n",                              false },
        { "nothing",                                    "",                                             false },
        { "a line feed",                                "\n",                                           false },
};

static void decides(void **state) {
        const Case *c = *state;

        assert_int_equal(command_line_is_sealed(c->line), c->sealed);
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(cases)];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                tests[i] = (struct CMUnitTest) { cases[i].name, decides, NULL, NULL, (void*) &cases[i] };
        return cmocka_run_group_tests(tests, NULL, NULL);
}
