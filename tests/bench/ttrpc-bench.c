/* SPDX-License-Identifier: Apache-2.0 */
/* What a ttrpc call costs, against the least that two processes can do: one byte there and one back over a socketpair.
 *
 * Usage: ttrpc-bench [SECONDS]
 *
 * The server is a process of its own, as in life. Each row is one run on one connection: calls per second, percentiles of the
 * time from ttrpc_client_call() to its handler, and system calls per call in both processes together. Those are counted by the
 * wrappers below, which stand in front of every function of libc that this path calls: epoll_wait and timerfd_settime by
 * sd-event, recv and sendmsg by us. "strace -f -c" counts the same at a tenth of the speed.
 */
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>

#include "basic/util.h"
#include "ttrpc/client.h"
#include "ttrpc/server.h"

#define SERVICE "grpc.AgentService"
#define N_SAMPLES_MAX (1U << 20)

/* Shared by both processes. */
static struct Counts {
        _Atomic uint64_t syscalls;
} *counts;

#define WRAP(type, name, parameters, arguments)                                         \
        type name parameters;                                                           \
        __attribute__((visibility("default"))) type name parameters {                   \
                static type (*real) parameters;                                         \
                                                                                        \
                if (!real)                                                              \
                        *(void**) &real = dlsym(RTLD_NEXT, #name);                      \
                if (counts)                                                             \
                        counts->syscalls++;                                             \
                return real arguments;                                                  \
        }

WRAP(int, epoll_wait, (int fd, struct epoll_event *events, int n, int timeout), (fd, events, n, timeout))
WRAP(int, epoll_pwait, (int fd, struct epoll_event *events, int n, int timeout, const sigset_t *mask), (fd, events, n, timeout, mask))
WRAP(int, epoll_pwait2, (int fd, struct epoll_event *events, int n, const struct timespec *timeout, const sigset_t *mask),
     (fd, events, n, timeout, mask))
WRAP(int, epoll_ctl, (int fd, int op, int target, struct epoll_event *event), (fd, op, target, event))
WRAP(int, timerfd_settime, (int fd, int flags, const struct itimerspec *value, struct itimerspec *old), (fd, flags, value, old))
WRAP(ssize_t, recv, (int fd, void *p, size_t size, int flags), (fd, p, size, flags))
WRAP(ssize_t, send, (int fd, const void *p, size_t size, int flags), (fd, p, size, flags))
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
WRAP(ssize_t, read, (int fd, void *p, size_t size), (fd, p, size))

static uint64_t now_nsec(void) {
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int compare_u32(const void *a, const void *b) {
        const uint32_t *x = a, *y = b;

        return (*x > *y) - (*x < *y);
}

typedef struct Run Run;

typedef struct Lane {           /* one call after the other; several lanes are calls in flight */
        Run *run;
        uint64_t begun_nsec;
} Lane;

struct Run {
        const char *name;
        size_t size;
        unsigned n_lanes;
        uint64_t timeout_usec;

        TtrpcClient *client;
        uint8_t *payload;
        uint32_t *samples;
        uint64_t n_calls, end_nsec;
        unsigned n_running;
        Lane lanes[256];
};

static void on_reply(TtrpcClient *client, const TtrpcReply *reply, void *userdata);

static void lane_call(Lane *lane) {
        Run *run = lane->run;
        int r;

        lane->begun_nsec = now_nsec();
        r = ttrpc_client_call(run->client, SERVICE, "ReadStdout", run->payload, run->size, run->timeout_usec, NULL, on_reply, lane, NULL);
        assert(r == 0);
}

static void on_reply(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        Lane *lane = userdata;
        Run *run = lane->run;
        uint64_t now = now_nsec();

        assert(reply->error == 0 && reply->size == run->size);
        if (run->n_calls < N_SAMPLES_MAX)
                run->samples[run->n_calls] = now - lane->begun_nsec;
        run->n_calls++;
        if (now < run->end_nsec)
                lane_call(lane);
        else
                run->n_running--;
}

static int method_echo(TtrpcCall *call, const void *payload, size_t size, void *userdata) {
        return ttrpc_call_reply(call, payload, size);
}

static int serve(int fd) {
        static const TtrpcMethod methods[] = { { "ReadStdout", method_echo }, {} };
        _cleanup_(ttrpc_server_freep) TtrpcServer *server = NULL;
        sd_event *event;

        if (sd_event_new(&event) < 0 || ttrpc_server_new(event, &server) < 0 ||
            ttrpc_server_add_service(server, SERVICE, methods, NULL) < 0 || ttrpc_server_add_connection_fd(server, fd) < 0)
                return 1;
        while (ttrpc_server_get_n_connections(server) > 0)
                if (sd_event_run(event, UINT64_MAX) < 0)
                        return 1;
        return 0;
}

static pid_t fork_with(int (*function)(int fd), int *ret_fd) {
        int fds[2];
        pid_t pid;

        if (socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0, fds) < 0)
                abort();
        pid = fork();
        if (pid < 0)
                abort();
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(fds[0]);
                _exit(function(fds[1]));
        }
        close(fds[1]);
        *ret_fd = fds[0];
        return pid;
}

static double report(const char *name, uint32_t *samples, uint64_t n_calls, double seconds, size_t size, uint64_t syscalls, double bare) {
        size_t n = MIN(n_calls, (uint64_t) N_SAMPLES_MAX);
        double rate = n_calls / seconds;

        qsort(samples, n, sizeof(uint32_t), compare_u32);
        printf("%-34s %9.0f/s  p50 %7.1f us  p99 %7.1f us  %5.2f syscalls/call", name, rate,
               samples[n / 2] / 1000.0, samples[n * 99 / 100] / 1000.0, (double) syscalls / n_calls);
        if (size >= 4096)
                printf("  %6.0f MiB/s each way", rate * size / (1 << 20));
        if (bare > 0)
                printf("  %4.2f of bare", rate / bare);
        printf("\n");
        fflush(stdout);
        return rate;
}

static int serve_bare(int fd) {
        char c;

        while (recv(fd, &c, 1, 0) == 1)
                (void) send(fd, &c, 1, MSG_NOSIGNAL);
        return 0;
}

static int serve_bare_epoll(int fd) {
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event event = { .events = EPOLLIN };

        if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                return 1;
        for (char c;;) {
                if (epoll_wait(epoll_fd, &event, 1, -1) != 1 || recv(fd, &c, 1, 0) != 1)
                        return 0;
                (void) send(fd, &c, 1, MSG_NOSIGNAL);
        }
}

/* The floor: one byte there and back. With @epoll both sides wait in epoll first, as every event loop must. */
static double run_bare(const char *name, bool epoll, uint32_t *samples, double seconds, double reference) {
        struct epoll_event event = { .events = EPOLLIN };
        uint64_t begun, end, now, n = 0, before = counts->syscalls;
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC), fd;
        char c = 'x';
        pid_t pid;
        double rate;

        pid = fork_with(epoll ? serve_bare_epoll : serve_bare, &fd);
        (void) epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
        begun = now = now_nsec();
        end = begun + seconds * 1e9;
        while (now < end) {
                uint64_t start = now;

                if (send(fd, &c, 1, MSG_NOSIGNAL) != 1)
                        abort();
                if (epoll)
                        (void) epoll_wait(epoll_fd, &event, 1, -1);
                if (recv(fd, &c, 1, 0) != 1)
                        abort();
                now = now_nsec();
                if (n < N_SAMPLES_MAX)
                        samples[n] = now - start;
                n++;
        }
        rate = report(name, samples, n, (now - begun) / 1e9, 1, counts->syscalls - before, reference);
        close(fd);
        close(epoll_fd);
        (void) waitpid(pid, NULL, 0);
        return rate;
}

static void run_ttrpc(Run *run, double seconds, double bare) {
        uint64_t begun, before;
        sd_event *event;
        pid_t pid;
        int fd;

        pid = fork_with(serve, &fd);
        if (sd_event_new(&event) < 0 || ttrpc_client_new(event, fd, &run->client) < 0)
                abort();
        run->payload = calloc(1, run->size ?: 1);
        if (!run->payload)
                abort();

        before = counts->syscalls;
        begun = now_nsec();
        run->end_nsec = begun + seconds * 1e9;
        for (unsigned i = 0; i < run->n_lanes; i++) {
                run->lanes[i].run = run;
                run->n_running++;
                lane_call(run->lanes + i);
        }
        while (run->n_running > 0)
                if (sd_event_run(event, UINT64_MAX) < 0)
                        abort();
        (void) report(run->name, run->samples, run->n_calls, (now_nsec() - begun) / 1e9, run->size, counts->syscalls - before, bare);

        ttrpc_client_free(run->client);
        sd_event_unref(event);
        free(run->payload);
        (void) waitpid(pid, NULL, 0);
}

int main(int argc, char *argv[]) {
        static Run runs[] = {
                { .name = "ttrpc 1 byte", .size = 1, .n_lanes = 1 },
                { .name = "ttrpc 1 byte, with deadline", .size = 1, .n_lanes = 1, .timeout_usec = 60 * USEC_PER_SEC },
                { .name = "ttrpc 4 KiB", .size = 4096, .n_lanes = 1 },
                { .name = "ttrpc 32 KiB (ReadStdout)", .size = 32768, .n_lanes = 1 },
                { .name = "ttrpc 1 MiB (CopyFile)", .size = 1 << 20, .n_lanes = 1 },
                { .name = "ttrpc 4 MiB", .size = (4 << 20) - 64, .n_lanes = 1 },
                { .name = "ttrpc 1 byte, 16 in flight", .size = 1, .n_lanes = 16 },
                { .name = "ttrpc 1 byte, 200 in flight", .size = 1, .n_lanes = 200 },
                { .name = "ttrpc 32 KiB, 16 in flight", .size = 32768, .n_lanes = 16 },
        };
        double seconds = argc > 1 ? atof(argv[1]) : 1, bare;
        uint32_t *samples = malloc(N_SAMPLES_MAX * sizeof(uint32_t));

        counts = mmap(NULL, sizeof(*counts), PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
        if (!samples || counts == MAP_FAILED || seconds <= 0)
                return 2;

        bare = run_bare("bare ping-pong, blocking", false, samples, seconds, 0);
        (void) run_bare("bare ping-pong, epoll", true, samples, seconds, bare);
        for (size_t i = 0; i < ELEMENTSOF(runs); i++) {
                runs[i].samples = samples;
                run_ttrpc(runs + i, seconds, bare);
        }
        free(samples);
        return 0;
}
