/* SPDX-License-Identifier: Apache-2.0 */
/* What a person at the worker node sees and does: peerpodctl against the real peerpod-adaptor. */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "adaptor-rig.h"

#include "basic/bus-private.h"
#include "basic/io.h"
#include "basic/json.h"

#define OTHER_ID "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

extern char **environ;
static const char *ctl_program;
static const char *options[4];          /* of the adaptor, from its next start on */

typedef struct Output {
        char *out, *err;
        int status;
} Output;

static void output_done(Output *o) {
        free(o->out);
        free(o->err);
        *o = (Output) {};
}

/* Starts peerpodctl with its streams in files of the test's directory. */
static pid_t start_ctl(Test *t, const char *const *argv) {
        posix_spawn_file_actions_t actions;
        pid_t pid;

        assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 1, path_of(t, "out"), O_WRONLY|O_CREAT|O_TRUNC, 0600), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 2, path_of(t, "err"), O_WRONLY|O_CREAT|O_TRUNC, 0600), 0);
        assert_int_equal(posix_spawn(&pid, ctl_program, &actions, NULL, (char *const*) argv, environ), 0);
        posix_spawn_file_actions_destroy(&actions);
        return pid;
}

static void run_ctl(Test *t, Output *o, const char *const *argv) {
        pid_t pid = start_ctl(t, argv);
        int status = 0;

        wait_until(t, waitpid(pid, &status, WNOHANG) == pid);
        output_done(o);
        o->out = read_text(path_of(t, "out"));
        o->err = read_text(path_of(t, "err"));
        o->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#define CTL(t, o, ...) run_ctl(t, o, (const char *const[]) { "peerpodctl", __VA_ARGS__, NULL })

#define assert_succeeds(o)                                                                              \
        do {                                                                                            \
                assert_string_equal((o)->err, "");                                                      \
                assert_int_equal((o)->status, 0);                                                       \
        } while (false)

#define assert_says(text, what)                                                                         \
        do {                                                                                            \
                if (!strstr(text, what))                                                                \
                        fail_msg("no '%s' in:\n%s", what, text);                                        \
        } while (false)

/* A start that fails as the fakes were told, and is undone. */
static void start_fails(Test *t, const char *fakes, const char *provider) {
        TtrpcClient *client = connect_shim(t);
        Call c;

        control_fakes(t, fakes);
        control_provider(t, provider);
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        wait_until(t, c.done);
        assert_int_not_equal(c.code, TTRPC_OK);
        control_fakes(t, "");
        control_provider(t, "");
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static int set_up(void **state) {
        options[0] = NULL;
        adaptor_options = options;
        return setup(state);
}

/* ---- why --------------------------------------------------------------------------------------------------------------------------- */

static void why_tells_the_step_and_the_clouds_own_words(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};

        start_fails(t, "", "create=fail:Exhausted:quota of 10 instances is used up\n");
        CTL(t, &o, "why", ID);
        assert_succeeds(&o);
        assert_says(o.out, "Sandbox " ID " of pod default/web has failed to start, ");
        assert_says(o.out, "Failed at: create-instance\n");
        assert_says(o.out, "Error: creating an instance: ");
        assert_says(o.out, "quota of 10 instances is used up\n");
        assert_says(o.out, "Undone: stop-socket, stop-proxy, remove-files, delete-instance, tear-down-tunnel\n");
        assert_null(strstr(o.out, "Not yet undone"));
        assert_null(strstr(o.out, "Deadline"));
        assert_says(o.out, "creating  create-instance   failed");
        assert_says(o.out, "\nThe journal: peerpodctl logs " ID "\n");
}

static void why_finds_a_pod_by_its_name_and_a_sandbox_by_its_begin(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};
        TtrpcClient *client = connect_shim(t);
        Call c;

        start_fails(t, "", "create=fail:Exhausted:quota is used up\n");
        begin_create(client, &c, OTHER_ID, NETNS, "web", NULL);
        finish(t, &c, TTRPC_OK);

        CTL(t, &o, "why", "0123");
        assert_succeeds(&o);
        assert_says(o.out, "Sandbox " ID " ");
        CTL(t, &o, "why", "default/web");               /* the newest one */
        assert_succeeds(&o);
        assert_says(o.out, "Sandbox " OTHER_ID " of pod default/web is planned for ");
        CTL(t, &o, "why", "default/we");
        assert_int_equal(o.status, 1);
        assert_says(o.err, "peerpodctl: why: There is no sandbox 'default/we'");
        CTL(t, &o, "why", "");
        assert_int_equal(o.status, 1);

        begin_stop(client, &c, OTHER_ID);
        finish(t, &c, TTRPC_OK);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void why_names_the_deadline_and_the_setting_that_moves_it(void **state) {
        static const struct {
                const char *argument, *fakes, *provider, *step, *deadline, *setting;
        } cases[] = {
                { "--start-timeout=2s", "start-proxy=hang\n", "", "start-proxy", "2.000s", "START_TIMEOUT in /etc/peerpod/peer-pods-cm.env" },
                { "--start-timeout=2s", "", "create=hang\n", "create-instance", "2.000s", "START_TIMEOUT in /etc/peerpod/peer-pods-cm.env" },
                { "--proxy-timeout=0s", "start-proxy=fail\n", "", "start-proxy", "", "PROXY_TIMEOUT in /etc/peerpod/peer-pods-cm.env" },
                { NULL, "", "create=fail:TimedOut:it took too long\n", "create-instance", "",
                  "PEERPOD_CREATE_TIMEOUT in /etc/peerpod/peer-pods-cm.env, see peerpod-providerd(8)" },
        };
        Test *t = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(output_done) Output o = {};
                char line[256];

                options[0] = cases[i].argument;
                restart_adaptor(t, SIGTERM);
                start_fails(t, cases[i].fakes, cases[i].provider);
                CTL(t, &o, "why", ID);
                assert_succeeds(&o);
                (void) snprintf(line, sizeof(line), "Failed at: %s\n", cases[i].step);
                assert_says(o.out, line);
                (void) snprintf(line, sizeof(line), "Deadline: %s\n", cases[i].deadline);
                if (*cases[i].deadline)
                        assert_says(o.out, line);
                (void) snprintf(line, sizeof(line), "Moved by: %s", cases[i].setting);
                assert_says(o.out, line);
        }
}

static void why_names_katas_setting_when_its_caller_has_left(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};
        Call c;

        control_provider(t, "create=hang\n");
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        wait_until(t, count(path_of(t, "provider/calls"), "create ") == 1);
        ttrpc_client_free(client);
        wait_until(t, all_gone(t));
        CTL(t, &o, "why", ID);
        assert_succeeds(&o);
        assert_says(o.out, "the caller of StartVM has given up");
        assert_says(o.out, "Moved by: remote_hypervisor_timeout in Kata's configuration-remote.toml");
}

static void why_tells_what_is_not_undone_yet(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};

        create_ok(t, client);
        start_ok(t, client);
        CTL(t, &o, "why", ID);
        assert_succeeds(&o);
        assert_says(o.out, "of pod default/web is running for ");
        control_provider(t, "delete=fail:Unavailable:the cloud is down\n");
        stop_ok(t, client);
        wait_until(t, count(path_of(t, "provider/calls"), "delete ") >= 2);
        CTL(t, &o, "why", ID);
        assert_succeeds(&o);
        assert_says(o.out, "was ended: ");
        assert_says(o.out, "Now: deleting\n");
        assert_says(o.out, "Not yet undone: delete-instance\n");
        assert_says(o.out, "the cloud is down");
        control_provider(t, "");
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void the_story_survives_a_restart_of_the_adaptor(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output before = {}, after = {};
        Call c;

        control_provider(t, "create=hang\n");
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        wait_until(t, count(path_of(t, "state/history/" ID ".json"), "create-instance") == 1);
        restart_adaptor(t, SIGKILL);
        control_provider(t, "");
        finish(t, &c, TTRPC_UNAVAILABLE);
        wait_until(t, all_gone(t));
        CTL(t, &before, "why", ID);
        assert_succeeds(&before);
        assert_says(before.out, "StartVM was cut off by a restart of the adaptor");
        assert_says(before.out, "Failed at: create-instance\n");
        assert_says(before.out, "planned   inspect-network");

        wait_until(t, count(path_of(t, "state/history/" ID ".json"), "\"gone\"") == 1);
        restart_adaptor(t, SIGKILL);
        CTL(t, &after, "why", ID, "--json");
        assert_succeeds(&after);
        CTL(t, &before, "why", ID, "--json");
        assert_string_equal(before.out, after.out);
        ttrpc_client_free(client);
}

static void the_history_is_bounded_and_the_oldest_goes_first(void **state) {
        Test *t = *state;
        TtrpcClient *client;
        _cleanup_(output_done) Output o = {};
        char id[65];

        options[0] = "--history=3";
        restart_adaptor(t, SIGTERM);
        client = connect_shim(t);
        for (unsigned i = 0; i < 5; i++) {
                Call c;

                (void) snprintf(id, sizeof(id), "%c%s", 'a' + (char) i, &ID[1]);
                begin_create(client, &c, id, NETNS, "web", NULL);
                finish(t, &c, TTRPC_OK);
                begin_stop(client, &c, id);
                finish(t, &c, TTRPC_OK);
                wait_until(t, all_gone(t));
        }
        ttrpc_client_free(client);
        wait_until(t, entries(path_of(t, "state/history")) == 3);
        for (unsigned i = 0; i < 2; i++) {
                CTL(t, &o, "why", "b1");
                assert_int_equal(o.status, 1);
                CTL(t, &o, "why", "c1");
                assert_succeeds(&o);

                /* A damaged file is told, removed, and stops nothing. */
                write_text(path_of(t, "state/history/zero.json"), "");
                restart_adaptor(t, SIGKILL);
                assert_false(exists(path_of(t, "state/history/zero.json")));
        }

        options[0] = "--history=0";
        restart_adaptor(t, SIGTERM);
        assert_int_equal(entries(path_of(t, "state/history")), 0);
}

static void no_secret_is_in_the_story(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(freep) char *user_data = NULL, *story = NULL;
        _cleanup_(output_done) Output o = {};
        const char *key;
        char line[65] = "";
        struct stat st;

        create_ok(t, client);
        user_data = read_text(path_of(t, "run/" ID "/user-data"));
        key = strstr(user_data, "-----BEGIN PRIVATE KEY-----");
        assert_non_null(key);
        key += strlen("-----BEGIN PRIVATE KEY-----\\n");
        (void) snprintf(line, sizeof(line), "%.32s", key);
        start_ok(t, client);
        CTL(t, &o, "why", ID, "--json");
        assert_succeeds(&o);
        story = read_text(path_of(t, "state/history/" ID ".json"));
        assert_says(story, "create-instance");
        assert_null(strstr(story, line));
        assert_null(strstr(story, "PRIVATE"));
        assert_null(strstr(o.out, line));
        assert_int_equal(stat(path_of(t, "state/history/" ID ".json"), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, teardown)
        const struct CMUnitTest tests[] = {
                TEST(why_tells_the_step_and_the_clouds_own_words),
                TEST(why_finds_a_pod_by_its_name_and_a_sandbox_by_its_begin),
                TEST(why_names_the_deadline_and_the_setting_that_moves_it),
                TEST(why_names_katas_setting_when_its_caller_has_left),
                TEST(why_tells_what_is_not_undone_yet),
                TEST(the_story_survives_a_restart_of_the_adaptor),
                TEST(the_history_is_bounded_and_the_oldest_goes_first),
                TEST(no_secret_is_in_the_story),
        };

        if (argc != 6)
                return 2;
        adaptor_program = argv[1];
        providerd_program = argv[2];
        module_directory = argv[3];
        fakes_program = argv[4];
        ctl_program = argv[5];
        if (getenv("CMOCKA_TEST_FILTER"))
                cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));

        return cmocka_run_group_tests_name("operator", tests, NULL, NULL);
}
