/* SPDX-License-Identifier: Apache-2.0 */
/* provision(): which files user data may write, all or none, and once. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"
#include "podvm/process-user-data/provision.h"
#include "podvm/process-user-data/source.h"
#include "userdata/initdata.h"

#define APF "{\"pod-network\":{\"podip\":\"10.0.0.1/24\"},\"pod-name\":\"p\",\"pod-namespace\":\"n\"}"
#define APF_ENTRY "  - path: /run/peerpod/apf.json\n    content: |\n      " APF "\n"

typedef struct Fixture {
        char dir[32];           /* a temporary directory */
        char out[64];           /* in it; not made yet */
        char seed[64];          /* in it */
        char *error, *text;
        size_t size;
        int n_fds;
} Fixture;

static int count_fds(void) {
        _cleanup_(closedirp) DIR *d = opendir("/proc/self/fd");
        int n = 0;

        assert_non_null(d);
        while (readdir(d))
                n++;
        return n;
}

static int setup(void **state) {
        Fixture *f = new0(Fixture, 1);

        if (!f)
                return -1;
        *state = f;
        f->n_fds = count_fds();
        strcpy(f->dir, "/tmp/provision-XXXXXX");
        if (!mkdtemp(f->dir))
                return -1;
        (void) snprintf(f->out, sizeof(f->out), "%s/peerpod", f->dir);
        (void) snprintf(f->seed, sizeof(f->seed), "%s/seed", f->dir);
        return mkdir(f->seed, 0755);
}

static int teardown(void **state) {
        Fixture *f = *state;
        int r = remove_tree(f->dir);

        free(f->error);
        free(f->text);
        if (count_fds() != f->n_fds)
                r = -1;
        free(f);
        return r < 0 ? -1 : 0;
}

/* No TPM and no TEE: what they do is shown with the program itself (tests/integration/initdata-test.py). */
static const MeasureSettings measure = { .tpm_device = "/nonexistent/tpm", .sys_dir = "/nonexistent" };

static int run_provision(Fixture *f, const char *text) {
        free(f->error);
        f->error = NULL;
        return provision(text, strlen(text), f->out, &measure, &f->error);
}

static unsigned count_files(const char *path) {
        _cleanup_(closedirp) DIR *d = opendir(path);
        unsigned n = 0;

        if (!d)
                return 0;
        for (struct dirent *de; (de = readdir(d));)
                if (!streq(de->d_name, ".") && !streq(de->d_name, ".."))
                        n++;
        return n;
}

/* What every run writes. */
#define FEWEST "apf.json", "aa.toml", "initdata", "initdata.digest", "user-data"

/* The directory has these files and no others. */
static void assert_files(Fixture *f, ...) {
        unsigned n = 0;
        va_list ap;

        va_start(ap, f);
        for (const char *name; (name = va_arg(ap, const char*)); n++) {
                char path[128];

                (void) snprintf(path, sizeof(path), "%s/%s", f->out, name);
                if (access(path, F_OK) < 0)
                        fail_msg("'%s' is missing", name);
        }
        va_end(ap);
        assert_int_equal(count_files(f->out), n);
}

static void assert_file(Fixture *f, const char *name, const char *content) {
        char path[128];
        struct stat st;

        (void) snprintf(path, sizeof(path), "%s/%s", f->out, name);
        free(f->text);
        f->text = NULL;
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 1 << 20, &f->text, NULL), 0);
        assert_string_equal(f->text, content);
        assert_int_equal(lstat(path, &st), 0);
        assert_int_equal(st.st_mode, S_IFREG | 0600);
}

static void put_file(const char *dir, const char *name, const char *content) {
        char path[128];

        (void) snprintf(path, sizeof(path), "%s/%s", dir, name);
        assert_int_equal(write_file_atomic(path, content, strlen(content), 0644), 0);
}

static void assert_refused(Fixture *f, const char *text, int result, const char *error) {
        int r = run_provision(f, text);

        if (r != result || !f->error || !strstr(f->error, error))
                fail_msg("result %i, error '%s'", r, strempty(f->error));
}

static void files_of_the_list_are_written_0600(void **state) {
        Fixture *f = *state;
        struct stat st;

        (void) umask(0);        /* the modes must not depend on it */
        assert_int_equal(run_provision(f, "#cloud-config\n\nwrite_files:\n" APF_ENTRY
                                       "  - path: /run/peerpod/auth.json\n    permissions: '0666'\n    owner: root:root\n    content: |\n      {\"auths\":{}}\n"
                                       "  - path: /run/peerpod/scratch-space.marker\n"), PROVISION_DONE);
        assert_file(f, "apf.json", APF "\n");
        assert_file(f, "auth.json", "{\"auths\":{}}\n");
        assert_file(f, "scratch-space.marker", "");
        assert_files(f, "apf.json", "auth.json", "scratch-space.marker", "aa.toml", "initdata", "initdata.digest", "user-data", NULL);
        assert_int_equal(stat(f->out, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
}

static void other_paths_are_skipped(void **state) {
        static const char *const paths[] = {
                "/etc/passwd", "/run/peerpod/policy.rego", "/run/peerpod/aa.toml", "/run/peerpod/cdh.toml",
                "/run/peerpod/../peerpod/auth.json", "/run/peerpod//auth.json", "/run/peerpod/./auth.json",
                "/run/peerpod/auth.json/", "/run/peerpod/", "/run/peerpod/user-data", "/run/peerpod/initdata.digest",
                "/run/peerpod/agent-config.toml", "/auth.json",
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                char text[512];

                (void) snprintf(text, sizeof(text), "write_files:\n" APF_ENTRY "  - path: %s\n    content: x\n", paths[i]);
                assert_int_equal(run_provision(f, text), PROVISION_DONE);
                assert_files(f, FEWEST, NULL);
                assert_file(f, "aa.toml", "");          /* the dummy's */
                assert_int_equal(remove_tree(f->out), 0);
        }
}

static void bad_data_leaves_nothing_behind(void **state) {
        static const struct {
                const char *text, *error;
                int result;
        } cases[] = {
                { "", "has no '/run/peerpod/apf.json'", -EBADMSG },
                { "#cloud-config\n", "has no '/run/peerpod/apf.json'", -EBADMSG },
                { "write_files:\n  - path: /run/peerpod/auth.json\n", "has no '/run/peerpod/apf.json'", -EBADMSG },
                { "write_files: x", "cannot be read: line 1: write_files is not a list", -EBADMSG },
                { "write_files:\n  - path: /run/peerpod/apf.json\n    content: x\n", "apf.json' cannot be used", -EBADMSG },
                { "write_files:\n  - path: /run/peerpod/apf.json\n", "apf.json' cannot be used: the text ends too early", -EBADMSG },
                { "write_files:\n  - path: /run/peerpod/apf.json\n    content: '{\"pod-name\":1}'\n", "'pod-name'", -EBADMSG },
                { "write_files:\n" APF_ENTRY APF_ENTRY, "apf.json' is given twice", -EBADMSG },
                { "write_files:\n" APF_ENTRY "  - path: /run/peerpod/auth.json\n  - path: /run/peerpod/auth.json\n",
                  "auth.json' is given twice", -EBADMSG },
                { "write_files:\n" APF_ENTRY "  - path: /run/peerpod/initdata\n    content: H4sI\n",
                  "The initdata cannot be used: it is not gzip inside base64.", -EBADMSG },
                { "write_files:\n" APF_ENTRY "  - path: /run/peerpod/initdata\n", "it is not gzip inside base64", -EBADMSG },
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                assert_refused(f, cases[i].text, cases[i].result, cases[i].error);
                assert_int_equal(access(f->out, F_OK), -1);
        }
}

static void provisioned_once_is_provisioned_for_good(void **state) {
        static const char first[] = "write_files:\n" APF_ENTRY;
        Fixture *f = *state;

        assert_int_equal(run_provision(f, first), PROVISION_DONE);
        assert_int_equal(run_provision(f, first), PROVISION_ALREADY);
        assert_refused(f, "write_files:\n" APF_ENTRY "  - path: /run/peerpod/auth.json\n", -EEXIST, "other user data");
        assert_refused(f, "write_files:\n" APF_ENTRY "\n", -EEXIST, "other user data");
        assert_files(f, FEWEST, NULL);
        assert_file(f, "apf.json", APF "\n");
}

static void an_apf_json_of_somebody_else_is_not_replaced(void **state) {
        Fixture *f = *state;

        assert_int_equal(mkdir(f->out, 0700), 0);
        put_file(f->out, "apf.json", "{}");
        assert_refused(f, "write_files:\n" APF_ENTRY, -EEXIST, "was not written by this program");
        assert_int_equal(count_files(f->out), 1);
}

static void a_default_auth_json_is_replaced(void **state) {
        Fixture *f = *state;

        assert_int_equal(mkdir(f->out, 0755), 0);
        put_file(f->out, "auth.json", "{\"auths\":{}}");
        put_file(f->out, "user-data", "left by a run that was cut off");
        assert_int_equal(run_provision(f, "write_files:\n" APF_ENTRY "  - path: /run/peerpod/auth.json\n    content: new\n"), PROVISION_DONE);
        assert_file(f, "auth.json", "new");
        assert_files(f, FEWEST, "auth.json", NULL);
}

static void a_failed_step_undoes_the_ones_before(void **state) {
        char path[128];
        Fixture *f = *state;

        assert_int_equal(mkdir(f->out, 0700), 0);
        put_file(f->out, "auth.json", "old");
        (void) snprintf(path, sizeof(path), "%s/scratch-space.marker", f->out);
        assert_int_equal(mkdir(path, 0700), 0);

        /* user-data and auth.json are in their places when the marker's turns out to be taken */
        assert_refused(f, "write_files:\n  - path: /run/peerpod/auth.json\n    content: new\n"
                       "  - path: /run/peerpod/scratch-space.marker\n" APF_ENTRY, -EISDIR, "scratch-space.marker");
        assert_int_equal(count_files(f->out), 2);

        free(f->text);
        f->text = NULL;
        (void) snprintf(path, sizeof(path), "%s/auth.json", f->out);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 100, &f->text, NULL), 0);
        assert_string_equal(f->text, "old");
}

static void symlinks_are_not_followed(void **state) {
        char path[128], victim[128];
        Fixture *f = *state;

        (void) snprintf(victim, sizeof(victim), "%s/victim", f->dir);
        put_file(f->dir, "victim", "untouched");

        /* in the place of a file: replaced, not followed */
        assert_int_equal(mkdir(f->out, 0700), 0);
        (void) snprintf(path, sizeof(path), "%s/auth.json", f->out);
        assert_int_equal(symlink(victim, path), 0);
        assert_int_equal(run_provision(f, "write_files:\n" APF_ENTRY "  - path: /run/peerpod/auth.json\n    content: new\n"), PROVISION_DONE);
        assert_file(f, "auth.json", "new");
        free(f->text);
        f->text = NULL;
        assert_int_equal(read_full_file_at(AT_FDCWD, victim, 100, &f->text, NULL), 0);
        assert_string_equal(f->text, "untouched");

        /* in the place of the directory */
        assert_int_equal(remove_tree(f->out), 0);
        assert_int_equal(symlink(f->seed, f->out), 0);
        assert_refused(f, "write_files:\n" APF_ENTRY, -ENOTDIR, "Cannot open directory");
        assert_int_equal(count_files(f->seed), 0);
        assert_int_equal(unlink(f->out), 0);
}

static void a_directory_of_others_is_refused(void **state) {
        Fixture *f = *state;

        assert_int_equal(mkdir(f->out, 0700), 0);
        assert_int_equal(chmod(f->out, 0777), 0);
        assert_refused(f, "write_files:\n" APF_ENTRY, -EPERM, "written by others");
        assert_int_equal(count_files(f->out), 0);
}

/* ---- initdata ---------------------------------------------------------------------------------------------------- */

#define HEAD "algorithm = \"sha384\"\nversion = \"0.1.0\"\n[data]\n"

/* User data with initdata of this text. */
static int run_initdata(Fixture *f, const char *toml) {
        _cleanup_(freep) char *encoded = NULL;
        char text[2048];

        assert_int_equal(initdata_encode(toml, &encoded), 0);
        (void) snprintf(text, sizeof(text), "write_files:\n" APF_ENTRY "  - path: /run/peerpod/initdata\n    content: |\n      %s\n", encoded);
        return run_provision(f, text);
}

static void initdata_is_unpacked_beside_its_digest(void **state) {
        Fixture *f = *state;

        assert_int_equal(run_initdata(f, HEAD "\"aa.toml\" = 'a'\n\"cdh.toml\" = '''\nc\n'''\n\"policy.rego\" = \"p\\n\"\n"), PROVISION_DONE);
        assert_file(f, "aa.toml", "a");
        assert_file(f, "cdh.toml", "c\n");
        assert_file(f, "policy.rego", "p\n");
        /* printf '…' | sha384sum */
        assert_file(f, "initdata.digest", "928962eb7d2a09fd825244f36fdc3199ef0801f0199ac199"
                    "e8bdf3c290fea2cdcb8474db6a914e9c4348326c91a684e2");
        assert_files(f, FEWEST, "cdh.toml", "policy.rego", NULL);
}

static void the_dummy_stands_for_initdata_that_did_not_come(void **state) {
        Fixture *f = *state;

        assert_int_equal(run_provision(f, "write_files:\n" APF_ENTRY), PROVISION_DONE);
        assert_file(f, "aa.toml", "");
        assert_file(f, "initdata.digest", "adb48cc14fea9403d3d51f3b5f5068fd4d80445a14e94f1b3d5dbabaad66478d");
}

static void other_names_in_initdata_are_measured_but_not_written(void **state) {
        static const char *const names[] = {
                "apf.json", "auth.json", "user-data", "initdata.digest", "./aa.toml", "../aa.toml", "/run/peerpod/aa.toml", "AA.toml", "",
                "aa.toml ", "policy.rego/", "measurements",
        };
        Fixture *f = *state;

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                char toml[256];

                (void) snprintf(toml, sizeof(toml), HEAD "\"%s\" = 'evil'\n", names[i]);
                assert_int_equal(run_initdata(f, toml), PROVISION_DONE);
                assert_files(f, "apf.json", "initdata", "initdata.digest", "user-data", NULL);
                assert_file(f, "apf.json", APF "\n");
                assert_int_equal(remove_tree(f->out), 0);
        }
}

static void what_was_there_before_initdata_is_removed(void **state) {
        static const char *const names[] = { "aa.toml", "cdh.toml", "policy.rego", "measurements" };
        Fixture *f = *state;

        assert_int_equal(mkdir(f->out, 0755), 0);
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                put_file(f->out, names[i], "of somebody else");
        assert_int_equal(run_initdata(f, HEAD "\"cdh.toml\" = 'ours'\n"), PROVISION_DONE);
        assert_files(f, "apf.json", "initdata", "initdata.digest", "user-data", "cdh.toml", NULL);
        assert_file(f, "cdh.toml", "ours");
}

static void what_was_there_comes_back_when_a_step_fails(void **state) {
        char path[128];
        Fixture *f = *state;

        assert_int_equal(mkdir(f->out, 0755), 0);
        put_file(f->out, "policy.rego", "old");
        put_file(f->out, "cdh.toml", "old");
        (void) snprintf(path, sizeof(path), "%s/measurements", f->out);
        assert_int_equal(mkdir(path, 0700), 0);

        assert_int_equal(run_initdata(f, HEAD "\"cdh.toml\" = 'new'\n"), -EISDIR);
        assert_files(f, "policy.rego", "cdh.toml", "measurements", NULL);
        free(f->text);
        f->text = NULL;
        (void) snprintf(path, sizeof(path), "%s/cdh.toml", f->out);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 100, &f->text, NULL), 0);
        assert_string_equal(f->text, "old");
}

static void a_run_that_was_cut_off_is_finished_with_its_own_initdata_only(void **state) {
        char path[128];
        Fixture *f = *state;

        assert_int_equal(run_initdata(f, HEAD), PROVISION_DONE);
        (void) snprintf(path, sizeof(path), "%s/apf.json", f->out);
        assert_int_equal(unlink(path), 0);              /* the last to be written */
        put_file(f->out, ".#apf.json.0123456789abcdef", "{");

        assert_int_equal(run_initdata(f, HEAD "\"aa.toml\" = ''\n"), -EEXIST);
        assert_non_null(strstr(f->error, "initdata.digest' is of other initdata"));
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(run_initdata(f, HEAD), PROVISION_DONE);
        assert_files(f, "apf.json", "initdata", "initdata.digest", "user-data", NULL);
        assert_int_equal(run_initdata(f, HEAD), PROVISION_ALREADY);
}

/* ---- the NoCloud seed ------------------------------------------------------------------------------------------ */

static void the_seed_is_found_and_read(void **state) {
        Fixture *f = *state;
        SourceSettings s = { .seed_dir = f->seed };

        assert_null(source_find(&s));
        put_file(f->seed, "user-data", "write_files: []\n");
        assert_ptr_equal(source_find(&s), &source_nocloud);
        assert_int_equal(source_nocloud.fetch(&s, &f->text, &f->size, &f->error), 0);
        assert_string_equal(f->text, "write_files: []\n");

        s.seed_dir = "/nonexistent";
        assert_null(source_find(&s));
}

static void tricks_on_the_seed_are_refused(void **state) {
        char path[128];
        Fixture *f = *state;
        SourceSettings s = { .seed_dir = f->seed };

        (void) snprintf(path, sizeof(path), "%s/user-data", f->seed);

        assert_int_equal(symlink("/etc/passwd", path), 0);
        assert_ptr_equal(source_find(&s), &source_nocloud);
        assert_int_equal(source_nocloud.fetch(&s, &f->text, &f->size, &f->error), -ELOOP);
        assert_non_null(strstr(f->error, "symbolic link"));
        assert_int_equal(unlink(path), 0);
        free(f->error);
        f->error = NULL;

        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(source_nocloud.fetch(&s, &f->text, &f->size, &f->error), -EBADFD);
        assert_non_null(strstr(f->error, "no regular file"));
        assert_int_equal(unlink(path), 0);
        free(f->error);
        f->error = NULL;

        put_file(f->seed, "user-data", "");
        assert_int_equal(truncate(path, (1 << 20) + 1), 0);
        assert_int_equal(source_nocloud.fetch(&s, &f->text, &f->size, &f->error), -E2BIG);
        assert_non_null(strstr(f->error, "too big"));
        assert_null(f->text);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        static const struct CMUnitTest tests[] = {
                TEST(files_of_the_list_are_written_0600),
                TEST(other_paths_are_skipped),
                TEST(bad_data_leaves_nothing_behind),
                TEST(provisioned_once_is_provisioned_for_good),
                TEST(an_apf_json_of_somebody_else_is_not_replaced),
                TEST(a_default_auth_json_is_replaced),
                TEST(a_failed_step_undoes_the_ones_before),
                TEST(symlinks_are_not_followed),
                TEST(a_directory_of_others_is_refused),
                TEST(initdata_is_unpacked_beside_its_digest),
                TEST(the_dummy_stands_for_initdata_that_did_not_come),
                TEST(other_names_in_initdata_are_measured_but_not_written),
                TEST(what_was_there_before_initdata_is_removed),
                TEST(what_was_there_comes_back_when_a_step_fails),
                TEST(a_run_that_was_cut_off_is_finished_with_its_own_initdata_only),
                TEST(the_seed_is_found_and_read),
                TEST(tricks_on_the_seed_are_refused),
        };

        log_set_max_level(LOG_EMERG);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
