/* SPDX-License-Identifier: Apache-2.0 */
/* Where scratch storage goes on the image's disk, by what the kernel says of its partitions in /sys. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "basic/io.h"
#include "basic/util.h"
#include "podvm/scratch-storage/disk.h"

#define MIB(n) ((uint64_t) (n) << 20)
#define S(mib) ((uint64_t) (mib) * 2048)           /* in sectors of 512 bytes, as sysfs counts */

typedef struct Case {
        const char *name;
        uint64_t disk_sectors;
        struct {
                const char *name;
                uint64_t number, start, sectors;
        } partitions[4];
        int result;
        Tail tail;
} Case;

static const Case cases[] = {
        { "a disk enlarged by 1 GiB: behind the image's old backup table, before the new one",
          S(1600), { { "vda1", 1, S(1), S(512) }, { "vda2", 2, S(513), S(60) }, { "vda3", 3, S(573), S(2) } }, 0,
          { MIB(576), MIB(1600 - 1 - 576), 4 } },
        { "an end that is not aligned", 3000000, { { "nvme0n1p1", 1, 2048, 100001 } }, 0, { MIB(50), MIB(1464 - 50), 2 } },
        { "partitions need not be in order", S(2000), { { "sda3", 3, S(1), S(9) }, { "sda1", 1, S(500), S(10) }, { "sda2", 2, S(100), S(50) } }, 0,
          { MIB(511), MIB(1999 - 511), 4 } },
        { "numbers may have gaps", S(2000), { { "sda1", 1, S(1), S(9) }, { "sda14", 14, S(10), S(10) } }, 0, { MIB(21), MIB(1999 - 21), 15 } },
        { "a disk as large as the image has no room", S(580), { { "vda1", 1, S(1), S(512) }, { "vda2", 2, S(513), S(64) } }, -ENOSPC,
          { MIB(578), MIB(1), 3 } },
        { "a partition that ends where the disk does", S(580), { { "vda1", 1, S(1), S(579) } }, -ENOSPC, { MIB(581), 0, 2 } },
        { "256 MiB are enough", S(1 + 10 + 1 + 256 + 1), { { "vda1", 1, S(1), S(10) } }, 0, { MIB(12), MIB(256), 2 } },
        { "1 MiB less is not", S(1 + 10 + 1 + 255 + 1), { { "vda1", 1, S(1), S(10) } }, -ENOSPC, { MIB(12), MIB(255), 2 } },
        { "an empty disk", S(1000), {}, 0, { MIB(1), MIB(998), 1 } },
        { "a disk of no size", 0, {}, -ENOSPC, { MIB(1), 0, 1 } },
        { "a size beyond all bounds", UINT64_MAX, {}, -EBADMSG, {} },
        { "a start beyond all bounds", S(1000), { { "vda1", 1, UINT64_MAX, 1 } }, -EBADMSG, {} },
        { "a number beyond all bounds", S(1000), { { "vda1", UINT32_MAX, 1, 1 } }, -EBADMSG, {} },
};

static char dir[] = "/tmp/scratch-test.XXXXXX";

static void put(const char *where, const char *name, const char *text) {
        char path[256];

        (void) snprintf(path, sizeof(path), "%s/%s", where, name);
        assert_int_equal(write_file_atomic(path, text, strlen(text), 0644), 0);
}

static void put_number(const char *where, const char *name, uint64_t n) {
        char text[32];

        (void) snprintf(text, sizeof(text), "%llu\n", (unsigned long long) n);
        put(where, name, text);
}

static int make_dir(void **state) {
        (void) strcpy(dir + strlen("/tmp/scratch-test."), "XXXXXX");
        return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
        return remove_tree(dir);
}

static void the_tail_is_found(void **state) {
        const Case *c = *state;
        char path[128];
        Tail tail = {};

        put_number(dir, "size", c->disk_sectors);
        (void) snprintf(path, sizeof(path), "%s/queue", dir);           /* no partition */
        assert_int_equal(mkdir(path, 0755), 0);
        for (size_t i = 0; i < ELEMENTSOF(c->partitions) && c->partitions[i].name; i++) {
                (void) snprintf(path, sizeof(path), "%s/%s", dir, c->partitions[i].name);
                assert_int_equal(mkdir(path, 0755), 0);
                put_number(path, "partition", c->partitions[i].number);
                put_number(path, "start", c->partitions[i].start);
                put_number(path, "size", c->partitions[i].sectors);
        }

        assert_int_equal(disk_tail(dir, &tail), c->result);
        assert_int_equal(tail.start, c->tail.start);
        assert_int_equal(tail.size, c->tail.size);
        assert_int_equal(tail.partition, c->tail.partition);
}

static void what_is_no_disk_is_refused(void **state) {
        Tail tail;

        assert_int_equal(disk_tail("/nonexistent", &tail), -ENOENT);
        assert_int_equal(disk_tail(dir, &tail), -ENOENT);
        put(dir, "size", "many\n");
        assert_int_equal(disk_tail(dir, &tail), -EBADMSG);
}

int main(void) {
        struct CMUnitTest tests[ELEMENTSOF(cases) + 1];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                tests[i] = (struct CMUnitTest) { .name = cases[i].name, .test_func = the_tail_is_found, .setup_func = make_dir,
                                                 .teardown_func = remove_dir, .initial_state = (void*) &cases[i] };
        tests[ELEMENTSOF(cases)] = (struct CMUnitTest) cmocka_unit_test_setup_teardown(what_is_no_disk_is_refused, make_dir, remove_dir);
        return cmocka_run_group_tests_name("scratch", tests, NULL, NULL);
}
