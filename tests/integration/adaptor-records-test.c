/* SPDX-License-Identifier: Apache-2.0 */
/* The adaptor and its disk: power cuts between any two writes, a disk that is full, records that are damaged or from the future. */
#include "adaptor-rig.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "basic/io.h"

#define RECORD "state/sandboxes/" ID ".json"
#define OTHER "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
#define WRITES_MAX 32
#define WRITE_PLANNED 2         /* CreateVM is answered */

static const char *snapshots_program;

/* ---- power cuts -------------------------------------------------------------------------------------------------------------------- */

static bool adaptor_has_ended(Test *t) {
        if (t->adaptor > 0 && waitpid(t->adaptor, NULL, WNOHANG) == t->adaptor)
                t->adaptor = 0;
        return t->adaptor == 0;
}

/* A whole life, or what there is of it until the adaptor is cut off. */
static void live(Test *t, bool cut) {
        TtrpcClient *client = connect_shim(t);
        Call c;

        for (unsigned step = 0; step < 3; step++) {
                if (step == 0)
                        begin_create(client, &c, ID, NETNS, "web", NULL);
                else if (step == 1)
                        begin_start(client, &c, ID, 0);
                else
                        begin_stop(client, &c, ID);
                wait_until(t, c.done || adaptor_has_ended(t));
                if (c.done && c.code != TTRPC_OK)
                        wait_until(t, adaptor_has_ended(t));
                if (t->adaptor == 0)
                        break;
        }
        wait_until(t, cut ? adaptor_has_ended(t) : all_gone(t));
        ttrpc_client_free(client);
}

/* The adaptor that takes snapshots, until after its write number @cut, or without end for 0. */
static void start_with_snapshots(Test *t, int cut) {
        const char *program = adaptor_program;
        char text[16];

        (void) snprintf(text, sizeof(text), "%i", cut);
        assert_int_equal(setenv("PEERPOD_TEST_SNAPSHOTS", path_of(t, "snapshots"), 1), 0);
        assert_int_equal(setenv("PEERPOD_TEST_POWER_CUT", text, 1), 0);
        adaptor_program = snapshots_program;
        start_adaptor(t);
        adaptor_program = program;
        assert_int_equal(unsetenv("PEERPOD_TEST_SNAPSHOTS"), 0);
        assert_int_equal(unsetenv("PEERPOD_TEST_POWER_CUT"), 0);
}

/* What the disk holds after the cut: as it was after write number @n; before the first one there was nothing. */
static void restore(Test *t, char *const *snapshots, int n) {
        if (n == 0 || snapshots[n][0] == '\0')
                (void) unlink(path_of(t, RECORD));
        else
                write_text(path_of(t, RECORD), snapshots[n]);
}

static void a_power_cut_between_any_two_writes_comes_to_a_good_end(void **state) {
        _cleanup_(freep) char *running = NULL;
        char *snapshots[WRITES_MAX] = {};
        Test *t = *state;
        int n_writes;

        assert_int_equal(mkdir(path_of(t, "snapshots"), 0700), 0);
        end_adaptor(t, SIGTERM);
        start_with_snapshots(t, 0);
        live(t, false);
        n_writes = (int) entries(path_of(t, "snapshots"));
        assert_in_range(n_writes, 6, WRITES_MAX - 1);
        for (int i = 1; i <= n_writes; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "snapshots/%i", i);
                snapshots[i] = read_text(path_of(t, name));
        }
        assert_string_equal(snapshots[n_writes], "");
        assert_non_null(strstr(snapshots[WRITE_PLANNED], "\"planned\""));
        assert_non_null(strstr(snapshots[WRITE_PLANNED], "\"pod-network\""));
        end_adaptor(t, SIGTERM);

        for (int cut = 1; cut <= n_writes; cut++) {
                /* As it should be; the last write lost; all since CreateVM lost; and all of it. */
                const int kept[] = { cut, cut - 1, MIN(cut, WRITE_PLANNED), 0 };

                for (unsigned i = 0; i < ELEMENTSOF(kept); i++) {
                        TtrpcClient *client;

                        start_with_snapshots(t, cut);
                        live(t, true);
                        wait_until(t, sd_bus_get_name_creds(t->bus, NAME, 0, NULL) < 0);
                        restore(t, snapshots, kept[i]);

                        start_adaptor(t);
                        if (kept[i] == cut && strstr(snapshots[cut], "\"running\"")) {
                                assert_string_equal(property(t, "State"), "running");
                                assert_true(instance_exists(t));
                        }
                        client = connect_shim(t);
                        stop_ok(t, client);
                        ttrpc_client_free(client);
                        wait_until(t, all_gone(t) && n_left_at_fakes(t) == 0);
                        end_adaptor(t, SIGTERM);
                }
        }

        print_message("%i writes in a life, %zu power cuts\n", n_writes, n_writes * 4UL);
        for (int i = 1; i <= n_writes; i++)
                free(snapshots[i]);
        start_adaptor(t);
}

/* ---- a full disk ------------------------------------------------------------------------------------------------------------------- */

static int setup_small_disk(void **state) {
        int r = setup(state);
        Test *t = *state;

        if (r < 0)
                return r;
        end_adaptor(t, SIGTERM);
        assert_int_equal(mount("tmpfs", path_of(t, "state"), "tmpfs", 0, "size=64k,mode=0700"), 0);
        start_adaptor(t);
        return 0;
}

static int teardown_small_disk(void **state) {
        Test *t = *state;

        (void) umount2(path_of(t, "state"), MNT_DETACH);
        return teardown(state);
}

static void fill_disk(Test *t) {
        static const char page[4096];
        int fd = open(path_of(t, "state/full"), O_WRONLY|O_CREAT|O_APPEND|O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        while (write(fd, page, sizeof(page)) > 0)
                ;
        assert_int_equal(errno, ENOSPC);
        close_fd(fd);
}

static void a_full_disk_refuses_what_is_new(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        fill_disk(t);
        begin_create(client, &c, ID, NETNS, "web", NULL);
        finish(t, &c, TTRPC_RESOURCE_EXHAUSTED);
        assert_non_null(strstr(c.text, "No space left on device"));
        wait_until(t, strlen(property(t, "State")) == 0 && entries(path_of(t, "run")) == 0);
        assert_false(called(t, "Setup"));

        assert_int_equal(unlink(path_of(t, "state/full")), 0);
        create_ok(t, client);

        /* Full once more, before the cloud is asked for anything. */
        fill_disk(t);
        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_RESOURCE_EXHAUSTED);
        assert_int_equal(count(path_of(t, "provider/calls"), "create "), 0);
        wait_until(t, strlen(property(t, "State")) == 0);
        ttrpc_client_free(client);
}

static void a_full_disk_keeps_nothing_from_being_deleted(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        create_ok(t, client);
        start_ok(t, client);
        fill_disk(t);
        control_provider(t, "delete=delay:300\n");
        begin_stop(client, &c, ID);             /* promised only when it is so, as it is not on disk */
        wait_until(t, count(path_of(t, "provider/calls"), "delete ") == 1);
        assert_false(c.done);
        finish(t, &c, TTRPC_OK);
        assert_false(instance_exists(t));
        wait_until(t, entries(path_of(t, "state/sandboxes")) == 0 && n_left_at_fakes(t) == 0);
        ttrpc_client_free(client);
}

static void a_restart_on_a_full_disk_keeps_what_runs(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        ttrpc_client_free(client);
        fill_disk(t);
        restart_adaptor(t, SIGKILL);
        assert_string_equal(property(t, "State"), "running");
        assert_int_equal(unlink(path_of(t, "state/full")), 0);
        client = connect_shim(t);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* ---- records that cannot be used --------------------------------------------------------------------------------------------------- */

/* A running sandbox whose record becomes something else while the adaptor is not there. */
static void run_and_end(Test *t) {
        TtrpcClient *client = connect_shim(t);
        Call c;

        create_ok(t, client);
        start_ok(t, client);
        begin_create(client, &c, OTHER, "/run/netns/other", "other", NULL);
        finish(t, &c, TTRPC_OK);
        ttrpc_client_free(client);
        end_adaptor(t, SIGTERM);
}

static void stop_both(Test *t) {
        TtrpcClient *client = connect_shim(t);
        Call c;

        stop_ok(t, client);
        begin_stop(client, &c, OTHER);
        finish(t, &c, TTRPC_OK);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void damaged_records_harm_nobody_else(void **state) {
        static const char *const damages[] = {
                "", "{", "\x7f" "ELF", "null\n", "[]\n", "{\"version\": 1}\n", "{\"version\": 0}\n",
                "{\"version\": 1, \"state\": \"running\", \"sandbox-id\": \"" OTHER "\"}\n",    /* another one's */
        };
        Test *t = *state;

        for (size_t i = 0; i < ELEMENTSOF(damages); i++) {
                run_and_end(t);
                write_text(path_of(t, RECORD), damages[i]);
                start_adaptor(t);
                assert_true(exists(path_of(t, RECORD ".unreadable")));
                assert_string_equal(property_of(t, OTHER, "State"), "planned");
                assert_true(instance_exists(t));
                stop_both(t);
        }
}

static void a_record_cut_off_anywhere_is_set_aside(void **state) {
        Test *t = *state;

        for (unsigned i = 0; i < 8; i++) {
                _cleanup_(freep) char *text = NULL;

                run_and_end(t);
                text = read_text(path_of(t, RECORD));
                text[(strlen(text) - 2) * i / 8] = '\0';
                write_text(path_of(t, RECORD), text);
                start_adaptor(t);
                assert_true(exists(path_of(t, RECORD ".unreadable")));
                assert_true(instance_exists(t));
                stop_both(t);
        }
}

static void what_is_no_file_or_too_large_is_set_aside(void **state) {
        Test *t = *state;

        for (unsigned i = 0; i < 3; i++) {
                run_and_end(t);
                assert_int_equal(unlink(path_of(t, RECORD)), 0);
                if (i == 0)
                        assert_int_equal(symlink("/nonexistent", path_of(t, RECORD)), 0);
                else if (i == 1)
                        assert_int_equal(mkfifo(path_of(t, RECORD), 0600), 0);
                else {
                        write_text(path_of(t, RECORD), "");
                        assert_int_equal(truncate(path_of(t, RECORD), 1 << 30), 0);
                }
                start_adaptor(t);
                assert_false(exists(path_of(t, RECORD)));
                assert_string_equal(property_of(t, OTHER, "State"), "planned");
                assert_true(instance_exists(t));
                stop_both(t);
        }
}

/* A downgrade: the newer version will come back and know what it meant. */
static void a_record_of_a_newer_version_stays_as_it_is(void **state) {
        _cleanup_(freep) char *text = NULL, *newer = NULL, *after = NULL;
        TtrpcClient *client;
        Test *t = *state;
        char *version;
        Call c;

        run_and_end(t);
        text = read_text(path_of(t, RECORD));
        version = strstr(text, "\"version\": 1,");
        if (!version)
                version = strstr(text, "\"version\":1,");
        assert_non_null(version);
        *strchr(version, '1') = '9';
        newer = strdup(text);
        write_text(path_of(t, RECORD), newer);
        start_adaptor(t);
        let_the_cloud_be_asked(t, 2);
        assert_true(instance_exists(t));
        assert_string_equal(property(t, "State"), "");

        client = connect_shim(t);
        begin_create(client, &c, ID, NETNS, "web", NULL);
        finish(t, &c, TTRPC_FAILED_PRECONDITION);
        ttrpc_client_free(client);
        after = read_text(path_of(t, RECORD));
        assert_string_equal(after, newer);

        /* … here, this one. */
        end_adaptor(t, SIGTERM);
        *strchr(version, '9') = '1';
        write_text(path_of(t, RECORD), text);
        start_adaptor(t);
        assert_string_equal(property(t, "State"), "running");
        stop_both(t);
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup_curious, teardown)
#define TEST_SMALL_DISK(f) cmocka_unit_test_setup_teardown(f, setup_small_disk, teardown_small_disk)
        const struct CMUnitTest tests[] = {
                TEST(a_power_cut_between_any_two_writes_comes_to_a_good_end),
                TEST_SMALL_DISK(a_full_disk_refuses_what_is_new),
                TEST_SMALL_DISK(a_full_disk_keeps_nothing_from_being_deleted),
                TEST_SMALL_DISK(a_restart_on_a_full_disk_keeps_what_runs),
                TEST(damaged_records_harm_nobody_else),
                TEST(a_record_cut_off_anywhere_is_set_aside),
                TEST(what_is_no_file_or_too_large_is_set_aside),
                TEST(a_record_of_a_newer_version_stays_as_it_is),
        };

        if (!take_arguments(argc, argv, 5))
                return 2;
        snapshots_program = argv[5];

        return cmocka_run_group_tests_name("adaptor-records", tests, NULL, NULL);
}
