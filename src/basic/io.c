/* SPDX-License-Identifier: Apache-2.0 */
#include "basic/io.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "basic/util.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define TREE_DEPTH_MAX 32

int read_full_fd(int fd, size_t max_size, char **ret, size_t *ret_size) {
        size_t size = 0, allocated = 0;
        char *data = NULL;
        int r;

        assert(max_size < SIZE_MAX - 1);

        for (;;) {
                ssize_t n;

                if (size == allocated) {
                        /* One byte above the limit tells "exactly the limit" from "more". */
                        size_t want = MIN(MAX(allocated * 2, (size_t) 4096), max_size + 1);
                        char *p = malloc(want + 1);

                        if (!p) {
                                r = -ENOMEM;
                                goto fail;
                        }
                        if (data)
                                memcpy(p, data, size);
                        erase_free(data, size);         /* not realloc(): what is read here may be a secret */
                        data = p;
                        allocated = want;
                }

                n = read(fd, data + size, allocated - size);
                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        r = -errno;
                        goto fail;
                }
                if (n == 0)
                        break;
                size += n;
                if (size > max_size) {
                        r = -EFBIG;
                        goto fail;
                }
        }

        data[size] = '\0';
        if (!ret_size && memchr(data, 0, size)) {
                r = -EBADMSG;
                goto fail;
        }

        *ret = data;
        if (ret_size)
                *ret_size = size;
        return 0;

fail:
        erase_free(data, size);
        return r;
}

int read_full_file_at(int dir_fd, const char *path, size_t max_size, char **ret, size_t *ret_size) {
        _cleanup_(close_fdp) int fd = openat(dir_fd, path, O_RDONLY|O_CLOEXEC|O_NOCTTY|O_NOFOLLOW|O_NONBLOCK);
        struct stat st;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (S_ISDIR(st.st_mode))
                return -EISDIR;
        if (!S_ISREG(st.st_mode))
                return -EBADFD;

        return read_full_fd(fd, max_size, ret, ret_size);
}

int write_full(int fd, const void *data, size_t size) {
        const char *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);

                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (n == 0)
                        return -EIO;
                p += n;
                size -= n;
        }

        return 0;
}

static int replace_file(int dir_fd, const char *name, const void *data, size_t size, mode_t mode, bool sync) {
        _cleanup_(freep) char *temporary = NULL;
        _cleanup_(close_fdp) int fd = -EBADF;
        const char *slash = strrchr(name, '/');
        int prefix = slash ? (int) (slash - name) + 1 : 0;
        uint64_t random;
        int r;

        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
                return -errno;
        if (asprintf(&temporary, "%.*s.#%s.%016llx", prefix, name, name + prefix, (unsigned long long) random) < 0)
                return -ENOMEM;

        fd = openat(dir_fd, temporary, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC|O_NOFOLLOW, mode & 0700);
        if (fd < 0)
                return -errno;

        r = write_full(fd, data, size);
        if (r >= 0 && fchmod(fd, mode) < 0)
                r = -errno;
        if (r >= 0 && sync && fsync(fd) < 0)
                r = -errno;
        if (r >= 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
                r = -errno;
        if (r < 0)
                (void) unlinkat(dir_fd, temporary, 0);

        return r;
}

int replace_file_at(int dir_fd, const char *name, const void *data, size_t size, mode_t mode) {
        return replace_file(dir_fd, name, data, size, mode, /* sync= */ false);
}

int write_file_atomic_at(int dir_fd, const char *name, const void *data, size_t size, mode_t mode) {
        _cleanup_(freep) char *directory = NULL;
        _cleanup_(close_fdp) int sync_fd = -EBADF;
        const char *slash = strrchr(name, '/');
        int r;

        directory = slash ? strndup(name, slash - name + 1) : strdup(".");
        if (!directory)
                return -ENOMEM;
        r = replace_file(dir_fd, name, data, size, mode, /* sync= */ true);
        if (r < 0)
                return r;

        sync_fd = openat(dir_fd, directory, O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (sync_fd < 0 || fsync(sync_fd) < 0)
                return -errno;
        return 0;
}

int write_file_atomic(const char *path, const void *data, size_t size, mode_t mode) {
        return write_file_atomic_at(AT_FDCWD, path, data, size, mode);
}

int remove_file_durably_at(int dir_fd, const char *name) {
        _cleanup_(close_fdp) int sync_fd = -EBADF;

        assert(!strchr(name, '/'));

        if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
                return -errno;

        sync_fd = openat(dir_fd, ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC);
        if (sync_fd < 0 || fsync(sync_fd) < 0)
                return -errno;
        return 0;
}

int mkdir_p(const char *path, mode_t mode) {
        _cleanup_(freep) char *copy = strdup(path);
        struct stat st;

        if (!copy)
                return -ENOMEM;

        for (char *p = copy + 1;; p++) {
                char c = *p;

                if (c != '/' && c != '\0')
                        continue;
                *p = '\0';
                if (mkdir(copy, mode) < 0 && errno != EEXIST)
                        return -errno;
                *p = c;
                if (c == '\0')
                        break;
        }

        if (stat(path, &st) < 0)
                return -errno;
        return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

static int remove_children(int fd, dev_t device, unsigned depth) {
        _cleanup_(closedirp) DIR *dir = NULL;
        int result = 0;

        if (depth > TREE_DEPTH_MAX) {
                close_fd(fd);
                return -ELOOP;
        }

        dir = fdopendir(fd);
        if (!dir) {
                close_fd(fd);
                return -errno;
        }

        for (;;) {
                struct dirent *de;
                struct stat st;
                int r = 0;

                errno = 0;
                de = readdir(dir);
                if (!de)
                        return errno > 0 ? -errno : result;
                if (streq(de->d_name, ".") || streq(de->d_name, ".."))
                        continue;

                if (fstatat(dirfd(dir), de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                        r = errno == ENOENT ? 0 : -errno;
                } else if (S_ISDIR(st.st_mode)) {
                        if (st.st_dev != device)
                                r = -EXDEV;
                        else {
                                int child = openat(dirfd(dir), de->d_name, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);

                                r = child < 0 ? -errno : remove_children(child, device, depth + 1);
                                if (r >= 0 && unlinkat(dirfd(dir), de->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                                        r = -errno;
                        }
                } else if (unlinkat(dirfd(dir), de->d_name, 0) < 0 && errno != ENOENT)
                        r = -errno;

                if (r < 0 && result == 0)
                        result = r;             /* go on: what can go, goes */
        }
}

int remove_tree(const char *path) {
        _cleanup_(close_fdp) int fd = open(path, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);
        struct stat st;
        int r;

        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;

        r = remove_children(TAKE_FD(fd), st.st_dev, 0);
        if (r < 0)
                return r;
        if (rmdir(path) < 0 && errno != ENOENT)
                return -errno;
        return 0;
}

int memfd_new_sealed(const char *name, const void *data, size_t size) {
        _cleanup_(close_fdp) int fd = memfd_create(name, MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_NOEXEC_SEAL);
        int r;

        if (fd < 0 && errno == EINVAL)          /* MFD_NOEXEC_SEAL came with Linux 6.3 */
                fd = memfd_create(name, MFD_CLOEXEC|MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;

        r = write_full(fd, data, size);
        if (r < 0)
                return r;
        if (lseek(fd, 0, SEEK_SET) < 0)
                return -errno;
        if (fcntl(fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int memfd_read_sealed(int fd, size_t max_size, char **ret, size_t *ret_size) {
        char *data;
        struct stat st;
        size_t size;
        int seals = fcntl(fd, F_GET_SEALS);

        if (seals < 0 || (seals & SEALS) != SEALS)
                return -EPERM;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size < 0 || (uint64_t) st.st_size > max_size)
                return -EFBIG;

        size = st.st_size;
        data = malloc(size + 1);
        if (!data)
                return -ENOMEM;

        /* pread(): the file offset is shared with whoever sent the descriptor. */
        for (size_t done = 0; done < size;) {
                ssize_t n = pread(fd, data + done, size - done, done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) {
                        int r = n < 0 ? -errno : -EIO;

                        erase_free(data, done);         /* secrets travel this way */
                        return r;
                }
                done += n;
        }

        data[size] = '\0';
        if (!ret_size && memchr(data, 0, size)) {
                erase_free(data, size);
                return -EBADMSG;
        }

        *ret = data;
        if (ret_size)
                *ret_size = size;
        return 0;
}

int fd_set_nonblocking(int fd, bool on) {
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0)
                return -errno;
        if (fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
                return -errno;
        return 0;
}
