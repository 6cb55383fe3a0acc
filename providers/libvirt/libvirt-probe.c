/* SPDX-License-Identifier: Apache-2.0 */
#include "libvirt-probe.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <syslog.h>

#include "basic/io.h"

#define CMDLINE_MAX (64U << 10)
#define PROBE_PREFIX "qmp-"     /* libvirt: src/qemu/qemu_process.c, qemuProcessQMPInit() */

/* libvirt learns what QEMU can do from one that it starts without a machine, and that makes itself a daemon. Its sign is the path of its
 * monitor; its pid file comes too late to go by. */
static void end_process(int proc_fd, const char *pid_text, const char *monitor, const PeerpodCall *call) {
        _cleanup_(close_fdp) int pidfd = -EBADF;
        _cleanup_(freep) char *cmdline = NULL;
        char path[32];
        size_t size;
        pid_t pid = (pid_t) strtol(pid_text, NULL, 10);

        if (pid <= 1 || snprintf(path, sizeof(path), "%i/cmdline", pid) >= (int) sizeof(path))
                return;
        /* First the handle, then the look: the number may be given to another process in between, the handle is not. */
        pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0 || read_full_file_at(proc_fd, path, CMDLINE_MAX, &cmdline, &size) < 0)
                return;
        if (!memmem(cmdline, size, monitor, strlen(monitor)))
                return;

        if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
                peerpod_log(call, LOG_WARNING, "Failed to end QEMU process %i, which libvirt has probed, ignoring: %s", pid, strerror(errno));
        else
                peerpod_log(call, LOG_INFO, "Ended QEMU process %i: the libvirt that probed it was killed.", pid);
}

void libvirt_end_probes(const Libvirt *l, const PeerpodCall *call) {
        _cleanup_(closedirp) DIR *proc = opendir("/proc"), *probes = NULL;
        _cleanup_(freep) char *directory = NULL, *monitor = NULL;
        struct dirent *de;

        if (asprintf(&directory, "%s/lib/qemu", l->embed_root) < 0) {
                directory = NULL;
                return;
        }
        if (asprintf(&monitor, "unix:%s/" PROBE_PREFIX, directory) < 0) {
                monitor = NULL;
                return;
        }

        while (proc && (de = readdir(proc)))
                if (de->d_name[0] >= '1' && de->d_name[0] <= '9')
                        end_process(dirfd(proc), de->d_name, monitor, call);

        probes = opendir(directory);
        while (probes && (de = readdir(probes))) {
                _cleanup_(freep) char *path = NULL;
                int r;

                if (!startswith(de->d_name, PROBE_PREFIX))
                        continue;
                if (asprintf(&path, "%s/%s", directory, de->d_name) < 0) {
                        path = NULL;
                        return;
                }
                r = remove_tree(path);
                if (r < 0)
                        peerpod_log(call, LOG_WARNING, "Failed to remove '%s', ignoring: %s", path, strerror(-r));
        }
}
