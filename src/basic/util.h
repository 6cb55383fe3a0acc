/* SPDX-License-Identifier: Apache-2.0 */
/* Small things every file uses: allocation, strings, bytes, time. */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "basic/cleanup.h"

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (UINT32_C(1) << (n))
#define MIN(a, b) ({ typeof(a) _min_a = (a); typeof(b) _min_b = (b); _min_a < _min_b ? _min_a : _min_b; })
#define MAX(a, b) ({ typeof(a) _max_a = (a); typeof(b) _max_b = (b); _max_a > _max_b ? _max_a : _max_b; })
#define CONTAINER_OF(p, T, member) ((T*) ((char*) (p) - offsetof(T, member)))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* Each element of an array, which may be NULL when there is none: adding to a null pointer is undefined, even zero. */
#define FOREACH_ELEMENT(T, v, array, n)                                                         \
        for (T *v = (array), *v##_end = (n) > 0 ? v + (n) : v; v < v##_end; v++)

/* new() leaves the memory for a compound literal to fill; new0() is for arrays. NULL when memory is short or n overflows. */
#define new(T) ((T*) malloc(sizeof(T)))
#define new0(T, n) ((T*) calloc((n), sizeof(T)))

/* Room for one more in the array of @n elements that the pointer at @array points to; doubles. Returns 0, -E2BIG (it has @max
 * already), -ENOMEM. */
static inline int grow_array(void *array, size_t n, size_t max, size_t size) {
        void **p = array, *q;

        if (n >= max)
                return -E2BIG;
        if (n > 0 && (n & (n - 1)) != 0)
                return 0;
        q = reallocarray(*p, n == 0 ? 1 : n * 2, size);
        if (!q)
                return -ENOMEM;
        *p = q;
        return 0;
}

#define streq(a, b) (strcmp((a), (b)) == 0)

static inline bool streq_ptr(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

static inline bool isempty(const char *s) {
        return !s || !*s;
}

static inline const char* strempty(const char *s) {
        return s ?: "";
}

static inline const char* startswith(const char *s, const char *prefix) {
        size_t n = strlen(prefix);

        return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}

static inline uint32_t read_be32(const uint8_t *p) {
        return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3];
}

static inline void write_be32(uint8_t *p, uint32_t v) {
        p[0] = v >> 24;
        p[1] = v >> 16;
        p[2] = v >> 8;
        p[3] = v;
}

static inline uint64_t read_be64(const uint8_t *p) {
        return (uint64_t) read_be32(p) << 32 | read_be32(p + 4);
}

static inline void write_be64(uint8_t *p, uint64_t v) {
        write_be32(p, v >> 32);
        write_be32(p + 4, v);
}

#define USEC_PER_MSEC UINT64_C(1000)
#define USEC_PER_SEC UINT64_C(1000000)
#define USEC_INFINITY UINT64_MAX
#define NSEC_PER_USEC UINT64_C(1000)

/* now_usec() - time of @clock in µs (CLOCK_MONOTONIC, CLOCK_REALTIME, …) */
static inline uint64_t now_usec(clockid_t clock) {
        struct timespec ts;
        int r = clock_gettime(clock, &ts);

        assert(r == 0);
        (void) r;
        return (uint64_t) ts.tv_sec * USEC_PER_SEC + (uint64_t) ts.tv_nsec / NSEC_PER_USEC;
}

/* usec_add() - saturating sum; USEC_INFINITY stays infinite */
static inline uint64_t usec_add(uint64_t a, uint64_t b) {
        return a > UINT64_MAX - b ? USEC_INFINITY : a + b;
}

/* erase_free() - overwrite @size bytes of a secret, then free. Takes NULL, returns NULL. */
static inline void* erase_free(void *p, size_t size) {
        if (p) {
                explicit_bzero(p, size);
                free(p);
        }

        return NULL;
}

/* erase_free_stringp() - cleanup function of a string that is a secret */
static inline void erase_free_stringp(char **s) {
        if (*s)
                *s = erase_free(*s, strlen(*s));
}
