/* SPDX-License-Identifier: Apache-2.0 */
/* What a person at the worker node sees and does: peerpodctl against the real peerpod-adaptor. */
#include <errno.h>
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
static const char *ctl_program, *tunneld_program, *bash_completion, *zsh_completion, *zsh_complete;
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

static void why_tells_what_has_ended_a_pod_that_ran(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        tell_fakes(t, "FailUnit", "peerpod-agent-proxy@" ID ".service", NULL);
        wait_until(t, streq(property(t, "LastError"), "agent proxy has failed: lost its VM"));
        CTL(t, &o, "why", ID);
        assert_says(o.out, "has failed, ");
        assert_says(o.out, "agent proxy has failed: lost its VM");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);

        /* Also when it is gone. */
        CTL(t, &o, "why", ID);
        assert_says(o.out, "agent proxy has failed: lost its VM");
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

/* ---- hold -------------------------------------------------------------------------------------------------------------------------- */

static void a_held_pod_vm_stays_until_it_is_released(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};

        create_ok(t, client);
        start_ok(t, client);
        CTL(t, &o, "hold", "0123");
        assert_succeeds(&o);
        CTL(t, &o, "list");
        assert_says(o.out, "running,held");
        stop_ok(t, client);                     /* answered at once, as always */
        assert_string_equal(property(t, "State"), "deleting");
        CTL(t, &o, "status", ID);
        assert_succeeds(&o);
        assert_says(o.out, "Held until: ");
        CTL(t, &o, "stop", ID);                 /* nobody is kept waiting for what a hold puts off */
        assert_int_equal(o.status, 1);
        assert_says(o.err, "it is held");
        assert_true(instance_exists(t));
        assert_false(called(t, "StopUnit"));
        assert_false(called(t, "Teardown"));

        restart_adaptor(t, SIGKILL);            /* it is in the record */
        CTL(t, &o, "list");
        assert_says(o.out, "deleting,held");
        assert_true(instance_exists(t));
        CTL(t, &o, "hold", ID, "--release");
        assert_succeeds(&o);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_hold_ends_by_itself(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};

        create_ok(t, client);
        start_ok(t, client);
        CTL(t, &o, "hold", ID, "--for=300ms");
        assert_succeeds(&o);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_hold_is_no_longer_than_the_setting_says(void **state) {
        Test *t = *state;
        TtrpcClient *client;
        _cleanup_(output_done) Output o = {};

        options[0] = "--hold-max=1h";
        restart_adaptor(t, SIGTERM);
        client = connect_shim(t);
        create_ok(t, client);
        CTL(t, &o, "hold", ID, "--for=2h");
        assert_int_equal(o.status, 1);
        assert_says(o.err, "PEERPOD_HOLD_MAX");
        CTL(t, &o, "hold", ID, "--for=0");
        assert_int_equal(o.status, 2);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_failed_start_is_held_where_the_setting_says_so(void **state) {
        Test *t = *state;
        TtrpcClient *client;
        _cleanup_(output_done) Output o = {};
        Call c;

        options[0] = "--hold-failed=1h";
        restart_adaptor(t, SIGTERM);
        client = connect_shim(t);
        control_fakes(t, "start-proxy=fail\n");
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_UNAVAILABLE);       /* told at once: there is nothing to wait for */
        assert_true(instance_exists(t));

        /* The next sandbox of the same pod is not held, too: a pod that fails again and again fills no quota. */
        begin_create(client, &c, OTHER_ID, NETNS, "web", NULL);
        finish(t, &c, TTRPC_OK);
        begin_start(client, &c, OTHER_ID, 0);
        finish(t, &c, TTRPC_UNAVAILABLE);
        wait_until(t, streq(property_of(t, OTHER_ID, "State"), ""));
        assert_string_equal(property(t, "State"), "deleting");

        CTL(t, &o, "hold", "--release", ID);
        assert_succeeds(&o);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void an_instance_that_is_being_deleted_cannot_be_held(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};

        create_ok(t, client);
        start_ok(t, client);
        control_provider(t, "delete=delay:2000\n");
        stop_ok(t, client);
        wait_until(t, count(path_of(t, "provider/calls"), "delete ") == 1);
        CTL(t, &o, "hold", ID);
        assert_int_equal(o.status, 1);
        assert_says(o.err, "is being deleted already");
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* ---- reap -------------------------------------------------------------------------------------------------------------------------- */

static void reap_compares_the_cloud_with_the_records(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};
        const char *file = "sandbox=" OTHER_ID "\nnode=node-1\nid=fake-podvm-lost-fedcba98\n";

        create_ok(t, client);
        start_ok(t, client);
        write_text(path_of(t, "provider/podvm-lost-fedcba98"), file);

        CTL(t, &o, "reap", "--dry-run");
        assert_succeeds(&o);
        assert_says(o.out, "instance  " ID "  fake-" INSTANCE "   " INSTANCE "   keep    running\n");
        assert_says(o.out, "instance  " OTHER_ID "  fake-podvm-lost-fedcba98  podvm-lost-fedcba98  delete  no record knows it\n");
        assert_says(o.out, "tunnel    " ID);
        assert_true(exists(path_of(t, "provider/podvm-lost-fedcba98")));
        assert_string_equal(property_of(t, OTHER_ID, "State"), "");

        CTL(t, &o, "reap");
        assert_succeeds(&o);
        assert_says(o.out, "delete  no record knows it\n");
        wait_until(t, !exists(path_of(t, "provider/podvm-lost-fedcba98")));
        wait_until(t, streq(property_of(t, OTHER_ID, "State"), ""));
        assert_string_equal(property(t, "State"), "running");
        CTL(t, &o, "reap", "--dry-run", "--json");
        assert_succeeds(&o);
        assert_null(strstr(o.out, "delete"));

        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void reap_shows_a_running_sandbox_without_an_instance(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};

        create_ok(t, client);
        start_ok(t, client);
        assert_int_equal(rename(path_of(t, "provider/" INSTANCE), path_of(t, "provider/.hidden")), 0);
        CTL(t, &o, "reap");
        assert_succeeds(&o);
        assert_says(o.out, "runs, but its instance is not in the cloud's list\n");
        assert_string_equal(property(t, "State"), "running");
        assert_int_equal(rename(path_of(t, "provider/.hidden"), path_of(t, "provider/" INSTANCE)), 0);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void reap_tells_that_the_cloud_does_not_answer(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};

        control_provider(t, "find=fail:Unauthenticated:the key has expired\n");
        CTL(t, &o, "reap", "--dry-run");
        assert_int_equal(o.status, 1);
        assert_says(o.err, "the key has expired");
}

/* As nobody, whom polkit is asked about. */
static void changing_methods_ask_polkit(void **state) {
        static const struct {
                const char *path, *interface, *member, *types;
        } methods[] = {
                { ROOT, NAME ".Manager", "StopPodVM", "s" },
                { ROOT, NAME ".Manager", "FindOrphans", "" },
                { ROOT, NAME ".Manager", "ReapOrphans", "" },
                { ROOT, NAME ".Manager", "VerifyProvider", "" },
                { ROOT "/podvm/_30123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", NAME ".PodVM", "Hold", "t" },
                { ROOT "/podvm/_30123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", NAME ".PodVM", "Stop", "" },
        };
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        control_fakes(t, "polkit=no\n");
        create_ok(t, client);
        for (size_t i = 0; i < ELEMENTSOF(methods); i++) {
                int status = 0;
                pid_t pid = fork();

                assert_true(pid >= 0);
                if (pid == 0) {
                        sd_bus_error error = SD_BUS_ERROR_NULL;
                        sd_bus_message *m;
                        sd_bus *bus;

                        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0 || sd_bus_open_system(&bus) < 0 ||
                            sd_bus_message_new_method_call(bus, &m, NAME, methods[i].path, methods[i].interface, methods[i].member) < 0)
                                _exit(2);
                        if (streq(methods[i].types, "s") && sd_bus_message_append(m, "s", ID) < 0)
                                _exit(2);
                        if (streq(methods[i].types, "t") && sd_bus_message_append(m, "t", USEC_PER_SEC) < 0)
                                _exit(2);
                        _exit(sd_bus_call(bus, m, 0, &error, NULL) < 0 && sd_bus_error_has_name(&error, SD_BUS_ERROR_ACCESS_DENIED) ? 0 : 1);
                }
                wait_until(t, waitpid(pid, &status, WNOHANG) == pid);
                if (status != 0)
                        fail_msg("%s was not refused", methods[i].member);
                assert_int_equal(count(path_of(t, "calls"), "CheckAuthorization org.confidentialcontainers.peerpod.manage"), i + 1);
        }
        assert_string_equal(property(t, "State"), "planned");
        control_fakes(t, "");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* ---- monitor ----------------------------------------------------------------------------------------------------------------------- */

static void monitor_shows_a_life_as_it_happens(void **state) {
        static const char *const argvs[][4] = { { "peerpodctl", "monitor" }, { "peerpodctl", "monitor", "--json" } };
        static const char *const expected[][5] = {
                { ID " new\n", ID " changed State=creating", " InstanceId=fake-" INSTANCE, ID " changed State=running", ID " removed\n" },
                { "\"event\":\"new\",\"sandbox\":\"" ID "\"}\n", "\"State\":\"creating\"", "\"InstanceId\":\"fake-" INSTANCE "\"",
                  "\"State\":\"running\"", "\"event\":\"removed\"" },
        };
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        for (size_t i = 0; i < ELEMENTSOF(argvs); i++) {
                _cleanup_(freep) char *out = NULL;
                const char *p;
                pid_t pid;

                pid = start_ctl(t, argvs[i]);
                wait_until(t, count(path_of(t, "out"), "watching") == 1);
                create_ok(t, client);
                start_ok(t, client);
                stop_ok(t, client);
                wait_until(t, all_gone(t));
                wait_until(t, count(path_of(t, "out"), "removed") == 1);
                (void) end_process(&pid, SIGTERM);

                p = out = read_text(path_of(t, "out"));
                for (size_t j = 0; j < ELEMENTSOF(expected[i]); j++) {
                        const char *found = strstr(p, expected[i][j]);

                        if (!found)
                                fail_msg("'%s' is not in its place in:\n%s", expected[i][j], out);
                        p = found;
                }
        }
        ttrpc_client_free(client);
}

/* ---- check -------------------------------------------------------------------------------------------------------------------------- */

static const char good_kata[] =
        "remote_hypervisor_timeout = 600\n"
        "enable_annotations = [\"^machine_type$\", \"^default_vcpus$\", \"^default_memory$\", \"^image$\", \"^default_gpus$\",\n"
        "    \"^default_gpu_model$\", \"^cc_init_data$\"]\n"
        "[agent.kata]\n"
        "dial_timeout = 30\n"
        "[runtime]\n"
        "internetworking_model = \"none\"\n"
        "disable_new_netns = true\n"
        "static_sandbox_resource_mgmt = true\n"
        "create_container_timeout = 600\n";

static void link_program(const Test *t, const char *program, const char *name) {
        if (symlink(program, path_of(t, name)) < 0)
                assert_int_equal(errno, EEXIST);
}

/* @cm and @secret: lines of the two files; @cm comes behind what makes the services of the build tree run. */
static void run_check(Test *t, Output *o, const char *cm, const char *secret, const char *const *more) {
        const char *argv[16] = { "peerpodctl", "check" };
        char config[300], kata[300], text[2048];
        size_t n = 2;

        (void) mkdir(path_of(t, "etc"), 0755);
        (void) mkdir(path_of(t, "libexec"), 0755);
        link_program(t, adaptor_program, "libexec/peerpod-adaptor");
        link_program(t, providerd_program, "libexec/peerpod-providerd");
        link_program(t, tunneld_program, "libexec/peerpod-tunneld");
        (void) snprintf(text, sizeof(text), "PEERPOD_TUNNEL_USER=root\nPEERPOD_PROVIDER_MODULE_DIRECTORY=%s\nCLOUD_PROVIDER=fake\n%s",
                        module_directory, cm);
        write_text(path_of(t, "etc/peer-pods-cm.env"), text);
        write_text(path_of(t, "etc/peer-pods-secret.env"), secret);
        (void) snprintf(text, sizeof(text), "[hypervisor.remote]\nremote_hypervisor_socket = \"%s\"\n%s", path_of(t, "hypervisor.sock"), good_kata);
        write_text(path_of(t, "kata.toml"), text);
        assert_int_equal(setenv("PEERPOD_LIBEXECDIR", path_of(t, "libexec"), 1), 0);

        (void) snprintf(config, sizeof(config), "--config-dir=%s", path_of(t, "etc"));
        (void) snprintf(kata, sizeof(kata), "--kata-config=%s", path_of(t, "kata.toml"));
        argv[n++] = config;
        argv[n++] = kata;
        for (; more && *more; more++)
                argv[n++] = *more;
        run_ctl(t, o, argv);
}

static void check_finds_nothing_where_all_is_in_order(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};

        run_check(t, &o, "", "", (const char *const[]) { "--all", NULL });
        assert_string_equal(o.err, "");
        assert_says(o.out, "ok  kernel: Has VXLAN devices.");
        assert_says(o.out, "ok  kernel: Has u32 filters with mirred.");
        assert_says(o.out, "ok  kernel: Has nf_tables.");
        assert_says(o.out, "ok  peerpod-adaptor: Takes its settings.");
        assert_says(o.out, "ok  peerpod-tunneld: Takes its settings.");
        assert_says(o.out, "ok  peerpod-providerd: Takes its settings.");
        assert_says(o.out, "ok  adaptor: Answers on the bus");
        assert_says(o.out, "ok  provider: Passes its own check against the cloud.");
        assert_says(o.out, "remote_hypervisor_socket is the adaptor's.");
        assert_says(o.out, ", 0 warnings, 0 errors.\n");
        assert_int_equal(o.status, 0);
}

static void check_names_the_variable_that_a_service_refuses(void **state) {
        static const struct {
                const char *cm, *subject, *text;
        } cases[] = {
                { "PROXY_TIMEOUT=soon\n", "peerpod-adaptor", "Value 'soon' of variable 'PROXY_TIMEOUT' is not a duration" },
                { "PEERPOD_HISTORY=100000\n", "peerpod-adaptor", "of variable 'PEERPOD_HISTORY'" },
                { "PEERPOD_HOLD_MAX=-1\n", "peerpod-adaptor", "of variable 'PEERPOD_HOLD_MAX'" },
                { "ENABLE_SCRATCH_SPACE=perhaps\n", "peerpod-adaptor", "of variable 'ENABLE_SCRATCH_SPACE'" },
                { "NODE_NAME=a\tb\n", "peerpod-adaptor", "'NODE_NAME'" },
                { "CACERT_FILE=/nonexistent\nCERT_FILE=/nonexistent\nCERT_KEY=/nonexistent\n", "peerpod-adaptor", "/nonexistent" },
                { "VXLAN_PORT=70000\n", "peerpod-tunneld", "Value '70000' of variable 'VXLAN_PORT' is not a port number" },
                { "TUNNEL_TYPE=gre\n", "peerpod-tunneld", "'TUNNEL_TYPE'" },
                { "POD_SUBNET_CIDRS=10.0.0.0/33\n", "peerpod-tunneld", "'POD_SUBNET_CIDRS'" },
                { "EXTERNAL_NETWORK_VIA_PODVM=maybe\n", "peerpod-tunneld", "of variable 'EXTERNAL_NETWORK_VIA_PODVM'" },
                { "PEERPOD_CREATE_TIMEOUT=never\n", "peerpod-providerd", "of variable 'PEERPOD_CREATE_TIMEOUT'" },
                { "CLOUD_CONFIG_VERIFY=2\n", "peerpod-providerd", "of variable 'CLOUD_CONFIG_VERIFY'" },
                { "CLOUD_PROVIDER=nimbus\n", "peerpod-providerd", "nimbus" },
        };
        Test *t = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(output_done) Output o = {};
                char line[128];

                run_check(t, &o, cases[i].cm, "", NULL);
                (void) snprintf(line, sizeof(line), "  error  %s: Does not start: ", cases[i].subject);
                if (!strstr(o.out, line) || !strstr(o.out, cases[i].text))
                        fail_msg("'%s' gives:\n%s", cases[i].cm, o.out);
                assert_int_equal(o.status, 4);
        }
}

static void check_finds_a_module_that_is_not_the_one_whose_hash_is_given(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};
        char cm[1024];

        (void) snprintf(cm, sizeof(cm), "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN=true\nCLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH=%s/fake.so\n"
                        "CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH=%064d\n", module_directory, 0);
        run_check(t, &o, cm, "", NULL);
        assert_int_equal(o.status, 4);
        assert_says(o.out, "  error  peerpod-providerd: Does not start: ");
        assert_says(o.out, "SHA-256");
}

static void check_tells_a_typing_error_from_a_setting(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};

        run_check(t, &o, "PROXY_TIMOUT=5m\nDISABLECVM=true\nHTTPS_PROXY=http://x\n", "", NULL);
        assert_int_equal(o.status, 3);
        assert_says(o.out, "No service reads PROXY_TIMOUT.\n         Is PROXY_TIMEOUT meant?\n");
        assert_says(o.out, "No service reads DISABLECVM.\n");
        assert_null(strstr(o.out, "HTTPS_PROXY"));
}

static void check_finds_credentials_that_others_can_read_and_shows_none(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};

        run_check(t, &o, "", "FAKE_TOKEN=hunter2\n", NULL);
        assert_null(strstr(o.out, "Credentials can be read"));
        assert_int_equal(chmod(path_of(t, "etc/peer-pods-secret.env"), 0644), 0);
        CTL(t, &o, "check", "--config-dir", path_of(t, "etc"), "--kata-config", path_of(t, "kata.toml"), "--json");
        assert_int_equal(o.status, 4);
        assert_says(o.out, "Credentials can be read by others than root (mode 0644).");
        assert_null(strstr(o.out, "hunter2"));
        assert_int_equal(chmod(path_of(t, "etc/peer-pods-cm.env"), 0666), 0);
        CTL(t, &o, "check", "--config-dir", path_of(t, "etc"));
        assert_says(o.out, "Others than root can change the services' settings.");
}

static void check_says_in_the_clouds_words_why_the_provider_cannot_be_used(void **state) {
        Test *t = *state;
        _cleanup_(output_done) Output o = {};

        control_provider(t, "verify=fail:Unauthenticated:the key has expired\n");
        run_check(t, &o, "", "", NULL);
        assert_int_equal(o.status, 4);
        assert_says(o.out, "  error  provider: the key has expired");

        end_adaptor(t, SIGTERM);
        run_check(t, &o, "", "", NULL);
        assert_says(o.out, "  error  adaptor: Does not answer on the bus");
        start_adaptor(t);
}

static void check_compares_kata_with_what_the_adaptor_has(void **state) {
        static const char *const longer[] = { "--start-timeout=700s", NULL };
        Test *t = *state;
        _cleanup_(output_done) Output o = {};

        adaptor_options = longer;
        restart_adaptor(t, SIGTERM);
        run_check(t, &o, "", "", NULL);
        assert_says(o.out, "remote_hypervisor_timeout is 600 s and START_TIMEOUT is 11min 40s");
        assert_int_equal(o.status, 3);

        write_text(path_of(t, "kata.toml"), "[hypervisor.remote]\nremote_hypervisor_socket = \"/run/peerpod/hypervisor.sock\"\n");
        CTL(t, &o, "check", "--config-dir", path_of(t, "etc"), "--kata-config", path_of(t, "kata.toml"));
        assert_says(o.out, "remote_hypervisor_socket is '/run/peerpod/hypervisor.sock', but the adaptor listens on '");
        assert_says(o.out, path_of(t, "hypervisor.sock"));
}

static void check_looks_at_one_sandbox(void **state) {
        static const char *const one[] = { "--sandbox", "0123", NULL };
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(output_done) Output o = {};

        run_check(t, &o, "", "", one);
        assert_int_equal(o.status, 4);
        assert_says(o.out, "There is no sandbox '0123'");
        create_ok(t, client);
        run_check(t, &o, "", "", one);
        assert_says(o.out, "skipped  " ID ": Is planned: there is no tunnel to try.");
        start_ok(t, client);
        run_check(t, &o, "", "", (const char *const[]) { "--all", "--sandbox", "0123", NULL });
        assert_says(o.out, ID ": Tunnel: ");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* ---- completion -------------------------------------------------------------------------------------------------------------------- */

static void run_shell(Test *t, const char *shell, const char *const *args) {
        int status = 0;
        pid_t pid;

        pid = spawn(shell, args);
        wait_until(t, waitpid(pid, &status, WNOHANG) == pid);
        assert_int_equal(status, 0);
}

/* What bash's own function makes of a command line; the last word is the begun one. */
static void complete_by_bash(Test *t, const char *line) {
        static const char script[] =
                "set -eu; PATH=$(dirname -- \"$1\"):$PATH; . \"$2\"; read -ra COMP_WORDS <<<\"$3\"; "
                "[[ $3 == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _peerpodctl; "
                "printf '%s\\n' \"${COMPREPLY[@]}\" | sed '/^$/d' >\"$4\"";
        const char *const args[] = { "-c", script, "bash", ctl_program, bash_completion, line, path_of(t, "completions"), NULL };

        run_shell(t, "bash", args);
}

/* An interactive zsh, which finds our function by itself. */
static void complete_by_zsh(Test *t, const char *line) {
        static const char script[] = "set -eu; export PATH=${1:A:h}:$PATH; mkdir -p $4; cp $2 $4/_peerpodctl; \"$3\" $4 \"$5\" \"$6\"";
        const char *const args[] = { "-fc", script, "zsh", ctl_program, zsh_completion, zsh_complete, path_of(t, "zsh"),
                                     path_of(t, "completions"), line, NULL };

        run_shell(t, "zsh", args);
}

static void commands_options_and_sandboxes_are_completed(Test *t, void (*complete)(Test *t, const char *line)) {
        static const struct {
                const char *line, *expected;
        } cases[] = {
                { "peerpodctl st", "status\nstop\n" },
                { "peerpodctl comp", "" },                              /* not for people */
                { "peerpodctl hypervisor s", "start-vm\nstop-vm\n" },
                { "peerpodctl stop --", "--timeout\n--wait\n--no-ask-password\n--help\n" },
                { "peerpodctl status ", ID "\n" },
                { "peerpodctl status 01", ID "\n" },
                { "peerpodctl status f", "" },
                { "peerpodctl why default/", "default/web\n" },
                { "peerpodctl agent 0", ID "\n" },
                { "peerpodctl agent 0123 che", "check\n" },
                { "peerpodctl agent --socket /x che", "check\n" },
                { "peerpodctl hold --for ", "" },
                { "peerpodctl hold --for 5m 0", ID "\n" },
                { "peerpodctl nonsense x", "" },
        };
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(freep) char *found = NULL;

                complete(t, cases[i].line);
                found = read_text(path_of(t, "completions"));
                if (!streq(found, cases[i].expected))
                        fail_msg("'%s' is completed to:\n%s", cases[i].line, found);
        }
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void bash_completes_commands_options_and_sandboxes(void **state) {
        commands_options_and_sandboxes_are_completed(*state, complete_by_bash);
}

static void zsh_completes_commands_options_and_sandboxes(void **state) {
        commands_options_and_sandboxes_are_completed(*state, complete_by_zsh);
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, teardown)
        const struct CMUnitTest tests[] = {
                TEST(why_tells_the_step_and_the_clouds_own_words),
                TEST(why_finds_a_pod_by_its_name_and_a_sandbox_by_its_begin),
                TEST(why_tells_what_has_ended_a_pod_that_ran),
                TEST(why_names_the_deadline_and_the_setting_that_moves_it),
                TEST(why_names_katas_setting_when_its_caller_has_left),
                TEST(why_tells_what_is_not_undone_yet),
                TEST(the_story_survives_a_restart_of_the_adaptor),
                TEST(the_history_is_bounded_and_the_oldest_goes_first),
                TEST(no_secret_is_in_the_story),
                TEST(a_held_pod_vm_stays_until_it_is_released),
                TEST(a_hold_ends_by_itself),
                TEST(a_hold_is_no_longer_than_the_setting_says),
                TEST(a_failed_start_is_held_where_the_setting_says_so),
                TEST(an_instance_that_is_being_deleted_cannot_be_held),
                TEST(reap_compares_the_cloud_with_the_records),
                TEST(reap_shows_a_running_sandbox_without_an_instance),
                TEST(reap_tells_that_the_cloud_does_not_answer),
                TEST(changing_methods_ask_polkit),
                TEST(monitor_shows_a_life_as_it_happens),
                TEST(bash_completes_commands_options_and_sandboxes),
                TEST(zsh_completes_commands_options_and_sandboxes),
                TEST(check_finds_nothing_where_all_is_in_order),
                TEST(check_names_the_variable_that_a_service_refuses),
                TEST(check_finds_a_module_that_is_not_the_one_whose_hash_is_given),
                TEST(check_tells_a_typing_error_from_a_setting),
                TEST(check_finds_credentials_that_others_can_read_and_shows_none),
                TEST(check_says_in_the_clouds_words_why_the_provider_cannot_be_used),
                TEST(check_compares_kata_with_what_the_adaptor_has),
                TEST(check_looks_at_one_sandbox),
        };

        if (argc != 10)
                return 2;
        adaptor_program = argv[1];
        providerd_program = argv[2];
        module_directory = argv[3];
        fakes_program = argv[4];
        ctl_program = argv[5];
        tunneld_program = realpath(argv[6], NULL);
        bash_completion = argv[7];
        zsh_completion = argv[8];
        zsh_complete = argv[9];
        adaptor_program = realpath(adaptor_program, NULL);
        providerd_program = realpath(providerd_program, NULL);
        if (!tunneld_program || !adaptor_program || !providerd_program)
                return 2;
        if (getenv("CMOCKA_TEST_FILTER"))
                cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));

        return cmocka_run_group_tests_name("operator", tests, NULL, NULL);
}
