/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "basic/io.h"
#include "basic/util.h"
#include "podvm/process-user-data/source.h"
#include "userdata/cloud-config.h"

static int open_seed(const SourceSettings *s) {
        int fd = open(s->seed_dir, O_PATH|O_DIRECTORY|O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

static int nocloud_detect(const SourceSettings *s) {
        _cleanup_(close_fdp) int dir = open_seed(s);
        struct stat st;

        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        if (fstatat(dir, "user-data", &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;
        return 1;
}

static int nocloud_fetch(const SourceSettings *s, char **ret, size_t *ret_size, char **reterr) {
        _cleanup_(close_fdp) int dir = open_seed(s);
        int r;

        /* The disk is the host's: a symlink on it must not make us read a file of the VM, nor a fifo make us wait. */
        r = dir < 0 ? dir : read_full_file_at(dir, "user-data", CLOUD_CONFIG_SIZE_MAX, ret, ret_size);
        if (r >= 0)
                return 0;

        if (asprintf(reterr, "'%s/user-data': %s", s->seed_dir,
                     r == -EFBIG ? "it is too big" :
                     r == -ELOOP ? "it is a symbolic link" :
                     r == -EBADFD ? "it is no regular file" : strerror(-r)) < 0)
                *reterr = NULL;
        return r == -EFBIG ? -E2BIG : r;
}

const Source source_nocloud = {
        .name = "NoCloud seed",
        .detect = nocloud_detect,
        .fetch = nocloud_fetch,
};
