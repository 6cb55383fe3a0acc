/* SPDX-License-Identifier: Apache-2.0 */
/* For tests on a machine that is no pod VM: the agent goes into mount, pid and network namespaces of its own, where it may do to
 * its directories and control groups what it does in a VM. The process that was started stays outside, waits, and cleans up. */
#include "agent.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "basic/io.h"
#include "basic/log.h"
#include "basic/util.h"

static pid_t child;

static void forward(int sig) {
        (void) kill(child, sig == SIGTERM || sig == SIGINT ? SIGKILL : sig);
}

static int private_tmpfs(const char *path) {
        int r = mkdir_p(path, 0755);

        if (r < 0)
                return r;
        return mount("tmpfs", path, "tmpfs", MS_NOSUID|MS_NODEV, "mode=0755") < 0 ? -errno : 0;
}

static int set_up(const Settings *s) {
        int r;

        /* Slave: namespaces that are pinned below /run/netns later on still come through. */
        if (mount(NULL, "/", NULL, MS_SLAVE|MS_REC, NULL) < 0)
                return log_error_errno(errno, "Failed to make mounts private: %m");
        if (mount("proc", "/proc", "proc", MS_NOSUID|MS_NODEV|MS_NOEXEC, NULL) < 0)
                return log_error_errno(errno, "Failed to mount /proc: %m");
        if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID|MS_NODEV|MS_NOEXEC, NULL) < 0)
                return log_error_errno(errno, "Failed to mount control groups: %m");
        r = private_tmpfs(s->state_dir);
        if (r >= 0)
                r = private_tmpfs(s->runtime_dir);
        return r < 0 ? log_error_errno(r, "Failed to mount a private directory: %m") : 0;
}

/* Groups that a killed agent left. */
static void remove_cgroups(const char *parent) {
        static const char *const roots[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };

        for (size_t i = 0; i < ELEMENTSOF(roots); i++) {
                _cleanup_(freep) char *dir = NULL;
                _cleanup_(closedirp) DIR *d = NULL;

                if (asprintf(&dir, "%s%s", roots[i], parent) < 0) {
                        dir = NULL;
                        return;
                }
                d = opendir(dir);
                if (!d)
                        continue;
                for (struct dirent *de; (de = readdir(d));)
                        if (de->d_name[0] != '.' && de->d_type == DT_DIR)
                                (void) unlinkat(dirfd(d), de->d_name, AT_REMOVEDIR);
                (void) rmdir(dir);
        }
}

/* 1: this is the parent, and *ret_exit its status; 0: this is the agent. */
int host_mode_enter(Settings *s, int *ret_exit) {
        int status, r;

        if (isempty(s->cgroup_parent) && asprintf(&s->cgroup_parent, "/peerpod-stand-in-%i", getpid()) < 0) {
                s->cgroup_parent = NULL;
                return log_oom();
        }

        if (unshare(CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWNET) < 0)
                return log_error_errno(errno, "Failed to make namespaces: %m");

        child = fork();
        if (child < 0)
                return log_error_errno(errno, "Failed to fork: %m");
        if (child == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                r = set_up(s);
                return r < 0 ? r : 0;
        }

        (void) sigaction(SIGTERM, &(struct sigaction) { .sa_handler = forward }, NULL);
        (void) sigaction(SIGINT, &(struct sigaction) { .sa_handler = forward }, NULL);
        while (waitpid(child, &status, 0) < 0)
                if (errno != EINTR)
                        return log_error_errno(errno, "Failed to wait for the agent: %m");
        remove_cgroups(s->cgroup_parent);
        *ret_exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return 1;
}
