/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/strv.h"

#define ERROR_MAX 4096U

struct Command {
        Agent *agent;                   /* borrowed */
        pid_t pid;
        int pidfd;
        sd_event_source *source;
        char *log_path;
        CommandDone done;
        void *userdata;
};

static void command_free(Command *c) {
        sd_event_source_disable_unref(c->source);
        close_fd(c->pidfd);
        if (c->log_path)
                (void) unlink(c->log_path);
        free(c->log_path);
        free(c);
}
DEFINE_CLEANUP(Command*, command_free);

/* crun's log: a line for each message, and the last one says what went wrong. */
static void read_error(const char *path, char *buffer, size_t size) {
        _cleanup_(freep) char *text = NULL;
        char *line;
        size_t n;

        buffer[0] = '\0';
        if (read_full_file_at(AT_FDCWD, path, ERROR_MAX, &text, NULL) < 0)
                return;
        n = strlen(text);
        while (n > 0 && text[n - 1] == '\n')
                text[--n] = '\0';
        line = strrchr(text, '\n');
        (void) snprintf(buffer, size, "%s", line ? line + 1 : text);
}

static int command_exited(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        _cleanup_(command_freep) Command *c = userdata;
        char error[1024];
        siginfo_t si = {};
        int status;

        if (waitid(P_PIDFD, (id_t) c->pidfd, &si, WEXITED) < 0) {
                (void) log_error_errno(errno, "Failed to wait for process %i: %m", c->pid);
                status = 255;
        } else
                status = si.si_code == CLD_EXITED ? si.si_status : 128 + si.si_status;

        read_error(c->log_path, error, sizeof(error));
        c->agent->n_commands--;
        c->done(status, error, c->userdata);
        return 0;
}

int command_start_crun(Agent *a, const char *const *args, const int fds[3], CommandDone done, void *userdata) {
        _cleanup_(command_freep) Command *c = NULL;
        _cleanup_(strv_freep) char **argv = NULL;
        _cleanup_(freep) char *log_option = NULL, *root_option = NULL, *manager_option = NULL;
        const char *const head[] = { a->settings->crun, NULL };
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none, defaults;
        int r;

        c = new(Command);
        if (!c)
                return -ENOMEM;
        *c = (Command) { .agent = a, .pidfd = -EBADF, .done = done, .userdata = userdata };

        if (asprintf(&c->log_path, "%s/log-%llu", a->settings->runtime_dir, (unsigned long long) a->serial++) < 0) {
                c->log_path = NULL;
                return -ENOMEM;
        }
        if (asprintf(&log_option, "--log=file:%s", c->log_path) < 0 ||
            asprintf(&root_option, "--root=%s/crun", a->settings->runtime_dir) < 0 ||
            asprintf(&manager_option, "--cgroup-manager=%s", a->settings->cgroup_manager) < 0)
                return -ENOMEM;

        const char *const options[] = { root_option, manager_option, log_option, NULL };
        const char *const *const parts[] = { head, options, args };

        for (size_t i = 0; i < ELEMENTSOF(parts); i++)
                for (const char *const *s = parts[i]; *s; s++) {
                        r = strv_extend(&argv, *s);
                        if (r < 0)
                                return r;
                }

        (void) posix_spawn_file_actions_init(&actions);
        for (int i = 0; i < 3; i++)
                if (fds && fds[i] >= 0)
                        (void) posix_spawn_file_actions_adddup2(&actions, fds[i], i);
                else
                        (void) posix_spawn_file_actions_addopen(&actions, i, "/dev/null", i == 0 ? O_RDONLY : O_WRONLY, 0);

        (void) posix_spawnattr_init(&attributes);
        (void) sigemptyset(&none);
        (void) sigemptyset(&defaults);
        (void) sigaddset(&defaults, SIGPIPE);
        (void) posix_spawnattr_setsigmask(&attributes, &none);
        (void) posix_spawnattr_setsigdefault(&attributes, &defaults);
        (void) posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

        r = posix_spawnp(&c->pid, argv[0], &actions, &attributes, argv, environ);
        (void) posix_spawn_file_actions_destroy(&actions);
        (void) posix_spawnattr_destroy(&attributes);
        if (r != 0)
                return log_error_errno(r, "Failed to run '%s': %m", argv[0]);

        c->pidfd = pidfd_open(c->pid, 0);
        if (c->pidfd < 0)
                return -errno;
        r = sd_event_add_io(a->event, &c->source, c->pidfd, EPOLLIN, command_exited, c);
        if (r < 0)
                return r;

        a->n_commands++;
        TAKE_PTR(c);
        return 0;
}
