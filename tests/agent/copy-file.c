/* SPDX-License-Identifier: Apache-2.0 */
/* CopyFile: a file comes in pieces under a name of its own, and is renamed when it is whole (kata-containers:
 * src/agent/src/rpc.rs, do_copy_file()). Every path is resolved by the kernel with the shared directory as its root. */
#include "agent.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "basic/io.h"
#include "basic/util.h"

static int fail(char **reterr, int error, const char *format, ...) PRINTF(3, 4);
static int fail(char **reterr, int error, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        if (vasprintf(reterr, format, ap) < 0)
                *reterr = NULL;
        va_end(ap);
        return error;
}

static int open_below(int root, const char *path, int flags) {
        struct open_how how = { .flags = (uint64_t) (flags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
        int fd = (int) syscall(SYS_openat2, root, isempty(path) ? "." : path, &how, sizeof(how));

        return fd < 0 ? -errno : fd;
}

/* Opens the directory part of a path, making what is missing. */
static int open_parent(int root, const char *path, mode_t mode, uid_t uid, gid_t gid, int *ret_fd) {
        _cleanup_(close_fdp) int fd = fcntl(root, F_DUPFD_CLOEXEC, 3);
        _cleanup_(freep) char *done = strdup(path);
        const char *last = strrchr(path, '/');
        bool made = false;

        if (fd < 0)
                return -errno;
        if (!done)
                return -ENOMEM;

        for (const char *p = path; last && p < last;) {
                size_t n = strcspn(p, "/");
                char *end = done + (p - path) + n, saved = *end;
                int next;

                *end = '\0';
                made = false;
                if (n > 0 && mkdirat(fd, done + (p - path), mode) >= 0)
                        made = true;
                else if (n > 0 && errno != EEXIST)
                        return -errno;
                next = open_below(root, done, O_PATH|O_DIRECTORY);
                *end = saved;
                if (next < 0)
                        return next;
                close_fd(fd);
                fd = next;
                p += n + 1;
        }

        /* Only the last one is given away, as the real agent does. */
        if (made && fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int remove_target(int dir, const char *name) {
        char path[64];
        _cleanup_(freep) char *full = NULL;
        struct stat st;

        if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISDIR(st.st_mode))
                return unlinkat(dir, name, 0) < 0 ? -errno : 0;

        (void) snprintf(path, sizeof(path), "/proc/self/fd/%i", dir);
        if (asprintf(&full, "%s/%s", path, name) < 0) {
                full = NULL;
                return -ENOMEM;
        }
        return remove_tree(full);
}

static int copy_piece(int dir, const char *name, const Grpc__CopyFileRequest *q) {
        _cleanup_(freep) char *temporary = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        const char *dot = strrchr(name, '.');
        struct stat st;

        if (asprintf(&temporary, "%.*s.tmp", dot && dot > name ? (int) (dot - name) : (int) strlen(name), name) < 0) {
                temporary = NULL;
                return -ENOMEM;
        }
        if (q->offset == 0)
                (void) unlinkat(dir, temporary, 0);
        fd = openat(dir, temporary, O_WRONLY|O_CREAT|O_CLOEXEC|O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;

        for (size_t done = 0; done < q->data.len;) {
                ssize_t n = pwrite(fd, q->data.data + done, q->data.len - done, q->offset + (int64_t) done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                done += (size_t) n;
        }

        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size != q->file_size)
                return 0;                               /* more is to come */
        if (fchmod(fd, q->file_mode & 07777) < 0 || fchown(fd, (uid_t) q->uid, (gid_t) q->gid) < 0)
                return -errno;
        return renameat(dir, temporary, dir, name) < 0 ? -errno : 0;
}

static int copy_to(int dir, const char *name, const Grpc__CopyFileRequest *q) {
        _cleanup_(freep) char *target = NULL;
        int r;

        if (S_ISDIR(q->file_mode)) {
                if (mkdirat(dir, name, q->file_mode & 07777) < 0 && errno != EEXIST)
                        return -errno;
                return fchownat(dir, name, (uid_t) q->uid, (gid_t) q->gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
        }

        if (q->offset == 0) {
                r = remove_target(dir, name);
                if (r < 0)
                        return r;
        }
        if (!S_ISLNK(q->file_mode))
                return copy_piece(dir, name, q);

        target = strndup((const char*) q->data.data, q->data.len);
        if (!target)
                return -ENOMEM;
        if (symlinkat(target, dir, name) < 0)
                return -errno;
        return fchownat(dir, name, (uid_t) q->uid, (gid_t) q->gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int copy_file(const Agent *a, const Grpc__CopyFileRequest *q, char **reterr) {
        _cleanup_(freep) char *shared = NULL, *relative = NULL;
        _cleanup_(close_fdp) int root = -EBADF, dir = -EBADF;
        const char *path, *name;
        int r;

        if (asprintf(&shared, "%s/shared/containers", a->settings->state_dir) < 0) {
                shared = NULL;
                return -ENOMEM;
        }
        path = startswith(q->path, shared);
        if (!path || path[0] != '/')
                return fail(reterr, -EINVAL, "'%s' is not below '%s/'", q->path, shared);
        if (q->offset < 0 || q->file_size < 0 ||
            (!S_ISDIR(q->file_mode) && !S_ISLNK(q->file_mode) &&
             (q->offset > q->file_size || q->data.len > (uint64_t) (q->file_size - q->offset))))
                return fail(reterr, -EINVAL, "Size and offset do not fit");

        path += strspn(path, "/");
        relative = strdup(path);
        if (!relative)
                return -ENOMEM;
        for (size_t n = strlen(relative); n > 0 && relative[n - 1] == '/';)
                relative[--n] = '\0';
        name = strrchr(relative, '/') ? strrchr(relative, '/') + 1 : relative;
        if (isempty(name) || streq(name, ".") || streq(name, ".."))
                return fail(reterr, -EINVAL, "'%s' names no file", q->path);

        r = mkdir_p(shared, 0755);
        if (r < 0)
                return r;
        root = open(shared, O_PATH|O_DIRECTORY|O_CLOEXEC|O_NOFOLLOW);
        if (root < 0)
                return -errno;
        r = open_parent(root, relative, q->dir_mode & 07777, (uid_t) q->uid, (gid_t) q->gid, &dir);
        if (r >= 0)
                r = copy_to(dir, name, q);
        if (r < 0)
                return fail(reterr, r, "Failed to write '%s': %s", q->path, strerror(-r));
        return 0;
}
