/* SPDX-License-Identifier: Apache-2.0 */
#include "libvirt-command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "basic/util.h"

#define STDERR_MAX 512

extern char **environ;

static int spawn(const char *const argv[], int stderr_fd, pid_t *ret) {
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none, all;
        int r;

        (void) sigemptyset(&none);
        (void) sigfillset(&all);
        r = posix_spawn_file_actions_init(&actions);
        if (r != 0)
                return -r;
        r = posix_spawnattr_init(&attributes);
        if (r != 0) {
                (void) posix_spawn_file_actions_destroy(&actions);
                return -r;
        }

        /* A worker thread has all signals blocked, and the daemon ignores SIGPIPE: neither is the child's business. */
        (void) posix_spawnattr_setsigmask(&attributes, &none);
        (void) posix_spawnattr_setsigdefault(&attributes, &all);
        (void) posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK|POSIX_SPAWN_SETSIGDEF);
        r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (r == 0)
                r = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
        if (r == 0)
                r = posix_spawn_file_actions_adddup2(&actions, stderr_fd, STDERR_FILENO);
        if (r == 0)
                r = posix_spawnp(ret, argv[0], &actions, &attributes, (char* const*) argv, environ);

        (void) posix_spawnattr_destroy(&attributes);
        (void) posix_spawn_file_actions_destroy(&actions);
        return -r;
}

/* What there is now; the child may have left the pipe to a child of its own, so no waiting for its end. */
static void read_stderr(int fd, char ret[static STDERR_MAX]) {
        ssize_t n = read(fd, ret, STDERR_MAX - 1);

        ret[n > 0 ? n : 0] = '\0';
        for (char *p = ret; *p; p++)
                if ((unsigned char) *p < 0x20)
                        *p = ' ';
        for (size_t end = strlen(ret); end > 0 && ret[end - 1] == ' ';)
                ret[--end] = '\0';
}

int command_run(const PeerpodCall *call, const char *const argv[], PeerpodError *error) {
        _cleanup_(close_fdp) int read_end = -EBADF, write_end = -EBADF, pidfd = -EBADF;
        char text[STDERR_MAX];
        int fds[2], status, r;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to make a pipe: %s", strerror(errno));
        read_end = fds[0];
        write_end = fds[1];
        if (fcntl(read_end, F_SETFL, O_NONBLOCK) < 0)
                return peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to prepare a pipe: %s", strerror(errno));

        r = spawn(argv, write_end, &pid);
        if (r < 0)
                return peerpod_error_set(error, PEERPOD_E_FAILED_PRECONDITION, "Failed to start '%s': %s", argv[0], strerror(-r));
        write_end = close_fd(write_end);

        pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0)
                r = peerpod_error_set(error, PEERPOD_E_INTERNAL, "Failed to watch '%s': %s", argv[0], strerror(errno));
        else
                do
                        r = peerpod_call_wait(call, pidfd, POLLIN, UINT64_MAX, error);
                while (r == 0);
        if (r < 0)
                (void) kill(pid, SIGKILL);      /* ours, and not reaped yet */
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (r < 0)
                return r;

        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        read_stderr(read_end, text);
        return peerpod_error_set(error, strstr(text, "No space left") ? PEERPOD_E_EXHAUSTED : PEERPOD_E_INTERNAL,
                                 "'%s' failed: %s", argv[0], text);
}
