/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-rig.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "basic/io.h"
#include "basic/util.h"

static int pin_netns(const char *path) {
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                if (unshare(CLONE_NEWNET) < 0 || mount("/proc/self/ns/net", path, NULL, MS_BIND, NULL) < 0)
                        _exit(1);
                _exit(0);
        }
        return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -1;
}

static int make_rootfs(const char *path) {
        static const char *const dirs[] = { "", "/bin", "/proc", "/sys", "/dev", "/etc", "/tmp" };
        _cleanup_(freep) char *busybox = NULL;
        char name[192];
        size_t size;

        for (size_t i = 0; i < ELEMENTSOF(dirs); i++) {
                (void) snprintf(name, sizeof(name), "%s%s", path, dirs[i]);
                if (mkdir(name, 0755) < 0)
                        return -1;
        }
        if (read_full_file_at(AT_FDCWD, BUSYBOX, 16 << 20, &busybox, &size) < 0)
                return -1;
        (void) snprintf(name, sizeof(name), "%s" BUSYBOX, path);
        return write_file_atomic(name, busybox, size, 0755);
}

int agent_rig_make(const char *dir) {
        char rootfs[128], netns[128];

        (void) snprintf(rootfs, sizeof(rootfs), "%s/rootfs", dir);
        (void) snprintf(netns, sizeof(netns), "%s/podns", dir);
        return make_rootfs(rootfs) < 0 || write_file_atomic(netns, "", 0, 0600) < 0 || pin_netns(netns) < 0 ? -1 : 0;
}

void agent_rig_done(const char *dir) {
        char netns[128];

        (void) snprintf(netns, sizeof(netns), "%s/podns", dir);
        (void) umount2(netns, MNT_DETACH);
}

pid_t agent_rig_start(const char *program, const char *pause_program, const char *dir, const char *socket) {
        char rootfs[160], pause_option[256], listen_option[160];
        pid_t pid;

        (void) snprintf(rootfs, sizeof(rootfs), "--rootfs=%s/rootfs", dir);
        (void) snprintf(pause_option, sizeof(pause_option), "--pause=%s", pause_program);
        (void) snprintf(listen_option, sizeof(listen_option), "--listen=%s", socket);
        pid = fork();
        if (pid == 0) {
                /* LeakSanitizer cannot stop the first process of a pid namespace. */
                (void) setenv("ASAN_OPTIONS", "detect_leaks=0", true);
                execl(program, program, "--host-mode", listen_option, rootfs, pause_option, NULL);
                _exit(127);
        }
        return pid;
}

bool agent_rig_has_leftovers(pid_t pid) {
        static const char *const roots[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
        char path[128];

        for (size_t i = 0; i < ELEMENTSOF(roots); i++) {
                (void) snprintf(path, sizeof(path), "%s/peerpod-stand-in-%i", roots[i], pid);
                if (access(path, F_OK) >= 0)
                        return true;
        }
        return false;
}

void spec_init(Spec *s, const char *netns, const char *id, const char *image, const char *const *args) {
        static const char *const types[] = { "ipc", "uts", "mount", "network" };

        *s = (Spec) {
                .q = GRPC__CREATE_CONTAINER_REQUEST__INIT, .spec = GRPC__SPEC__INIT, .process = GRPC__PROCESS__INIT,
                .user = GRPC__USER__INIT, .root = GRPC__ROOT__INIT, .linux = GRPC__LINUX__INIT, .storage = GRPC__STORAGE__INIT,
                .env = { (char*) "PATH=/bin" }, .dev_options = { (char*) "nosuid", (char*) "mode=755" },
        };
        s->q.container_id = s->q.exec_id = (char*) id;
        s->q.oci = &s->spec;
        s->spec.version = (char*) "1.0.2";
        s->spec.process = &s->process;
        s->spec.root = &s->root;
        s->spec.linux = &s->linux;
        s->root.path = (char*) "/run/kata-containers/shared/containers/passthrough/rootfs";
        s->process.user = &s->user;
        s->process.cwd = (char*) "/";
        s->process.env = s->env;
        s->process.n_env = 1;
        s->process.args = s->args;
        for (; args[s->process.n_args]; s->process.n_args++)
                s->args[s->process.n_args] = (char*) args[s->process.n_args];

        for (size_t i = 0; i < ELEMENTSOF(types); i++) {
                s->namespaces[i] = (Grpc__LinuxNamespace) GRPC__LINUX_NAMESPACE__INIT;
                s->namespaces[i].type = (char*) types[i];
                s->namespace_pointers[i] = s->namespaces + i;
        }
        s->namespaces[3].path = (char*) netns;
        s->linux.namespaces = s->namespace_pointers;
        s->linux.n_namespaces = netns ? ELEMENTSOF(types) : ELEMENTSOF(types) - 1;
        s->linux.cgroupspath = (char*) "/kubepods/besteffort/podx/c";

        for (size_t i = 0; i < ELEMENTSOF(s->mounts); i++) {
                s->mounts[i] = (Grpc__Mount) GRPC__MOUNT__INIT;
                s->mount_pointers[i] = s->mounts + i;
        }
        s->mounts[0].destination = (char*) "/proc";
        s->mounts[0].source = s->mounts[0].type = (char*) "proc";
        s->mounts[1].destination = (char*) "/dev";
        s->mounts[1].source = s->mounts[1].type = (char*) "tmpfs";
        s->mounts[1].options = s->dev_options;
        s->mounts[1].n_options = 2;
        s->mounts[2].destination = (char*) "/dev/pts";
        s->mounts[2].source = s->mounts[2].type = (char*) "devpts";
        s->spec.mounts = s->mount_pointers;
        s->spec.n_mounts = 3;

        s->storage.driver = (char*) "image_guest_pull";
        s->storage.source = (char*) image;
        s->storage.mount_point = (char*) "/run/kata-containers/rootfs";
        s->storages[0] = &s->storage;
        s->q.storages = s->storages;
        s->q.n_storages = 1;
}

void exec_request(Grpc__ExecProcessRequest *q, Grpc__Process *p, const char *id, const char *exec_id, char **args) {
        *q = (Grpc__ExecProcessRequest) GRPC__EXEC_PROCESS_REQUEST__INIT;
        *p = (Grpc__Process) GRPC__PROCESS__INIT;
        q->container_id = (char*) id;
        q->exec_id = (char*) exec_id;
        q->process = p;
        p->cwd = (char*) "/";
        p->args = args;
        while (args[p->n_args])
                p->n_args++;
}
