/* SPDX-License-Identifier: Apache-2.0 */
/* Many hostile connections to one socket, and what a daemon costs meanwhile. Header only, used by more than one test. */
#pragma once

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "basic/util.h"

#define CROWD_MAX 10000U
#define CROWD_PATIENCE_USEC (120 * USEC_PER_SEC)

#if defined(__SANITIZE_ADDRESS__)
#define CROWD_WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CROWD_WITH_ASAN 1
#endif
#endif
#ifndef CROWD_WITH_ASAN
#define CROWD_WITH_ASAN 0
#endif

typedef struct Crowd {
        struct sockaddr_storage address;
        socklen_t address_size;
        int *fds;
        size_t n;
} Crowd;

/* For this process and what it starts. */
static inline void crowd_raise_limits(void) {
        struct rlimit limit;

        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_max = MAX(limit.rlim_max, (rlim_t) 2 * CROWD_MAX);   /* root may */
        limit.rlim_cur = limit.rlim_max;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static inline Crowd crowd_of_unix(const char *path) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        Crowd c = { .address_size = sizeof(sa) };

        assert_true(strlen(path) < sizeof(sa.sun_path));
        memcpy(sa.sun_path, path, strlen(path));
        memcpy(&c.address, &sa, sizeof(sa));
        return c;
}

static inline Crowd crowd_of_tcp(uint16_t port) {
        struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
        Crowd c = { .address_size = sizeof(sa) };

        memcpy(&c.address, &sa, sizeof(sa));
        return c;
}

/* Connects @n times; what the kernel has no room for is not counted. */
static inline void crowd_join(Crowd *c, size_t n) {
        c->fds = reallocarray(c->fds, c->n + n, sizeof(int));
        assert_non_null(c->fds);
        for (size_t i = 0; i < n; i++) {
                int fd = socket(c->address.ss_family, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);

                assert_true(fd >= 0);
                if (connect(fd, (struct sockaddr*) &c->address, c->address_size) < 0 && errno != EINPROGRESS)
                        close_fd(fd);
                else
                        c->fds[c->n++] = fd;
        }
}

/* Each says the same, as far as it is let. */
static inline void crowd_say(Crowd *c, const void *data, size_t size) {
        for (size_t i = 0; i < c->n; i++)
                (void) !send(c->fds[i], data, size, MSG_NOSIGNAL|MSG_DONTWAIT);
}

static inline void crowd_half_close(Crowd *c) {
        for (size_t i = 0; i < c->n; i++)
                (void) shutdown(c->fds[i], SHUT_WR);
}

static inline void crowd_leave(Crowd *c) {
        for (size_t i = 0; i < c->n; i++)
                close_fd(c->fds[i]);
        free(c->fds);
        c->fds = NULL;
        c->n = 0;
}

static inline size_t daemon_fds(pid_t pid) {
        char path[64];
        size_t n = 0;
        DIR *d;

        (void) snprintf(path, sizeof(path), "/proc/%i/fd", (int) pid);
        d = opendir(path);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d));)
                n += e->d_name[0] != '.';
        (void) closedir(d);
        return n;
}

static inline size_t daemon_memory_kib(pid_t pid) {
        char path[64], line[256];
        size_t kib = 0;
        FILE *f;

        (void) snprintf(path, sizeof(path), "/proc/%i/smaps_rollup", (int) pid);
        f = fopen(path, "re");
        assert_non_null(f);
        while (fgets(line, sizeof(line), f))
                if (startswith(line, "Pss:"))
                        kib = strtoul(line + 4, NULL, 10);
        (void) fclose(f);
        assert_true(kib > 0);
        return kib;
}

/* AddressSanitizer keeps what was freed, so that memory means little there. */
static inline void check_memory(pid_t pid, size_t before_kib, size_t more_kib) {
        size_t now = daemon_memory_kib(pid);

        if (!CROWD_WITH_ASAN && now > before_kib + more_kib)
                fail_msg("PSS of %zu KiB, was %zu KiB, may be %zu KiB more", now, before_kib, more_kib);
}

static inline void wait_for_fds(pid_t pid, size_t n) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + CROWD_PATIENCE_USEC;

        while (daemon_fds(pid) > n) {
                if (now_usec(CLOCK_MONOTONIC) > end)
                        fail_msg("%zu descriptors, were %zu", daemon_fds(pid), n);
                (void) poll(NULL, 0, 10);
        }
}
