/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files and memory descriptors: bounded reads, writes that are complete or absent. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "basic/cleanup.h"

/**
 * read_full_fd() - read a descriptor to its end
 * @max_size: -EFBIG if there is more
 * @ret:      newly allocated, with a NUL after the last byte; the caller frees (erase_free() where it is a secret)
 * @ret_size: may be NULL; then a NUL byte inside the data is -EBADMSG
 */
int read_full_fd(int fd, size_t max_size, char **ret, size_t *ret_size);

/* read_full_file_at() - the same for a file; @dir_fd may be AT_FDCWD. Follows no symlink in the last component. */
int read_full_file_at(int dir_fd, const char *path, size_t max_size, char **ret, size_t *ret_size);

/* write_full() - write all bytes of a blocking descriptor. Returns 0 or -errno. */
int write_full(int fd, const void *data, size_t size);

/**
 * write_file_atomic_at() - replace a file so that a reader, or a crash, sees the old or the new content, never a part
 * @mode: of the new file, whatever the umask is
 *
 * Temporary file in the same directory, fsync, rename, fsync of the directory. Nothing is left behind on failure.
 * Returns 0 or -errno.
 */
int write_file_atomic_at(int dir_fd, const char *name, const void *data, size_t size, mode_t mode);

/* write_file_atomic() - the same by path */
int write_file_atomic(const char *path, const void *data, size_t size, mode_t mode);

/* replace_file_at() - the same without waiting for the disk: after a power cut the file may be the old one, the new one, or damaged */
int replace_file_at(int dir_fd, const char *name, const void *data, size_t size, mode_t mode);

/* remove_file_durably_at() - unlink and fsync the directory; a file that is not there is success */
int remove_file_durably_at(int dir_fd, const char *name);

/* mkdir_p_at(): the directory and its parents, each with @mode; existing ones are left as they are */
int mkdir_p(const char *path, mode_t mode);

/* remove_tree() - remove a directory and all below it without following symlinks or crossing file systems; missing is success */
int remove_tree(const char *path);

/* memfd_new_sealed() - a memfd with @data that nobody can change any more. Returns the descriptor or -errno. */
int memfd_new_sealed(const char *name, const void *data, size_t size);

/* memfd_read_sealed() - take the content of a memfd that is fully sealed (else -EPERM). @ret as in read_full_fd(). */
int memfd_read_sealed(int fd, size_t max_size, char **ret, size_t *ret_size);

/* fd_set_nonblocking() - returns 0 or -errno */
int fd_set_nonblocking(int fd, bool on);
