/* SPDX-License-Identifier: Apache-2.0 */
#include "podvm/process-user-data/seed.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "basic/error-text.h"
#include "basic/io.h"
#include "basic/util.h"
#include "userdata/cloud-config.h"

/* The disk is the host's: a symlink on it must not make us read a file of the VM, nor a fifo make us wait. */
static int open_beneath(const SourceSettings *s, const char *path, uint64_t flags) {
        _cleanup_(close_fdp) int dir = open(s->seed_dir, O_PATH|O_DIRECTORY|O_CLOEXEC);
        struct open_how how = {
                .flags = flags|O_CLOEXEC|O_NOFOLLOW,
                .resolve = RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS|RESOLVE_NO_MAGICLINKS,
        };
        long fd;

        if (dir < 0)
                return -errno;
        fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
        return fd < 0 ? -errno : (int) fd;
}

bool seed_has(const SourceSettings *s, const char *path) {
        _cleanup_(close_fdp) int fd = open_beneath(s, path, O_PATH);

        /* What is there and cannot be opened is what the machine was given: seed_read() says what is wrong with it. */
        return fd >= 0 || (fd != -ENOENT && fd != -ENOTDIR);
}

/* cloud-api-adaptor creates the file and then writes it (src/cloud-providers/byom/provider.go), and systemd starts us when it is
 * created. A read lease is refused while a file is open for writing, and keeps writers waiting as long as we have it. */
static int take_lease(int fd) {
        struct statvfs fs;

        if (fstatvfs(fd, &fs) >= 0 && (fs.f_flag & ST_RDONLY))
                return 0;

        (void) signal(SIGIO, SIG_IGN);          /* "a writer waits"; it will not for long */
        if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0 && errno == EAGAIN)
                return -EAGAIN;
        return 0;                               /* other errors: a file system without leases, and a file of another user */
}

static int read_file(const SourceSettings *s, const char *path, char **ret, size_t *ret_size) {
        _cleanup_(close_fdp) int fd = open_beneath(s, path, O_RDONLY|O_NONBLOCK|O_NOCTTY);
        struct stat st;
        int r;

        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EBADFD;

        r = take_lease(fd);
        if (r < 0)
                return r;
        return read_full_fd(fd, CLOUD_CONFIG_SIZE_MAX, ret, ret_size);
}

int seed_read(const SourceSettings *s, const char *path, char **ret, size_t *ret_size, char **reterr) {
        int r = read_file(s, path, ret, ret_size);

        if (r >= 0)
                return 0;
        return error_text(reterr, r == -EFBIG ? -E2BIG : r, "'%s/%s': %s", s->seed_dir, path,
                           r == -EFBIG ? "it is too big" :
                           r == -ELOOP ? "there is a symbolic link in it" :
                           r == -EBADFD || r == -ENXIO ? "it is no regular file" :
                           r == -EAGAIN ? "it is being written" : strerror(-r));
}
