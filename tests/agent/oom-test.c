/* SPDX-License-Identifier: Apache-2.0 */
/* The stand-in agent's watch for memory running out, on a directory that stands for a control group. That the kernel reports a
 * change of the real file to inotify in the same way is said in cgroup-v2.rst ("a file modified event"), and seen in the VM. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>

#include "agent.h"
#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"

static void put_events(const char *dir, unsigned oom, unsigned oom_kill) {
        _cleanup_(close_fdp) int fd = -EBADF;
        char path[64], text[128];
        int n;

        (void) snprintf(path, sizeof(path), "%s/memory.events", dir);
        n = snprintf(text, sizeof(text), "low 0\nhigh 0\nmax 17\noom %u\noom_kill %u\noom_group_kill 0\n", oom, oom_kill);
        fd = open(path, O_WRONLY|O_CREAT|O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write_full(fd, text, (size_t) n), 0);
}

static void one_event_for_each_kill(void **state) {
        char dir[] = "/tmp/stand-in-oom-XXXXXX", path[64];
        Agent a = { .oom_fd = -EBADF };
        Container c = { .agent = &a, .id = (char*) "c1", .oom_watch = -1, .cgroup = dir };
        uint64_t n = 0;

        assert_non_null(mkdtemp(dir));
        put_events(dir, 0, 0);
        assert_true(sd_event_new(&a.event) >= 0);
        assert_int_equal(oom_init(&a), 0);
        a.containers = &c;
        oom_watch(&c);
        assert_true(c.oom_watch >= 0);
        assert_int_equal(a.n_oom_events, 0);

        put_events(dir, 1, 0);                  /* out of memory, but nobody killed: no event */
        assert_true(sd_event_run(a.event, USEC_PER_SEC) > 0);
        assert_int_equal(a.n_oom_events, 0);
        put_events(dir, 3, 2);
        assert_true(sd_event_run(a.event, USEC_PER_SEC) > 0);
        assert_int_equal(a.n_oom_events, 2);
        assert_string_equal(a.oom_events[0], "c1");
        put_events(dir, 3, 2);
        assert_true(sd_event_run(a.event, USEC_PER_SEC) > 0);
        assert_int_equal(a.n_oom_events, 2);
        assert_int_equal(cgroup_read_oom_kills(dir, &n), 0);
        assert_int_equal(n, 2);

        /* the group goes, as it does when the container ends */
        (void) snprintf(path, sizeof(path), "%s/memory.events", dir);
        assert_int_equal(unlink(path), 0);
        while (c.oom_watch >= 0)
                assert_true(sd_event_run(a.event, USEC_PER_SEC) > 0);
        assert_int_equal(rmdir(dir), 0);

        sd_event_source_disable_unref(a.oom_source);
        close_fd(a.oom_fd);
        sd_event_unref(a.event);
        for (unsigned i = 0; i < a.n_oom_events; i++)
                free(a.oom_events[i]);
}

static void many_events_are_bounded(void **state) {
        char dir[] = "/tmp/stand-in-oom-XXXXXX";
        Agent a = { .oom_fd = -EBADF };
        Container c = { .agent = &a, .id = (char*) "c1", .oom_watch = -1, .cgroup = dir };

        assert_non_null(mkdtemp(dir));
        put_events(dir, 1000, 1000);
        assert_true(sd_event_new(&a.event) >= 0);
        assert_int_equal(oom_init(&a), 0);
        oom_watch(&c);
        assert_int_equal(a.n_oom_events, OOM_EVENTS_MAX);

        oom_unwatch(&c);
        assert_int_equal(remove_tree(dir), 0);
        sd_event_source_disable_unref(a.oom_source);
        close_fd(a.oom_fd);
        sd_event_unref(a.event);
        for (unsigned i = 0; i < a.n_oom_events; i++)
                free(a.oom_events[i]);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(one_event_for_each_kill),
                cmocka_unit_test(many_events_are_bounded),
        };

        log_set_max_level(LOG_ERR);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
