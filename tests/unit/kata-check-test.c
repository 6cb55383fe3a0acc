/* SPDX-License-Identifier: Apache-2.0 */
/* What 'peerpodctl check' says of Kata's configuration, and the reader that it rests on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "basic/toml.h"
#include "basic/util.h"
#include "ctl/kata-check.h"

#define SOCKET "/run/peerpod/hypervisor.sock"
#define START_TIMEOUT (570 * USEC_PER_SEC)

/* kata-containers: src/runtime/config/configuration-remote.toml.in, with what concerns us, as it is shipped. */
static const char shipped[] =
        "[hypervisor.remote]\n"
        "remote_hypervisor_socket = \"/run/peerpod/hypervisor.sock\"\n"
        "remote_hypervisor_timeout = 600\n"
        "enable_annotations = [\"machine_type\", \"default_memory\", \"default_vcpus\", \"image\", \"default_gpus\", \"gpu_model\", "
        "\"cc_init_data\"]\n"
        "[agent.kata]\n"
        "dial_timeout = 30\n"
        "[runtime]\n"
        "internetworking_model=\"none\"\n"
        "disable_new_netns = true\n"
        "static_sandbox_resource_mgmt=true\n"
        "create_container_timeout = 60\n";

typedef struct Case {
        const char *name;
        const char *line, *instead;     /* of the shipped file; NULL: as it is */
        Severity severity;
        const char *text;
} Case;

static const Case cases[] = {
        { "unanchored annotations let more through", NULL, NULL, SEVERITY_WARNING, "patterns without anchors (machine_type, default_memory" },
        { "60 s are little for images pulled in the VM", NULL, NULL, SEVERITY_WARNING, "runtime.create_container_timeout is 60 s" },
        { "no create_container_timeout is no time at all", "create_container_timeout = 60\n", "", SEVERITY_ERROR,
          "runtime.create_container_timeout is not set" },
        { "another socket than the adaptor's", "/run/peerpod/hypervisor.sock", "/run/other.sock", SEVERITY_ERROR,
          "remote_hypervisor_socket is '/run/other.sock'" },
        { "no socket", "remote_hypervisor_socket = \"/run/peerpod/hypervisor.sock\"\n", "", SEVERITY_ERROR, "No remote_hypervisor_socket" },
        { "Kata gives up before the adaptor", "remote_hypervisor_timeout = 600", "remote_hypervisor_timeout = 300", SEVERITY_WARNING,
          "remote_hypervisor_timeout is 300 s and START_TIMEOUT is 9min 30s" },
        { "no timeout of the hypervisor", "remote_hypervisor_timeout = 600\n", "", SEVERITY_ERROR, "remote_hypervisor_timeout is no number" },
        { "a network namespace of Kata's own", "disable_new_netns = true", "disable_new_netns = false", SEVERITY_ERROR,
          "disable_new_netns is not set" },
        { "a rewired network", "internetworking_model=\"none\"", "internetworking_model=\"tcfilter\"", SEVERITY_ERROR,
          "internetworking_model is 'tcfilter'" },
        { "sizes that do not reach the cloud", "static_sandbox_resource_mgmt=true", "static_sandbox_resource_mgmt=false", SEVERITY_WARNING,
          "static_sandbox_resource_mgmt is not set" },
        { "no table of the agent", "[agent.kata]\ndial_timeout = 30\n", "", SEVERITY_ERROR, "There is no table [agent.kata]" },
        { "an annotation that is shut out", "\"default_vcpus\", ", "", SEVERITY_WARNING, "does not let through: default_vcpus." },
        { "another hypervisor", "[hypervisor.remote]", "[hypervisor.qemu]", SEVERITY_ERROR, "There is no table [hypervisor.remote]" },
};

static void replace(char *text, size_t size, const char *line, const char *instead) {
        char *at = strstr(text, line), rest[2048];

        assert_non_null(at);
        (void) snprintf(rest, sizeof(rest), "%s", at + strlen(line));
        (void) snprintf(at, size - (size_t) (at - text), "%s%s", instead, rest);
}

static void check_text(Findings *f, const char *text) {
        TomlValue file = {};
        char *error = NULL;

        assert_int_equal(toml_parse(text, strlen(text), &file, &error), 0);
        assert_int_equal(kata_check(f, &file, 1, "kata.toml", SOCKET, START_TIMEOUT), 0);
        toml_done(&file);
}

static void is_found(void **state) {
        const Case *c = *state;
        char text[4096];
        Findings f = {};
        bool found = false;

        (void) snprintf(text, sizeof(text), "%s", shipped);
        if (c->line)
                replace(text, sizeof(text), c->line, c->instead);
        check_text(&f, text);
        FOREACH_ELEMENT(const Finding, i, f.items, f.n_items)
                if (strstr(i->text, c->text)) {
                        found = true;
                        assert_int_equal(i->severity, c->severity);
                        assert_non_null(i->remedy);
                }
        if (!found) {
                FOREACH_ELEMENT(const Finding, i, f.items, f.n_items)
                        print_message("%s\n", i->text);
                fail_msg("nothing says '%s'", c->text);
        }
        findings_done(&f);
}

static void the_shipped_file_has_no_error(void **state) {
        Findings f = {};

        check_text(&f, shipped);
        assert_int_equal(findings_worst(&f), SEVERITY_WARNING);
        findings_done(&f);
}

static void the_rust_runtime_is_asked_for_its_own_keys(void **state) {
        Findings f = {};

        check_text(&f, "[hypervisor.remote]\nremote_hypervisor_socket = \"" SOCKET "\"\nremote_hypervisor_timeout = 600\n"
                       "[agent.kata]\ncreate_container_timeout = 600\n[runtime]\nname = \"virt_container\"\n");
        assert_int_equal(findings_worst(&f), SEVERITY_WARNING);         /* annotations */
        findings_done(&f);
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(cases) + 2] = {
                cmocka_unit_test(the_shipped_file_has_no_error),
                cmocka_unit_test(the_rust_runtime_is_asked_for_its_own_keys),
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                tests[2 + i] = (struct CMUnitTest) { .name = cases[i].name, .test_func = is_found, .initial_state = (void*) &cases[i] };

        return cmocka_run_group_tests_name("kata-check", tests, NULL, NULL);
}
