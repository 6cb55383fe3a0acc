/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "basic/bus-private.h"
#include "basic/daemon.h"
#include "basic/env-file.h"
#include "basic/io.h"
#include "basic/json.h"
#include "basic/main-func.h"
#include "basic/options.h"
#include "basic/parse.h"
#include "basic/strv.h"
#include "basic/util.h"

static void durations_read_as_go_writes_them(void **state) {
        static const struct {
                const char *text;
                int result;
                uint64_t usec;
        } cases[] = {
                { "5m", 0, 300 * USEC_PER_SEC }, { "300s", 0, 300 * USEC_PER_SEC }, { "300", 0, 300 * USEC_PER_SEC },
                { "1h30m", 0, 5400 * USEC_PER_SEC }, { "1.5s", 0, 1500000 }, { "250ms", 0, 250000 }, { "0", 0, 0 },
                { ".5s", 0, 500000 }, { "", -EINVAL, 0 }, { "5", 0, 5 * USEC_PER_SEC }, { "5x", -EINVAL, 0 },
                { "-5s", -EINVAL, 0 }, { "s", -EINVAL, 0 }, { ".s", -EINVAL, 0 },
                { "99999999999999999999s", -ERANGE, 0 }, { "9999999999999h", -ERANGE, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t usec = 0;

                assert_int_equal(parse_duration_usec(cases[i].text, &usec), cases[i].result);
                assert_int_equal(usec, cases[i].usec);
        }
}

static int join_assignment(const char *key, const char *value, void *userdata) {
        char *text = userdata;

        (void) snprintf(text + strlen(text), 256 - strlen(text), "<%s|%s>", key, value);
        return 0;
}

static void environment_files_read_as_systemd_reads_them(void **state) {
        static const struct {
                const char *text, *expected;
        } cases[] = {
                { "", "" }, { "A=b", "<A|b>" }, { "A=b\n", "<A|b>" }, { "A=\n", "<A|>" }, { "  A =b", "<A|b>" }, { "A B=c", "" }, { "A='b' 'c' ", "<A|bc>" }, { "A= b c  \r\nB=d", "<A|b c><B|d>" },
                { "# A=b\n; C=d\nE=f", "<E|f>" }, { "1A=b", "" }, { "export A=b", "" }, { "lonely\nA=b", "<A|b>" }, { "=b", "" },
                { "A='x  y '", "<A|x  y >" }, { "A=\"x 'y'\"", "<A|x 'y'>" }, { "A=a'b'\"c\"d", "<A|abcd>" }, { "A='a\\b'", "<A|a\\b>" },
                { "A=\"\\\" \\$ \\x\"", "<A|\" $ \\x>" }, { "A=a\\ \\b", "<A|a b>" }, { "A=a\\\nb", "<A|ab>" },
                { "A=\"two\nlines\"\nB=c", "<A|two\nlines><B|c>" }, { "A='open\nB=c", "<A|open\nB=c>" }, { "A=b#c", "<A|b#c>" }, { "A=b=c", "<A|b=c>" },
                { "A=\\", "<A|\\>" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char text[256] = "";

                assert_int_equal(env_file_parse(cases[i].text, strlen(cases[i].text), join_assignment, text), 0);
                assert_string_equal(text, cases[i].expected);
        }

        assert_int_equal(env_file_parse("A=b\0c", 5, join_assignment, NULL), -EBADMSG);
}

static void decimals_are_rounded_up(void **state) {
        static const struct {
                const char *text;
                int result;
                uint64_t value;
        } cases[] = {
                { "2", 0, 2 }, { "1.5", 0, 2 }, { "2.0", 0, 2 }, { "0.25", 0, 1 }, { "0", 0, 0 }, { "1.", -EINVAL, 0 },
                { ".5", -EINVAL, 0 }, { "-1", -EINVAL, 0 }, { "1e3", -EINVAL, 0 }, { "18446744073709551615.1", -ERANGE, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t v = 0;

                assert_int_equal(parse_decimal_ceil(cases[i].text, &v), cases[i].result);
                assert_int_equal(v, cases[i].value);
        }
}

static void sandbox_ids_are_safe_in_paths_and_unit_names(void **state) {
        assert_true(sandbox_id_is_valid("88a70031c0ffee"));
        assert_true(sandbox_id_is_valid("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"));
        assert_true(sandbox_id_is_valid("a.b_c-d"));
        assert_false(sandbox_id_is_valid(NULL));
        assert_false(sandbox_id_is_valid(""));
        assert_false(sandbox_id_is_valid(".."));
        assert_false(sandbox_id_is_valid("-x"));
        assert_false(sandbox_id_is_valid("a/b"));
        assert_false(sandbox_id_is_valid("a@b"));
        assert_false(sandbox_id_is_valid("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdefx"));
}

static void text_without_controls_and_of_valid_utf8_is_plain(void **state) {
        assert_true(text_is_plain("nginx-1", 63));
        assert_true(text_is_plain("größe €𝄞", 63));
        assert_false(text_is_plain("a\nb", 63));
        assert_false(text_is_plain("\xc0\xaf", 63));
        assert_false(text_is_plain("\xed\xa0\x80", 63));
        assert_false(text_is_plain("\xe2\x82", 63));
        assert_false(text_is_plain("four", 3));
}

static void split_trims_and_drops_empty_pieces(void **state) {
        char **l = NULL;

        assert_int_equal(strv_split(" a, ,b ,", ",", &l), 0);
        assert_int_equal(strv_length(l), 2);
        assert_string_equal(l[0], "a");
        assert_string_equal(l[1], "b");
        strv_free(l);
}

typedef struct Target {
        char *text, *secret;
        char **list;
        bool flag;
        uint32_t number;
        uint16_t port;
        uint64_t timeout_usec;
} Target;

static const Option target_options[] = {
        { "text", "TEST_TEXT", OPTION_STRING, offsetof(Target, text), "abc", "A text", "TEXT" },
        { "secret", "TEST_SECRET", OPTION_STRING, offsetof(Target, secret), NULL, "A secret", "TEXT", .secret = true },
        { "list", "TEST_LIST", OPTION_STRV, offsetof(Target, list), NULL, "A list", "A,B" },
        { "flag", "TEST_FLAG", OPTION_BOOL, offsetof(Target, flag), "false", "A flag" },
        { "number", "TEST_NUMBER", OPTION_U32, offsetof(Target, number), "7", "A number", "N", .min = 1, .max = 100 },
        { "port", "TEST_PORT", OPTION_PORT, offsetof(Target, port), "15150", "A port", "PORT" },
        { "timeout", "TEST_TIMEOUT", OPTION_DURATION, offsetof(Target, timeout_usec), "5m", "A time", "TIME" },
        {}
};
static const Program program = { "test", "[OPTIONS…]", "Tests.", target_options, NULL };

static int load(Target *t, int *ret_exit, char *const *argv) {
        return options_load(&program, strv_length(argv), argv, t, NULL, ret_exit);
}

#define ARGV(...) ((char*[]) { (char*) "test", ##__VA_ARGS__, NULL })

static int options_teardown(void **state) {
        unsetenv("TEST_TEXT");
        unsetenv("TEST_NUMBER");
        unsetenv("TEST_LIST");
        return 0;
}

static void a_flag_wins_over_the_variable_and_that_over_the_default(void **state) {
        Target t = {};
        int e = -1;

        setenv("TEST_TEXT", "from environment", 1);
        setenv("TEST_NUMBER", "", 1);
        assert_int_equal(load(&t, &e, ARGV((char*) "-port=1", (char*) "--flag", (char*) "--timeout", (char*) "10")), 0);
        assert_string_equal(t.text, "from environment");
        assert_int_equal(t.number, 7);
        assert_int_equal(t.port, 1);
        assert_true(t.flag);
        assert_int_equal(t.timeout_usec, 10 * USEC_PER_SEC);
        options_done(target_options, &t);
}

static void lists_of_variable_and_flag_add_up(void **state) {
        Target t = {};
        int e = -1;

        setenv("TEST_LIST", "a, b", 1);
        assert_int_equal(load(&t, &e, ARGV((char*) "--list", (char*) "c")), 0);
        assert_int_equal(strv_length(t.list), 3);
        options_done(target_options, &t);
}

static void an_ill_formed_variable_is_a_configuration_error(void **state) {
        Target t = {};
        int e = -1;

        setenv("TEST_NUMBER", "12abc", 1);
        assert_int_equal(load(&t, &e, ARGV()), 1);
        assert_int_equal(e, EXIT_CONFIGURATION);
        options_done(target_options, &t);
}

static void unknown_and_incomplete_flags_are_usage_errors(void **state) {
        static char *const lines[][3] = {
                { (char*) "test", (char*) "--nosuch" }, { (char*) "test", (char*) "--text" },
                { (char*) "test", (char*) "--number=101" }, { (char*) "test", (char*) "argument" },
        };

        for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
                Target t = {};
                int e = -1;

                assert_int_equal(load(&t, &e, lines[i]), 1);
                assert_int_equal(e, EXIT_USAGE);
                options_done(target_options, &t);
        }
}

static void json_that_is_not_exactly_one_object_is_refused(void **state) {
        static const char *const bad[] = { "", "[]", "1", "{", "{}x", "{} {}", "{\"a\":1,}", "{\"a\":\"\xff\"}" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                json_object *o = NULL;
                char *error = NULL;

                assert_int_equal(json_parse(bad[i], strlen(bad[i]), &o, &error), -EBADMSG);
                assert_non_null(error);
                free(error);
        }
}

static void json_strings_may_hold_utf8(void **state) {
        static const char *const bad[] = {
                "{\"s\":\"\xff\"}", "{\"s\":\"\xc3\"}", "{'s':'\xc3\xa4'}", "{\"s\":\"\xc3\xa4\",}", "{\"\xc3\xa4\":1}\xc3\xa4", "{\xc3\xa4:1}",
                "{\"s\":\"\xc3\xa4\n\"}", "/**/{\"s\":\"\xc3\xa4\"}",
        };
        json_object *o = NULL;
        const char *s;

        assert_int_equal(json_parse("{\"s\":\"n\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\xa7\"}", 20, &o, NULL), 0);
        assert_int_equal(json_get_string(o, "s", &s, NULL), 1);
        assert_string_equal(s, "n\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\xa7");
        json_object_put(o);

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                assert_int_equal(json_parse(bad[i], strlen(bad[i]), &o, NULL), -EBADMSG);
}

static void json_getters_check_the_type_and_name_the_key(void **state) {
        static const char text[] = "{\"s\":\"x\",\"n\":5,\"neg\":-1,\"f\":1.5,\"b\":true,\"z\":null,\"l\":[\"a\",\"b\"],"
                                   "\"m\":[1],\"nul\":\"a\\u0000b\",\"big\":18446744073709551615}";
        json_object *o = NULL;
        const char *s = NULL;
        char *error = NULL, **l = NULL;
        uint64_t n = 0;
        bool b = false;

        assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);
        assert_int_equal(json_get_string(o, "s", &s, NULL), 1);
        assert_string_equal(s, "x");
        assert_int_equal(json_get_string(o, "z", &s, NULL), 0);
        assert_int_equal(json_get_string(o, "absent", &s, NULL), 0);
        assert_int_equal(json_get_string(o, "nul", &s, NULL), -EBADMSG);
        assert_int_equal(json_get_string(o, "n", &s, &error), -EBADMSG);
        assert_non_null(strstr(error, "'n'"));
        free(error);
        assert_int_equal(json_get_u64(o, "n", 10, &n, NULL), 1);
        assert_int_equal(n, 5);
        assert_int_equal(json_get_u64(o, "n", 4, &n, NULL), -EBADMSG);
        assert_int_equal(json_get_u64(o, "neg", 10, &n, NULL), -EBADMSG);
        assert_int_equal(json_get_u64(o, "s", 10, &n, NULL), -EBADMSG);
        assert_int_equal(json_get_u64(o, "f", 10, &n, NULL), -EBADMSG);
        assert_int_equal(json_get_u64(o, "big", UINT64_MAX, &n, NULL), 1);
        assert_true(n == UINT64_MAX);
        assert_int_equal(json_get_bool(o, "b", &b, NULL), 1);
        assert_int_equal(json_get_strv(o, "l", &l, NULL), 1);
        assert_int_equal(strv_length(l), 2);
        strv_free(l);
        assert_int_equal(json_get_strv(o, "m", &l, NULL), -EBADMSG);
        json_object_put(o);
}

typedef struct JsonTarget {
        char *name, *note;
        uint64_t begin_usec, end_usec;
} JsonTarget;

static const JsonField json_fields[] = {
        { "name",       JSON_TEXT, offsetof(JsonTarget, name), 1, 4 },
        { "note",       JSON_TEXT, offsetof(JsonTarget, note), 0, 4 },
        { "begin-usec", JSON_USEC, offsetof(JsonTarget, begin_usec) },
        { "end-usec",   JSON_USEC, offsetof(JsonTarget, end_usec) },
        {}
};

static int read_json_fields(const char *text, JsonTarget *target, char **ret_error) {
        json_object *o;
        int r;

        assert_int_equal(json_parse(text, strlen(text), &o, NULL), 0);
        r = json_fields_read(o, json_fields, target, ret_error);
        json_object_put(o);
        return r;
}

static void json_fields_are_read_within_their_bounds(void **state) {
        static const struct {
                const char *text, *key;         /* at fault; NULL: none */
        } cases[] = {
                { "{}", NULL },
                { "{\"name\":null,\"end-usec\":null,\"other\":[]}", NULL },
                { "{\"name\":\"abcd\",\"note\":\"\",\"begin-usec\":9223372036854775807}", NULL },
                { "{\"name\":\"\"}", "name" },
                { "{\"name\":\"abcde\"}", "name" },
                { "{\"name\":\"a\\nb\"}", "name" },
                { "{\"name\":1}", "name" },
                { "{\"name\":\"a\",\"note\":\"abcde\"}", "note" },
                { "{\"name\":\"a\",\"begin-usec\":-1}", "begin-usec" },
                { "{\"name\":\"a\",\"end-usec\":9223372036854775808}", "end-usec" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                JsonTarget t = {};
                char *error = NULL;

                assert_int_equal(read_json_fields(cases[i].text, &t, &error), cases[i].key ? -EBADMSG : 0);
                assert_int_equal(error != NULL, cases[i].key != NULL);
                if (error)
                        assert_non_null(strstr(error, cases[i].key));
                free(error);
                json_fields_free(json_fields, &t);
                assert_null(t.name);
                assert_null(t.note);
        }
}

static void json_fields_come_back_as_they_were_and_what_is_not_set_is_not_written(void **state) {
        const JsonTarget a = { .name = (char*) "a", .end_usec = INT64_MAX };
        json_object *o = json_object_new_object();
        JsonTarget b = {};

        assert_non_null(o);
        assert_int_equal(json_fields_write(o, json_fields, &a), 0);
        assert_int_equal(json_object_object_length(o), 2);
        assert_int_equal(json_fields_read(o, json_fields, &b, NULL), 0);
        assert_string_equal(b.name, "a");
        assert_null(b.note);
        assert_int_equal(b.begin_usec, 0);
        assert_int_equal(b.end_usec, INT64_MAX);
        json_fields_free(json_fields, &b);
        json_object_put(o);
}

static void json_records_have_a_version_and_a_bounded_size(void **state) {
        static const struct {
                const char *text, *reason;
                int result;
        } cases[] = {
                { "{\"version\":1}", NULL, 0 },
                { "{\"version\":2}", NULL, 0 },
                { "{\"version\":3}", "newer version, as form 3", -EPROTONOSUPPORT },
                { "{\"version\":0}", "'version'", -EBADMSG },
                { "{}", "'version'", -EBADMSG },
                { "{\"version\":\"1\"}", "'version'", -EBADMSG },
                { "{\"version\":1", "too early", -EBADMSG },
                { "{\"version\":1}   ", NULL, -EFBIG },
        };
        char *text = NULL;
        json_object *o;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char *error = NULL;

                o = NULL;
                assert_int_equal(json_record_parse(cases[i].text, strlen(cases[i].text), 15, 2, &o, &error), cases[i].result);
                assert_int_equal(o != NULL, cases[i].result == 0);
                assert_int_equal(error != NULL, cases[i].reason != NULL);
                if (error)
                        assert_non_null(strstr(error, cases[i].reason));
                free(error);
                json_object_put(o);
        }

        o = json_object_new_object();
        assert_non_null(o);
        assert_int_equal(json_record_format(o, 2, &text), -EFBIG);
        assert_null(text);
        assert_int_equal(json_record_format(o, 3, &text), 0);
        assert_string_equal(text, "{}\n");
        free(text);
        json_object_put(o);
}

static int directory_setup(void **state) {
        char *path = strdup("/tmp/peerpod-basic-XXXXXX");

        if (!path || !mkdtemp(path))
                return -1;
        *state = path;
        return 0;
}

static int directory_teardown(void **state) {
        int r = remove_tree(*state);

        free(*state);
        return r;
}

static void an_atomic_write_replaces_the_file_and_leaves_no_other(void **state) {
        char path[128], *text = NULL;
        struct stat st;
        int fd;

        snprintf(path, sizeof(path), "%s/file", (char*) *state);
        assert_int_equal(write_file_atomic(path, "one", 3, 0600), 0);
        assert_int_equal(write_file_atomic(path, "two", 3, 0640), 0);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 10, &text, NULL), 0);
        assert_string_equal(text, "two");
        free(text);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0640);
        fd = open(*state, O_RDONLY|O_DIRECTORY);
        assert_int_equal(remove_file_durably_at(fd, "file"), 0);
        assert_int_equal(remove_file_durably_at(fd, "file"), 0);
        close(fd);
        assert_int_equal(rmdir(*state), 0);
        assert_int_equal(mkdir(*state, 0700), 0);
}

static void what_a_write_that_was_cut_off_leaves_is_removed_and_nothing_else(void **state) {
        static const char *const names[] = { ".#file.0123456789abcdef", "file", ".other" };
        char path[160];
        int fd;

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                snprintf(path, sizeof(path), "%s/%s", (char*) *state, names[i]);
                assert_int_equal(write_file_atomic(path, "x", 1, 0600), 0);
        }
        fd = open(*state, O_RDONLY|O_DIRECTORY);
        assert_int_equal(remove_temporary_files_at(fd), 0);
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                assert_int_equal(faccessat(fd, names[i], F_OK, 0), i == 0 ? -1 : 0);
        assert_int_equal(remove_temporary_files_at(fd), 0);     /* the descriptor was not read to its end */
        close(fd);
        assert_int_equal(remove_temporary_files_at(-EBADF), -EBADF);
}

static void reading_stops_at_the_limit_and_at_symlinks(void **state) {
        char path[128], link[128], *text = NULL;

        snprintf(path, sizeof(path), "%s/file", (char*) *state);
        snprintf(link, sizeof(link), "%s/link", (char*) *state);
        assert_int_equal(write_file_atomic(path, "12345", 5, 0600), 0);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 4, &text, NULL), -EFBIG);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 5, &text, NULL), 0);
        free(text);
        assert_int_equal(symlink(path, link), 0);
        assert_int_equal(read_full_file_at(AT_FDCWD, link, 5, &text, NULL), -ELOOP);
}

static void a_tree_is_removed_without_following_links_out_of_it(void **state) {
        char inside[128], outside[128], path[160];

        snprintf(inside, sizeof(inside), "%s/a/b", (char*) *state);
        snprintf(outside, sizeof(outside), "%s/keep", (char*) *state);
        assert_int_equal(mkdir_p(inside, 0700), 0);
        assert_int_equal(mkdir_p(outside, 0700), 0);
        snprintf(path, sizeof(path), "%s/link", inside);
        assert_int_equal(symlink(outside, path), 0);
        snprintf(path, sizeof(path), "%s/a", (char*) *state);
        assert_int_equal(remove_tree(path), 0);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(access(outside, F_OK), 0);
        assert_int_equal(remove_tree(path), 0);
}

static void only_sealed_memory_is_read(void **state) {
        int fd = memfd_new_sealed("test", "secret", 6), open_fd = memfd_create("open", MFD_CLOEXEC);
        char *text = NULL;

        assert_true(fd >= 0);
        assert_int_equal(memfd_read_sealed(fd, 6, &text, NULL), 0);
        assert_string_equal(text, "secret");
        free(text);
        assert_int_equal(memfd_read_sealed(fd, 5, &text, NULL), -EFBIG);
        assert_int_equal(write(fd, "x", 1), -1);
        assert_int_equal(memfd_read_sealed(open_fd, 6, &text, NULL), -EPERM);
        close(fd);
        close(open_fd);
}

static int method_double(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        uint32_t n;
        int r = sd_bus_message_read(m, "u", &n);

        if (r < 0)
                return r;
        if (n == 0)
                return sd_bus_error_set(error, PEERPOD_ERROR_INVALID_ARGUMENT, "Nothing to double.");
        r = sd_bus_reply_method_return(m, "u", n * 2);
        return r < 0 ? r : 1;
}

static const sd_bus_vtable test_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Double", "u", "u", method_double, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_VTABLE_END
};

static int test_bus_setup(sd_bus *bus, void *userdata) {
        return sd_bus_add_object_vtable(bus, NULL, "/t", "org.example.T", test_vtable, userdata);
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        *(sd_bus_message**) userdata = sd_bus_message_ref(m);
        return 1;
}

static void a_private_link_carries_calls_and_named_errors(void **state) {
        char path[128];
        sd_event *event = NULL;
        sd_bus *bus = NULL;
        BusServer *server = NULL;
        int fd;

        snprintf(path, sizeof(path), "%s/bus", (char*) *state);
        assert_int_equal(sd_event_new(&event), 0);
        fd = daemon_listen_unix(path);
        assert_true(fd >= 0);
        assert_int_equal(bus_server_new(event, fd, (uid_t) -1, test_bus_setup, NULL, &server), 0);
        assert_int_equal(bus_private_connect(event, path, &bus), 0);

        for (uint32_t n = 0; n < 2; n++) {
                sd_bus_message *reply = NULL;
                uint32_t doubled;

                assert_true(sd_bus_call_method_async(bus, NULL, NULL, "/t", "org.example.T", "Double", on_reply, &reply, "u", n) >= 0);
                for (int turns = 0; !reply && turns < 1000; turns++)
                        assert_true(sd_event_run(event, 10 * USEC_PER_SEC) >= 0);
                assert_non_null(reply);
                if (n == 0)
                        assert_true(sd_bus_message_is_method_error(reply, PEERPOD_ERROR_INVALID_ARGUMENT));
                else {
                        assert_true(sd_bus_message_read(reply, "u", &doubled) > 0);
                        assert_int_equal(doubled, 2);
                }
                sd_bus_message_unref(reply);
        }

        sd_bus_flush_close_unref(bus);
        bus_server_free(server);
        sd_event_unref(event);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(durations_read_as_go_writes_them),
                cmocka_unit_test(environment_files_read_as_systemd_reads_them),
                cmocka_unit_test(decimals_are_rounded_up),
                cmocka_unit_test(sandbox_ids_are_safe_in_paths_and_unit_names),
                cmocka_unit_test(text_without_controls_and_of_valid_utf8_is_plain),
                cmocka_unit_test(split_trims_and_drops_empty_pieces),
                cmocka_unit_test_teardown(a_flag_wins_over_the_variable_and_that_over_the_default, options_teardown),
                cmocka_unit_test_teardown(lists_of_variable_and_flag_add_up, options_teardown),
                cmocka_unit_test_teardown(an_ill_formed_variable_is_a_configuration_error, options_teardown),
                cmocka_unit_test(unknown_and_incomplete_flags_are_usage_errors),
                cmocka_unit_test(json_that_is_not_exactly_one_object_is_refused),
                cmocka_unit_test(json_strings_may_hold_utf8),
                cmocka_unit_test(json_getters_check_the_type_and_name_the_key),
                cmocka_unit_test(json_fields_are_read_within_their_bounds),
                cmocka_unit_test(json_fields_come_back_as_they_were_and_what_is_not_set_is_not_written),
                cmocka_unit_test(json_records_have_a_version_and_a_bounded_size),
                cmocka_unit_test_setup_teardown(an_atomic_write_replaces_the_file_and_leaves_no_other, directory_setup, directory_teardown),
                cmocka_unit_test_setup_teardown(what_a_write_that_was_cut_off_leaves_is_removed_and_nothing_else, directory_setup,
                                                directory_teardown),
                cmocka_unit_test_setup_teardown(reading_stops_at_the_limit_and_at_symlinks, directory_setup, directory_teardown),
                cmocka_unit_test_setup_teardown(a_tree_is_removed_without_following_links_out_of_it, directory_setup, directory_teardown),
                cmocka_unit_test(only_sealed_memory_is_read),
                cmocka_unit_test_setup_teardown(a_private_link_carries_calls_and_named_errors, directory_setup, directory_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
