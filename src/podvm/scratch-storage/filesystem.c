/* SPDX-License-Identifier: Apache-2.0 */
/* mkfs reads where it has not written: it looks for older file systems, and writes parts of blocks. On a device with authenticated
 * sectors that is an error, until they are all written once, which would take minutes. So mkfs works on a file in memory that is as
 * large as the device and as empty, and the blocks that it wrote are copied. ext4 itself reads no block that is not in use. */
#include "podvm/scratch-storage/filesystem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"

#define CHUNK_SIZE (64U << 10)

extern char **environ;

static int run_mkfs(const char *mkfs, int fd) {
        char path[32];
        char *argv[] = { (char*) mkfs, (char*) "-q", (char*) "-F", (char*) "-b", (char*) "4096", (char*) "-m", (char*) "0",
                         (char*) "-O", (char*) "^has_journal,^resize_inode,metadata_csum", (char*) "-E", (char*) "lazy_itable_init=1,nodiscard",
                         path, NULL };
        int r, status;
        pid_t pid;

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        r = posix_spawnp(&pid, mkfs, NULL, NULL, argv, environ);
        if (r != 0)
                return log_error_errno(r, "Failed to run '%s': %m", mkfs);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return log_error_errno(errno, "Failed to wait for '%s': %m", mkfs);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                log_error("'%s' failed with status %d.", mkfs, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
                return -EIO;
        }
        return 0;
}

/* Whole blocks, since those of a file in memory are as large. */
static int copy_data(int from, int to) {
        _cleanup_(freep) char *chunk = malloc(CHUNK_SIZE);
        off_t data = 0, hole;

        if (!chunk)
                return -ENOMEM;
        while ((data = lseek(from, data, SEEK_DATA)) >= 0) {
                hole = lseek(from, data, SEEK_HOLE);
                if (hole < 0)
                        return -errno;
                while (data < hole) {
                        ssize_t n = pread(from, chunk, MIN((off_t) CHUNK_SIZE, hole - data), data);
                        int r;

                        if (n <= 0)
                                return n < 0 ? -errno : -EIO;
                        if (lseek(to, data, SEEK_SET) < 0)
                                return -errno;
                        r = write_full(to, chunk, (size_t) n);
                        if (r < 0)
                                return r;
                        data += n;
                }
        }
        return errno == ENXIO ? 0 : -errno;     /* nothing but a hole behind it */
}

int scratch_filesystem_make(const char *device, const char *mkfs) {
        _cleanup_(close_fdp) int memory = -EBADF, fd = -EBADF;
        uint64_t size;
        int r;

        fd = open(device, O_RDWR|O_CLOEXEC|O_NOCTTY|O_EXCL);
        if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0)
                return log_error_errno(errno, "Failed to open '%s': %m", device);
        memory = memfd_create("scratch", MFD_NOEXEC_SEAL);      /* mkfs inherits it */
        if (memory < 0 || ftruncate(memory, (off_t) (size / 4096 * 4096)) < 0)
                return log_error_errno(errno, "Failed to make a file of %llu bytes in memory: %m", (unsigned long long) size);

        r = run_mkfs(mkfs, memory);
        if (r < 0)
                return r;
        r = copy_data(memory, fd);
        if (r >= 0 && fsync(fd) < 0)
                r = -errno;
        return r < 0 ? log_error_errno(r, "Failed to write a file system to '%s': %m", device) : 0;
}
