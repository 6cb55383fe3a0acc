/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/process-id.h"

#include <errno.h>
#include <poll.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "basic/cleanup.h"

#define PIDFS_MAGIC 0x50494446          /* linux: include/uapi/linux/magic.h; before pidfs, all pidfds had one inode */

static int open_process(pid_t pid, int *ret_fd, uint64_t *ret_id) {
        _cleanup_(close_fdp) int fd = -EBADF;
        struct statfs fs;
        struct stat st;

        fd = pidfd_open(pid, 0);
        if (fd < 0)
                return -errno;
        if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (fs.f_type != PIDFS_MAGIC)
                return -EOPNOTSUPP;

        *ret_id = st.st_ino;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int process_id_get(pid_t pid, ProcessId *ret) {
        _cleanup_(close_fdp) int fd = -EBADF;
        uint64_t id;
        int r;

        if (pid <= 0)
                return -ESRCH;          /* of another PID namespace */
        r = open_process(pid, &fd, &id);
        if (r < 0)
                return r;

        *ret = (ProcessId) { .pid = pid, .id = id };
        return 0;
}

int process_id_is_alive(const ProcessId *p) {
        _cleanup_(close_fdp) int fd = -EBADF;
        struct pollfd ended;
        uint64_t id;
        int r;

        r = open_process(p->pid, &fd, &id);
        if (r == -ESRCH)
                return 0;
        if (r < 0)
                return r;
        if (id != p->id)
                return 0;               /* somebody else's number now */

        ended = (struct pollfd) { .fd = fd, .events = POLLIN };
        r = poll(&ended, 1, 0);
        return r < 0 ? -errno : r == 0;
}
