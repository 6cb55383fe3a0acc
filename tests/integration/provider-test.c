/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-providerd as a process, with a module whose instances are files: who may run beside whom, who waits for whom, and what
 * is left when something is cut off. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "provider-client.h"

#define TIMEOUT (20 * USEC_PER_SEC)

typedef struct Fixture {
        char directory[64], state[80], modules[256];
        Daemon daemon;
        sd_bus *bus;
} Fixture;

static const char *program, *module_file;

static void control(const Fixture *f, const char *text) {
        char path[128];
        int r;

        (void) snprintf(path, sizeof(path), "%s/control", f->state);
        if (text)
                r = write_file_atomic(path, text, strlen(text), 0600);
        else
                r = unlink(path);
        assert_int_equal(r, 0);
}

static bool exists(const Fixture *f, const char *name) {
        char path[256];

        (void) snprintf(path, sizeof(path), "%s/%s", f->state, name);
        return access(path, F_OK) == 0;
}

/* No sleeping: look until it is so, or the test's time is over. */
#define WAIT_UNTIL(condition)                                                                   \
        do {                                                                                    \
                uint64_t _end = now_usec(CLOCK_MONOTONIC) + TIMEOUT;                            \
                while (!(condition)) {                                                          \
                        assert_true(now_usec(CLOCK_MONOTONIC) < _end);                          \
                        (void) poll(NULL, 0, 5);                                                \
                }                                                                               \
        } while (0)

static void start(Fixture *f, const char *const *more) {
        const char *args[24] = { "--provider", "fake", "--module-directory", f->modules, "--state-directory", f->state };
        int status = 0;

        for (size_t n = 6; more && *more; more++)
                args[n++] = *more;
        daemon_start(&f->daemon, program, f->directory, args, &status);
        assert_int_not_equal(f->daemon.pid, 0);
        f->bus = daemon_connect(&f->daemon);
}

static int set_up(void **state) {
        Fixture *f = calloc(1, sizeof(Fixture));

        strcpy(f->directory, "/tmp/peerpod-test-XXXXXX");
        assert_non_null(mkdtemp(f->directory));
        (void) snprintf(f->state, sizeof(f->state), "%s/state", f->directory);
        assert_int_equal(mkdir_p(f->state, 0700), 0);
        (void) snprintf(f->modules, sizeof(f->modules), "%.*s", (int) (strrchr(module_file, '/') - module_file), module_file);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        Fixture *f = *state;

        if (f->bus)
                sd_bus_flush_close_unref(f->bus);
        (void) daemon_end(&f->daemon, SIGKILL);
        (void) remove_tree(f->directory);
        free(f);
        return 0;
}

static int count_fds(pid_t pid) {
        char path[64];
        DIR *d;
        int n = 0;

        (void) snprintf(path, sizeof(path), "/proc/%i/fd", pid);
        d = opendir(path);
        while (readdir(d))
                n++;
        (void) closedir(d);
        return n;
}

static const CreateArgs args1 = { "sandbox1", "podvm-a-sandbox1", "node1", "#cloud-config\n", NULL, 0, 2, 512 };

/* A job is freed just after its answer, before the next call is looked at. */
static int settled_fds(Fixture *f) {
        _cleanup_(freep) char *name = NULL;

        assert_true(sd_bus_get_property_string(f->bus, NULL, PROVIDER_PATH, PROVIDER_INTERFACE, "Name", NULL, &name) >= 0);
        assert_string_equal(name, "fake");
        return count_fds(f->daemon.pid);
}

static void created_found_deleted(void **state) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        const char *id, *type, *address, *sandbox, *name;
        sd_bus_message *reply = NULL;
        Fixture *f = *state;
        int fds;

        start(f, (const char*[]) { "--fake-addresses", "192.0.2.7,2001:db8::7", NULL });
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 0);
        fds = settled_fds(f);

        for (int i = 0; i < 3; i++) {
                reply = call_and_unref(f->bus, create_call(f->bus, &args1), TIMEOUT, &error);
                assert_non_null(reply);
                assert_true(sd_bus_message_read(reply, "ss", &id, &type) > 0);
                assert_string_equal(id, "fake-podvm-a-sandbox1");
                assert_string_equal(type, "fake");
                assert_true(sd_bus_message_enter_container(reply, 'a', "s") > 0);
                assert_true(sd_bus_message_read(reply, "s", &address) > 0);
                assert_string_equal(address, "192.0.2.7");
                assert_true(sd_bus_message_read(reply, "s", &address) > 0);
                assert_string_equal(address, "2001:db8::7");
                sd_bus_message_unref(reply);
        }

        assert_int_equal(count_instances(f->bus, "node1", &sandbox, &name, &id, &reply), 1);
        assert_string_equal(sandbox, "sandbox1");
        assert_string_equal(name, "podvm-a-sandbox1");
        sd_bus_message_unref(reply);
        assert_int_equal(count_instances(f->bus, "node2", NULL, NULL, NULL, NULL), 0);

        for (int i = 0; i < 2; i++) {   /* gone is success */
                reply = call_and_unref(f->bus, delete_call(f->bus, "sandbox1", "podvm-a-sandbox1", ""), TIMEOUT, &error);
                assert_non_null(reply);
                sd_bus_message_unref(reply);
        }
        assert_false(exists(f, "podvm-a-sandbox1"));
        assert_int_equal(settled_fds(f), fds);
        assert_int_equal(daemon_end(&f->daemon, SIGTERM), 0);
}

typedef struct Refusal {
        const char *title;
        CreateArgs args;
        const char *error;
        const char *text;
} Refusal;

static char big[64 * 1024 + 1];

static const Refusal refusals[] = {
        { "sandbox id with a slash", { "a/b", "podvm-a", "n", "" }, "InvalidArgument", "Sandbox id" },
        { "empty sandbox id", { "", "podvm-a", "n", "" }, "InvalidArgument", "Sandbox id" },
        { "name in upper case", { "s", "Podvm-a", "n", "" }, "InvalidArgument", "Instance name" },
        { "name with dots", { "s", "..", "n", "" }, "InvalidArgument", "Instance name" },
        { "name ends with a dash", { "s", "podvm-", "n", "" }, "InvalidArgument", "Instance name" },
        { "empty node", { "s", "podvm-a", "", "" }, "InvalidArgument", "Node name" },
        { "node with a blank", { "s", "podvm-a", "a b", "" }, "InvalidArgument", "Node name" },
        { "image with a control character", { "s", "podvm-a", "n", "", "a\nb" }, "InvalidArgument", "'image'" },
        { "user data one byte too big", { "s", "podvm-a", "n", big, NULL, sizeof(big) }, "Exhausted", "65537 bytes is larger than the 65536 bytes" },
};

static void bad_requests_are_refused(void **state) {
        Fixture *f = *state;

        memset(big, 'x', sizeof(big));
        start(f, NULL);
        for (size_t i = 0; i < ELEMENTSOF(refusals); i++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                sd_bus_message *reply = call_and_unref(f->bus, create_call(f->bus, &refusals[i].args), TIMEOUT, &error);

                print_message("%s: %s\n", refusals[i].title, strempty(error.message));
                assert_null(reply);
                assert_string_equal(error.name + strlen(PEERPOD_ERROR_PREFIX), refusals[i].error);
                assert_non_null(strstr(error.message, refusals[i].text));
        }
        assert_false(exists(f, "calls"));
}

static void unsealed_user_data_and_unknown_keys_are_refused(void **state) {
        Fixture *f = *state;

        start(f, NULL);
        for (int i = 0; i < 3; i++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                _cleanup_(close_fdp) int fd = open("/dev/null", O_RDONLY|O_CLOEXEC);
                sd_bus_message *m = new_call(f->bus, "CreateInstance");

                if (i == 0)
                        assert_true(sd_bus_message_append(m, "sssa{sv}h", "s", "podvm-a", "n", 0, fd) >= 0);
                else if (i == 1)
                        assert_true(sd_bus_message_append(m, "sssa{sv}h", "s", "podvm-a", "n", 1, "tee", "s", "snp", fd) >= 0);
                else
                        assert_true(sd_bus_message_append(m, "sssa{sv}h", "s", "podvm-a", "n", 1, "vcpus", "s", "2", fd) >= 0);
                assert_null(call_and_unref(f->bus, m, TIMEOUT, &error));
                assert_string_equal(error.name, PEERPOD_ERROR_INVALID_ARGUMENT);
                assert_non_null(strstr(error.message, ((const char*[]) { "sealed", "'tee'", "'vcpus'" })[i]));
        }
}

static void second_create_joins_the_first(void **state) {
        sd_bus_message *one, *two, *other;
        CreateArgs stranger = args1;
        Fixture *f = *state;

        start(f, NULL);
        control(f, "create=hang-hard\n");
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &one);
        WAIT_UNTIL(exists(f, "podvm-a-sandbox1.tmp"));
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &two);
        stranger.sandbox_id = "sandbox2";
        send_async(f->bus, create_call(f->bus, &stranger), TIMEOUT, &other);
        process_until(f->bus, TIMEOUT, &other);
        assert_string_equal(error_of(other), "AlreadyExists");
        assert_null(one);

        control(f, NULL);
        process_until(f->bus, TIMEOUT, &one);
        process_until(f->bus, TIMEOUT, &two);
        assert_string_equal(error_of(one), "none");
        assert_string_equal(error_of(two), "none");
        sd_bus_message_unref(one);
        sd_bus_message_unref(two);
        sd_bus_message_unref(other);
}

static void delete_cancels_a_running_create(void **state) {
        sd_bus_message *create, *delete, *again, *late;
        Fixture *f = *state;

        start(f, NULL);
        control(f, "create=hang\ndelete=delay:200\n");
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
        WAIT_UNTIL(exists(f, "podvm-a-sandbox1.tmp"));
        send_async(f->bus, delete_call(f->bus, "sandbox1", "podvm-a-sandbox1", ""), TIMEOUT, &delete);
        send_async(f->bus, delete_call(f->bus, "sandbox1", "podvm-a-sandbox1", ""), TIMEOUT, &again);
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &late);
        process_until(f->bus, TIMEOUT, &late);
        assert_string_equal(error_of(late), "FailedPrecondition");
        process_until(f->bus, TIMEOUT, &create);
        assert_string_equal(error_of(create), "Cancelled");
        process_until(f->bus, TIMEOUT, &delete);
        assert_string_equal(error_of(delete), "none");
        process_until(f->bus, TIMEOUT, &again);
        assert_string_equal(error_of(again), "none");
        assert_false(exists(f, "podvm-a-sandbox1.tmp"));
        sd_bus_message_unref(create);
        sd_bus_message_unref(delete);
        sd_bus_message_unref(again);
        sd_bus_message_unref(late);
}

static void create_ends_at_its_deadline(void **state) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        Fixture *f = *state;

        start(f, (const char*[]) { "--create-timeout", "1s", NULL });
        control(f, "create=hang\n");
        assert_null(call_and_unref(f->bus, create_call(f->bus, &args1), TIMEOUT, &error));
        assert_string_equal(error.name, PEERPOD_ERROR_TIMED_OUT);
        assert_false(exists(f, "podvm-a-sandbox1.tmp"));
}

static void full_queue_is_said_and_deletes_are_not_held_up(void **state) {
        sd_bus_message *replies[4], *delete;
        Fixture *f = *state;

        /* One create at a time; two calls may wait. */
        start(f, (const char*[]) { "--workers", "1", "--queue", "2", "--call-patience", "1h", NULL });
        control(f, "create=hang\n");
        for (int i = 0; i < 4; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "podvm-%i", i);
                send_async(f->bus, create_call(f->bus, &(CreateArgs) { "s", name, "n", "x" }), TIMEOUT, replies + i);
                if (i == 0)
                        WAIT_UNTIL(exists(f, "podvm-0.tmp"));
        }
        process_until(f->bus, TIMEOUT, replies + 3);
        assert_string_equal(error_of(replies[3]), "Exhausted");
        assert_null(replies[1]);

        /* The first delete has to wait for nobody but its own create. */
        send_async(f->bus, delete_call(f->bus, "s", "podvm-0", ""), TIMEOUT, &delete);
        process_until(f->bus, TIMEOUT, replies + 0);
        assert_string_equal(error_of(replies[0]), "Cancelled");
        process_until(f->bus, TIMEOUT, &delete);
        sd_bus_message_unref(delete);
        for (int i = 1; i < 3; i++) {
                char name[32];

                (void) snprintf(name, sizeof(name), "podvm-%i", i);
                send_async(f->bus, delete_call(f->bus, "s", name, ""), TIMEOUT, &delete);
                process_until(f->bus, TIMEOUT, replies + i);
                process_until(f->bus, TIMEOUT, &delete);
                assert_string_equal(error_of(replies[i]), "Cancelled");
                sd_bus_message_unref(delete);
        }
        for (int i = 0; i < 4; i++)
                sd_bus_message_unref(replies[i]);
}

static void calls_that_hang_hold_up_nobody(void **state) {
        sd_bus_message *hanging[2], *reply;
        Fixture *f = *state;

        start(f, (const char*[]) { "--workers", "1", "--call-patience", "100ms", NULL });
        control(f, "create podvm-0=hang\ndelete podvm-1=hang-hard\n");
        send_async(f->bus, create_call(f->bus, &(CreateArgs) { "s", "podvm-0", "n", "x" }), TIMEOUT, hanging + 0);
        send_async(f->bus, delete_call(f->bus, "s", "podvm-1", ""), TIMEOUT, hanging + 1);

        send_async(f->bus, create_call(f->bus, &(CreateArgs) { "s", "podvm-2", "n", "x" }), TIMEOUT, &reply);
        process_until(f->bus, TIMEOUT, &reply);
        assert_string_equal(error_of(reply), "none");
        sd_bus_message_unref(reply);
        send_async(f->bus, delete_call(f->bus, "s", "podvm-2", ""), TIMEOUT, &reply);
        process_until(f->bus, TIMEOUT, &reply);
        assert_string_equal(error_of(reply), "none");
        sd_bus_message_unref(reply);
        assert_null(hanging[0]);
        assert_null(hanging[1]);

        control(f, "");
        send_async(f->bus, delete_call(f->bus, "s", "podvm-0", ""), TIMEOUT, &reply);
        process_until(f->bus, TIMEOUT, &reply);
        sd_bus_message_unref(reply);
        for (int i = 0; i < 2; i++) {
                process_until(f->bus, TIMEOUT, hanging + i);
                sd_bus_message_unref(hanging[i]);
        }
}

static void stop_undoes_what_is_half_made(void **state) {
        sd_bus_message *create;
        Fixture *f = *state;

        start(f, NULL);
        control(f, "create=hang\n");
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
        WAIT_UNTIL(exists(f, "podvm-a-sandbox1.tmp"));
        assert_int_equal(daemon_end(&f->daemon, SIGTERM), 0);
        assert_false(exists(f, "podvm-a-sandbox1.tmp"));
        process_until(f->bus, TIMEOUT, &create);
        assert_string_equal(error_of(create), "Cancelled");
        sd_bus_message_unref(create);
}

static void stop_does_not_wait_for_ever(void **state) {
        sd_bus_message *create;
        Fixture *f = *state;
        uint64_t begin;

        start(f, (const char*[]) { "--stop-timeout", "500ms", NULL });
        control(f, "create=hang-hard\n");
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
        WAIT_UNTIL(exists(f, "podvm-a-sandbox1.tmp"));
        begin = now_usec(CLOCK_MONOTONIC);
        assert_int_equal(daemon_end(&f->daemon, SIGTERM), 0);
        assert_true(now_usec(CLOCK_MONOTONIC) - begin < 10 * USEC_PER_SEC);
}

static void errors_of_the_module_keep_kind_and_text(void **state) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        Fixture *f = *state;

        start(f, NULL);
        control(f, "create=fail:Exhausted:no more of these\nfind=fail:Unavailable:cloud is away\ndelete=fail:Throttled:"
                "fewer requests, please\n");
        assert_null(call_and_unref(f->bus, create_call(f->bus, &args1), TIMEOUT, &error));
        assert_string_equal(error.name, PEERPOD_ERROR_EXHAUSTED);
        assert_string_equal(error.message, "no more of these");
        sd_bus_error_free(&error);
        assert_null(call_and_unref(f->bus, find_call(f->bus, "n"), TIMEOUT, &error));
        assert_string_equal(error.name, PEERPOD_ERROR_UNAVAILABLE);
        sd_bus_error_free(&error);
        assert_null(call_and_unref(f->bus, delete_call(f->bus, "sandbox1", "podvm-a-sandbox1", ""), TIMEOUT, &error));
        assert_string_equal(error.name, PEERPOD_ERROR_THROTTLED);
        assert_string_equal(error.message, "fewer requests, please");
}

static void caller_that_goes_does_not_undo(void **state) {
        sd_bus_message *create;
        Fixture *f = *state;

        start(f, NULL);
        control(f, "create=hang-hard\n");
        send_async(f->bus, create_call(f->bus, &args1), TIMEOUT, &create);
        WAIT_UNTIL(exists(f, "podvm-a-sandbox1.tmp"));
        sd_bus_flush_close_unref(f->bus);
        f->bus = daemon_connect(&f->daemon);
        control(f, NULL);
        WAIT_UNTIL(exists(f, "podvm-a-sandbox1"));
        assert_int_equal(count_instances(f->bus, "node1", NULL, NULL, NULL, NULL), 1);
}

typedef struct StartCase {
        const char *title;
        const char *args[8];
        const char *variable, *value;
        int status;
} StartCase;

static const StartCase start_cases[] = {
        { "check passes", { "--check" }, NULL, NULL, 0 },
        { "unknown flag", { "--no-such-flag" }, NULL, NULL, 2 },
        { "ill-formed flag", { "--fake-delay", "12abc" }, NULL, NULL, 2 },
        { "ill-formed variable", { "--check" }, "FAKE_DELAY_MS", "12abc", 78 },
        { "number too large", { "--check" }, "FAKE_DELAY_MS", "3600001", 78 },
        { "secret as a flag", { "--fake-secret", "x" }, NULL, NULL, 2 },
        { "required value is empty", { "--check", "--fake-addresses=" }, NULL, NULL, 78 },
        { "provider that is not installed", { "--check", "--provider", "nosuch" }, NULL, NULL, 78 },
        { "provider name with a slash", { "--check", "--provider", "../fake" }, NULL, NULL, 78 },
        { "peer user that does not exist", { "--peer-user", "no-such-user-here" }, NULL, NULL, 78 },
        { "plugin switch ill-formed", { "--check" }, "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN", "yes", 78 },
        { "plugin enabled without a path", { "--check" }, "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN", "true", 78 },
};

static void start_ends_with_the_right_status(void **state) {
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(start_cases); i++) {
                const StartCase *c = start_cases + i;
                const char *args[24] = { "--provider", "fake", "--module-directory", f->modules, "--state-directory", f->state };
                int status = -1;

                for (size_t n = 0; c->args[n]; n++)
                        args[6 + n] = c->args[n];
                if (c->variable)
                        assert_int_equal(setenv(c->variable, c->value, 1), 0);
                daemon_start(&f->daemon, program, f->directory, args, &status);
                if (c->variable)
                        assert_int_equal(unsetenv(c->variable), 0);
                print_message("%s: status %i\n", c->title, WEXITSTATUS(status));
                assert_int_equal(f->daemon.pid, 0);
                assert_true(WIFEXITED(status));
                assert_int_equal(WEXITSTATUS(status), c->status);
        }
}

static void failed_check_is_said(void **state) {
        const char *args[] = { "--provider", "fake", "--module-directory", NULL, "--state-directory", NULL, "--check", NULL };
        Fixture *f = *state;
        int status = -1;

        args[3] = f->modules;
        args[5] = f->state;
        control(f, "verify=fail:FailedPrecondition:no such image\n");
        daemon_start(&f->daemon, program, f->directory, args, &status);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 1);
        control(f, "verify=fail:InvalidArgument:cannot work\n");
        daemon_start(&f->daemon, program, f->directory, args, &status);
        assert_int_equal(WEXITSTATUS(status), 78);
}

/* @content: of the credential; NULL for none. Returns what the module saw, as the fake notes it. */
static const char* open_with_credential(Fixture *f, const char *content, int *ret_status) {
        const char *args[] = { "--provider", "fake", "--module-directory", f->modules, "--state-directory", f->state, "--check", NULL };
        static char seen[256];
        char path[128];
        FILE *calls;

        (void) snprintf(path, sizeof(path), "%s/peer-pods-secret.env", f->directory);
        (void) unlink(path);
        if (content)
                assert_int_equal(write_file_atomic(path, content, strlen(content), 0400), 0);
        assert_int_equal(setenv("CREDENTIALS_DIRECTORY", f->directory, 1), 0);
        daemon_start(&f->daemon, program, f->directory, args, ret_status);
        assert_int_equal(unsetenv("CREDENTIALS_DIRECTORY"), 0);

        (void) snprintf(path, sizeof(path), "%s/.opened", f->state);
        calls = fopen(path, "re");
        seen[0] = '\0';
        if (calls) {
                assert_non_null(fgets(seen, sizeof(seen), calls));
                assert_int_equal(fclose(calls), 0);
                assert_int_equal(unlink(path), 0);
        }
        return seen;
}

static void secrets_come_as_a_credential_and_are_not_inherited(void **state) {
        Fixture *f = *state;
        int status = -1;

        assert_string_equal(open_with_credential(f, NULL, &status), "open no-secret\n");
        assert_int_equal(status, 0);
        assert_string_equal(open_with_credential(f, "# cloud\nFAKE_SECRET=\"a b\"\n", &status), "open secret\n");
        assert_int_equal(status, 0);

        /* By environment file they come too, and end with us as well. */
        assert_int_equal(setenv("FAKE_SECRET", "c", 1), 0);
        assert_string_equal(open_with_credential(f, NULL, &status), "open secret\n");
        assert_int_equal(unsetenv("FAKE_SECRET"), 0);
}

static void a_credential_wins_over_the_environment(void **state) {
        Fixture *f = *state;
        int status = -1;

        assert_int_equal(setenv("FAKE_DELAY_MS", "12abc", 1), 0);
        (void) open_with_credential(f, "FAKE_DELAY_MS=0\n", &status);
        assert_int_equal(unsetenv("FAKE_DELAY_MS"), 0);
        assert_int_equal(status, 0);
}

static void a_credential_that_cannot_be_read_ends_the_start(void **state) {
        Fixture *f = *state;
        char path[128];
        int status = -1;

        (void) snprintf(path, sizeof(path), "%s/peer-pods-secret.env", f->directory);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_string_equal(open_with_credential(f, NULL, &status), "");
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 78);
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
                TEST(created_found_deleted),
                TEST(secrets_come_as_a_credential_and_are_not_inherited),
                TEST(a_credential_wins_over_the_environment),
                TEST(a_credential_that_cannot_be_read_ends_the_start),
                TEST(bad_requests_are_refused),
                TEST(unsealed_user_data_and_unknown_keys_are_refused),
                TEST(second_create_joins_the_first),
                TEST(delete_cancels_a_running_create),
                TEST(create_ends_at_its_deadline),
                TEST(full_queue_is_said_and_deletes_are_not_held_up),
                TEST(calls_that_hang_hold_up_nobody),
                TEST(stop_undoes_what_is_half_made),
                TEST(stop_does_not_wait_for_ever),
                TEST(errors_of_the_module_keep_kind_and_text),
                TEST(caller_that_goes_does_not_undo),
                TEST(start_ends_with_the_right_status),
                TEST(failed_check_is_said),
        };

        if (argc != 3) {
                fprintf(stderr, "Usage: %s PEERPOD-PROVIDERD FAKE.SO\n", argv[0]);
                return 2;
        }
        program = argv[1];
        module_file = argv[2];
        return cmocka_run_group_tests(tests, NULL, NULL);
}
