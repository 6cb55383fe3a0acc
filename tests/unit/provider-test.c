/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-providerd's parts without its process: names, module checks, worker pool, seed disk, waits. */
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "basic/io.h"
#include "basic/util.h"
#include "provider/instance-name.h"
#include "provider/module.h"
#include "provider/pool.h"
#include "provider/seed-iso.h"

/* Names: cloud-api-adaptor: src/cloud-providers/util.go, util_test.go; the first vector is from its documentation of the form. */
typedef struct NameCase {
        const char *pod, *sandbox;
        size_t max;
        const char *name;
} NameCase;

static const NameCase name_cases[] = {
        { "My_App.x", "88A70031ffff", 63, "podvm-my-app-x-88a70031" },
        { "nginx", "1234567890", 63, "podvm-nginx-12345678" },
        { "nginx", "1234", 63, "podvm-nginx-1234" },
        { "a23456789012345678901234567890123456789012345678X", "123456789", 63,
          "podvm-a23456789012345678901234567890123456789012345678-12345678" },
        { "abcdefghijklmnopqrstuvwxyz0123456789", "123456789", 47, "podvm-abcdefghijklmnopqrstuvwxyz012345-12345678" },
        { "p", "abc.def.x", 63, "podvm-p-abc-defx" },
        { "", "1234", 63, NULL },
        { "p", "", 63, NULL },
        { "p", "1234", 15, NULL },
};

static void names_are_upstreams(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(name_cases); i++) {
                const NameCase *c = name_cases + i;
                _cleanup_(freep) char *name = NULL;
                int r = instance_name_make(c->pod, c->sandbox, c->max, &name);

                if (!c->name) {
                        assert_int_equal(r, -EINVAL);
                        continue;
                }
                assert_int_equal(r, 0);
                assert_string_equal(name, c->name);
                assert_true(strlen(name) <= c->max);
                assert_true(instance_name_is_valid(name));
        }
}

static void names_are_checked(void **state) {
        char longest[INSTANCE_NAME_MAX + 2];

        memset(longest, 'a', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        assert_false(instance_name_is_valid(longest));
        longest[INSTANCE_NAME_MAX] = '\0';
        assert_true(instance_name_is_valid(longest));
        assert_false(instance_name_is_valid(NULL));
        for (const char *const *s = (const char*[]) { "", "-a", "a-", "A", "a.b", "a/b", "a b", "\xc3\xa4", NULL }; *s; s++)
                assert_false(instance_name_is_valid(*s));
}

/* Modules */

static int no_open(const PeerpodConfig *c, const PeerpodCall *call, void **ret, PeerpodError *e) { return 0; }
static int no_verify(void *p, const PeerpodCall *call, PeerpodError *e) { return 0; }
static int no_create(void *p, const PeerpodCall *call, const PeerpodInstanceSpec *s, PeerpodInstance *ret, PeerpodError *e) { return 0; }
static int no_remove(void *p, const PeerpodCall *call, const PeerpodInstanceKey *k, PeerpodError *e) { return 0; }
static int no_find(void *p, const PeerpodCall *call, const char *n, PeerpodFound f, void *u, PeerpodError *e) { return 0; }
static void no_close(void *p) { }

static const PeerpodProvider good = {
        .abi_version = PEERPOD_PROVIDER_ABI_VERSION, .size = sizeof(PeerpodProvider), .name = "good", .description = "x",
        .option_size = sizeof(PeerpodOption), .open = no_open, .verify = no_verify, .create = no_create, .remove = no_remove,
        .find = no_find, .close = no_close,
};

static void descriptors_are_checked(void **state) {
        static const PeerpodOption no_name[] = { { NULL, NULL, "", "x" } }, no_default[] = { { "a", NULL, NULL, "x" } },
                equals[] = { { "a=b", NULL, "", "x" } }, fine[] = { { "a", "A", "", "x" } };
        PeerpodProvider p = good;

        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), 0);
        assert_int_equal(module_check_descriptor(&p, "other", "good.so"), -EINVAL);

        p.abi_version++;
        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), -EINVAL);
        p = good;
        p.size = offsetof(PeerpodProvider, close);      /* an older interface of the same version would be longer, never shorter */
        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), -EINVAL);
        p = good;
        p.size += 64;                                   /* a newer one: what we know is at the same place */
        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), 0);
        p = good;
        p.find = NULL;
        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), -EINVAL);

        p = good;
        p.n_options = 1;
        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), -EINVAL);
        for (const PeerpodOption *const *o = (const PeerpodOption*[]) { no_name, no_default, equals, NULL }; *o; o++) {
                p.options = *o;
                assert_int_equal(module_check_descriptor(&p, "good", "good.so"), -EINVAL);
        }
        p.options = fine;
        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), 0);
        p.option_size--;
        assert_int_equal(module_check_descriptor(&p, "good", "good.so"), -EINVAL);
}

static char directory[32];

static int make_directory(void **state) {
        strcpy(directory, "/tmp/peerpod-test-XXXXXX");
        return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
        return remove_tree(directory);
}

static void hash_file(const char *path, char ret[static 65]) {
        _cleanup_(freep) char *data = NULL;
        uint8_t digest[32];
        size_t size;

        assert_int_equal(read_full_file_at(AT_FDCWD, path, 16 << 20, &data, &size), 0);
        assert_int_equal(gnutls_hash_fast(GNUTLS_DIG_SHA256, data, size, digest), 0);
        for (size_t i = 0; i < sizeof(digest); i++)
                sprintf(ret + 2 * i, "%02x", digest[i]);
}

static const char *fake_module;         /* from the build directory */

static void external_modules_are_checked(void **state) {
        char path[64], other[64], group[64], missing[64], text[64], hash[65], text_hash[65], wrong[65], upper[65];
        _cleanup_(freep) char *data = NULL;
        const PeerpodProvider *p = NULL;
        size_t size;

        snprintf(path, sizeof(path), "%s/fake.so", directory);
        snprintf(other, sizeof(other), "%s/other.so", directory);
        snprintf(group, sizeof(group), "%s/Fake.so", directory);
        snprintf(missing, sizeof(missing), "%s/no/fake.so", directory);
        snprintf(text, sizeof(text), "%s/FAKE.so", directory);
        assert_int_equal(read_full_file_at(AT_FDCWD, fake_module, 16 << 20, &data, &size), 0);
        assert_int_equal(write_file_atomic(path, data, size, 0755), 0);
        assert_int_equal(write_file_atomic(other, data, size, 0755), 0);
        assert_int_equal(write_file_atomic(group, data, size, 0775), 0);
        assert_int_equal(write_file_atomic(text, "no ELF\n", 7, 0755), 0);
        hash_file(path, hash);
        hash_file(text, text_hash);
        strcpy(wrong, hash);
        wrong[0] = wrong[0] == '0' ? '1' : '0';
        for (size_t i = 0; i <= 64; i++)
                upper[i] = hash[i] >= 'a' ? hash[i] - 'a' + 'A' : hash[i];

        const struct {
                const char *title;
                ModuleExternal external;
                int result;
        } cases[] = {
                { "no path", { "true", "", hash }, -EINVAL },
                { "no hash", { "true", path, "" }, -EINVAL },
                { "relative path", { "true", "fake.so", hash }, -EINVAL },
                { "hash in upper case", { "true", path, upper }, -EINVAL },
                { "hash cut", { "true", path, hash + 1 }, -EINVAL },
                { "another hash", { "true", path, wrong }, -EINVAL },
                { "another name", { "true", other, hash }, -EINVAL },
                { "not there", { "true", missing, hash }, -EINVAL },
                { "group may write", { "true", group, hash }, -EINVAL },
                { "no module", { "true", text, text_hash }, -EINVAL },
                { "a device", { "true", "/dev/null", hash }, -EINVAL },
                { "switch in capitals", { "TRUE", path, hash }, -EINVAL },
                { "right", { "true", path, hash }, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                print_message("%s\n", cases[i].title);
                assert_int_equal(module_load("/nonexistent", "fake", &cases[i].external, &p), cases[i].result);
                assert_true((p != NULL) == (cases[i].result == 0));
        }
        assert_string_equal(p->name, "fake");

        /* Disabled, it is the directory's module that counts, and there is none. */
        assert_int_equal(module_load("/nonexistent", "fake", &(ModuleExternal) { "false", path, hash }, &p), -EINVAL);
}

/* Pool */

typedef struct TestJob {
        PoolJob job;
        int value;              /* plain on purpose: the hand-over is what ThreadSanitizer looks at */
        int gate;               /* eventfd to wait for, or -1 */
        size_t *n_done;
} TestJob;

static atomic_int running, running_max;

static void test_work(PoolJob *j) {
        TestJob *t = CONTAINER_OF(j, TestJob, job);
        int now = atomic_fetch_add(&running, 1) + 1;

        for (int max = atomic_load(&running_max); now > max && !atomic_compare_exchange_weak(&running_max, &max, now);)
                ;
        if (t->gate >= 0)
                (void) poll(&(struct pollfd) { .fd = t->gate, .events = POLLIN }, 1, 10000);
        t->value++;
        atomic_fetch_sub(&running, 1);
}

static void test_done(PoolJob *j) {
        TestJob *t = CONTAINER_OF(j, TestJob, job);

        (*t->n_done)++;
}

static void dispatch_until_idle(Pool *p) {
        while (pool_n_jobs(p) > 0) {
                struct pollfd fd = { .fd = pool_get_fd(p), .events = POLLIN };

                assert_int_equal(poll(&fd, 1, 10000), 1);
                pool_dispatch(p);
        }
}

static Pool* new_pool(size_t n_busy, size_t n_threads, size_t queue, uint64_t patience_usec) {
        const PoolLimits limits = {
                .n_busy_max = n_busy, .n_threads_max = n_threads, .queue_max = queue, .patience_usec = patience_usec,
        };
        Pool *p = NULL;

        assert_int_equal(pool_new(&limits, &p), 0);
        return p;
}

static void pool_runs_all_jobs(void **state) {
        static TestJob jobs[500];
        size_t n_done = 0, n = 0;
        Pool *p = NULL;

        running_max = 0;
        p = new_pool(2, 16, 32, USEC_INFINITY);
        while (n < ELEMENTSOF(jobs)) {
                jobs[n] = (TestJob) { .job = { .work = test_work, .done = test_done, .kind = n % 2 }, .gate = -1, .n_done = &n_done };
                if (pool_submit(p, &jobs[n].job) == 0)
                        n++;
                else
                        pool_dispatch(p);
        }
        dispatch_until_idle(p);
        pool_free(p);
        assert_int_equal(n_done, ELEMENTSOF(jobs));
        for (size_t i = 0; i < ELEMENTSOF(jobs); i++)
                assert_int_equal(jobs[i].value, 1);
        assert_true(running_max <= 4);
}

static void slow_jobs_do_not_hold_up_urgent_ones(void **state) {
        TestJob slow[8], urgent;
        size_t n_slow = 0, n_urgent = 0;
        int gate = eventfd(0, EFD_CLOEXEC);
        Pool *p = new_pool(2, 3, 16, 0);        /* without patience: as many as there may be threads for */

        for (size_t i = 0; i < ELEMENTSOF(slow); i++) {
                slow[i] = (TestJob) { .job = { .work = test_work, .done = test_done, .kind = POOL_SLOW }, .gate = gate, .n_done = &n_slow };
                assert_int_equal(pool_submit(p, &slow[i].job), 0);
        }
        urgent = (TestJob) { .job = { .work = test_work, .done = test_done }, .gate = -1, .n_done = &n_urgent };
        assert_int_equal(pool_submit(p, &urgent.job), 0);
        while (n_urgent == 0) {
                assert_int_equal(poll(&(struct pollfd) { .fd = pool_get_fd(p), .events = POLLIN }, 1, 10000), 1);
                pool_dispatch(p);
        }
        assert_int_equal(n_slow, 0);
        assert_int_equal(eventfd_write(gate, 1), 0);
        dispatch_until_idle(p);
        assert_int_equal(n_slow, ELEMENTSOF(slow));
        pool_free(p);
        close_fd(gate);
}

/* The one that may work hangs; the next begins when patience with it is over, and not before. */
static void late_jobs_let_others_begin(void **state) {
        static const uint64_t patience_usec = 50 * USEC_PER_MSEC;
        TestJob stuck[8], next;
        size_t n_stuck = 0, n_next = 0;
        int gate = eventfd(0, EFD_CLOEXEC);
        Pool *p = new_pool(1, 16, 16, patience_usec);
        uint64_t begin = now_usec(CLOCK_MONOTONIC);

        for (size_t i = 0; i < ELEMENTSOF(stuck); i++) {
                stuck[i] = (TestJob) { .job = { .work = test_work, .done = test_done, .kind = POOL_SLOW }, .gate = gate, .n_done = &n_stuck };
                assert_int_equal(pool_submit(p, &stuck[i].job), 0);
        }
        next = (TestJob) { .job = { .work = test_work, .done = test_done, .kind = POOL_SLOW }, .gate = -1, .n_done = &n_next };
        assert_int_equal(pool_submit(p, &next.job), 0);
        while (n_next == 0) {
                assert_int_equal(poll(&(struct pollfd) { .fd = pool_get_fd(p), .events = POLLIN }, 1, 10000), 1);
                pool_dispatch(p);
        }
        assert_int_equal(n_stuck, 0);
        assert_true(now_usec(CLOCK_MONOTONIC) >= begin + ELEMENTSOF(stuck) * patience_usec);
        assert_int_equal(eventfd_write(gate, 1), 0);
        dispatch_until_idle(p);
        assert_int_equal(n_stuck, ELEMENTSOF(stuck));
        pool_free(p);
        close_fd(gate);
}

static void a_job_that_has_not_begun_can_be_withdrawn(void **state) {
        TestJob jobs[2];
        size_t n_done[2] = {};
        int gate = eventfd(0, EFD_CLOEXEC);
        Pool *p = new_pool(1, 2, 16, USEC_INFINITY);

        running = 0;
        for (size_t i = 0; i < ELEMENTSOF(jobs); i++) {
                jobs[i] = (TestJob) { .job = { .work = test_work, .done = test_done, .kind = POOL_SLOW }, .gate = gate, .n_done = n_done + i };
                assert_int_equal(pool_submit(p, &jobs[i].job), 0);
        }
        while (atomic_load(&running) == 0)
                (void) poll(NULL, 0, 1);
        assert_false(pool_withdraw(p, &jobs[0].job));
        assert_true(pool_withdraw(p, &jobs[1].job));
        assert_false(pool_withdraw(p, &jobs[1].job));
        pool_dispatch(p);
        assert_int_equal(n_done[1], 1);
        assert_int_equal(jobs[1].value, 0);     /* work() was not called */
        assert_int_equal(eventfd_write(gate, 1), 0);
        dispatch_until_idle(p);
        assert_int_equal(n_done[0], 1);
        pool_free(p);
        close_fd(gate);
}

static void full_pool_says_so(void **state) {
        TestJob jobs[4];
        int gate = eventfd(0, EFD_CLOEXEC);
        size_t n_done = 0;
        Pool *p = new_pool(1, 2, 2, USEC_INFINITY);
        int r = 0;

        running = 0;
        for (size_t i = 0; i < ELEMENTSOF(jobs); i++)
                jobs[i] = (TestJob) { .job = { .work = test_work, .done = test_done }, .gate = gate, .n_done = &n_done };
        assert_int_equal(pool_submit(p, &jobs[0].job), 0);
        while (atomic_load(&running) == 0)
                (void) poll(NULL, 0, 1);
        assert_int_equal(pool_submit(p, &jobs[1].job), 0);
        assert_int_equal(pool_submit(p, &jobs[2].job), 0);
        r = pool_submit(p, &jobs[3].job);
        assert_int_equal(r, -EAGAIN);
        assert_int_equal(pool_n_jobs(p), 3);
        assert_int_equal(eventfd_write(gate, 1), 0);
        dispatch_until_idle(p);
        pool_free(p);
        close_fd(gate);
}

/* Waits */

static void waits_end_by_cancel_deadline_or_time(void **state) {
        PeerpodError e = { .size = sizeof(e) };
        PeerpodCall call = { .size = sizeof(call), .cancel_fd = eventfd(0, EFD_CLOEXEC), .deadline_usec = peerpod_now_usec() + 60000000 }, undo;
        int fd = eventfd(1, EFD_CLOEXEC);

        assert_int_equal(peerpod_call_check(&call, &e), 0);
        assert_int_equal(peerpod_call_wait(&call, -1, 0, 1000, &e), 0);
        assert_int_equal(peerpod_call_wait(&call, fd, POLLIN, UINT64_MAX, &e), 1);
        call.deadline_usec = peerpod_now_usec() + 2000;
        assert_int_equal(peerpod_call_wait(&call, -1, 0, UINT64_MAX, &e), -ETIMEDOUT);
        assert_int_equal(e.kind, PEERPOD_E_TIMED_OUT);
        assert_int_equal(eventfd_write(call.cancel_fd, 1), 0);
        assert_int_equal(peerpod_call_check(&call, &e), -ECANCELED);
        assert_int_equal(peerpod_call_wait(&call, fd, POLLIN, 1000, &e), -ECANCELED);
        assert_int_equal(e.kind, PEERPOD_E_CANCELLED);

        undo = peerpod_call_for_undo(&call, 60000000);
        assert_int_equal(peerpod_call_check(&undo, &e), 0);
        close_fd(call.cancel_fd);
        close_fd(fd);
}

/* Seed */

static void read_seed(const uint8_t *image, size_t size, const char *name, char **ret, size_t *ret_size) {
        struct archive *a = archive_read_new();
        struct archive_entry *e;

        *ret = NULL;
        assert_int_equal(archive_read_support_format_iso9660(a), ARCHIVE_OK);
        assert_int_equal(archive_read_open_memory(a, image, size), ARCHIVE_OK);
        while (archive_read_next_header(a, &e) == ARCHIVE_OK) {
                if (strcmp(archive_entry_pathname(e), name) != 0)
                        continue;
                *ret_size = archive_entry_size(e);
                *ret = calloc(1, *ret_size + 1);
                assert_int_equal(archive_read_data(a, *ret, *ret_size), *ret_size);
                break;
        }
        archive_read_free(a);
        assert_non_null(*ret);
}

static void seed_is_read_back(void **state) {
        static const size_t sizes[] = { 0, 1, 2047, 2048, 2049, 65536, 3000001 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                _cleanup_(freep) char *data = malloc(sizes[i] + 1), *user = NULL, *meta = NULL, *vendor = NULL;
                uint8_t *image = NULL;
                size_t size, n;

                for (size_t k = 0; k < sizes[i]; k++)
                        data[k] = 'a' + k % 23;
                assert_int_equal(seed_iso_make("sandbox1", "podvm-x-1", data, sizes[i], &image, &size), 0);
                assert_int_equal(size % 2048, 0);

                read_seed(image, size, "user-data", &user, &n);
                assert_int_equal(n, sizes[i]);
                assert_memory_equal(user, data, n);
                read_seed(image, size, "meta-data", &meta, &n);
                assert_string_equal(meta, "instance-id: sandbox1\nlocal-hostname: podvm-x-1\n");
                read_seed(image, size, "vendor-data", &vendor, &n);
                assert_int_equal(n, 0);

                /* ECMA-119 8.4.7; Joliet's descriptor follows, with the same label in UCS-2 */
                assert_memory_equal(image + 16 * 2048 + 40, "cidata  ", 8);
                assert_memory_equal(image + 17 * 2048 + 40, "\0c\0i\0d\0a\0t\0a", 12);
                erase_free(image, size);
        }
}

static void seed_label_is_seen_by_blkid(void **state) {
        char path[64], command[160], line[64] = "";
        uint8_t *image = NULL;
        size_t size;
        FILE *f;

        if (access("/usr/sbin/blkid", X_OK) < 0 && access("/sbin/blkid", X_OK) < 0)
                skip();
        assert_int_equal(seed_iso_make("s", "h", "x", 1, &image, &size), 0);
        snprintf(path, sizeof(path), "%s/seed.iso", directory);
        assert_int_equal(write_file_atomic(path, image, size, 0600), 0);
        erase_free(image, size);
        snprintf(command, sizeof(command), "PATH=/usr/sbin:/sbin:$PATH blkid -p -o value -s LABEL %s", path);
        f = popen(command, "re");
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof(line), f));
        assert_int_equal(pclose(f), 0);
        assert_string_equal(line, "cidata\n");
}

static void seed_refuses_what_yaml_would_misread(void **state) {
        uint8_t *image = NULL;
        size_t size;

        for (const char *const *s = (const char*[]) { "", "a b", "a\nb", "a: b", "\"", "#x", NULL }; *s; s++) {
                assert_int_equal(seed_iso_make(*s, "h", "x", 1, &image, &size), -EINVAL);
                assert_int_equal(seed_iso_make("i", *s, "x", 1, &image, &size), -EINVAL);
        }
        assert_int_equal(seed_iso_make("i", "h", "x", SIZE_MAX, &image, &size), -EFBIG);
        assert_null(image);
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names_are_upstreams),
                cmocka_unit_test(names_are_checked),
                cmocka_unit_test(descriptors_are_checked),
                cmocka_unit_test_setup_teardown(external_modules_are_checked, make_directory, remove_directory),
                cmocka_unit_test(pool_runs_all_jobs),
                cmocka_unit_test(slow_jobs_do_not_hold_up_urgent_ones),
                cmocka_unit_test(late_jobs_let_others_begin),
                cmocka_unit_test(a_job_that_has_not_begun_can_be_withdrawn),
                cmocka_unit_test(full_pool_says_so),
                cmocka_unit_test(waits_end_by_cancel_deadline_or_time),
                cmocka_unit_test(seed_is_read_back),
                cmocka_unit_test_setup_teardown(seed_label_is_seen_by_blkid, make_directory, remove_directory),
                cmocka_unit_test(seed_refuses_what_yaml_would_misread),
        };

        if (argc != 2) {
                fprintf(stderr, "Usage: %s FAKE.SO\n", argv[0]);
                return 2;
        }
        fake_module = argv[1];
        return cmocka_run_group_tests(tests, NULL, NULL);
}
