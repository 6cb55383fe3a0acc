/* SPDX-License-Identifier: Apache-2.0 */
/* A descriptor that a test leaves open fails that very test, in its teardown. */
#pragma once

#include <dirent.h>
#include <stddef.h>

static inline size_t count_fds(void) {
        size_t n = 0;
        DIR *dir = opendir("/proc/self/fd");

        assert_non_null(dir);
        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

/* For programs without a fixture of their own: setup and teardown that only count. */
static size_t fds_before;

static inline int remember_fds(void **state) {
        fds_before = count_fds();
        return 0;
}

static inline int compare_fds(void **state) {
        size_t now = count_fds();

        if (now != fds_before)
                print_error("%zu descriptors before, %zu after\n", fds_before, now);
        return now == fds_before ? 0 : -1;
}
