/* SPDX-License-Identifier: Apache-2.0 */
/* Ownership in sight: cleanup attributes and the macros that hand things over. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

/* Makes fp(), the cleanup function of a variable of type T, from a destructor f() that takes the value. f() is called only
 * with values that are not NULL. */
#define DEFINE_CLEANUP(T, f)                            \
        static inline void f##p(T *p) {                 \
                if (*p)                                 \
                        f(*p);                          \
        }                                               \
        struct cleanup_semicolon_##f

#define TAKE_PTR(p)                                     \
        ({                                              \
                typeof(p) *_take = &(p);                \
                typeof(p) _taken = *_take;              \
                *_take = NULL;                          \
                _taken;                                 \
        })

#define TAKE_FD(fd)                                     \
        ({                                              \
                int *_take = &(fd);                     \
                int _taken = *_take;                    \
                *_take = -EBADF;                        \
                _taken;                                 \
        })

/* Closes a descriptor if there is one, keeps errno, returns the new value of the variable: fd = close_fd(fd). */
static inline int close_fd(int fd) {
        if (fd >= 0) {
                int saved = errno;
                (void) close(fd);
                errno = saved;
        }

        return -EBADF;
}

static inline void close_fdp(int *fd) {
        *fd = close_fd(*fd);
}

static inline void freep(void *p) {
        free(*(void**) p);
}

DEFINE_CLEANUP(FILE*, fclose);
DEFINE_CLEANUP(DIR*, closedir);
